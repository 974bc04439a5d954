"""Query expansion: each query is replaced by a mean of itself and its nearest gallery images.

References:
    Chum et al., "Total Recall", ICCV 2007 (average query expansion).
    Radenovic et al., "Fine-tuning CNN Image Retrieval with No Human Annotation", TPAMI 2019 (alpha query expansion).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from reid_jax import errors
from reid_jax.data.feature_set import FeatureSet
from reid_jax.evaluation import distance_blocks


def expand_queries(
    feature_set: FeatureSet,
    *,
    neighbors: int = 5,
    alpha: float | None = None,
    metric: str | None = None,
    gallery_too: bool = False,
) -> FeatureSet:
    """Returns a feature set whose queries are means of themselves and their nearest gallery images.

    Identities are not used.

    Args:
        feature_set: descriptors; junk is removed first, so that it has no influence.
        neighbors: number of gallery images in the mean.
        alpha: exponent of the weights, which are cosine similarities (at least 0); None gives all the same weight.
        metric: distance of the neighbor search; for "cosine" the mean is taken of unit vectors.
        gallery_too: expand the gallery from itself in the same way (database-side augmentation).

    Returns:
        A feature set with new features of the same shape.

    Raises:
        UserError: more neighbors than gallery images, or a negative alpha.
    """
    metric = feature_set.metric if metric is None else metric
    feature_set = feature_set.without_junk()
    if not 1 <= neighbors <= feature_set.num_gallery:
        raise errors.UserError(
            f"neighbors must be between 1 and the size of the gallery ({feature_set.num_gallery}), but it is "
            f"{neighbors}: choose another number."
        )
    if alpha is not None and alpha < 0:
        raise errors.UserError(f"alpha must not be negative, but it is {alpha}: 0 gives all neighbors the same weight.")
    nearby, near_gallery = distance_blocks.prepare_both(feature_set, metric)
    near = distance_blocks.nearest(nearby, near_gallery, neighbors).rows
    # Means are taken of the features themselves, wherever they lie.
    query = distance_blocks.prepare(feature_set.query_features, metric, feature_set.query_visibility)
    gallery = distance_blocks.prepare(feature_set.gallery_features, metric, feature_set.gallery_visibility)
    changes = {"query_features": _mean(query, gallery, near, alpha)}
    if gallery_too:
        # The nearest image of a gallery image is itself.
        near = distance_blocks.nearest(near_gallery, near_gallery, min(neighbors + 1, gallery.num_rows)).rows[:, 1:]
        changes["gallery_features"] = _mean(gallery, gallery, near, alpha)
    return dataclasses.replace(feature_set, **changes)  # type: ignore[arg-type]


def _mean(
    side: distance_blocks.Side, gallery: distance_blocks.Side, near: np.ndarray, alpha: float | None
) -> np.ndarray:
    out = np.empty_like(side.features)
    for first in range(0, side.num_rows, 256):
        rows = slice(first, first + 256)
        own, others = side.features[rows][:, None], gallery.features[near[rows]]  # [n, 1, ...], [n, k, ...]
        weight = np.ones(others.shape[:2], np.float32)
        if alpha is not None:
            axes = tuple(range(2, others.ndim))
            lengths = [np.sqrt((part**2).sum(axis=axes)) for part in (own, others)]
            cosine = (own * others).sum(axis=axes) / np.maximum(lengths[0] * lengths[1], 1e-12)
            weight = np.maximum(cosine, 0) ** np.float32(alpha)
        weight = np.concatenate([np.ones((len(weight), 1), np.float32), weight], axis=1)
        everything = np.concatenate([own, others], axis=1)
        weight = weight.reshape(weight.shape + (1,) * (everything.ndim - 2))
        if side.visibility is not None and gallery.visibility is not None:
            # Images that hide a slot do not contribute to it; a slot hidden in all of them stays as it is.
            seen = np.concatenate([side.visibility[rows][:, None], gallery.visibility[near[rows]]], axis=1)
            weight = weight * np.where(seen.sum(axis=1, keepdims=True) > 0, seen, seen + 1)[..., None]
        out[rows] = (weight * everything).sum(axis=1) / weight.sum(axis=1)
    return np.asarray(out)
