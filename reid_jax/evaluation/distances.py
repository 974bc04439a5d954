"""Distances between queries and gallery, computed in blocks whose results do not depend on how they were cut.

Three kinds, one per descriptor:

* `euclidean`: squared Euclidean distance of the features as stored, `|q|^2 + |g|^2 - 2 q.g`.
* `cosine`: the same on unit vectors, that is `2 - 2 cos`.
* slots: `sum_s v_q v_g |q_s - g_s| / sum_s v_q v_g` over the S slots of a descriptor, `v` their visibility
  (AMFOR, inference); with `cosine` each slot is first brought to unit length.

All three rise with the distance people quote, so they rank alike; `readable` turns them into it.

Reproducibility. Ties are decided by gallery order, so a distance must be the same number wherever its image stands.
Products of blocks whose sides are multiples of `QUERY_UNIT` and `GALLERY_UNIT` are: every entry is accumulated in the
same order. `Side.pad` sees to it that no other shape is ever multiplied; the tests hold it to that.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from reid_jax import errors

Array = Any  # numpy on the host, jax inside programs

METRICS = ("euclidean", "cosine")
QUERY_UNIT = 64
GALLERY_UNIT = 256

# What two descriptors without a common visible slot are apart: the end of the ranking, yet below infinity (padding).
NOTHING_IN_COMMON = np.float32(3e38)


class Side(NamedTuple):
    """One side of a distance block.

    Attributes:
        features: [N, D] or [N, S, D] float32, of unit length for `cosine`.
        squares: [N] or [N, S] float32, squared lengths.
        visibility: [N, S] float32, or None for plain vectors.
    """

    features: Array
    squares: Array
    visibility: Array | None = None

    @property
    def num_rows(self) -> int:
        """Rows on this side."""
        return int(self.features.shape[0])

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return int(np.prod(self.features.shape[1:], dtype=np.int64)) * 4

    def map(self, function: Callable[[Array], Array]) -> Side:
        """Applies a function to the arrays there are."""
        return Side(*(None if array is None else function(array) for array in self))

    def take(self, rows: np.ndarray | slice) -> Side:
        """The given rows."""
        return self.map(lambda array: array[rows])

    def pad(self, count: int) -> Side:
        """The same rows followed by zeros, `count` in all."""
        return self.map(lambda array: pad_rows(array, count))


def pad_rows(array: np.ndarray, count: int, value: float = 0) -> np.ndarray:
    """Appends rows of `value` until there are `count`."""
    missing = count - len(array)
    if missing == 0:
        return array
    return np.concatenate([array, np.full((missing, *array.shape[1:]), value, array.dtype)])


def round_up(number: int, unit: int) -> int:
    """The least multiple of `unit` not below `number` (and not below `unit`)."""
    return max(1, -(-number // unit)) * unit


def power_of_two(number: int) -> int:
    """The least power of two not below `number`."""
    return 1 << max(0, number - 1).bit_length()


def check_metric(metric: str) -> None:
    """Refuses an unknown metric."""
    if metric not in METRICS:
        raise errors.unknown("metric", metric, METRICS)


def unit_length(features: np.ndarray) -> np.ndarray:
    """Scales the last axis to unit length (float32); zero vectors stay zero."""
    length = np.linalg.norm(features, axis=-1, keepdims=True)
    return features / np.maximum(length, np.float32(1e-12))


def prepare(features: np.ndarray, metric: str, visibility: np.ndarray | None = None) -> Side:
    """Brings features into the form the block functions read; here and nowhere else they are normalised.

    Args:
        features: [N, D] or [N, S, D] float32.
        metric: "euclidean" or "cosine".
        visibility: [N, S] in [0, 1]; None counts every slot.

    Returns:
        A `Side` of numpy arrays.

    Raises:
        UserError: the metric is unknown or the squared lengths overflow float32.
    """
    check_metric(metric)
    features = np.asarray(features, dtype=np.float32)
    if metric == "cosine":
        features = unit_length(features)
    with np.errstate(over="ignore"):
        squares = np.concatenate([(part**2).sum(axis=-1) for part in _parts(features)])
    if not np.all(squares < 1e37):
        raise errors.UserError(
            "features must have squared lengths below 1e37 to be compared in float32, but larger ones came: "
            "scale them down or use the cosine metric."
        )
    if features.ndim == 3 and visibility is None:
        visibility = np.ones(features.shape[:2], np.float32)
    return Side(features, squares, visibility)


def _parts(features: np.ndarray, rows: int = 4096) -> Iterator[np.ndarray]:
    for start in range(0, len(features), rows):
        yield features[start : start + rows]


def block(gallery: Side, query: Side) -> Array:
    """Distances of one block, gallery first; traced inside the callers' programs.

    Args:
        gallery: [g, ...] rows, g a multiple of `GALLERY_UNIT`.
        query: [q, ...] rows, q a multiple of `QUERY_UNIT`.

    Returns:
        [g, q] float32.
    """
    if query.visibility is None:
        return _squared_euclidean(gallery.features, gallery.squares, query.features, query.squares)
    return _slots(gallery, query)


def _squared_euclidean(x: Array, x_squares: Array, y: Array, y_squares: Array) -> Array:
    product = lax.dot_general(
        x, y, (((1,), (1,)), ((), ())), precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32
    )
    return (x_squares[:, None] + y_squares[None, :]) - 2.0 * product


def _slots(gallery: Side, query: Side) -> Array:
    def add(carry: tuple[Array, Array], slot: tuple[Array, ...]) -> tuple[tuple[Array, Array], None]:
        total, weight = carry
        x, x_squares, x_visible, y, y_squares, y_visible = slot
        both = x_visible[:, None] * y_visible[None, :]
        distance = jnp.sqrt(jnp.maximum(_squared_euclidean(x, x_squares, y, y_squares), 0.0))
        return (total + both * distance, weight + both), None

    arrays: tuple[Array, ...] = (*gallery, *query)
    by_slot = [jnp.moveaxis(array, 1, 0) for array in arrays]
    zeros = jnp.zeros((gallery.features.shape[0], query.features.shape[0]), jnp.float32)
    (total, weight), _ = lax.scan(add, (zeros, zeros), tuple(by_slot))
    return jnp.where(weight > 0, total / jnp.where(weight > 0, weight, 1.0), NOTHING_IN_COMMON)


def readable(distances: np.ndarray, metric: str, slots: bool = False) -> np.ndarray:
    """The number people quote: Euclidean distance, `1 - cos`, or the mean slot distance.

    Args:
        distances: values of `block`.
        metric: "euclidean" or "cosine".
        slots: whether the descriptors were slots.

    Returns:
        float64 of the same shape.
    """
    distances = np.asarray(distances, dtype=np.float64)
    if slots:
        return np.where(distances >= NOTHING_IN_COMMON, np.inf, distances)
    if metric == "cosine":
        return distances / 2
    return np.sqrt(np.maximum(distances, 0.0))


_jitted_block = jax.jit(block)


def pairwise(query: Side, gallery: Side, *, query_block: int = 256, gallery_block: int = 4096) -> np.ndarray:
    """The whole matrix, for sets small enough to hold it.

    Args:
        query: Q rows from `prepare`.
        gallery: G rows from `prepare`.
        query_block: queries per program call, rounded up to `QUERY_UNIT`.
        gallery_block: gallery rows per program call, rounded up to `GALLERY_UNIT`.

    Returns:
        [Q, G] float32.
    """
    query_block = round_up(min(query_block, query.num_rows), QUERY_UNIT)
    gallery_block = round_up(min(gallery_block, gallery.num_rows), GALLERY_UNIT)
    out = np.empty((query.num_rows, gallery.num_rows), np.float32)
    for row in range(0, query.num_rows, query_block):
        part = query.take(slice(row, row + query_block))
        padded = part.pad(query_block)
        for column in range(0, gallery.num_rows, gallery_block):
            other = gallery.take(slice(column, column + gallery_block))
            values = np.asarray(_jitted_block(other.pad(gallery_block), padded))
            out[row : row + part.num_rows, column : column + other.num_rows] = values[
                : other.num_rows, : part.num_rows
            ].T
    return out


@functools.partial(jax.jit, static_argnames="k")
def _merge_nearest(best: tuple[Array, Array], gallery: Side, index: Array, query: Side, k: int) -> tuple[Array, Array]:
    """Merges the k best so far with one gallery block; earlier entries win ties (`top_k` keeps lower positions)."""
    values = jnp.where(index[:, None] < 0, jnp.inf, block(gallery, query)).T
    candidates = jnp.concatenate([best[0], values], axis=1)
    indices = jnp.concatenate([best[1], jnp.broadcast_to(index[None, :], values.shape)], axis=1)
    negative, position = lax.top_k(-candidates, k)
    return -negative, jnp.take_along_axis(indices, position, axis=1)


def nearest(
    query: Side, gallery: Side, k: int, *, query_block: int = 256, gallery_block: int = 4096
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest gallery rows of every query, nearest first; ties in gallery order.

    Args:
        query: Q rows from `prepare`.
        gallery: G rows from `prepare`.
        k: how many, at most G.
        query_block: queries per program call.
        gallery_block: gallery rows per program call.

    Returns:
        Distances [Q, k] float32 and gallery rows [Q, k] int32.
    """
    k = min(k, gallery.num_rows)
    query_block = round_up(min(query_block, query.num_rows), QUERY_UNIT)
    gallery_block = round_up(min(max(gallery_block, k), gallery.num_rows), GALLERY_UNIT)
    values, indices = np.empty((query.num_rows, k), np.float32), np.empty((query.num_rows, k), np.int32)
    for row in range(0, query.num_rows, query_block):
        part = query.take(slice(row, row + query_block))
        padded = jax.device_put(part.pad(query_block))
        best = (jnp.full((query_block, k), jnp.inf), jnp.full((query_block, k), -1, jnp.int32))
        for column in range(0, gallery.num_rows, gallery_block):
            other = gallery.take(slice(column, column + gallery_block))
            index = pad_rows(np.arange(column, column + other.num_rows, dtype=np.int32), gallery_block, -1)
            best = _merge_nearest(best, other.pad(gallery_block), index, padded, k)
        values[row : row + part.num_rows] = np.asarray(best[0])[: part.num_rows]
        indices[row : row + part.num_rows] = np.asarray(best[1])[: part.num_rows]
    return values, indices
