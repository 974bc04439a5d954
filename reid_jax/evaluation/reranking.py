"""Re-ranking by k-reciprocal encoding: exact and sparse, without a matrix of all images by all images.

Two images that are among each other's nearest neighbors are likely to show the same person. Each image is encoded by
its (expanded) reciprocal neighbors, weighted by closeness; the Jaccard distance of two encodings is mixed with the
original distance. The neighbor search runs on the device in blocks; an encoding has some tens of non-zeros, so
all later steps are sparse.

Where the gallery is divided over processes, each finds the neighbors of its images (`divided_images`) and encodes them;
lists of neighbors and sparse encodings are exchanged, and every process ranks its share. Nothing depends on how the
gallery is divided.

References:
    Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017. Squared Euclidean
    distances are divided by the largest of each row, as in the authors' code.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jax.sharding import Mesh

from reid_jax import errors, progress
from reid_jax.data.feature_set import FeatureSet
from reid_jax.data.gallery_share import Share
from reid_jax.evaluation import distance_blocks, divided_images, ranking, sparse

_ROWS_AT_ONCE = 256
_QUERIES_AT_ONCE = 32


@dataclasses.dataclass(frozen=True)
class Reranker:
    """Encodings of queries and gallery, from which re-ranked distances are computed a few queries at a time.

    Attributes:
        query: prepared queries.
        gallery: prepared gallery.
        encodings: [Q] sparse rows over all images; each sums to 1 where an image is its own neighbor.
        inverse: the encodings of the gallery, or of the share of it that is here, by column.
        farthest: [Q] largest distance of each query; distances are divided by it.
        original_weight: weight of the original distance, lambda in the paper.
    """

    query: distance_blocks.Side
    gallery: distance_blocks.Side
    encodings: sparse.Rows
    inverse: sparse.Rows
    farthest: np.ndarray
    original_weight: float

    @classmethod
    def build(
        cls,
        query: distance_blocks.Side,
        gallery: distance_blocks.Side,
        *,
        k1: int = 20,
        k2: int = 6,
        original_weight: float = 0.3,
        mesh: Mesh | None = None,
        share: Share | None = None,
    ) -> Reranker:
        """Returns the encodings of all images, after a search for their neighbors.

        Args:
            query: Q rows from `distance_blocks.prepare`.
            gallery: G rows from `distance_blocks.prepare`.
            k1: number of neighbors that may be reciprocal.
            k2: number of neighbors whose encodings are averaged (local query expansion); 1 disables it.
            original_weight: weight of the original distance in the result, lambda in the paper.
            mesh: devices for the neighbor search.
            share: the rows of a gallery that is divided over processes.

        Raises:
            UserError: a setting is out of range, an own metric gives negative distances, or the encodings would not fit
                into memory.
        """
        share = Share.whole(gallery.num_rows) if share is None else share
        _check(k1, k2, original_weight, share.total)
        images = divided_images.Images.of(query, gallery, share)
        _refuse_too_large(images, gallery, k1, k2)
        near = images.nearest(max(k1 + 1, k2), mesh=mesh)
        _refuse_negative(near, images)
        neighbors = images.joined(near.rows)
        encodings = _encode(images, near, neighbors, k1)
        here = np.concatenate([np.arange(query.num_rows), query.num_rows + share.places])
        encodings = _average(encodings, neighbors[here, :k2]) if k2 > 1 else encodings.take(here)
        farthest = images.joined(near.farthest)[: query.num_rows]
        return cls(query, gallery, encodings, encodings.transposed(query.num_rows), farthest, original_weight)

    def rows(self, queries: np.ndarray) -> np.ndarray:
        """Returns the re-ranked distances of some queries to the whole gallery.

        Args:
            queries: [n] query rows.

        Returns:
            [n, G] float32, of a share its columns.
        """
        out = distance_blocks.pairwise(self.query.take(queries), self.gallery)
        scale = np.where(self.farthest[queries] > 0, self.farthest[queries], 1)
        out *= (np.float32(self.original_weight) / scale)[:, None]
        out += np.float32(1 - self.original_weight)
        for first in range(0, len(queries), _QUERIES_AT_ONCE):
            part = out[first : first + _QUERIES_AT_ONCE]
            common = self._common(queries[first : first + _QUERIES_AT_ONCE])
            place = np.flatnonzero(common)
            shared = common[place]
            flat = part.reshape(-1)  # a view: the rows are contiguous
            flat[place] -= ((1 - self.original_weight) * shared / (2 - shared)).astype(np.float32)
        return out

    def _common(self, queries: np.ndarray) -> np.ndarray:
        """Returns the sums over all columns of the smaller of two encodings, [n * G] float64."""
        entry, owner = self.encodings.entries(queries)
        columns, values = self.encodings.columns[entry], self.encodings.values[entry]
        other, source = self.inverse.entries(columns)
        smaller = np.minimum(values[source], self.inverse.values[other])
        place = owner[source] * self.gallery.num_rows + self.inverse.columns[other]
        return np.bincount(place, weights=smaller, minlength=len(queries) * self.gallery.num_rows)

    def matrix(self) -> np.ndarray:
        """Returns all re-ranked distances [Q, G], for sets small enough to fit into memory."""
        return self.rows(np.arange(self.query.num_rows))


def rerank(
    feature_set: FeatureSet,
    *,
    metric: str | None = None,
    k1: int = 20,
    k2: int = 6,
    original_weight: float = 0.3,
    drop_junk: bool = True,
    mesh: Mesh | None = None,
) -> Reranker:
    """Returns the `Reranker` of a feature set; junk is no neighbor unless `drop_junk` is False."""
    metric = feature_set.metric if metric is None else metric
    if drop_junk:
        feature_set = feature_set.without_junk()
    return Reranker.build(
        *distance_blocks.prepare_both(feature_set, metric),
        k1=k1,
        k2=k2,
        original_weight=original_weight,
        mesh=mesh,
        share=feature_set.share,
    )


def evaluate(
    feature_set: FeatureSet,
    *,
    metric: str | None = None,
    k1: int = 20,
    k2: int = 6,
    original_weight: float = 0.3,
    drop_junk: bool = True,
    mesh: Mesh | None = None,
    **options: Any,
) -> ranking.RankingResult:
    """Returns the scores after re-ranking, computed a block of queries at a time.

    Args:
        feature_set: descriptors, identities and cameras.
        metric: "euclidean", "cosine" or the path of a function; None takes what the features were made for.
        k1: see `Reranker.build`.
        k2: see `Reranker.build`.
        original_weight: see `Reranker.build`.
        drop_junk: leave out gallery images of identity -1, as neighbors, too.
        mesh: devices for the neighbor search.
        **options: `ap`, `same_camera_filter`, `max_rank` of `ranking.rank_metrics_from_rows`.
    """
    if drop_junk:
        feature_set = feature_set.without_junk()
    reranker = rerank(
        feature_set, metric=metric, k1=k1, k2=k2, original_weight=original_weight, drop_junk=False, mesh=mesh
    )
    labels = (feature_set.query_ids, feature_set.gallery_ids, feature_set.query_cams, feature_set.gallery_cams)
    return ranking.rank_metrics_from_rows(
        reranker.rows,
        *labels,
        metric=feature_set.metric if metric is None else metric,
        share=feature_set.share,
        **options,
    )


def _check(k1: int, k2: int, original_weight: float, num_gallery: int) -> None:
    if not 1 <= k1 <= num_gallery:
        raise errors.UserError(
            f"k1 must be between 1 and the size of the gallery ({num_gallery}), but it is {k1}: choose a "
            "smaller one (scripts/evaluate.py --k1), or leave re-ranking out (evals.rerank=False)."
        )
    if not 1 <= k2 <= num_gallery:
        raise errors.UserError(
            f"k2 must be between 1 and the size of the gallery ({num_gallery}), but it is {k2}: choose "
            "another (scripts/evaluate.py --k2)."
        )
    if not 0 <= original_weight <= 1:
        raise errors.UserError(
            f"lambda must lie in [0, 1], but it is {original_weight}: choose another (scripts/evaluate.py --lambda)."
        )


def _refuse_negative(near: distance_blocks.Neighbors, images: divided_images.Images) -> None:
    """Refuses negated similarities: the encodings weigh by exp(-distance / largest distance)."""
    if images.side.measure is None:
        return
    least = -images.share.largest(-float(near.distances.min(initial=np.inf)))
    if least < -1e-3 * images.share.largest(float(np.abs(near.farthest).max(initial=0))):
        raise errors.UserError(
            f"re-ranking needs distances that are not negative, the metric gave {least:.3g}; add a "
            "constant to it, or rank without re-ranking."
        )


def memory_estimate(num_images: int, k1: int, k2: int, num_gallery: int | None = None) -> int:
    """Returns an upper estimate, for ordinary data, of the bytes that re-ranking needs in addition to the features.

    Args:
        num_images: number of queries and gallery images together.
        k1: as in `Reranker.build`.
        k2: as in `Reranker.build`.
        num_gallery: number of gallery images; all images by default.
    """
    expanded = 2 * (k1 + 1)  # an encoding rarely has more non-zeros; at most (k1 + 1)(k1 / 2 + 2)
    averaged = expanded * (1 + (k2 - 1) / 2)
    lists = num_images * max(k1 + 1, k2) * 8
    scratch = _ROWS_AT_ONCE * num_images * 5
    blocks = (num_gallery or num_images) * (256 * 12 + _QUERIES_AT_ONCE * 24)
    return int(lists + num_images * averaged * (8 + 8 + 16) + max(scratch, blocks))


def available_memory() -> int | None:
    """Returns the bytes of available memory of this machine, None where the system does not report it."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


def _refuse_too_large(images: divided_images.Images, gallery: distance_blocks.Side, k1: int, k2: int) -> None:
    needed = memory_estimate(images.count, k1, k2, gallery.num_rows) + images.side.num_rows * gallery.row_bytes
    free = available_memory()
    if free is not None and needed > free:
        raise errors.UserError(
            f"re-ranking {images.count:,} images with k1={k1}, k2={k2} takes about {needed / 1e9:.1f} GB, but "
            f"{free / 1e9:.1f} GB are free: choose smaller k1 and k2 or rank without re-ranking."
        )


def _blocks(count: int, size: int, what: str) -> Iterator[np.ndarray]:
    """Yields the numbers of images in blocks, and shows progress."""
    with progress.bar(what, count, "images") as advance:
        for first in range(0, count, size):
            rows = np.arange(first, min(first + size, count))
            yield rows
            advance(len(rows))


def _reciprocal(rank: np.ndarray) -> np.ndarray:
    """Returns [N, k] whether an image is among the k nearest of each of its k nearest."""
    out = np.empty(rank.shape, bool)
    for rows in _blocks(len(rank), 4 * _ROWS_AT_ONCE, "re-ranking: reciprocal neighbors"):
        out[rows] = (rank[rank[rows]] == rows[:, None, None]).any(axis=2)
    return out


def _encode(
    images: divided_images.Images, near: distance_blocks.Neighbors, neighbors: np.ndarray, k1: int
) -> sparse.Rows:
    """Returns the expanded k-reciprocal neighbors of every image with their weights (paper, equations 3 to 7).

    Args:
        images: the images held here.
        near: their neighbors.
        neighbors: [N, k] neighbors of all images.
        k1: see `Reranker.build`.
    """
    rank = neighbors[:, : k1 + 1]
    half = neighbors[:, : int(np.around(k1 / 2)) + 1]
    mutual, mutual_half = _reciprocal(rank), _reciprocal(half)
    known = np.full((_ROWS_AT_ONCE, images.count), np.nan, np.float32)
    parts = []
    expand = _expansion(rank, half, mutual, mutual_half)
    for rows in _blocks(len(images.numbers), _ROWS_AT_ONCE, "re-ranking: encoding"):
        local = np.arange(len(rows))[:, None]
        owner, column = expand(images.numbers[rows])
        known[local, rank[images.numbers[rows]]] = near.distances[rows, : k1 + 1]
        parts.append((rows[owner], column, known[owner, column]))
        known[local, rank[images.numbers[rows]]] = np.nan
    owner, column, distance = (
        np.concatenate([part[field] for part in parts] or [np.zeros(0, int)]) for field in range(3)
    )
    far = np.flatnonzero(np.isnan(distance))
    distance[far] = images.pairs(owner[far], column[far])
    scale = np.where(near.farthest > 0, near.farthest, 1)
    weight = np.exp(-(distance / scale[owner]).astype(np.float64))
    total = np.bincount(owner, weights=weight, minlength=len(images.numbers))
    return _joined(images, owner, column, weight / total[owner])


def _expansion(
    rank: np.ndarray, half: np.ndarray, mutual: np.ndarray, mutual_half: np.ndarray
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Returns a function from image numbers [n] to their expanded neighbors: place among the n, and number, of each."""
    count = len(rank)
    half_size = mutual_half.sum(axis=1)
    member = np.zeros((_ROWS_AT_ONCE, count), bool)

    def expand(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        owner, place = np.nonzero(mutual[numbers])
        candidate = rank[numbers][owner, place]
        member[owner, candidate] = True
        theirs, valid = half[candidate], mutual_half[candidate]
        overlap = (member[owner[:, None], theirs] & valid).sum(axis=1)
        accepted = (overlap > 2 / 3 * half_size[candidate])[:, None] & valid
        member[owner, candidate] = False
        added = np.broadcast_to(owner[:, None], theirs.shape)[accepted].astype(np.int64) * count + theirs[accepted]
        keys = np.unique(np.concatenate([owner.astype(np.int64) * count + candidate, added]))
        return keys // count, (keys % count).astype(np.int32)

    return expand


def _joined(images: divided_images.Images, owner: np.ndarray, columns: np.ndarray, values: np.ndarray) -> sparse.Rows:
    """Returns the encodings of all images from those of the images held here, as entries in the order of `owner`."""
    builder = sparse.Builder(images.count)
    builder.add(owner, columns, values, len(images.numbers))
    own = builder.build()
    if images.share.alone:
        return own
    lengths = images.share.exchange.gather(np.diff(own.start))
    all_columns, all_values = (
        np.concatenate(images.share.exchange.gather(array)) for array in (own.columns, own.values)
    )
    start = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
    order = np.argsort(np.concatenate(images.holders))  # rows came process by process
    return sparse.Rows(start, all_columns, all_values, images.count).take(order)


def _average(encodings: sparse.Rows, neighbors: np.ndarray) -> sparse.Rows:
    """Returns the mean encoding of each image's nearest images, itself included (local query expansion)."""
    builder = sparse.Builder(encodings.width)
    size = neighbors.shape[1]
    for rows in _blocks(len(neighbors), _ROWS_AT_ONCE, "re-ranking: averaging"):
        entry, source = encodings.entries(neighbors[rows].reshape(-1))
        key = (source // size).astype(np.int64) * encodings.width + encodings.columns[entry]
        unique, inverse = np.unique(key, return_inverse=True)
        values = np.bincount(inverse, weights=encodings.values[entry], minlength=len(unique)) / size
        owner, column = np.divmod(unique, encodings.width)
        builder.add(owner, column, values, len(rows))
    return builder.build()
