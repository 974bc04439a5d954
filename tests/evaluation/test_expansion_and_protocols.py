"""Query expansion and protocols with random galleries."""

from __future__ import annotations

import numpy as np
import pytest

from reid_jax import errors
from reid_jax.data.feature_set import FeatureSet
from reid_jax.evaluation import expansion, protocols, ranking


def random_set(seed=0, noise=1.5):
    generator = np.random.default_rng(seed)
    ids = generator.integers(1, 11, 30), np.concatenate([np.repeat(np.arange(1, 11), 8), np.full(20, -1)])
    centers = generator.standard_normal((12, 16))
    features = [(centers[one] + noise * generator.standard_normal((len(one), 16))).astype(np.float32) for one in ids]
    cams = [generator.integers(0, 3, len(one)) for one in ids]
    return FeatureSet(*features, *ids, *cams)


def test_average_expansion_by_hand():
    features = FeatureSet([[0.0, 1.0]], [[0.0, 3.0], [9.0, 9.0], [0.0, 2.0]], [1], [1, 2, 1], [0], [1, 1, 1])
    expanded = expansion.expand_queries(features, neighbors=2)
    np.testing.assert_allclose(expanded.query_features, [[0.0, 2.0]])
    np.testing.assert_array_equal(expanded.gallery_features, features.gallery_features)


def test_alpha_expansion_by_hand():
    features = FeatureSet([[1.0, 0.0]], [[0.6, 0.8]], [1], [1], [0], [1], meta={"metric": "cosine"})
    expanded = expansion.expand_queries(features, neighbors=1, alpha=3)
    np.testing.assert_allclose(expanded.query_features, [[(1 + 0.216 * 0.6) / 1.216, 0.216 * 0.8 / 1.216]], atol=1e-6)


def test_hidden_slots_give_nothing():
    features = FeatureSet(
        [[[1.0], [1.0]]], [[[3.0], [5.0]]], [1], [1], [0], [1], query_visibility=[[1, 1]], gallery_visibility=[[1, 0]]
    )
    expanded = expansion.expand_queries(features, neighbors=1)
    np.testing.assert_allclose(expanded.query_features[0, :, 0], [2.0, 1.0])


def test_expansion_helps_noisy_queries_and_ignores_junk():
    features = random_set()
    before = ranking.evaluate(features).mAP
    expanded = expansion.expand_queries(features, neighbors=4, alpha=2, gallery_too=True)
    assert ranking.evaluate(expanded).mAP > before
    assert expanded.num_gallery == 80
    # With one neighbor, a gallery image becomes the mean of itself and the nearest other one.
    line = FeatureSet([[0.0]], [[0.0], [1.0], [4.0]], [1], [1, 1, 2], [0], [1, 2, 1])
    twice = expansion.expand_queries(line, neighbors=1, gallery_too=True, metric="euclidean").gallery_features
    np.testing.assert_allclose(twice[:, 0], [0.5, 0.5, 2.5])
    with pytest.raises(errors.UserError, match=r"size of the gallery \(80\)"):
        expansion.expand_queries(features, neighbors=81)


def test_single_gallery_shot_expectation():
    # Two images of the query's person, one nearer and one farther than the only other person: rank 1 in half the draws.
    features = FeatureSet([[0.0]], [[1.0], [3.0], [2.0]], [1], [1, 1, 2], [0], [1, 1, 1])
    result = protocols.single_gallery_shot(features, draws=2000, seed=0)
    assert result.cmc[0] == pytest.approx(0.5, abs=0.04)
    assert result.cmc[1] == 1.0
    assert result.mean_reciprocal_rank == pytest.approx(0.75, abs=0.03)
    again = protocols.single_gallery_shot(features, draws=2000, seed=0)
    np.testing.assert_array_equal(result.cmc, again.cmc)
    assert protocols.single_gallery_shot(features, draws=2000, seed=1).cmc[0] != result.cmc[0]


def test_single_gallery_shot_against_plain_ranking_of_one_image_each():
    features = random_set(1)
    one_each = features.with_gallery(np.arange(0, 80, 8))
    labels = {"same_camera_filter": False}
    plain = ranking.evaluate(one_each, **labels)
    shot = protocols.single_gallery_shot(one_each, draws=3, **labels)
    np.testing.assert_allclose(shot.cmc[:10], plain.cmc[:10])
    assert shot.cmc_std.max() < 1e-12
    assert shot.mean_reciprocal_rank == pytest.approx(plain.mAP)


def test_single_gallery_shot_without_any_match():
    features = FeatureSet([[0.0]], [[1.0]], [1], [1], [0], [0])
    with pytest.raises(errors.UserError, match="same_camera_filter"):
        protocols.single_gallery_shot(features)


def test_repeated_rounds():
    features = random_set(2)
    rounds = protocols.repeated_rounds(features, rounds=5, seed=3)
    again = protocols.repeated_rounds(features, rounds=5, seed=3)
    assert [one.mAP for one in rounds] == [one.mAP for one in again]
    kept = features.without_junk()
    combinations = {tuple(pair) for pair in zip(kept.gallery_ids.tolist(), kept.gallery_cams.tolist(), strict=True)}
    assert all(one.num_gallery == len(combinations) for one in rounds)
    summary = protocols.mean_and_spread(rounds, "toy")
    assert summary["toy/mAP"] == pytest.approx(np.mean([one.mAP for one in rounds]))
    assert summary["toy/mAP_std"] == pytest.approx(np.std([one.mAP for one in rounds]))
    assert summary["toy/rounds"] == 5
    everything = protocols.repeated_rounds(features, rounds=1, shots=100)[0]
    assert everything.mAP == ranking.evaluate(features).mAP
