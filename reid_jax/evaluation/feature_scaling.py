"""Moves and scales features that float32 distances cannot compare where they are.

Neither changes the order of distances: a Euclidean distance does not depend on the origin, and is multiplied by the
scale. The center is a median, so that a few outlying rows neither cause nor prevent the move.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from reid_jax.data.gallery_share import Share

# A center this many times (squared) farther from the origin than the features are from it costs more than three bits.
FAR = 8.0
# Squared lengths outside of this range are scaled.
LONGEST, SHORTEST = 1e37, 1e-18
_SAMPLE = 512
_ROWS = 4096


@dataclasses.dataclass(frozen=True)
class Placement:
    """A move and a scale that features go through before they are compared in float32.

    Attributes:
        center: [D] or [S, D] float64, subtracted; zeros leave the features where they are.
        scale: power of two that they are multiplied by.
        unit: bring the vectors to unit length first, for the cosine distance.
    """

    center: np.ndarray
    scale: float
    unit: bool

    @property
    def changes(self) -> bool:
        """Whether features are changed at all; otherwise they are compared as they are."""
        return bool(self.center.any()) or self.scale != 1

    def apply(self, features: np.ndarray) -> np.ndarray:
        """Returns features [N, D] or [N, S, D] as float32, new arrays (at unit length before, with `unit`)."""
        out = np.empty(features.shape, np.float32)
        start = 0
        for part in _parts(features):
            out[start : start + len(part)] = ((_unit(part) if self.unit else part) - self.center) * self.scale
            start += len(part)
        return out


def placement(query: np.ndarray, gallery: np.ndarray, *, unit: bool, share: Share | None = None) -> Placement:
    """Returns where features have to lie for float32 to hold their squared distances.

    Args:
        query: [Q, D] or [Q, S, D] float32.
        gallery: [G, D] or [G, S, D] float32; the center is theirs.
        unit: bring the vectors to unit length first, for the cosine distance.
        share: the rows of a larger gallery that these are.
    """
    share = Share.whole(len(gallery)) if share is None else share
    center = center_of(share.rows(gallery, spread(share.total)), unit=unit)
    return Placement(center, 1.0 if unit else _scale(query, gallery, center, share), unit)


def center_of(sample: np.ndarray, *, unit: bool) -> np.ndarray:
    """Returns the center of features where it is too far from the origin to compare them there, else zeros.

    Args:
        sample: [n, D] or [n, S, D], the gallery's rows at `spread`.
        unit: bring the vectors to unit length first.

    Returns:
        [D] or [S, D] float64; each slot is decided on its own.
    """
    sample = sample.astype(np.float64)
    sample = _unit(sample) if unit else sample
    center = np.median(sample, axis=0).astype(np.float32).astype(np.float64)  # [D] or [S, D]
    around = np.median(np.square(sample - center).sum(axis=-1), axis=0)  # () or [S]
    far = np.square(center).sum(axis=-1) > FAR * around
    return np.asarray(np.where(far[..., None], center, 0.0))


def is_ordinary(peak: float, size: int) -> bool:
    """Returns whether float32 holds the squares of vectors of `size` numbers whose largest one is `peak`."""
    return peak == 0 or (peak**2 > SHORTEST and peak**2 * size < LONGEST)


def well_placed(
    query: np.ndarray, gallery: np.ndarray, *, unit: bool, share: Share | None = None
) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns features whose squared distances float32 can hold; the arrays themselves where it can already.

    Args:
        query: [Q, D] or [Q, S, D] float32.
        gallery: [G, D] or [G, S, D] float32.
        unit: bring the vectors to unit length first, for the cosine distance.
        share: the rows of a larger gallery that these are.

    Returns:
        Queries and gallery, float32 of the same shapes and new where anything was changed (at unit length before, with
        `unit`), and the power of two that the features were multiplied by.
    """
    place = placement(query, gallery, unit=unit, share=share)
    if not place.changes:
        return query, gallery, 1.0
    return place.apply(query), place.apply(gallery), place.scale


def spread(count: int) -> np.ndarray:
    """Returns evenly spaced rows, by which a gallery is judged."""
    rows: np.ndarray = np.unique(np.linspace(0, count - 1, min(count, _SAMPLE)).astype(np.int64))
    return rows


def _unit(features: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(features, axis=-1, keepdims=True)
    return np.asarray(features / np.where(length > 0, length, 1))


def _scale(query: np.ndarray, gallery: np.ndarray, center: np.ndarray, share: Share) -> float:
    """Returns the power of two that brings the longest squared vector into the range of float32."""
    if not center.any():  # the usual case, without a pass in float64
        peak = max(float(max(array.max(initial=0), -array.min(initial=0))) for array in (query, gallery))
        peak = share.largest(peak)
        if is_ordinary(peak, center.shape[-1]):
            return 1.0
    longest = 0.0
    for part in (*_parts(query), *_parts(gallery)):
        longest = max(longest, float(np.square(part - center).sum(axis=-1).max()))
    longest = share.largest(longest)
    if longest == 0 or SHORTEST < longest < LONGEST:
        return 1.0
    # Long ones go to 2^119, so that shorter rows keep their squares; all are short where the longest is.
    wanted = 119 if longest >= LONGEST else 0
    return math.ldexp(1.0, (wanted - math.frexp(longest)[1]) // 2)


def _parts(features: np.ndarray) -> Iterator[np.ndarray]:
    """Yields blocks of rows in float64."""
    for start in range(0, len(features), _ROWS):
        yield features[start : start + _ROWS].astype(np.float64)
