"""Starting from another run: its trained variables as initial values, by name (`init.trained`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reid_jax import trees
from reid_jax.config import sections
from reid_jax.runs import folder as folder_lib
from reid_jax.train import checkpoints
from reid_jax.weights import convert


def load_run(variables: Mapping[str, Any], init: sections.Init) -> tuple[dict[str, Any], convert.Report]:
    """Returns variables with those of a run in place of the initial ones, and the outcome for every name.

    Args:
        variables: initial variables of the model.
        init: `trained` is the run folder; its newest checkpoint counts, with averaged variables where it has them.
            `allow_missing` and `ignore` say by pattern what it may lack and what of it is left out.

    Raises:
        UserError: no run folder with a checkpoint, or variables that do not fit; the message names them.
    """
    folder = folder_lib.RunFolder(init.trained)
    folder.read_config()
    trained, _ = checkpoints.restore_variables(folder.checkpoints, average="average")
    ignored = (*convert.IGNORED, *((pattern, "left out on request") for pattern in init.ignore))
    return convert.load_into(variables, trees.flatten(trained), ignore=ignored, allow_missing=init.allow_missing)
