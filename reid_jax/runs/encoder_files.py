"""Weights files of masked pretraining: the encoder under timm's names, from which other systems start, and the decoder.

    weights/encoder.npz, encoder.safetensors     after the last step
    weights/encoder_0.npz, encoder_<epoch>.npz   before the first step, and at evaluations during training
    weights/decoder.npz                          under this package's names

`meta` of an encoder file says how it came about. The names are bare ones (`cls_token`, `blocks.3.attn.qkv.weight`), so
that a system that starts from the file (`init.weights`) resamples the position embedding for its own grid and fills
every copy of the last block.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from reid_jax import build
from reid_jax import config as config_lib
from reid_jax.data import records
from reid_jax.runtime import processes, provenance
from reid_jax.weights import convert

FOLDER = "weights"


def description(
    settings: config_lib.Settings, model: Any, pool: records.ReIDDataset, step: int, images: int
) -> dict[str, Any]:
    """Returns the `meta` of a file, as JSON values.

    Args:
        settings: settings of the run.
        model: the masked autoencoder.
        pool: the data set whose training images were seen.
        step: steps of training.
        images: images seen.
    """
    rule = model.rule()
    return {
        "kind": "encoder of masked pretraining",
        "size": model.fields(),
        "patch": model.patch,
        "grid": [rule.rows, rule.columns],
        "mean": list(settings.preprocess.mean),
        "std": list(settings.preprocess.std),
        "mask": {name: getattr(model, name) for name in ("mask_kind", "mask_ratio", "part_share", "parts_source")},
        "views": len(settings.passes),
        "pool": {
            "name": pool.split("train").name,
            "images": len(pool.split("train")),
            "hash": pool.content or pool.index_hash(),
        },
        "step": step,
        "images_seen": images,
        "seed": settings.seed,
        "commit": provenance.commit(),
    }


def write(folder: pathlib.Path, variables: build.Variables, meta: Mapping[str, Any], name: str = "encoder.npz") -> None:
    """Writes the encoder of a masked autoencoder, by the main process.

    Args:
        folder: the run folder.
        variables: variables of the model.
        meta: see `description`.
        name: name of the file; its ending says the format.

    Raises:
        UserError: the file cannot be written.
    """
    if processes.is_main():
        arrays = convert.to_torch({"params": variables["params"]["backbone"]})
        convert.save_arrays(folder / FOLDER / name, arrays, meta)


def write_all(folder: pathlib.Path, variables: build.Variables, meta: Mapping[str, Any]) -> None:
    """Writes the encoder in both formats, and the decoder."""
    for name in ("encoder.npz", "encoder.safetensors"):
        write(folder, variables, meta, name)
    if processes.is_main():
        params = {name: value for name, value in variables["params"].items() if name != "backbone"}
        kind = {**meta, "kind": "decoder of masked pretraining"}
        convert.save(folder / FOLDER / "decoder.npz", {"params": params}, kind)
