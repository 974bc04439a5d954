"""Why images are near a query, as pictures for the page of ranked lists."""

from __future__ import annotations

import numpy as np

from reid_jax.data.feature_set import FeatureSet
from reid_jax.evaluation.thumbnails import LoadImage
from reid_jax.explain import sheets, similarity_maps
from reid_jax.explain.explainer import Explainer


class RankedMaps:
    """Draws the regions that make a query and gallery images similar.

    Args:
        model: the model that made the features.
        features: what was ranked; its cameras are used.
        load_image: maps ("query" | "gallery", row) to uint8 [H, W, 3].
    """

    def __init__(self, model: Explainer, features: FeatureSet, load_image: LoadImage) -> None:
        self.model, self.features, self.load_image = model, features, load_image

    def __call__(self, query: int, gallery: np.ndarray) -> list[np.ndarray]:
        """Returns a picture uint8 [h, w, 3] for each of some gallery rows."""
        if not len(gallery):
            return []
        first, *others = self.model.resized(
            [self.load_image("query", query), *(self.load_image("gallery", int(row)) for row in gallery)]
        )
        cameras = int(self.features.query_cams[query]), self.features.gallery_cams[gallery].tolist()
        pairs = similarity_maps.pairs(self.model, first, others, cameras=cameras)
        return [sheets.strip((first, other), pair) for other, pair in zip(others, pairs, strict=True)]
