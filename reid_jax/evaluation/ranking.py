"""The ranking protocol: CMC, mAP and mINP, exact, in blocks, without a sort and without a distance matrix.

Rules (Market-1501 and its successors):

* **Tie rule.** Gallery images at the same distance from a query keep their gallery order: the image with the lower row
  number comes first. So a score depends on the features and the order of the gallery alone, never on block sizes,
  devices or a sort algorithm. Distances are float32 and equal only when all bits are. The rule is applied in
  `counting._add_counts` and, for identities with very many images, in `counting.counts_by_sorting`.
* **Same camera.** A gallery image of the query's identity and camera is left out for that query
  (`same_camera_filter`); images of an unknown camera (-1) never are.
* **Junk.** Gallery images of identity -1 are left out (`drop_junk`). Distractors (identity 0 where a data set has
  them) stay as wrong answers.
* **No match.** A query without a correct gallery image is left out of the means and counted in
  `num_query_without_match`.
* **AP.** "step" is the mean precision at the ranks of the correct images; "trapezoid" averages that precision with the
  precision just before each of them, as the official MATLAB code does.

Method: AP, INP and the first hit depend only on the ranks of the correct gallery images. The rank of an image is the
number of images before it, which is counted by comparing every distance with the distances of the few correct images,
block by block. Gallery blocks may lie on several devices, and the gallery may be divided over processes: each adds up
what it holds, and only the distances of the correct images and the counts are exchanged. The counts are integers, so
the result is the same to the last bit for every block size and number of devices and processes.

References:
    Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015 (protocol, trapezoid AP).
    Ye et al., "Deep Learning for Person Re-identification: A Survey and Outlook", TPAMI 2021 (mINP).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from jax.sharding import Mesh

from reid_jax import errors, progress
from reid_jax.data.feature_set import JUNK_ID, FeatureSet
from reid_jax.data.gallery_share import Share
from reid_jax.evaluation import candidates, counting, distance_blocks

AP_RULES = ("step", "trapezoid")
_CELLS = 2**23  # candidates, over all queries, that are counted in one pass over the gallery


@dataclasses.dataclass(frozen=True)
class RankingResult:
    """Scores of a query set against a gallery. All scores are fractions.

    Attributes:
        mAP: mean average precision.
        mINP: mean inverse negative penalty.
        cmc: [max_rank] share of queries with a correct image among the first 1, 2, ...
        ap: [Q] average precision of each query; NaN without a match.
        inp: [Q] inverse negative penalty; NaN without a match.
        first_hit: [Q] 0-based rank of the first correct image; -1 without a match.
        num_relevant: [Q] correct images of each query.
        ap_rule: "step" or "trapezoid".
        metric: the distance.
        num_query: number of queries, those without a match included.
        num_gallery: number of ranked gallery images (junk is not ranked).
        num_query_without_match: number of queries left out of the means.
        same_camera_filter: whether images of the query's identity and camera were left out.
    """

    mAP: float
    mINP: float
    cmc: np.ndarray
    ap: np.ndarray
    inp: np.ndarray
    first_hit: np.ndarray
    num_relevant: np.ndarray
    ap_rule: str
    metric: str
    num_query: int
    num_gallery: int
    num_query_without_match: int
    same_camera_filter: bool

    def rank(self, number: int) -> float:
        """Returns the CMC at a 1-based rank, the last value where the curve is shorter."""
        return float(self.cmc[min(number, len(self.cmc)) - 1])

    def scores(self, prefix: str = "") -> dict[str, float]:
        """Returns the scores by name: `<prefix>/mAP`, `mINP`, `rank1`, `rank5`, `rank10`."""
        values = {"mAP": self.mAP, "mINP": self.mINP} | {f"rank{k}": self.rank(k) for k in (1, 5, 10)}
        return {f"{prefix}/{key}" if prefix else key: float(value) for key, value in values.items()}

    def as_dict(self, prefix: str = "") -> dict[str, float | int | str]:
        """Returns the scores under `prefix`, and the rule, metric and counts: the keys of `result.json`."""
        return {
            **self.scores(prefix),
            "ap_rule": self.ap_rule,
            "metric": self.metric,
            "num_query": self.num_query,
            "num_gallery": self.num_gallery,
            "num_query_without_match": self.num_query_without_match,
        }


def evaluate(
    feature_set: FeatureSet,
    *,
    metric: str | None = None,
    ap: str = "step",
    same_camera_filter: bool = True,
    drop_junk: bool = True,
    max_rank: int = 50,
    query_block: int = 512,
    gallery_block: int = 512,
    mesh: Mesh | None = None,
) -> RankingResult:
    """Returns the scores of the gallery's ranking for every query.

    Args:
        feature_set: descriptors, identities and cameras.
        metric: "euclidean", "cosine" or the path of a function; None takes what the features were made for.
        ap: "step" (common today) or "trapezoid" (the official MATLAB code).
        same_camera_filter: leave out gallery images of the query's identity and camera.
        drop_junk: leave out gallery images of identity -1.
        max_rank: length of the CMC curve.
        query_block: queries per program call.
        gallery_block: gallery images per step inside a program.
        mesh: devices to spread the gallery over (one axis); None uses the default device.

    Returns:
        A `RankingResult`, independent of the block sizes and of the mesh.

    Raises:
        UserError: unknown metric or rule, nothing but junk, or no query with a correct gallery image.
    """
    metric = feature_set.metric if metric is None else metric
    distance_blocks.check_metric(metric)
    if drop_junk:
        feature_set = feature_set.without_junk()
    return rank_metrics(
        *distance_blocks.prepare_both(feature_set, metric),
        feature_set.query_ids,
        feature_set.gallery_ids,
        feature_set.query_cams,
        feature_set.gallery_cams,
        metric=metric,
        ap=ap,
        same_camera_filter=same_camera_filter,
        max_rank=max_rank,
        query_block=query_block,
        gallery_block=gallery_block,
        mesh=mesh,
        share=feature_set.share,
    )


def rank_metrics(
    query: distance_blocks.Side,
    gallery: distance_blocks.Side,
    query_ids: np.ndarray,
    gallery_ids: np.ndarray,
    query_cams: np.ndarray,
    gallery_cams: np.ndarray,
    *,
    metric: str = "euclidean",
    ap: str = "step",
    same_camera_filter: bool = True,
    max_rank: int = 50,
    query_block: int = 512,
    gallery_block: int = 512,
    mesh: Mesh | None = None,
    share: Share | None = None,
) -> RankingResult:
    """Returns the scores of prepared features, see `evaluate`; every gallery row is ranked.

    Args:
        query: Q rows from `distance_blocks.prepare`.
        gallery: G rows from `distance_blocks.prepare`, or those of `share`.
        query_ids: [Q] identities.
        gallery_ids: [G] identities.
        query_cams: [Q] cameras, -1 unknown.
        gallery_cams: [G] cameras, -1 unknown.
        metric: what the sides were prepared for; stored in the result.
        ap: "step" or "trapezoid".
        same_camera_filter: leave out gallery images of the query's identity and camera.
        max_rank: length of the CMC curve.
        query_block: queries per program call.
        gallery_block: gallery images per step inside a program.
        mesh: devices to spread the gallery over.
        share: the rows of a gallery that is divided over processes; labels are those of the whole gallery.
    """
    _check_rule(ap)
    share = Share.whole(len(gallery_ids)) if share is None else share
    table = candidates.Table.build(query_ids, gallery_ids, query_cams, gallery_cams, same_camera_filter)
    query_block = distance_blocks.round_up(min(query_block, query.num_rows), distance_blocks.QUERY_UNIT)
    gallery_block = distance_blocks.round_up(gallery_block, distance_blocks.GALLERY_UNIT)
    _refuse_no_match(table)  # before any distance is computed
    scores = _Scores(table, ap)
    for tiles in _groups(table.tiles(query_block)):
        if counting.is_wide(tiles[0]):
            rows_of = lambda rows: distance_blocks.pairwise(query.take(rows), gallery)
            scores.add(tiles[0], *counting.counts_by_sorting(tiles[0], rows_of, table.gallery_ids, share))
            continue
        thresholds = counting.thresholds(tiles, query, gallery, gallery_block, share)
        counts = counting.stream_counts(
            tiles, thresholds, query, gallery, table.gallery_ids, gallery_block, mesh, share
        )
        for tile, threshold, count in zip(tiles, thresholds, counts, strict=True):
            scores.add(tile, threshold, count)
    return scores.result(metric, max_rank)


def _groups(tiles: Iterable[candidates.Tile]) -> Iterator[list[candidates.Tile]]:
    """Yields tiles that are counted in one pass over the gallery: as many as fit `_CELLS`; a wide tile comes alone."""
    group: list[candidates.Tile] = []
    cells = 0
    for tile in tiles:
        if group and (counting.is_wide(tile) or cells + tile.places.size > _CELLS):
            yield group
            group, cells = [], 0
        group.append(tile)
        cells += tile.places.size
        if counting.is_wide(tile):
            yield group
            group, cells = [], 0
    if group:
        yield group


def rank_metrics_from_distances(
    matrix: np.ndarray,
    query_ids: np.ndarray,
    gallery_ids: np.ndarray,
    query_cams: np.ndarray,
    gallery_cams: np.ndarray,
    **options: Any,
) -> RankingResult:
    """Returns the scores of a matrix of distances; every gallery row is ranked.

    Args:
        matrix: [Q, G] distances; float64 is ranked at full precision.
        query_ids: [Q] identities.
        gallery_ids: [G] identities.
        query_cams: [Q] cameras.
        gallery_cams: [G] cameras.
        **options: of `rank_metrics_from_rows`.

    Returns:
        A `RankingResult`.

    Raises:
        UserError: shapes disagree, distances are NaN, or no query has a correct gallery image.
    """
    matrix = np.asarray(matrix)
    if matrix.shape != (len(query_ids), len(gallery_ids)):
        raise errors.UserError(
            f"distances must be (queries, gallery) = ({len(query_ids)}, {len(gallery_ids)}), but their shape is "
            f"{matrix.shape}: compute them from the same lists (transpose them if gallery comes first)."
        )
    labels = (query_ids, gallery_ids, query_cams, gallery_cams)
    return rank_metrics_from_rows(lambda rows: matrix[rows], *labels, **options)


def rank_metrics_from_rows(
    distance_rows: Callable[[np.ndarray], np.ndarray],
    query_ids: np.ndarray,
    gallery_ids: np.ndarray,
    query_cams: np.ndarray,
    gallery_cams: np.ndarray,
    *,
    metric: str = "given",
    ap: str = "step",
    same_camera_filter: bool = True,
    max_rank: int = 50,
    query_block: int = 256,
    share: Share | None = None,
) -> RankingResult:
    """Returns the scores of distances computed a block of queries at a time, for instance re-ranked ones.

    Args:
        distance_rows: maps query rows [n] to distances [n, G], with a share to those of its rows, in float32.
        query_ids: [Q] identities.
        gallery_ids: [G] identities.
        query_cams: [Q] cameras.
        gallery_cams: [G] cameras.
        metric: stored in the result.
        ap: "step" or "trapezoid".
        same_camera_filter: leave out gallery images of the query's identity and camera.
        max_rank: length of the CMC curve.
        query_block: queries per call.
        share: the rows of a gallery that is divided over processes.
    """
    _check_rule(ap)
    share = Share.whole(len(gallery_ids)) if share is None else share
    table = candidates.Table.build(query_ids, gallery_ids, query_cams, gallery_cams, same_camera_filter)
    query_block = distance_blocks.round_up(min(query_block, len(table.query_ids)), distance_blocks.QUERY_UNIT)
    _refuse_no_match(table)
    scores = _Scores(table, ap)

    def rows_of(rows: np.ndarray) -> np.ndarray:
        return _comparable(np.asarray(distance_rows(rows)))

    with progress.bar("ranking", len(table.query_ids), "queries") as advance:
        for tile in table.tiles(query_block):
            if counting.is_wide(tile):
                scores.add(tile, *counting.counts_by_sorting(tile, rows_of, table.gallery_ids, share))
            else:
                scores.add(tile, *counting.counts_from_matrix(tile, rows_of(tile.rows), table.gallery_ids, share))
            advance(len(tile.rows))
    return scores.result(metric, max_rank)


def _comparable(rows: np.ndarray) -> np.ndarray:
    """Returns float32 values in the same order as the given ones, ties included; exact for float64, too."""
    if np.isnan(rows).any():
        raise errors.UserError("distances must not be NaN, but some are: check the features they come from.")
    if rows.dtype in (np.float16, np.float32):
        # Infinity marks padding; the largest finite number ranks the same unless it is there as well.
        return np.minimum(rows.astype(np.float32), np.finfo(np.float32).max)
    return np.stack([np.unique(row, return_inverse=True)[1] for row in rows]).astype(np.float32)


def _check_rule(ap: str) -> None:
    if ap not in AP_RULES:
        raise errors.unknown("AP rule", ap, AP_RULES)


# ---- scores


class _Scores:
    """Scores from the ranks of correct images, in float64 on the host (some tens of numbers per query)."""

    def __init__(self, table: candidates.Table, rule: str) -> None:
        self._table, self._rule = table, rule
        count = len(table.query_ids)
        self._ap, self._inp = np.full(count, np.nan), np.full(count, np.nan)
        self._first_hit, self._num_relevant = np.full(count, -1, np.int64), np.zeros(count, np.int64)

    def add(self, tile: candidates.Tile, threshold: np.ndarray, count: np.ndarray) -> None:
        """Adds a tile: the distances of its candidates, and the counts of other identities before them, both [P, c]."""
        size = len(tile.rows)
        relevant = tile.relevant.T[:size]
        key = np.where(relevant, threshold.T[:size], np.inf)
        order = np.lexsort((tile.places.T[:size], key, ~relevant), axis=-1)
        hits = np.take_along_axis(relevant, order, axis=1)
        before = np.arange(order.shape[1])[None, :]  # correct images before the k-th one
        rank = np.take_along_axis(count.T[:size], order, axis=1) + before
        precision = (before + 1) / (rank + 1)
        if self._rule == "trapezoid":
            # Precision just before the hit; 1 at the head of the list.
            previous = np.where(rank > 0, before / np.maximum(rank, 1), 1.0)
            precision = (precision + previous) / 2
        number = hits.sum(axis=1)
        found = number > 0
        rows = tile.rows[found]
        self._ap[rows] = (np.where(hits, precision, 0).sum(axis=1) / np.maximum(number, 1))[found]
        last = np.take_along_axis(rank, np.maximum(number - 1, 0)[:, None], axis=1)[:, 0]
        self._inp[rows] = (number / (last + 1))[found]
        self._first_hit[rows] = rank[found, 0]
        self._num_relevant[rows] = number[found]

    def result(self, metric: str, max_rank: int) -> RankingResult:
        """Returns the means over the queries with a match."""
        valid = self._num_relevant > 0
        return RankingResult(
            mAP=float(self._ap[valid].mean()),
            mINP=float(self._inp[valid].mean()),
            cmc=(self._first_hit[valid][:, None] <= np.arange(max_rank)).mean(axis=0),
            ap=self._ap,
            inp=self._inp,
            first_hit=self._first_hit,
            num_relevant=self._num_relevant,
            ap_rule=self._rule,
            metric=metric,
            num_query=len(valid),
            num_gallery=len(self._table.gallery_ids),
            num_query_without_match=int((~valid).sum()),
            same_camera_filter=self._table.same_camera_filter,
        )


def refuse_no_match(
    query_ids: np.ndarray,
    gallery_ids: np.ndarray,
    query_cams: np.ndarray,
    gallery_cams: np.ndarray,
    same_camera_filter: bool,
) -> None:
    """Raises a `UserError` where no query has a correct gallery image; cheap, no distances are computed."""
    _refuse_no_match(candidates.Table.build(query_ids, gallery_ids, query_cams, gallery_cams, same_camera_filter))


def _refuse_no_match(table: candidates.Table) -> None:
    if not any(tile.relevant.any() for tile in table.tiles(distance_blocks.QUERY_UNIT)):
        raise _no_match(table)


def _no_match(table: candidates.Table) -> errors.UserError:
    """Returns the error that says why nothing can be scored."""
    shared = np.intersect1d(table.query_ids, table.gallery_ids[table.gallery_ids != JUNK_ID])
    if not len(shared):
        return errors.UserError(
            f"no query has a correct gallery image: none of the {len(np.unique(table.query_ids))} query identities is "
            f"among the {len(np.unique(table.gallery_ids))} of the gallery; check that both use the same numbers."
        )
    cameras = np.union1d(table.query_cams, table.gallery_cams)
    if len(cameras) == 1:
        cause = f"all images carry one camera number ({cameras[0]})"
    else:
        cause = "every shared identity is seen by the query's own camera alone"
    return errors.UserError(
        f"no query has a correct gallery image from another camera, because {cause} and the protocol leaves out "
        "images of the query's identity and camera; give real camera numbers, or rank within the camera with "
        "evals.same_camera_filter=False (scripts/evaluate.py --no-same-camera-filter)."
    )
