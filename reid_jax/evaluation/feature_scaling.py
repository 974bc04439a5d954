"""Moves and scales features that float32 distances cannot compare where they are.

Neither changes the order of distances: a Euclidean distance does not depend on the origin, and is multiplied by the
scale. The center is a median, so that a few outlying rows neither cause nor prevent the move.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

# A center this many times (squared) farther from the origin than the features are from it costs more than three bits.
FAR = 8.0
# Squared lengths outside of this range are scaled.
LONGEST, SHORTEST = 1e37, 1e-18
_SAMPLE = 512
_ROWS = 4096


def well_placed(query: np.ndarray, gallery: np.ndarray, *, unit: bool) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns features whose squared distances float32 can hold; the arrays themselves where it can already.

    Args:
        query: [Q, D] or [Q, S, D] float32.
        gallery: [G, D] or [G, S, D] float32.
        unit: bring the vectors to unit length first, for the cosine distance.

    Returns:
        Queries and gallery, float32 of the same shapes and new where anything was changed (at unit length before, with
        `unit`), and the power of two that the features were multiplied by.
    """
    sample = gallery[_spread(len(gallery))].astype(np.float64)
    sample = _unit(sample) if unit else sample
    center = np.median(sample, axis=0).astype(np.float32).astype(np.float64)  # [D] or [S, D]
    around = np.median(np.square(sample - center).sum(axis=-1), axis=0)  # () or [S]
    far = np.square(center).sum(axis=-1) > FAR * around
    center = np.where(far[..., None], center, 0.0)
    scale = 1.0 if unit else _scale(query, gallery, center)
    if not far.any() and scale == 1:
        return query, gallery, 1.0
    return _moved(query, center, scale, unit), _moved(gallery, center, scale, unit), scale


def _spread(count: int) -> np.ndarray:
    """Returns evenly spaced rows."""
    rows: np.ndarray = np.unique(np.linspace(0, count - 1, min(count, _SAMPLE)).astype(np.int64))
    return rows


def _unit(features: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(features, axis=-1, keepdims=True)
    return np.asarray(features / np.where(length > 0, length, 1))


def _scale(query: np.ndarray, gallery: np.ndarray, center: np.ndarray) -> float:
    """Returns the power of two that brings the longest squared vector into the range of float32."""
    if not center.any():  # the usual case, without a pass in float64
        peak = max(float(max(array.max(), -array.min())) for array in (query, gallery))
        if peak == 0 or (peak**2 > SHORTEST and peak**2 * center.shape[-1] < LONGEST):
            return 1.0
    longest = 0.0
    for part in (*_parts(query), *_parts(gallery)):
        longest = max(longest, float(np.square(part - center).sum(axis=-1).max()))
    if longest == 0 or SHORTEST < longest < LONGEST:
        return 1.0
    # Long ones go to 2^119, so that shorter rows keep their squares; all are short where the longest is.
    wanted = 119 if longest >= LONGEST else 0
    return math.ldexp(1.0, (wanted - math.frexp(longest)[1]) // 2)


def _moved(features: np.ndarray, center: np.ndarray, scale: float, unit: bool) -> np.ndarray:
    out = np.empty(features.shape, np.float32)
    start = 0
    for part in _parts(features):
        out[start : start + len(part)] = ((_unit(part) if unit else part) - center) * scale
        start += len(part)
    return out


def _parts(features: np.ndarray) -> Iterator[np.ndarray]:
    """Yields blocks of rows in float64."""
    for start in range(0, len(features), _ROWS):
        yield features[start : start + _ROWS].astype(np.float64)
