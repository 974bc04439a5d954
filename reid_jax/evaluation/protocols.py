"""Protocols with random galleries: seeded draws, mean and standard deviation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from reid_jax import errors
from reid_jax.data.feature_set import UNKNOWN_CAMERA, FeatureSet
from reid_jax.evaluation import distance_blocks, ranking


@dataclasses.dataclass(frozen=True)
class SingleShotResult:
    """CMC over random single-shot galleries. Scores are fractions.

    Attributes:
        cmc: [max_rank] mean over the draws.
        cmc_std: [max_rank] standard deviation over the draws.
        mean_reciprocal_rank: mean over queries and draws of 1 / rank; with one correct image this is mAP.
        draws: number of random galleries.
        num_query: number of scored queries.
        num_query_without_match: number of queries left out.
    """

    cmc: np.ndarray
    cmc_std: np.ndarray
    mean_reciprocal_rank: float
    draws: int
    num_query: int
    num_query_without_match: int

    def as_dict(self, prefix: str = "") -> dict[str, float | int]:
        """Returns the scores by name: `<prefix>/rank1`, `rank1_std`, ..."""
        values: dict[str, float | int] = {"mean_reciprocal_rank": self.mean_reciprocal_rank, "draws": self.draws}
        for rank in (1, 5, 10, 20):
            if rank <= len(self.cmc):
                values |= {f"rank{rank}": float(self.cmc[rank - 1]), f"rank{rank}_std": float(self.cmc_std[rank - 1])}
        return {f"{prefix}/{key}" if prefix else key: value for key, value in values.items()}


def single_gallery_shot(
    feature_set: FeatureSet,
    *,
    metric: str | None = None,
    draws: int = 100,
    seed: int = 0,
    same_camera_filter: bool = True,
    max_rank: int = 50,
    query_block: int = 256,
) -> SingleShotResult:
    """Returns the scores of the classic CUHK03 protocol: each draw keeps one random gallery image per identity.

    All queries share a draw, except that the image of the query's own identity is drawn for each query among those it
    may be compared with (another camera). Junk is left out.

    Args:
        feature_set: descriptors, identities and cameras.
        metric: "euclidean", "cosine" or the path of a function; None takes what the features were made for.
        draws: number of random galleries.
        seed: seed of the draws.
        same_camera_filter: leave out gallery images of the query's identity and camera.
        max_rank: length of the CMC curve.
        query_block: number of queries whose distances are in memory at a time.

    Raises:
        UserError: no query has a correct gallery image.

    References:
        Li et al., "DeepReID", CVPR 2014 (CUHK03, 100 test galleries).
    """
    metric = feature_set.metric if metric is None else metric
    feature_set = feature_set.without_junk()
    query, gallery = distance_blocks.prepare_both(feature_set, metric)
    labels = (feature_set.query_ids, feature_set.gallery_ids, feature_set.query_cams, feature_set.gallery_cams)
    ranking.refuse_no_match(*labels, same_camera_filter)
    generator = np.random.default_rng(seed)
    ids = np.unique(feature_set.gallery_ids)
    shots = np.stack([_one_of_each(feature_set.gallery_ids, generator) for _ in range(draws)])  # [draws, ids]
    uniform = generator.random((feature_set.num_query, draws))
    ranks = np.full((feature_set.num_query, draws), -1, np.int64)
    for first in range(0, feature_set.num_query, query_block):
        rows = np.arange(first, min(first + query_block, feature_set.num_query))
        matrix = distance_blocks.pairwise(query.take(rows), gallery, query_block=query_block)
        for row, values in zip(rows, matrix, strict=True):
            same = feature_set.gallery_ids == feature_set.query_ids[row]
            camera = feature_set.query_cams[row]
            if same_camera_filter and camera != UNKNOWN_CAMERA:
                same &= feature_set.gallery_cams != camera
            correct = np.flatnonzero(same)
            if not len(correct):
                continue
            own = correct[(uniform[row] * len(correct)).astype(int)]  # [draws]
            others = shots[:, ids != feature_set.query_ids[row]]
            before = (values[others] < values[own][:, None]) | (
                (values[others] == values[own][:, None]) & (others < own[:, None])
            )
            ranks[row] = before.sum(axis=1)
    scored = ranks[ranks[:, 0] >= 0]
    curves = (scored[:, :, None] <= np.arange(max_rank)).mean(axis=0)  # [draws, max_rank]
    return SingleShotResult(
        cmc=curves.mean(axis=0),
        cmc_std=curves.std(axis=0),
        mean_reciprocal_rank=float((1 / (scored + 1)).mean()),
        draws=draws,
        num_query=len(scored),
        num_query_without_match=feature_set.num_query - len(scored),
    )


def _one_of_each(ids: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Returns a random row of each identity, in order of the identities."""
    order = np.lexsort((generator.random(len(ids)), ids))
    first = np.flatnonzero(np.append(True, np.diff(ids[order]) != 0))
    return order[first]


def repeated_rounds(
    feature_set: FeatureSet, *, rounds: int = 10, shots: int = 1, seed: int = 0, **options: Any
) -> list[ranking.RankingResult]:
    """Returns the scores against random galleries of `shots` images per identity and camera (10-round protocols).

    Args:
        feature_set: descriptors, identities and cameras.
        rounds: number of random galleries.
        shots: images per identity and camera; fewer where there are fewer.
        seed: seed of the draws.
        **options: of `ranking.evaluate`.

    Returns:
        One result per round; `mean_and_spread` summarizes them.
    """
    if rounds < 1 or shots < 1:
        raise errors.UserError(f"rounds and shots must be at least 1, but they are {rounds} and {shots}.")
    feature_set = feature_set.without_junk()
    generator = np.random.default_rng(seed)
    results = []
    for _ in range(rounds):
        order = np.lexsort(
            (generator.random(feature_set.num_gallery), feature_set.gallery_cams, feature_set.gallery_ids)
        )
        ids, cams = feature_set.gallery_ids[order], feature_set.gallery_cams[order]
        begins = np.append(True, (np.diff(ids) != 0) | (np.diff(cams) != 0))
        place = np.arange(len(order)) - np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))
        results.append(ranking.evaluate(feature_set.with_gallery(np.sort(order[place < shots])), **options))
    return results


def mean_and_spread(results: Sequence[ranking.RankingResult], prefix: str = "") -> dict[str, float | int]:
    """Returns the mean and standard deviation of every score: `<prefix>/mAP`, `<prefix>/mAP_std`, ..., `rounds`."""
    scores = [result.scores() for result in results]
    values: dict[str, float | int] = {"rounds": len(results)}
    for key in scores[0]:
        column = np.asarray([score[key] for score in scores])
        values |= {key: float(column.mean()), f"{key}_std": float(column.std())}
    return {f"{prefix}/{key}" if prefix else key: value for key, value in values.items()}
