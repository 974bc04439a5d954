"""The embedders that trackers are run with; needs numpy, OpenCV and onnxruntime, no JAX."""

from __future__ import annotations

import pathlib

import cv2
import numpy as np

from reid_jax.data import simple_features
from reid_jax.inference import trackers, unit_vectors

# Without appearance, by color histograms, by our model at the tracker's own gate, and at our threshold.
ARMS = ("none", "histogram", "ours", "ours, own threshold")
GATED = ARMS[3]
_HISTOGRAM = 3 * 12 * 6 * 6


def embedder(arm: str, model: pathlib.Path) -> trackers.TrackerEmbedder:
    """Returns the embedder of an arm."""
    if arm == "none":
        generator = np.random.default_rng(0)

        def noise(crops: list[np.ndarray]) -> np.ndarray:
            """Returns a vector of its own for each crop, so that appearance never speaks for a match."""
            return unit_vectors.joined(generator.normal(size=(len(crops), 512)).astype(np.float32))

        return trackers.TrackerEmbedder(noise, 512)
    return trackers.TrackerEmbedder(_histogram, _HISTOGRAM) if arm == "histogram" else trackers.of_onnx(model)


def _histogram(crops: list[np.ndarray]) -> np.ndarray:
    """Returns color histograms of crops as vectors of unit length."""
    resized = np.stack([cv2.resize(crop, (64, 128), interpolation=cv2.INTER_AREA) for crop in crops])
    return unit_vectors.joined(simple_features.hsv_histogram(resized).astype(np.float32))
