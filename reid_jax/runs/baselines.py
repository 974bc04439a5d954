"""Baselines without learning that any trained network must outperform."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from reid_jax import progress
from reid_jax.data import feature_set, image_io, records, simple_features
from reid_jax.inference import extractor

# Functions from uint8 images [N, H, W, 3] to float32 features [N, D].
SIMPLE_FEATURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "raw_pixels": simple_features.raw_pixels,
    "hsv_histogram": simple_features.hsv_histogram,
}


def extract_simple(
    describe: Callable[[np.ndarray], np.ndarray], dataset: records.ReIDDataset, size: Mapping[str, Any]
) -> feature_set.FeatureSet:
    """Returns the features of a baseline for images at the model's input size.

    Args:
        describe: a value of `SIMPLE_FEATURES`.
        dataset: a data set with query and gallery.
        size: `height`, `width` and `interpolation` of the images.
    """

    def described(split: records.Split) -> extractor.Extracted:
        resized = []
        with progress.bar(f"baseline on {split.name}", len(split), "images") as advance:
            for row in range(len(split)):
                resized.append(image_io.resize(split.image(row), size["height"], size["width"], size["interpolation"]))
                advance(1)
        return extractor.Extracted(describe(np.stack(resized)), None, 0.0, 0.0)

    query, gallery = dataset.split("query"), dataset.split("gallery")
    return extractor.feature_set(described(query), described(gallery), query.labels(), gallery.labels())
