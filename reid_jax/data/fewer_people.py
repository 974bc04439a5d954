"""Fewer labels: the training images of some of the identities of a split, for the question how much labels matter."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from reid_jax import errors
from reid_jax.data import records

OPTION = "identities"


class ChosenSource(Sequence[dict[str, Any]]):
    """Some records of a source."""

    def __init__(self, source: Sequence[Any], rows: np.ndarray) -> None:
        """Wraps a source; `rows` are the places of its records in order."""
        self._source, self._rows = source, np.asarray(rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> dict[str, Any]:  # type: ignore[override]
        record: dict[str, Any] = self._source[int(self._rows[index.__index__()])]
        return record

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[position] for position in range(len(self)))


def share_of(text: Any) -> float:
    """Returns the share of the identities that an option names, "synthped@identities=0.25"; 1 for None.

    Raises:
        UserError: no number above 0 and up to 1.
    """
    try:
        share = 1.0 if text is None else float(text)
    except ValueError:
        share = 0.0
    if not 0.0 < share <= 1.0:
        raise errors.UserError(
            f"expected a share of the training identities above 0 and up to 1 ({OPTION}), got {str(text)[:40]!r}; "
            "change data.sources."
        )
    return share


def keep(split: records.Split, share: float) -> records.Split:
    """Returns the images of the first identities of a training split, by their numbers, in the order of the split.

    Args:
        split: training split.
        share: share of the identities, rounded up to whole ones; two at least.
    """
    people = np.unique(split.pids)
    kept = people[: max(2, math.ceil(share * len(people) - 1e-9))]
    rows = np.flatnonzero(np.isin(split.pids, kept))
    if len(rows) == len(split):
        return split
    return dataclasses.replace(
        split,
        source=ChosenSource(split.source, rows),
        pids=split.pids[rows],
        camids=split.camids[rows],
        filenames=tuple(split.filenames[row] for row in rows),
        paths=tuple(split.paths[row] for row in rows) if split.paths else (),
    )
