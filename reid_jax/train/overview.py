"""Table of a model's parameters for the log, formatted by clu."""

from __future__ import annotations

import dataclasses
from typing import Any

from clu import parameter_overview as clu_overview

from reid_jax import trees


@dataclasses.dataclass(frozen=True)
class _Module:
    """A row of the table."""

    module: str
    arrays: int
    parameters: int
    share: str


def parameter_overview(params: Any, depth: int | None = 1) -> str:
    """Returns a table of parameter counts.

    Args:
        params: nested dictionaries of parameters; leaves need only `shape` and `dtype`.
        depth: number of name levels in a row ("backbone", or "backbone/conv1" at 2), deeper ones are summed; `None`
            gives a row with shape and type to every array.

    Returns:
        A table with the columns module, arrays, parameters and share, and a last line with the total.
    """
    if depth is None:
        return str(clu_overview.get_parameter_overview(params, include_stats=False))
    modules: dict[str, list[int]] = {}
    for path, leaf in trees.flatten(params).items():
        # The last part is the array's own name: a module's arrays stay together.
        module = trees.SEPARATOR.join(path.split(trees.SEPARATOR)[:-1][:depth]) or path
        modules.setdefault(module, []).append(trees.count_parameters(leaf))
    total = trees.count_parameters(params)
    rows = [
        _Module(module, len(sizes), sum(sizes), f"{sum(sizes) / max(total, 1):.1%}")
        for module, sizes in modules.items()
    ]
    columns = [field.name for field in dataclasses.fields(_Module)]
    return f"{clu_overview.make_table(rows, column_names=columns)}\nTotal: {total:,}"
