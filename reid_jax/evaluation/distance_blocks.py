"""Distances between queries and gallery, computed in blocks; the result does not depend on the block size.

Three kinds are built in:

* `euclidean`: squared Euclidean distance of the features as stored, `|q|^2 + |g|^2 - 2 q.g`.
* `cosine`: the same on unit vectors, that is `2 - 2 cos`.
* slots: `sum_s v_q v_g |q_s - g_s| / sum_s v_q v_g` over the S slots of a descriptor, `v` their visibility
  (AMFOR, inference); with `cosine` each slot is first brought to unit length.

Each is a monotonic function of the distance usually reported, so the ranking is the same; `readable` converts it. A
fourth kind is a function of the user's own, see `own_metrics`.

Reproducibility. Ties are decided by gallery order (the rule is in `ranking`), so a distance must be the same number
wherever its image stands. That holds for products of blocks whose sides are multiples of `QUERY_UNIT` and
`GALLERY_UNIT`: every entry is accumulated in the same order. `Side.pad` ensures that no other shape is ever multiplied.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from reid_jax import errors, progress
from reid_jax.data.feature_set import FeatureSet
from reid_jax.evaluation import feature_scaling, own_metrics
from reid_jax.plugins import names

Array = Any  # numpy on the host, jax inside programs

METRICS = ("euclidean", "cosine")
QUERY_UNIT = 64
GALLERY_UNIT = 256

_AHEAD = 3  # blocks the device may run ahead of the host, which bounds their memory

# Distance of two descriptors without a common visible slot: the end of the ranking, yet below infinity (padding).
NOTHING_IN_COMMON = np.float32(3e38)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["features", "squares", "visibility"],
    meta_fields=["measure", "scale"],
)
@dataclasses.dataclass(frozen=True)
class Side:
    """One side of a distance block: queries or gallery images.

    Attributes:
        features: [N, D] or [N, S, D] float32, of unit length for `cosine`.
        squares: [N] or [N, S] float32, squared lengths.
        visibility: [N, S] float32, or None for plain vectors.
        measure: the user's own distance function, the same on both sides; None for the built-in distances. It is part
            of the tree's structure, hence a compiled program belongs to one function.
        scale: power of two that the features were multiplied by, the same on both sides (`feature_scaling`).
    """

    features: Array
    squares: Array
    visibility: Array | None = None
    measure: own_metrics.Measure | None = None
    scale: float = 1.0

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return int(self.features.shape[0])

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return int(np.prod(self.features.shape[1:], dtype=np.int64)) * 4

    def map(self, function: Callable[[Array], Array]) -> Side:
        """Returns a side whose arrays went through a function."""
        visibility = None if self.visibility is None else function(self.visibility)
        return Side(function(self.features), function(self.squares), visibility, self.measure, self.scale)

    def take(self, rows: np.ndarray | slice) -> Side:
        """Returns the given rows."""
        return self.map(lambda array: array[rows])

    def pad(self, count: int) -> Side:
        """Returns the same rows followed by zeros, `count` in all."""
        return self.map(lambda array: pad_rows(array, count))

    def join(self, other: Side) -> Side:
        """Returns the rows of this side followed by those of the other, on the host."""
        visibility = None
        if self.visibility is not None and other.visibility is not None:
            visibility = np.concatenate([self.visibility, other.visibility])
        features = np.concatenate([self.features, other.features])
        return Side(features, np.concatenate([self.squares, other.squares]), visibility, self.measure, self.scale)


def pad_rows(array: np.ndarray, count: int, value: float = 0) -> np.ndarray:
    """Returns the array with rows of `value` appended, `count` rows in all."""
    missing = count - len(array)
    if missing == 0:
        return array
    return np.concatenate([array, np.full((missing, *array.shape[1:]), value, array.dtype)])


def round_up(number: int, unit: int) -> int:
    """Returns the least multiple of `unit` not below `number` (and not below `unit`)."""
    return max(1, -(-number // unit)) * unit


def power_of_two(number: int) -> int:
    """Returns the least power of two not below `number`."""
    return 1 << max(0, number - 1).bit_length()


def check_metric(metric: str) -> None:
    """Raises a `UserError` for a metric that is neither in `METRICS` nor the path of a function."""
    find_measure(metric)


def find_measure(metric: str) -> own_metrics.Measure | None:
    """Returns the function of a metric named by path, None for a built-in one.

    Raises:
        UserError: the metric is unknown, or its path leads nowhere.
    """
    if names.is_path(metric):
        return own_metrics.find(metric)
    if metric not in METRICS:
        raise errors.unknown("metric", metric, [*METRICS, "package.module:Name"])
    return None


def unit_length(features: np.ndarray) -> np.ndarray:
    """Returns the features with the last axis scaled to unit length (float32); zero vectors stay zero."""
    out = np.empty(features.shape, np.float32)
    for part, place in zip(_parts(features), _parts(out), strict=True):
        with np.errstate(over="ignore"):
            length = np.linalg.norm(part, axis=-1, keepdims=True)
        np.divide(part, np.maximum(length, np.float32(1e-12)), out=place)
        # The squares of very long and very short vectors leave float32.
        extreme = ((length < 1e-12) | ~np.isfinite(length))[..., 0]
        if extreme.any():
            exact = part[extreme].astype(np.float64)
            length = np.linalg.norm(exact, axis=-1, keepdims=True)
            place[extreme] = exact / np.where(length > 0, length, 1)
    return out


def prepare(features: np.ndarray, metric: str, visibility: np.ndarray | None = None) -> Side:
    """Returns features in the form the block functions read; this is the only place that normalizes them.

    Args:
        features: [N, D] or [N, S, D] float32.
        metric: "euclidean", "cosine", or the path of a function (`own_metrics`).
        visibility: [N, S] in [0, 1]; None counts every slot.

    Returns:
        A `Side` of numpy arrays; to be compared only with one that was prepared like it, see `prepare_both`.

    Raises:
        UserError: the metric is unknown or the squared lengths overflow float32.
    """
    measure = find_measure(metric)
    features = np.asarray(features, dtype=np.float32)
    if metric == "cosine":
        features = unit_length(features)
    with np.errstate(over="ignore"):
        squares = np.concatenate([(part**2).sum(axis=-1) for part in _parts(features)])
    if measure is None and not np.all(squares < 1e37):
        raise errors.UserError(
            "features must have squared lengths below 1e37 to be compared in float32, but larger ones came: "
            "scale them down or use the cosine metric."
        )
    if features.ndim == 3 and visibility is None:
        visibility = np.ones(features.shape[:2], np.float32)
    return Side(features, squares, visibility, measure)


def prepare_both(feature_set: FeatureSet, metric: str) -> tuple[Side, Side]:
    """Returns queries and gallery in the form the block functions read, see `prepare`.

    In float32, `|q|^2 + |g|^2 - 2 q.g` loses what distinguishes features that lie close together and far from the
    origin, and the squares of very long or very short features leave its range. Such features are moved by one vector
    and multiplied by one power of two, on both sides, in float64; this changes no order of distances. All others stay
    bit for bit as they are (`feature_scaling`).

    Args:
        feature_set: descriptors of both sides.
        metric: "euclidean", "cosine", or the path of a function, whose features are never changed.

    Returns:
        The sides of the queries and of the gallery.

    Raises:
        UserError: the metric is unknown, or the lengths span more than float32 holds.
    """
    query, gallery, scale = feature_set.query_features, feature_set.gallery_features, 1.0
    if find_measure(metric) is None:
        query, gallery, scale = feature_scaling.well_placed(
            query, gallery, unit=metric == "cosine", share=feature_set.share
        )
        metric = "euclidean" if query is not feature_set.query_features else metric
    sides = (
        prepare(query, metric, feature_set.query_visibility),
        prepare(gallery, metric, feature_set.gallery_visibility),
    )
    return dataclasses.replace(sides[0], scale=scale), dataclasses.replace(sides[1], scale=scale)


def prepare_placed(
    features: np.ndarray, metric: str, visibility: np.ndarray | None, placement: feature_scaling.Placement | None
) -> Side:
    """Returns one side prepared like the others of a placement: what `prepare_both` gives, a side at a time.

    Args:
        features: [N, D] or [N, S, D] float32.
        metric: "euclidean", "cosine", or the path of a function.
        visibility: [N, S] in [0, 1]; None counts every slot.
        placement: of `feature_scaling.placement`; None for an own metric, whose features are never changed.
    """
    if placement is None or not placement.changes:
        return prepare(features, metric, visibility)
    return dataclasses.replace(prepare(placement.apply(features), "euclidean", visibility), scale=placement.scale)


def _parts(features: np.ndarray, rows: int = 4096) -> Iterator[np.ndarray]:
    for start in range(0, max(1, len(features)), rows):
        yield features[start : start + rows]


def block(gallery: Side, query: Side) -> Array:
    """Returns the distances of one block, a row per gallery image; traced inside the callers' programs.

    Args:
        gallery: [g, ...] rows, g a multiple of `GALLERY_UNIT`.
        query: [q, ...] rows, q a multiple of `QUERY_UNIT`.

    Returns:
        [g, q] float32.
    """
    return _distances(gallery, query, _measured(query.measure, query_first=False))


def block_by_query(query: Side, gallery: Side) -> Array:
    """Returns the distances of one block, a row per query: like `block`, with [q, g] float32."""
    return _distances(query, gallery, _measured(query.measure, query_first=True))


def _measured(measure: own_metrics.Measure | None, query_first: bool) -> own_metrics.Measure | None:
    """Returns the own metric as a function of (rows, columns); the metric itself always takes the queries first."""
    if measure is None:
        return None
    if query_first:
        return lambda rows, columns: own_metrics.apply(measure, rows, columns)
    return lambda rows, columns: own_metrics.apply(measure, columns, rows).T


def _distances(rows: Side, columns: Side, measure: own_metrics.Measure | None) -> Array:
    if columns.visibility is not None:
        return _slots(rows, columns, measure)
    if measure is not None:
        return measure(rows.features, columns.features)
    return _squared_euclidean(rows.features, rows.squares, columns.features, columns.squares)


def _squared_euclidean(x: Array, x_squares: Array, y: Array, y_squares: Array) -> Array:
    product = lax.dot_general(
        x, y, (((1,), (1,)), ((), ())), precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32
    )
    return (x_squares[:, None] + y_squares[None, :]) - 2.0 * product


def _slots(rows: Side, columns: Side, measure: own_metrics.Measure | None) -> Array:
    def add(carry: tuple[Array, Array], slot: tuple[Array, ...]) -> tuple[tuple[Array, Array], None]:
        total, weight = carry
        x, x_squares, x_visible, y, y_squares, y_visible = slot
        both = x_visible[:, None] * y_visible[None, :]
        if measure is None:
            distance = jnp.sqrt(jnp.maximum(_squared_euclidean(x, x_squares, y, y_squares), 0.0))
        else:
            # Hidden slots are often zero vectors, for which an own metric need not be defined.
            distance = jnp.where(both > 0, measure(x, y), 0.0)
        return (total + both * distance, weight + both), None

    arrays: list[Array] = [
        array for side in (rows, columns) for array in (side.features, side.squares, side.visibility)
    ]
    by_slot = [jnp.moveaxis(array, 1, 0) for array in arrays]
    zeros = jnp.zeros((rows.features.shape[0], columns.features.shape[0]), jnp.float32)
    (total, weight), _ = lax.scan(add, (zeros, zeros), tuple(by_slot))
    return jnp.where(weight > 0, total / jnp.where(weight > 0, weight, 1.0), NOTHING_IN_COMMON)


def readable(distances: np.ndarray, metric: str, slots: bool = False, scale: float = 1.0) -> np.ndarray:
    """Returns the distance usually reported: Euclidean, `1 - cos`, the mean slot distance, or that of an own metric.

    Args:
        distances: values of `block`.
        metric: "euclidean", "cosine" or the path of a function.
        slots: whether the descriptors were slots.
        scale: of the sides that were compared.

    Returns:
        float64 of the same shape.
    """
    distances = np.asarray(distances, dtype=np.float64)
    if slots:
        return np.where(distances >= NOTHING_IN_COMMON, np.inf, distances / scale)
    if names.is_path(metric):
        return distances
    if metric == "cosine":
        return distances / 2
    return np.asarray(np.sqrt(np.maximum(distances, 0.0)) / scale)


jitted_block = jax.jit(block)
_jitted_block_by_query = jax.jit(block_by_query)


def pairs(x: Side, y: Side) -> np.ndarray:
    """Returns the distances of row i of one side to row i of the other, computed on the host for built-in metrics.

    Args:
        x: [N, ...] rows.
        y: [N, ...] rows.

    Returns:
        [N] float32.
    """
    if x.measure is not None:
        return _own_pairs(x, y)
    squared: np.ndarray = x.squares + y.squares - 2 * np.einsum("...d,...d->...", x.features, y.features)
    if x.visibility is None:
        return squared
    return _weighted_mean(np.sqrt(np.maximum(squared, 0)), x.visibility * y.visibility)


def _own_pairs(x: Side, y: Side) -> np.ndarray:
    assert x.measure is not None
    count = power_of_two(x.num_rows)  # few shapes, few programs
    arrays = (pad_rows(side.features, count) for side in (x, y))
    values = np.asarray(_measured_pairs(*arrays, x.measure))[: x.num_rows]
    if x.visibility is None:
        return values
    return _weighted_mean(values, x.visibility * y.visibility)


@functools.partial(jax.jit, static_argnames="measure")
def _measured_pairs(x: Array, y: Array, measure: own_metrics.Measure) -> Array:
    """Distances [N] or [N, S] of an own metric, one pair of vectors at a time."""

    def single(x: Array, y: Array) -> Array:
        return own_metrics.apply(measure, x[None], y[None])[0, 0]

    return jax.vmap(jax.vmap(single) if x.ndim == 3 else single)(x, y)


def _weighted_mean(distances: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean over the slots [N, S]; pairs without weight have nothing in common."""
    weight = weights.sum(axis=1)
    total = (weights * np.where(weights > 0, distances, 0)).sum(axis=1)
    return np.where(weight > 0, total / np.where(weight > 0, weight, 1), NOTHING_IN_COMMON).astype(np.float32)


def _placed(tree: Any, mesh: Mesh | None) -> Any:
    """Puts rows on the devices of a mesh, each on one of them, or on the default device."""
    return jax.device_put(tree, None if mesh is None else NamedSharding(mesh, PartitionSpec(mesh.axis_names[0])))


def _everywhere(tree: Any, mesh: Mesh | None) -> Any:
    """Puts arrays on every device of a mesh, or on the default device."""
    return jax.device_put(tree, None if mesh is None else NamedSharding(mesh, PartitionSpec()))


def pairwise(
    query: Side, gallery: Side, *, query_block: int = 256, gallery_block: int = 4096, mesh: Mesh | None = None
) -> np.ndarray:
    """Returns the whole distance matrix, for sets small enough to fit into memory.

    Args:
        query: Q rows from `prepare`.
        gallery: G rows from `prepare`.
        query_block: queries per program call, rounded up to `GALLERY_UNIT`.
        gallery_block: gallery rows per program call and device, rounded up to `GALLERY_UNIT`.
        mesh: devices to spread the gallery over.

    Returns:
        [Q, G] float32.
    """
    query_block = round_up(min(query_block, query.num_rows), GALLERY_UNIT)
    gallery_block = round_up(min(gallery_block, gallery.num_rows), GALLERY_UNIT) * (1 if mesh is None else mesh.size)
    out = np.empty((query.num_rows, gallery.num_rows), np.float32)
    for column in range(0, gallery.num_rows, gallery_block):
        other = gallery.take(slice(column, column + gallery_block))
        placed = _placed(other.pad(gallery_block), mesh)
        for row in range(0, query.num_rows, query_block):
            part = query.take(slice(row, row + query_block))
            values = np.asarray(_jitted_block_by_query(_everywhere(part.pad(query_block), mesh), placed))
            place = (slice(row, row + part.num_rows), slice(column, column + other.num_rows))
            out[place] = values[: part.num_rows, : other.num_rows]
    own_metrics.refuse_not_finite(query.measure, out)
    return out


class Neighbors(NamedTuple):
    """The nearest gallery rows of every query, nearest first.

    Attributes:
        rows: [Q, k] gallery rows.
        distances: [Q, k] float32.
        farthest: [Q] the largest distance to any gallery row.
    """

    rows: np.ndarray
    distances: np.ndarray
    farthest: np.ndarray


@functools.partial(jax.jit, static_argnames=("k", "full"), donate_argnums=0)
def _nearest_in_chunk(
    best: tuple[Array, Array, Array], gallery: Side, first: Array, stop: Array, query: Side, k: int, full: bool
) -> tuple[Array, Array, Array]:
    """Merges the k nearest so far with one gallery chunk; `top_k` keeps lower positions first, hence gallery order."""
    values = block_by_query(query, gallery)
    if full:
        negative, farthest = -values, jnp.max(values, axis=1)
    else:
        inside = (first + jnp.arange(values.shape[1], dtype=jnp.int32) < stop)[None, :]
        negative = jnp.where(inside, -values, -jnp.inf)
        farthest = jnp.max(jnp.where(inside, values, -jnp.inf), axis=1)
    negative, position = lax.top_k(negative, min(k, values.shape[1]))
    candidates = jnp.concatenate([-best[0], negative], axis=1)
    rows = jnp.concatenate([best[1], first + position], axis=1)
    negative, position = lax.top_k(candidates, k)
    return -negative, jnp.take_along_axis(rows, position, axis=1), jnp.maximum(best[2], farthest)


def nearest(
    query: Side,
    gallery: Side,
    k: int,
    *,
    query_block: int = 512,
    gallery_block: int = 4096,
    mesh: Mesh | None = None,
) -> Neighbors:
    """Returns the k nearest gallery rows of every query, ties in gallery order.

    Args:
        query: Q rows from `prepare`.
        gallery: G rows from `prepare`.
        k: number of neighbors, at most G.
        query_block: queries per program call.
        gallery_block: gallery rows per program call.
        mesh: devices to spread the queries over.

    Returns:
        `Neighbors`.
    """
    k = min(k, gallery.num_rows)
    query_block = round_up(min(query_block, query.num_rows), GALLERY_UNIT) * (1 if mesh is None else mesh.size)
    gallery_block = round_up(min(gallery_block, gallery.num_rows), GALLERY_UNIT)
    starts = range(0, query.num_rows, query_block)
    nothing = (
        np.full((query_block, k), np.inf, np.float32),
        np.full((query_block, k), -1, np.int32),
        np.full(query_block, -np.inf, np.float32),
    )
    best: list[Any] = [None] * len(starts)
    distances = query.num_rows * gallery.num_rows
    with progress.bar("nearest neighbors", distances, "distances", scaled=True) as advance:
        for column in range(0, gallery.num_rows, gallery_block):
            chunk = gallery.take(slice(column, column + gallery_block))
            columns, full = chunk.num_rows, chunk.num_rows == gallery_block
            chunk = _everywhere(chunk.pad(gallery_block), mesh)
            bounds = np.int32(column), np.int32(gallery.num_rows)
            for number, row in enumerate(starts):
                part = query.take(slice(row, row + query_block))
                before = _placed(nothing, mesh) if best[number] is None else best[number]
                best[number] = _nearest_in_chunk(before, chunk, *bounds, _placed(part.pad(query_block), mesh), k, full)
                if number >= _AHEAD:
                    jax.block_until_ready(best[number - _AHEAD])
                advance(part.num_rows * columns)
    joined = (np.concatenate([np.asarray(part[i]) for part in best]) for i in range(3))
    values, rows, farthest = (array[: query.num_rows] for array in joined)
    own_metrics.refuse_not_finite(query.measure, values, farthest)
    return Neighbors(rows, values, farthest)
