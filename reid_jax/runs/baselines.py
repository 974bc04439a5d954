"""Baselines without learning that any trained network must outperform."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from reid_jax import progress
from reid_jax.data import feature_set, gallery_share, image_io, records, simple_features
from reid_jax.inference import extractor
from reid_jax.runtime import exchange, processes

# Functions from uint8 images [N, H, W, 3] to float32 features [N, D].
SIMPLE_FEATURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "raw_pixels": simple_features.raw_pixels,
    "hsv_histogram": simple_features.hsv_histogram,
}


def extract_simple(
    describe: Callable[[np.ndarray], np.ndarray], dataset: records.ReIDDataset, size: Mapping[str, Any]
) -> feature_set.FeatureSet:
    """Returns the features of a baseline for images at the model's input size.

    In a run of several processes each reads its share of the images, and the gallery is divided over them.

    Args:
        describe: a value of `SIMPLE_FEATURES`.
        dataset: a data set with query and gallery.
        size: `height`, `width` and `interpolation` of the images.
    """
    alone = processes.process_count() == 1
    connected: gallery_share.Exchange = gallery_share.Alone() if alone else exchange.Processes()

    def described(split: records.Split) -> tuple[np.ndarray, gallery_share.Share]:
        rows = np.arange(len(split))[connected.index :: connected.count]
        images = np.zeros((len(rows), size["height"], size["width"], 3), np.uint8)
        with progress.bar(f"baseline on {split.name}", len(rows), "images") as advance:
            for place, row in enumerate(rows):
                images[place] = image_io.resize(
                    split.image(int(row)), size["height"], size["width"], size["interpolation"]
                )
                advance(1)
        one = images if len(images) else np.zeros((1, *images.shape[1:]), np.uint8)
        return describe(one)[: len(rows)], gallery_share.Share(rows, len(split), connected)

    query, gallery = dataset.split("query"), dataset.split("gallery")
    features, share = described(query)
    asked = extractor.Extracted(share.joined(features), None, 0.0, 0.0)
    features, share = described(gallery)
    known = extractor.Extracted(features, None, 0.0, 0.0, None if alone else share)
    return extractor.feature_set(asked, known, query.labels(), gallery.labels())
