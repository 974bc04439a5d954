"""A report of one feature set: what each part of it is measured with."""

import inspect

import numpy as np

from reid_jax.data.feature_set import FeatureSet
from reid_jax.evaluation import ranking, reranking, suite


def make_features():
    rng = np.random.default_rng(0)
    ids, cams = np.repeat(np.arange(4), 3), np.tile(np.arange(3), 4)
    features = rng.normal(size=(12, 2, 5)).astype(np.float32)
    seen = np.tile(np.float32([[1, 1], [1, 0], [0, 1]]), (4, 1))
    names = [f"{row}.jpg" for row in range(12)]
    first = np.arange(0, 12, 3)
    return FeatureSet(
        *(features[first] + 1e-3, features, ids[first], ids, cams[first], cams),
        *([names[row] for row in first], names),
        query_visibility=seen[first],
        gallery_visibility=seen,
    )


def test_reranking_is_measured_as_the_protocol_says(monkeypatch):
    asked = {}
    monkeypatch.setattr(suite.reranking, "evaluate", lambda features, **options: asked.update(options))
    settings = {"k1": 3, "k2": 2, "original_weight": 0.6}
    rule = {"metric": "cosine", "ap": "trapezoid", "same_camera_filter": False, "max_rank": 7}
    suite.run("set", make_features(), suite.Protocol(rerank=True, **settings, **rule))
    assert asked == {**settings, **rule, "mesh": None}


def test_reranking_has_the_published_settings_by_default():
    """k1 20, k2 6 and lambda 0.3 of Zhong et al. 2017, wherever it is called from."""
    for function in (suite.Protocol, reranking.Reranker.build, reranking.rerank, reranking.evaluate):
        default = {name: one.default for name, one in inspect.signature(function).parameters.items()}
        assert (default["k1"], default["k2"], default["original_weight"]) == (20, 6, 0.3), function


def test_unweighted_scores_count_hidden_slots():
    features = make_features()
    report = suite.run("set", features, suite.Protocol())
    bare = FeatureSet(
        *(features.query_features, features.gallery_features, features.query_ids, features.gallery_ids),
        *(features.query_cams, features.gallery_cams),
    )
    assert report.unweighted.mAP == ranking.evaluate(bare).mAP != report.plain.mAP
