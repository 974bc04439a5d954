"""Verification metrics against all pairs at once, exact and from histograms."""

from __future__ import annotations

import numpy as np
import pytest

from reid_jax import errors
from reid_jax.data.feature_set import FeatureSet
from reid_jax.evaluation import verification

RATES = (0.5, 1e-1, 1e-2, 1e-3)


def random_set(seed, integers=False):
    generator = np.random.default_rng(seed)
    ids = generator.integers(0, 8, 40), generator.integers(-1, 8, 300)
    centers = generator.standard_normal((9, 6))
    features = [centers[one] + 0.7 * generator.standard_normal((len(one), 6)) for one in ids]
    if integers:
        features = [np.round(one) for one in features]
    cams = [generator.integers(-1, 3, len(one)) for one in ids]
    return FeatureSet(*(one.astype(np.float32) for one in features), *ids, *cams)


def pairs(features):
    kept = features.without_junk()
    distance = np.linalg.norm(
        kept.query_features.astype(np.float64)[:, None] - kept.gallery_features.astype(np.float64)[None], axis=2
    )
    same = kept.query_ids[:, None] == kept.gallery_ids[None]
    cameras = (kept.query_cams[:, None] == kept.gallery_cams[None]) & (kept.query_cams[:, None] != -1)
    keep = ~(same & cameras)
    return distance[keep], same[keep]


@pytest.mark.parametrize(("seed", "integers"), [(0, False), (1, False), (2, True)])
def test_exact_equals_the_twin(twins, seed, integers):
    features = random_set(seed, integers)
    distance, same = pairs(features)
    auc, eer, at_rates = twins.verification(distance, same, RATES)
    got = verification.verify(features, rates=RATES, exact=True)
    assert got.auc == pytest.approx(auc, abs=1e-6)
    assert got.eer == pytest.approx(eer, abs=2e-3 if integers else 5e-4)
    assert (got.num_same, got.num_different) == (same.sum(), (~same).sum())
    for point, wished, reached in zip(got.points, RATES, at_rates, strict=True):
        assert point.true_positive_rate == pytest.approx(reached, abs=1e-9)
        accepted = distance <= point.threshold
        assert accepted[~same].mean() <= wished + 1e-9
        assert accepted[same].mean() == pytest.approx(point.true_positive_rate, abs=1e-9)


def test_histograms_are_close_to_exact():
    features = random_set(3)
    exact, binned = (verification.verify(features, rates=RATES, exact=one) for one in (True, False))
    assert binned.auc == pytest.approx(exact.auc, abs=1e-5)
    assert binned.eer == pytest.approx(exact.eer, abs=1e-3)
    assert 0 < binned.resolution < 1e-3
    assert binned.eer_threshold == pytest.approx(exact.eer_threshold, abs=0.02)
    for one, other in zip(exact.points, binned.points, strict=True):
        assert other.true_positive_rate == pytest.approx(one.true_positive_rate, abs=5e-3)
    assert (binned.num_same, binned.num_different) == (exact.num_same, exact.num_different)
    curve = binned.false_positive_rates, binned.true_positive_rates
    assert all((np.diff(one) >= 0).all() for one in curve)
    assert (curve[0][0], curve[1][0], curve[0][-1], curve[1][-1]) == (0, 0, 1, 1)
    area = np.sum(np.diff(curve[0]) * (curve[1][1:] + curve[1][:-1]) / 2)
    assert area == pytest.approx(binned.auc, abs=1e-3)
    distance, same = pairs(features)
    for result in (exact, binned):
        drawn = result.histogram
        assert (drawn.same.sum(), drawn.different.sum()) == (result.num_same, result.num_different)
        np.testing.assert_allclose(drawn.edges[[0, -1]], [distance.min(), distance.max()], atol=0.02)
        for got, want in ((drawn.same, distance[same]), (drawn.different, distance[~same])):
            # Pairs near an edge may lie on either side of it.
            assert np.abs(np.cumsum(got) - np.cumsum(np.histogram(want, drawn.edges)[0])).max() <= 0.02 * len(want)
    assert binned.as_dict("toy/verification")["toy/verification/tpr_at_fpr_1e-3"] == binned.points[3].true_positive_rate


def test_perfect_separation():
    features = FeatureSet(np.eye(3), np.eye(3), [1, 2, 3], [1, 2, 3], [0, 0, 0], [1, 1, 1], meta={"metric": "cosine"})
    for exact in (True, False):
        got = verification.verify(features, exact=exact)
        assert got.auc == 1.0
        assert got.eer == pytest.approx(0.0, abs=1e-9)
        assert all(point.true_positive_rate == 1.0 for point in got.points)
        assert 0 <= got.points[-1].threshold < 1


@pytest.mark.parametrize("exact", [True, False])
def test_one_sided_sets_are_refused(exact):
    one_camera = FeatureSet(np.eye(2), np.eye(2), [1, 2], [1, 2], [0, 0], [0, 0])
    with pytest.raises(errors.UserError, match="same_camera_filter=False"):
        verification.verify(one_camera, exact=exact)
    one_person = FeatureSet(np.eye(2), np.eye(2), [1, 1], [1, 1], [0, 0], [1, 1])
    with pytest.raises(errors.UserError, match="two persons"):
        verification.verify(one_person, exact=exact)
