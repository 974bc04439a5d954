"""Evaluation of models that reconstruct hidden patches, on test images with an erased box.

Models with `reconstructs = True` are evaluated: from the erased "image" and the original "image_clean" of a batch they
output "pixels/predicted" and "pixels/mask" (`reid_jax.models.amfor.pixel_decoder`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from reid_jax import build
from reid_jax import config as config_lib
from reid_jax.config import phases, sections
from reid_jax.data import elements, pipeline, records, transforms
from reid_jax.evaluation import image_quality
from reid_jax.losses import masked_patches
from reid_jax.ops import images as image_ops

# Number of test images, spread evenly over the gallery, where most persons are not occluded.
IMAGES = 64
# Range of the erased boxes' area (fraction of the image) and aspect ratio (height / width). Every image has one
# box, the same in every run.
AREA, ASPECT = (0.1, 0.33), (0.3, 1 / 0.3)


def evaluate(
    model: Any, variables: Mapping[str, Any], dataset: records.ReIDDataset, settings: config_lib.Settings
) -> image_quality.Reconstruction | None:
    """Returns reconstructed test images with their scores, None for a model that does not reconstruct.

    Args:
        model: a model of `reid_jax.models`.
        variables: its `params` and `batch_stats`.
        dataset: a data set with a gallery.
        settings: `data`, `preprocess` and the options of the loss are used.
    """
    if not getattr(model, "reconstructs", False):
        return None
    batch = _erased(dataset.split("gallery"), settings.data)
    preprocess = build.make_preprocess(settings.preprocess)
    normalized = _normalized(settings)

    def draw(variables: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> tuple[jax.Array, ...]:
        batch = preprocess(batch, jax.random.key(0))
        outputs = model.apply(variables, batch, train=False)
        patches, clean = outputs["pixels/predicted"], batch["image_clean"]
        side = masked_patches.side_of(patches, clean)
        if normalized:
            patches = masked_patches.denormalize_patches(patches, image_ops.patchify(clean, side))
        mask = image_ops.patchify(batch["image"][..., :1] * 0, side) + outputs["pixels/mask"][..., None]
        whole = [image_ops.unpatchify(array, side, *clean.shape[1:3]) for array in (patches, mask)]
        return batch["image"], whole[0], clean, whole[1][..., 0] > 0

    *pictures, mask = jax.device_get(jax.jit(draw)(variables, batch))
    mean, std = (np.asarray(each, np.float32) for each in (settings.preprocess.mean, settings.preprocess.std))
    seen, drawn, true = (picture * std + mean for picture in pictures)
    return image_quality.Reconstruction(seen, drawn, true, mask, comparable=not normalized)


def _erased(split: records.Split, data: sections.Data) -> dict[str, np.ndarray]:
    """Returns a batch of uint8 images [N, H, W, 3] ("image", "image_clean") with "erase_box" and "camid"."""
    chosen = np.unique(np.linspace(0, len(split) - 1, min(IMAGES, len(split))).astype(int))
    resize = transforms.Resize(data.height, data.width, data.test_interpolation or data.interpolation)
    reader, rng = pipeline.Reader(split), np.random.default_rng(0)
    images = np.stack([resize(reader.read(int(index)))["image"] for index in chosen])
    boxes = [elements.draw_box(data.height, data.width, rng, area=AREA, aspect=ASPECT, log_aspect=True) for _ in chosen]
    camids = np.asarray(split.camids, np.int32)[chosen]
    return {"image": images, "image_clean": images, "erase_box": np.asarray(boxes, np.int32), "camid": camids}


def _normalized(settings: config_lib.Settings) -> bool:
    """Returns whether the loss compared patches that were normalized to mean 0 and variance 1."""
    terms = [term for _, phase in phases.resolve(settings) for term in phase.losses.values()]
    return any(term and term["loss"] == "masked_patches" and term.get("normalize", False) for term in terms)
