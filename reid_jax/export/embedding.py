"""The function that is exported: from a batch of crops to test features, without files, labels or cameras."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import reid_jax
from reid_jax import build, errors, export, trees
from reid_jax.inference import extractor as extractor_lib
from reid_jax.inference import features as features_lib
from reid_jax.inference import input_layouts, unit_vectors
from reid_jax.ops import platforms

# The exported function against the model itself: largest difference of features of unit length.
TOLERANCE = 2e-4
CHECKED_BATCHES = (1, 5)


@dataclasses.dataclass(frozen=True)
class Threshold:
    """A distance up to which two images count as the same person, in the metric of the features.

    Attributes:
        distance: Euclidean distance, `1 - cos`, or the mean distance of slots.
        false_match_rate: share of pairs of different people that it accepts, None where unknown.
        measured_on: the data set of that rate, None where unknown.
        cosine: the same as `1 - cos` of vectors of unit length, as trackers compare them; None where unknown.
    """

    distance: float
    false_match_rate: float | None = None
    measured_on: str | None = None
    cosine: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Returns the meta data."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Embedding:
    """A function of images alone, ready to be traced.

    Attributes:
        call: from images [B, *image_shape] to a tuple of arrays, one for each of `outputs`.
        image_shape: shape of one image.
        dtype: "uint8" or "float32".
        outputs: names of the results.
        meta: what the function expects and returns, as JSON values.
        layout: how uint8 RGB images [B, H, W, 3] become what `call` takes.
    """

    call: Callable[[jax.Array], tuple[jax.Array, ...]]
    image_shape: tuple[int, ...]
    dtype: str
    outputs: tuple[str, ...]
    meta: dict[str, Any]
    layout: input_layouts.Layout


def of(
    extractor: extractor_lib.Extractor,
    variables: build.Variables,
    layout: str = "uint8",
    threshold: Threshold | None = None,
) -> Embedding:
    """Returns the embedding function of a model.

    Args:
        extractor: the model with its preprocessing; flip averaging is inside where `evals.flip` says so.
        variables: its variables; they become constants of the function.
        layout: "uint8": RGB images [B, H, W, 3] in 0-255, resized to the model's size, and results as `Extractor` gives
            them: features [B, D], or [B, S, D] with a second result, the visibility [B, S]. "float_nchw": planes
            [B, 3, H, W] that are normalized with ImageNet's statistics, as trackers pass them, and one vector
            [B, D] of unit length, see `unit_vectors.joined`. "float_nchw_255": likewise, planes in 0-255.
        threshold: what the meta data say of the distance up to which two images show the same person.

    Raises:
        UserError: an unknown layout.
    """
    if layout not in export.INPUTS:
        raise errors.unknown("input of an exported function", layout, export.INPUTS)
    size = (extractor.size["height"], extractor.size["width"])
    described = jax.eval_shape(extractor.describe, variables, extractor.example_batch())
    form = input_layouts.LAYOUTS[layout]

    def call(images: jax.Array) -> tuple[jax.Array, ...]:
        if form.planes:
            images = _pixels(images, form.normalized)
        # As everywhere outside of a data set, the camera is unknown.
        nobody = jnp.zeros(images.shape[0], jnp.int32)
        result = extractor.describe(variables, {"image": images, "camid": nobody - 1, "label": nobody})
        features = result.features.astype(jnp.float32)
        if form.planes:
            return (unit_vectors.joined(features, result.visibility, jnp),)
        return (features,) if result.visibility is None else (features, result.visibility.astype(jnp.float32))

    outputs = ("features",) if form.planes or described.visibility is None else ("features", "visibility")
    return Embedding(
        call,
        (3, *size) if form.planes else (*size, 3),
        form.dtype,
        outputs,
        {
            **_meta(extractor, layout, described.features.shape[1:]),
            "threshold": threshold and threshold.as_dict(),
            "weights": {**extractor.origin, "arrays_sha256": trees.sha256(variables)},
        },
        form,
    )


def _pixels(planes: jax.Array, normalized: bool) -> jax.Array:
    """Returns images [B, H, W, 3] in [0, 1] from planes [B, 3, H, W]."""
    images = jnp.transpose(planes, (0, 2, 3, 1))
    if not normalized:
        return images / 255
    std, mean = (
        jnp.asarray(each, jnp.float32).reshape(1, 1, 1, 3)
        for each in (input_layouts.IMAGENET_STD, input_layouts.IMAGENET_MEAN)
    )
    return images * std + mean


def _meta(extractor: extractor_lib.Extractor, name: str, shape: Sequence[int]) -> dict[str, Any]:
    """Returns what a reader of the file needs to know."""
    form = input_layouts.LAYOUTS[name]
    meta = features_lib.feature_meta(extractor.settings)
    meta["preprocessing"].pop("erase_fill")  # used in training only
    statistics = {"mean": input_layouts.IMAGENET_MEAN, "std": input_layouts.IMAGENET_STD}
    return {
        **meta,
        "input": {
            "name": name,
            "layout": form.text,
            "channels": "RGB",
            "range": None if form.normalized else [0, 255],
            "size": [extractor.size["height"], extractor.size["width"]],
            "interpolation": extractor.size["interpolation"],
            "antialiased": extractor.size["interpolation"] != "nearest",
            "normalized_outside": statistics if form.normalized else None,
        },
        "output": {
            "shape": [int(np.prod(shape))] if form.planes else list(shape),
            "unit_length": form.planes,
            "slots_joined": form.planes and len(shape) == 2,
        },
        "metric": "cosine" if form.planes else meta["metric"],
        "dtype": np.dtype(build.compute_dtype(extractor.settings.dtype)).name,
        "reid_jax": reid_jax.__version__,
        "written": datetime.date.today().isoformat(),
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
        pixels = trial_images(batch, height, width)
        expected = _expected(embedding, extractor, variables, pixels)
        worst, nearest = differences(expected, run(embedding.layout.of_images(pixels)))
        # NaN compares as neither larger nor smaller.
        if not worst <= TOLERANCE:
            raise errors.UserError(
                f"the exported {what} differs from the model by {worst:.2g} in a batch of {batch}, expected at most "
                f"{TOLERANCE:g}; no file was written, export with --dtype float32 or report this."
            )
        difference, cosine = max(difference, worst), min(cosine, nearest)
    return {"difference": difference, "cosine": cosine}


def differences(expected: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> tuple[float, float]:
    """Returns the largest difference of two results, and the least cosine of their features; NaN where one has it.

    Args:
        expected: features [B, D] or [B, S, D], which are compared at unit length, and visibility where there is one.
        found: likewise.
    """
    worst, cosine = 0.0, 1.0
    for place, (ours, theirs) in enumerate(zip(expected, found, strict=True)):
        ours, theirs = np.asarray(ours, np.float32), np.asarray(theirs, np.float32)
        if place == 0:
            ours, theirs = (array / np.linalg.norm(array, axis=-1, keepdims=True) for array in (ours, theirs))
            cosine = float((ours * theirs).sum(-1).min())
        worst = float(np.maximum(worst, np.abs(ours - theirs).max()))
    return worst, cosine


def trial_images(batch: int, height: int, width: int) -> np.ndarray:
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
        return [unit_vectors.joined(described.features, described.visibility)]
    return [described.features] if described.visibility is None else [described.features, described.visibility]
