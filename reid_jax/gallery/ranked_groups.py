"""Rankings of entries, of tracks, and of people: re-ranking of the nearest, and the vote of several images."""

from __future__ import annotations

import dataclasses

import numpy as np

from reid_jax import errors
from reid_jax.evaluation import distance_blocks, reranking
from reid_jax.gallery import answers, exact, matrix

RERANKED = 100  # nearest entries that re-ranking puts in order, or three times the lines of the answer
_K1, _K2 = 20, 6  # of re-ranking, as in the evaluation; smaller where fewer entries are looked at


@dataclasses.dataclass(frozen=True)
class Found:
    """The ranking for one query.

    Attributes:
        name: of the query.
        rows: [k] rows of the snapshot, in the order of the answer.
        distances: [k] float64, as reported.
        reranked: [k] distances after re-ranking, or None.
        votes: [k] images for which this is the nearest group, or None for single entries.
        sizes: [k] entries of each group, or None.
        images: number of images that voted.
    """

    name: str
    rows: np.ndarray
    distances: np.ndarray
    reranked: np.ndarray | None = None
    votes: np.ndarray | None = None
    sizes: np.ndarray | None = None
    images: int = 1


def wanted(k: int, rerank: bool) -> int:
    """Returns how many nearest entries an answer of k lines needs."""
    return max(RERANKED, 3 * k) if rerank else k


def answer(
    now: matrix.Snapshot,
    side: distance_blocks.Side,
    looked_at: np.ndarray,
    asked: answers.Query,
    *,
    k: int,
    group: str,
    rerank: bool,
) -> list[Found]:
    """Returns the rankings for all images of a query, or for its tracks.

    Args:
        now: the gallery.
        side: [n] the prepared images of the query.
        looked_at: [N] bool, rows that may be in the answer.
        asked: names and tracks of the images.
        k: rows per answer.
        group: "entry", "track" or "identity".
        rerank: re-rank the nearest entries.

    Raises:
        UserError: re-ranking of tracks or people.
    """
    metric = asked.binding.metric
    if group == "entry" and not asked.tracks:
        found = []
        for number, (rows, values) in enumerate(exact.nearest(side, now.side, looked_at, wanted(k, rerank))):
            reranked = None
            if rerank:
                order, reranked = _reranked(side.take(slice(number, number + 1)), now.side.take(rows))
                rows, values, reranked = rows[order][:k], values[order][:k], reranked[order][:k]
            found.append(Found(asked.names[number], rows, now.readable(values, metric), reranked))
        return found
    if rerank:
        raise errors.UserError("re-ranking orders single entries; leave it out where tracks or people are ranked.")
    return _votes(now, side, looked_at, asked, k, group)


def _reranked(query: distance_blocks.Side, gallery: distance_blocks.Side) -> tuple[np.ndarray, np.ndarray]:
    """Returns the order of some rows after re-ranking, and their new distances."""
    most = gallery.num_rows
    reranker = reranking.Reranker.build(query, gallery, k1=min(_K1, most), k2=min(_K2, most))
    values = reranker.matrix()[0]
    return np.argsort(values, kind="stable"), values


def _votes(
    now: matrix.Snapshot, side: distance_blocks.Side, looked_at: np.ndarray, asked: answers.Query, k: int, group: str
) -> list[Found]:
    """Returns for each track of the query (or each image) the nearest groups: most votes first, then by distance.

    A group's distance to an image is that of its nearest entry; its distance to a track is the mean over the images.
    """
    rows = np.flatnonzero(looked_at)
    gallery = now.side if len(rows) == now.side.num_rows else now.side.take(rows)
    labels = _labels(now, rows, group)
    order = np.argsort(labels, kind="stable")  # entries by group, in the order of addition
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    members = np.split(order, starts[1:])
    found = []
    for name, images in _tracks(asked).items():
        votes, total = np.zeros(len(starts), np.int64), np.zeros(len(starts))
        nearest = np.full(len(rows), np.inf, np.float32)
        for image in images:
            values = exact.distances(side.take(slice(image, image + 1)), gallery)[0]
            best = np.minimum.reduceat(values[order], starts)
            votes[int(np.argmin(best))] += 1
            total += now.readable(best, asked.binding.metric)
            nearest = np.minimum(nearest, values)
        mean = total / len(images)
        ranked = np.lexsort((mean, -votes))[:k]  # ties by the first entry of a group
        chosen = np.asarray([members[place][np.argmin(nearest[members[place]])] for place in ranked], np.int64)
        sizes = np.asarray([len(members[place]) for place in ranked])
        found.append(Found(name, rows[chosen], mean[ranked], None, votes[ranked], sizes, len(images)))
    return found


def _tracks(asked: answers.Query) -> dict[str, list[int]]:
    """Returns the images of each track of a query; without tracks each image stands alone."""
    if not asked.tracks:
        return {name: [row] for row, name in enumerate(asked.names)}
    tracks: dict[str, list[int]] = {}
    for row, name in enumerate(asked.tracks):
        tracks.setdefault(name, []).append(row)
    return tracks


def _labels(now: matrix.Snapshot, rows: np.ndarray, group: str) -> np.ndarray:
    """Returns the group of each row, numbered by their first rows; rows without a name are a group each."""
    if group == "entry":
        return np.arange(len(rows))
    codes = (now.tracks if group == "track" else now.identities)[rows]
    keys = np.where(codes > 0, codes, -1 - np.arange(len(rows)))
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return np.asarray(rank[inverse])
