"""Places of embeddings on a plane."""

from __future__ import annotations

import importlib.util

import numpy as np

from reid_jax import errors, progress

METHODS = ("tsne", "pca")
PERPLEXITY = 30.0  # neighbors that count for a point, about


def check_method(method: str) -> None:
    """Raises a `UserError` for an unknown method, or one whose package is not installed."""
    if method not in METHODS:
        raise errors.unknown("method of the map", method, METHODS)
    if method == "tsne" and importlib.util.find_spec("sklearn") is None:
        raise errors.UserError(
            "expected the package scikit-learn for a map by t-SNE; install it by pip install 'reid_jax[map]', or take "
            "--method pca."
        )


def project(vectors: np.ndarray, method: str = "tsne", seed: int = 0) -> np.ndarray:
    """Returns places on a plane, float32 [N, 2] in [0, 1].

    Args:
        vectors: [N, D] of unit length.
        method: "tsne" keeps neighbors together (scikit-learn; the same places for the same seed), "pca" shows the two
            directions of the largest variance.
        seed: of t-SNE.

    Raises:
        UserError: unknown method, missing package, or fewer than four vectors.
    """
    check_method(method)
    if len(vectors) < 4:
        raise errors.UserError(f"expected at least 4 images for a map, got {len(vectors)}; give more.")
    centered = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    left, values, _ = np.linalg.svd(centered, full_matrices=False)
    places = left[:, :2] * values[:2]
    if places.shape[1] < 2:
        places = np.pad(places, ((0, 0), (0, 1)))
    if method == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
        start = places / max(places[:, 0].std(), 1e-12) * 1e-4
        with progress.waiting("t-SNE"):
            places = TSNE(2, perplexity=perplexity, init=start, random_state=seed).fit_transform(centered)
    low, high = places.min(axis=0), places.max(axis=0)
    scaled: np.ndarray = ((places - low) / np.maximum(high - low, 1e-12)).astype(np.float32)
    return scaled
