"""Features of all training images by a network that a phase does not train, computed once at the phase's beginning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from reid_jax import progress
from reid_jax.config import sections
from reid_jax.data import pipeline, records
from reid_jax.inference import extractor as extractor_lib
from reid_jax.ops import descriptors
from reid_jax.runtime import mesh as mesh_lib
from reid_jax.train import extras, state


def fill(
    train_state: state.TrainState,
    owned: Mapping[str, extras.Extra],
    model: Any,
    preprocess: Callable[..., Any],
    split: records.Split,
    data: sections.Data,
    mesh: jax.sharding.Mesh,
    batch_size: int,
) -> state.TrainState:
    """Returns the state with every `extras.ImageFeatures` of a phase filled.

    Args:
        train_state: state at the phase's beginning.
        owned: extras of the phase by name.
        model: the model.
        preprocess: `(batch, key) -> batch`, see `reid_jax.build.make_preprocess`.
        split: the training images.
        data: section `data` of the phase; its transforms are left out.
        mesh: devices.
        batch_size: images per forward pass, a multiple of the devices.
    """
    filled = {}
    for name, extra in owned.items():
        if isinstance(extra, extras.ImageFeatures):
            describe = _describe(extra, model, preprocess, train_state.variables, mesh)
            features = _features(describe, split, data, batch_size)
            filled[name] = mesh_lib.replicate(features, mesh)
    return train_state.replace(extra={**train_state.extra, **filled})


def _describe(
    extra: extras.ImageFeatures,
    model: Any,
    preprocess: Callable[..., Any],
    variables: Mapping[str, Any],
    mesh: jax.sharding.Mesh,
) -> extractor_lib.Describe:
    """Returns the function from a batch of uint8 images to this process's rows of features."""
    options = {"mode": extra.mode} if extra.mode else {}

    def run(variables: Any, batch: Mapping[str, jax.Array]) -> descriptors.Descriptor:
        outputs = model.apply(variables, preprocess(batch), train=False, **options)
        return descriptors.Descriptor(outputs[extra.output])

    compiled = jax.jit(run, out_shardings=mesh_lib.sharded(mesh))

    def describe(batch: Mapping[str, Any]) -> descriptors.Descriptor:
        described = compiled(variables, mesh_lib.to_global(dict(batch), mesh))
        rows: descriptors.Descriptor = jax.tree.map(mesh_lib.local_rows, described)
        return rows

    return describe


def _features(
    describe: extractor_lib.Describe, split: records.Split, data: sections.Data, batch_size: int
) -> np.ndarray:
    """Returns the features [N, D] of all images, in the order of the split and on every process."""
    size = extractor_lib.ImageSize(height=data.height, width=data.width, interpolation=data.interpolation)
    share = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    with (
        pipeline.eval_batches(split, **size, batch_size=batch_size, **share) as batches,
        progress.bar(f"features of {split.name}", -(-len(split) // jax.process_count()), "images") as advance,
    ):
        return extractor_lib.extract_features(describe, batches, len(split), progress=advance).features
