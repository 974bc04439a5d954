"""The function that is exported: from a batch of crops to test features, without files, labels or cameras."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import reid_jax
from reid_jax import build, errors, export
from reid_jax.inference import extractor as extractor_lib
from reid_jax.inference import features as features_lib
from reid_jax.ops import platforms

# Statistics that trackers and most PyTorch services normalize with, outside of the model.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# The exported function against the model itself: largest difference of features of unit length.
TOLERANCE = 2e-4
CHECKED_BATCHES = (1, 5)


@dataclasses.dataclass(frozen=True)
class Embedding:
    """A function of images alone, ready to be traced.

    Attributes:
        call: from images [B, *image_shape] to a tuple of arrays, one for each of `outputs`.
        image_shape: shape of one image.
        dtype: "uint8" or "float32".
        outputs: names of the results.
        meta: what the function expects and returns, as JSON values.
        from_pixels: from uint8 RGB images [B, H, W, 3] to what `call` takes, in NumPy.
    """

    call: Callable[[jax.Array], tuple[jax.Array, ...]]
    image_shape: tuple[int, ...]
    dtype: str
    outputs: tuple[str, ...]
    meta: dict[str, Any]
    from_pixels: Callable[[np.ndarray], np.ndarray]


def of(extractor: extractor_lib.Extractor, variables: build.Variables, layout: str = "uint8") -> Embedding:
    """Returns the embedding function of a model.

    Args:
        extractor: the model with its preprocessing; flip averaging is inside where `evals.flip` says so.
        variables: its variables; they become constants of the function.
        layout: "uint8": RGB images [B, H, W, 3] in 0-255, resized to the model's size, and results as `Extractor` gives
            them: features [B, D], or [B, S, D] with a second result, the visibility [B, S]. "float_nchw": planes
            [B, 3, H, W] that are normalized with ImageNet's statistics, as trackers pass them, and one vector
            [B, D] of unit length: slots are brought to unit length, weighed with the root of their share of
            the visibility, and joined.

    Raises:
        UserError: an unknown layout.
    """
    if layout not in export.INPUTS:
        raise errors.unknown("input of an exported function", layout, export.INPUTS)
    size = (extractor.size["height"], extractor.size["width"])
    described = jax.eval_shape(extractor.describe, variables, extractor.example_batch())
    planes = layout == "float_nchw"

    def call(images: jax.Array) -> tuple[jax.Array, ...]:
        if planes:
            images = _pixels(images)
        # As everywhere outside of a data set, the camera is unknown.
        nobody = jnp.zeros(images.shape[0], jnp.int32)
        result = extractor.describe(variables, {"image": images, "camid": nobody - 1, "label": nobody})
        features = result.features.astype(jnp.float32)
        if planes:
            return (_one_vector(features, result.visibility),)
        return (features,) if result.visibility is None else (features, result.visibility.astype(jnp.float32))

    outputs = ("features",) if planes or described.visibility is None else ("features", "visibility")
    return Embedding(
        call,
        (3, *size) if planes else (*size, 3),
        "float32" if planes else "uint8",
        outputs,
        _meta(extractor, layout, described.features.shape[1:], planes),
        _planes if planes else lambda images: images,
    )


def _pixels(planes: jax.Array) -> jax.Array:
    """Returns images [B, H, W, 3] in [0, 1] from normalized planes [B, 3, H, W]."""
    std, mean = (jnp.asarray(each, jnp.float32).reshape(1, 1, 1, 3) for each in (IMAGENET_STD, IMAGENET_MEAN))
    return jnp.transpose(planes, (0, 2, 3, 1)) * std + mean


def _planes(images: np.ndarray) -> np.ndarray:
    """Returns normalized planes float32 [B, 3, H, W] of uint8 images [B, H, W, 3]."""
    mean, std = np.asarray(IMAGENET_MEAN, np.float32), np.asarray(IMAGENET_STD, np.float32)
    normalized = (images.astype(np.float32) / 255 - mean) / std
    return np.ascontiguousarray(normalized.transpose(0, 3, 1, 2))


def _one_vector(features: jax.Array, visibility: jax.Array | None) -> jax.Array:
    """Returns [B, D] of unit length; the product of two such vectors is near the weighted mean cosine of the slots."""
    unit = _unit(features)
    if features.ndim == 2:
        return unit
    if visibility is not None:
        unit = unit * jnp.sqrt(visibility.astype(jnp.float32))[:, :, None]
    return _unit(unit.reshape(unit.shape[0], -1))


def _unit(x: jax.Array) -> jax.Array:
    squares = jnp.sum(x * x, axis=-1, keepdims=True)
    return x / jnp.sqrt(jnp.maximum(squares, 1e-24))


def _meta(extractor: extractor_lib.Extractor, layout: str, shape: Sequence[int], joined: bool) -> dict[str, Any]:
    """Returns what a reader of the file needs to know."""
    meta = features_lib.feature_meta(extractor.settings)
    meta["preprocessing"].pop("erase_fill")  # used in training only
    size = [extractor.size["height"], extractor.size["width"]]
    return {
        **meta,
        "input": {
            "layout": "float32 [B, 3, H, W]" if joined else "uint8 [B, H, W, 3]",
            "channels": "RGB",
            "size": size,
            "interpolation": extractor.size["interpolation"],
            "normalized_outside": {"mean": IMAGENET_MEAN, "std": IMAGENET_STD} if joined else None,
        },
        "output": {
            "shape": [int(np.prod(shape))] if joined else list(shape),
            "unit_length": joined,
            "slots_joined": joined and len(shape) == 2,
        },
        "metric": "cosine" if joined else meta["metric"],
        "weights": extractor.origin,
        "reid_jax": reid_jax.__version__,
    }


@contextlib.contextmanager
def traced_for(targets: Sequence[str]) -> Iterator[None]:
    """Traces with the formulations of the one platform, or with those that all platforms have.

    Args:
        targets: names of `jax.export`: "cpu", "cuda", "tpu".
    """
    with platforms.tracing_for("cpu" if tuple(targets) == ("cpu",) else "gpu"):
        yield


def check(
    embedding: Embedding,
    extractor: extractor_lib.Extractor,
    variables: build.Variables,
    run: Callable[[np.ndarray], Sequence[np.ndarray]],
    what: str,
) -> dict[str, float]:
    """Compares an exported function with the model on random pixels, in batches of one and five.

    Args:
        embedding: the function before it was exported.
        extractor: the model.
        variables: its variables.
        run: the exported function; takes and returns NumPy arrays.
        what: name of the format, for the message.

    Returns:
        Largest difference of features of unit length, and least cosine.

    Raises:
        UserError: the results differ by more than `TOLERANCE`, or are not finite.
    """
    height, width = extractor.size["height"], extractor.size["width"]
    difference, cosine = 0.0, 1.0
    for batch in CHECKED_BATCHES:
        pixels = _trial_images(batch, height, width)
        expected = _expected(embedding, extractor, variables, pixels)
        found = [np.asarray(array, np.float32) for array in run(embedding.from_pixels(pixels))]
        for name, ours, theirs in zip(embedding.outputs, expected, found, strict=True):
            if name == "features":
                ours, theirs = (array / np.linalg.norm(array, axis=-1, keepdims=True) for array in (ours, theirs))
                cosine = min(cosine, float((ours * theirs).sum(-1).min()))
            # NaN compares as neither larger nor smaller.
            worst = float(np.abs(ours - theirs).max())
            if not worst <= TOLERANCE:
                raise errors.UserError(
                    f"the exported {what} differs from the model: {name} by {worst:.2g} in a batch of {batch}, "
                    f"expected at most {TOLERANCE:g}; no file was written, export with --dtype float32 or report this."
                )
            difference = max(difference, worst)
    return {"difference": difference, "cosine": cosine}


def _trial_images(batch: int, height: int, width: int) -> np.ndarray:
    """Returns random uint8 images with coarse and fine structure [batch, height, width, 3]."""
    generator = np.random.default_rng(batch)
    coarse = generator.integers(0, 200, (batch, -(-height // 16), -(-width // 16), 3))
    fine = generator.integers(0, 56, (batch, height, width, 3))
    return (coarse.repeat(16, 1).repeat(16, 2)[:, :height, :width] + fine).astype(np.uint8)


def _expected(
    embedding: Embedding, extractor: extractor_lib.Extractor, variables: build.Variables, pixels: np.ndarray
) -> list[np.ndarray]:
    """Returns what the model's own program gives for the images, in the form of the embedding's outputs."""
    described = extractor.images(variables, pixels)
    if embedding.meta["output"]["unit_length"]:
        visible = None if described.visibility is None else jnp.asarray(described.visibility)
        return [np.asarray(_one_vector(jnp.asarray(described.features), visible))]
    return [described.features] if described.visibility is None else [described.features, described.visibility]
