"""Re-ranking against the reference outputs and against full matrices."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from reid_jax import errors
from reid_jax.data.feature_set import FeatureSet
from reid_jax.evaluation import distance_blocks, ranking, reranking


def random_set(seed, num_query=20, num_gallery=150, identities=12, dimensions=8):
    generator = np.random.default_rng(seed)
    centers = generator.standard_normal((identities + 1, dimensions))
    ids = generator.integers(1, identities + 1, num_query), generator.integers(-1, identities + 1, num_gallery)
    features = [
        (centers[one] + 0.5 * generator.standard_normal((len(one), dimensions))).astype(np.float32) for one in ids
    ]
    cams = [generator.integers(0, 3, len(one)) for one in ids]
    return FeatureSet(*features, *ids, *cams)


@pytest.mark.parametrize(("k1", "k2"), [(20, 6), (50, 15)])
def test_distances_equal_reference(golden_folder, k1, k2):
    file = np.load(golden_folder / "metrics_easy.npz")
    labels = [file[key] for key in ("q_pids", "g_pids", "q_camids", "g_camids")]
    features = FeatureSet(file["qf"], file["gf"], *labels, meta={"metric": "cosine"})
    got = reranking.rerank(features, k1=k1, k2=k2, original_weight=0.3, drop_junk=False).matrix()
    key = f"rerank_k{k1}_{k2}_l0.3"
    assert np.abs(got - file[f"{key}/dist_f64"]).max() < 1e-5
    # The reference scored its own distances, which are rounded to float16 on the way.
    scored = ranking.rank_metrics_from_distances(file[f"{key}/dist_reference"], *labels)
    assert abs(scored.mAP - file[f"{key}/mAP"]) < 1e-6
    assert abs(scored.mINP - file[f"{key}/mINP"]) < 1e-6
    np.testing.assert_allclose(scored.cmc, file[f"{key}/cmc"], atol=1e-6)


def test_without_local_expansion(golden_folder):
    file = np.load(golden_folder / "metrics_easy.npz")
    sides = [distance_blocks.prepare(file[key], "cosine") for key in ("qf", "gf")]
    got = reranking.Reranker.build(*sides, k1=20, k2=1, original_weight=0.3).matrix()
    assert np.abs(got - file["rerank_k20_1_l0.3/dist_reference"]).max() < 1e-2


@pytest.mark.parametrize(
    ("seed", "k1", "k2", "weight"), [(0, 20, 6, 0.3), (1, 7, 3, 0.0), (2, 5, 9, 0.5), (3, 1, 1, 1.0)]
)
def test_equals_full_matrices(twins, seed, k1, k2, weight):
    features = random_set(seed)
    everything = np.concatenate([features.query_features, features.gallery_features])
    want = twins.rerank(twins.squared_euclidean(everything, everything), 20, k1, k2, weight)
    got = reranking.rerank(features, k1=k1, k2=k2, original_weight=weight, drop_junk=False)
    np.testing.assert_allclose(got.matrix(), want, atol=1e-5)
    np.testing.assert_array_equal(got.rows(np.array([3, 1])), got.matrix()[[3, 1]])


def test_evaluate_drops_junk_first_and_devices_do_not_matter(twins):
    features = random_set(5)
    kept = features.without_junk()
    everything = np.concatenate([kept.query_features, kept.gallery_features])
    matrix = twins.rerank(twins.squared_euclidean(everything, everything), 20, 10, 4, 0.3)
    labels = (kept.query_ids, kept.gallery_ids, kept.query_cams, kept.gallery_cams)
    want = np.nanmean(twins.rank_metrics(matrix, *labels)[0])
    result = reranking.evaluate(features, k1=10, k2=4)
    assert result.mAP == pytest.approx(want, abs=1e-5)
    assert result.num_gallery == kept.num_gallery < features.num_gallery
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:4])
    assert reranking.evaluate(features, k1=10, k2=4, mesh=mesh).mAP == result.mAP


def test_slots_and_many_copies_of_one_image():
    features = random_set(6)
    slots = dataclasses.replace(
        features,
        query_features=features.query_features.reshape(-1, 2, 4),
        gallery_features=features.gallery_features.reshape(-1, 2, 4),
    )
    assert np.isfinite(reranking.rerank(slots, k1=9, k2=3).matrix()).all()
    same = np.ones((170, 8), np.float32)
    sides = distance_blocks.prepare(same[:20], "euclidean"), distance_blocks.prepare(same[20:], "euclidean")
    assert np.isfinite(reranking.Reranker.build(*sides, k1=9, k2=3).matrix()).all()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"k1": 500}, "k1 must be between 1 and"), ({"k2": 0}, "k2 must be"), ({"original_weight": 1.5}, r"\[0, 1\]")],
)
def test_bad_settings(options, sentence):
    with pytest.raises(errors.UserError, match=sentence):
        reranking.rerank(random_set(0), **options)


def test_memory_is_estimated_before_the_run(monkeypatch):
    monkeypatch.setattr(reranking, "available_memory", lambda: 10_000)
    with pytest.raises(errors.UserError, match=r"takes about 0\.\d GB"):
        reranking.rerank(random_set(0))
    assert reranking.memory_estimate(93_820, 20, 6, 82_161) < 4e9
