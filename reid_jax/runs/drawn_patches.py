"""Evaluation of models that reconstruct hidden patches, on test images with an erased box.

Models with `reconstructs = True` are evaluated: from the erased "image" and the original "image_clean" of a batch they
output "pixels/predicted" and "pixels/mask" (`reid_jax.models.amfor.pixel_decoder`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from reid_jax import build
from reid_jax import config as config_lib
from reid_jax.config import phases, sections
from reid_jax.data import elements, image_io, pipeline, records, transforms
from reid_jax.evaluation import image_quality, image_regions
from reid_jax.losses import masked_patches
from reid_jax.ops import images as image_ops

# Number of test images, spread evenly over the gallery, where most persons are not occluded.
IMAGES = 64
# Range of the erased boxes' area (fraction of the image) and aspect ratio (height / width). Every image has one
# box, the same in every run.
AREA, ASPECT = (0.1, 0.33), (0.3, 1 / 0.3)
MOST_AVERAGED = 4096  # training images in the cameras' averages


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What the drawn images are compared with.

    Attributes:
        parts: [N, H, W] labels of body parts, None where the images have none.
        cameras: [N].
        averages: see `image_regions.camera_averages`; empty without training images.
    """

    parts: np.ndarray | None
    cameras: np.ndarray
    averages: Mapping[int, np.ndarray]


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


def surroundings(dataset: records.ReIDDataset, settings: config_lib.Settings) -> Surroundings:
    """Returns labels and cameras of the images that are drawn, and the cameras' averages over training images."""
    split, data = dataset.split("gallery"), settings.data
    chosen, kind = _chosen(split), data.test_interpolation or data.interpolation
    parts = None
    if "parts" in split.source[int(chosen[0])]:
        resize, reader = transforms.Resize(data.height, data.width, kind), pipeline.Reader(split, ("parts",))
        parts = np.stack([resize(reader.read(int(index)))["parts"] for index in chosen])
    train, averages = dataset.train, {}
    if train is not None:
        rows = np.unique(np.linspace(0, len(train) - 1, min(MOST_AVERAGED, len(train))).astype(int))
        averages = image_regions.camera_averages(
            (image_io.resize(train.image(int(row)), data.height, data.width, kind) / 255.0, train.camids[row])
            for row in rows
        )
    return Surroundings(parts, np.asarray(split.camids)[chosen], averages)


def columns(drawn: image_quality.Reconstruction, around: Surroundings) -> dict[str, np.ndarray]:
    """Returns the images [N, H, W, 3] completed by the drawing, the mean color, and the average of the camera."""
    filled = {"drawn": drawn.completed(), "mean_fill": drawn.filled()}
    if around.averages:
        whole = image_regions.camera_fill(drawn.true, drawn.mask, around.cameras, dict(around.averages))
        filled["camera_fill"] = np.clip(whole, 0.0, 1.0)
    return filled


def by_region(drawn: image_quality.Reconstruction, around: Surroundings) -> dict[str, float]:
    """Returns the PSNR (dB) on persons and background by "person/psnr", "person/camera_fill_psnr" and the like.

    Empty for drawings that know the true scale, and for images without labels of body parts.
    """
    if not drawn.comparable or around.parts is None:
        return {}
    found = {}
    for region, mask in image_regions.regions(drawn.mask, around.parts).items():
        for name, each in columns(drawn, around).items() if mask.any() and region != "all" else ():
            key = "psnr" if name == "drawn" else f"{name}_psnr"
            found[f"{region}/{key}"] = image_quality.psnr(each, drawn.true, mask)
    return found


def _chosen(split: records.Split) -> np.ndarray:
    """Returns the places of the drawn images."""
    return np.unique(np.linspace(0, len(split) - 1, min(IMAGES, len(split))).astype(int))


def _erased(split: records.Split, data: sections.Data) -> dict[str, np.ndarray]:
    """Returns a batch of uint8 images [N, H, W, 3] ("image", "image_clean") with "erase_box" and "camid"."""
    chosen = _chosen(split)
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
