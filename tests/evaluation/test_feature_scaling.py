"""Features far from the origin, or very long or short, are ranked in float32 as float64 ranks them."""

from __future__ import annotations

import numpy as np
import pytest

from reid_jax import errors
from reid_jax.data.feature_set import FeatureSet
from reid_jax.evaluation import distance_blocks, feature_scaling, ranking, report, reranking, verification


def toy(offset, scale, slots=()):
    """Thirty people in noise, moved and scaled, as float32."""
    random = np.random.default_rng(0)
    ids, query_ids = random.integers(1, 31, 300), random.integers(1, 31, 40)
    people = random.normal(size=(31, *slots, 32))
    gallery = people[ids] + random.normal(size=(300, *slots, 32)) * 1.5
    query = people[query_ids] + random.normal(size=(40, *slots, 32)) * 1.5
    arrays = [(side * scale + offset).astype(np.float32) for side in (query, gallery)]
    return FeatureSet(*arrays, query_ids, ids, np.zeros(40, int), np.ones(300, int))


def in_float64(features, metric):
    """mAP of the same float32 features, with distances in float64."""
    query, gallery = (side.astype(np.float64) for side in (features.query_features, features.gallery_features))
    largest = np.abs(gallery).max()
    query, gallery = query / largest, gallery / largest
    if metric == "cosine":
        query, gallery = (side / np.linalg.norm(side, axis=-1, keepdims=True) for side in (query, gallery))
    matrix = np.stack([np.square(gallery - row).sum(axis=-1) for row in query])
    if matrix.ndim == 3:
        matrix = np.sqrt(matrix).mean(axis=-1)
    labels = (features.query_ids, features.gallery_ids, features.query_cams, features.gallery_cams)
    return ranking.rank_metrics_from_distances(matrix, *labels).mAP


CASES = {
    "plain": (0, 1),
    "offset_1000": (1000, 1),
    "near_collapsed_1e-3": (1, 1e-3),
    "near_collapsed_3e-4": (1, 3e-4),
    "tiny_1e-30": (0, 1e-30),
    "huge_1e30": (0, 1e30),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("metric", distance_blocks.METRICS)
def test_float32_ranks_as_float64(case, metric):
    features = toy(*CASES[case])
    assert ranking.evaluate(features, metric=metric).mAP == pytest.approx(in_float64(features, metric), abs=1e-6)


@pytest.mark.parametrize("case", ["plain", "near_collapsed_1e-3", "huge_1e30"])
def test_slots(case):
    features = toy(*CASES[case], slots=(3,))
    assert ranking.evaluate(features).mAP == pytest.approx(in_float64(features, "euclidean"), abs=1e-6)


def test_ordinary_features_are_the_same_arrays():
    """No score of an ordinary set depends on this module, not even by a bit."""
    features = toy(1, 1)  # shifted by one standard deviation, like features after a ReLU
    for unit in (False, True):
        query, gallery, scale = feature_scaling.well_placed(
            features.query_features, features.gallery_features, unit=unit
        )
        assert query is features.query_features
        assert gallery is features.gallery_features
        assert scale == 1


def test_outliers_neither_cause_nor_prevent_the_move():
    features = toy(1000, 1)
    gallery = features.gallery_features.copy()
    gallery[:20] = 1e9
    moved = feature_scaling.well_placed(features.query_features, gallery, unit=False)[1]
    assert np.abs(moved[20:]).max() < 20
    plain = toy(0, 1)
    gallery = plain.gallery_features.copy()
    gallery[:20] = 1e9
    assert feature_scaling.well_placed(plain.query_features, gallery, unit=False)[1] is gallery
    gallery[:20] = 1e25  # out of range: scaled, and the others keep their order
    query, scaled, scale = feature_scaling.well_placed(plain.query_features, gallery, unit=False)
    np.testing.assert_array_equal(scaled, gallery * np.float32(scale))
    assert np.square(scaled.astype(np.float64)).sum(axis=1).max() < feature_scaling.LONGEST
    assert np.square(query).sum(axis=1).min() > np.finfo(np.float32).tiny


def test_distances_are_reported_in_the_units_of_the_features():
    for scale in (1e-30, 1e30):
        features, plain = toy(0, scale), toy(0, 1)
        lists, wanted = (
            report.ranked_lists(given, ranking.evaluate(given), np.array([3]), top=3) for given in (features, plain)
        )
        np.testing.assert_allclose(lists[0].distances, wanted[0].distances * scale, rtol=1e-5)
        got, want = (verification.verify(given, exact=True) for given in (features, plain))
        assert got.auc == pytest.approx(want.auc, abs=1e-6)
        assert got.eer_threshold == pytest.approx(want.eer_threshold * scale, rel=1e-4)
    scores = [reranking.evaluate(toy(*CASES[case]), k1=5, k2=2).mAP for case in ("plain", "offset_1000", "huge_1e30")]
    np.testing.assert_allclose(scores, scores[0], atol=2e-3)


def test_zero_vectors_and_equal_rows():
    ones = np.ones((4, 3), np.float32)
    features = FeatureSet(ones[:2], ones, [1, 2], [1, 2, 1, 2], [0, 0], [1, 1, 1, 1])
    for metric in distance_blocks.METRICS:
        query, gallery = distance_blocks.prepare_both(features, metric)
        np.testing.assert_allclose(distance_blocks.pairwise(query, gallery), 0, atol=1e-15)
    zeros = FeatureSet(ones[:2] * 0, ones * 0, [1, 2], [1, 2, 1, 2], [0, 0], [1, 1, 1, 1])
    for metric in distance_blocks.METRICS:
        np.testing.assert_array_equal(distance_blocks.pairwise(*distance_blocks.prepare_both(zeros, metric)), 0)
    with pytest.raises(errors.UserError, match="metric"):
        distance_blocks.prepare_both(features, "manhattan")
