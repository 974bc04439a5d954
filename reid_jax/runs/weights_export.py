"""The trained variables of a run as a weights file, which other runs start from and other programs read."""

from __future__ import annotations

import pathlib
from typing import Any

from reid_jax import config as config_lib
from reid_jax import trees
from reid_jax.runs import folder as folder_lib
from reid_jax.train import checkpoints
from reid_jax.weights import convert


def write(run: str | pathlib.Path, output: str | pathlib.Path, *, best: bool = False) -> str:
    """Writes the variables of a run's checkpoint and returns a sentence about them.

    The moving average is written where the run keeps one, for it is what the run's scores belong to. The file's `meta`
    names the run, its step, the hash of its config, the model and its options.

    Args:
        run: run folder.
        output: file, ends in ".npz" or ".safetensors".
        best: whether to write the checkpoint with the best mAP in place of the newest.

    Raises:
        UserError: no run folder with a checkpoint, or a file that cannot be written.
    """
    folder = folder_lib.RunFolder(run)
    folder.check_trained()
    config = folder.read_config()
    step = checkpoints.best_step(folder.checkpoints) if best else checkpoints.newest_step(folder.checkpoints)
    chosen = "best" if best and step is None else step
    variables, about = checkpoints.restore_variables(folder.checkpoints, chosen, average="average")
    meta: dict[str, Any] = {
        "run": folder.path.resolve().name,
        "step": step,
        "config_hash": config_lib.config_hash(config),
        "model": config_lib.to_dict(config.model),
        **{key: about[key] for key in ("num_classes", "num_cameras") if key in about},
    }
    convert.save(output, variables, meta)
    flat = trees.flatten(variables)
    return (
        f"{len(flat):,} arrays, {sum(leaf.size for leaf in flat.values()):,} numbers, of step {step} of {folder.path}; "
        f"start from them with --config.init.weights={output}"
    )
