"""Data sets of a user's own project, which a config names by `package.module:Name`.

`Name` is one of

* a function `(root, **options)` that returns a `records.ReIDDataset`; every process calls it, the main one first;
* a builder class of TensorFlow Datasets, which is prepared below `<root>/prepared/` like those of this project:
  a subclass of `reid_datasets.common.RowBuilder`, whose module has `scan` ("Writing another builder" in
  `datasets/README.md`), or any other `GeneratorBasedBuilder` that stores the schema described there.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from reid_jax import errors
from reid_jax.data import builders, records
from reid_jax.data import options as options_lib


def is_function(name: str) -> bool:
    """Returns whether a data set's name is the path of a function, which opens it without preparation."""
    return builders.function_of(name) is not None


def open_function(name: str, root: str | pathlib.Path, options: Mapping[str, Any]) -> records.ReIDDataset:
    """Calls the function that a data set's name leads to.

    Args:
        name: `package.module:function`.
        root: `data.root` of the config, the function's first argument.
        options: `data.options` of the config, its keyword arguments.

    Raises:
        UserError: the function does not accept the options, or returns something else than a data set.
    """
    function = builders.function_of(name)
    assert function is not None
    options_lib.check(f"data set {name!r}", function, options, positional=1)
    dataset = function(root, **options)
    if not isinstance(dataset, records.ReIDDataset):
        raise errors.UserError(
            f"expected a reid_jax.data.records.ReIDDataset from the data set {name!r}, got {type(dataset).__name__}; "
            "return such an object."
        )
    return dataset
