"""Scores of three queries worked out by hand."""

import inspect

import numpy as np
import pytest

from reid_jax.evaluation import ranking, reranking

# Distances of six gallery images; the correct ones of query 0 are the second and the fifth.
GALLERY_IDS = np.array([9, 0, 9, 9, 0, 9])
GALLERY_CAMS = np.array([1, 1, 1, 1, 2, 1])


def scored(query_ids, query_cams, matrix=None, **options):
    rows = np.tile(np.arange(1.0, 7.0), (len(query_ids), 1)) if matrix is None else matrix
    return ranking.rank_metrics_from_distances(
        rows, np.array(query_ids), GALLERY_IDS, np.array(query_cams), GALLERY_CAMS, **options
    )


@pytest.mark.parametrize(
    ("rule", "ap"),
    [("step", (1 / 2 + 2 / 5) / 2), ("trapezoid", ((0 + 1 / 2) / 2 + (1 / 4 + 2 / 5) / 2) / 2)],
)
def test_one_query(rule, ap):
    result = scored([0], [0], ap=rule)
    assert result.mAP == pytest.approx(ap)
    assert result.mINP == pytest.approx(2 / 5)
    assert [result.rank(k) for k in (1, 2, 3, 50, 99)] == [0.0, 1.0, 1.0, 1.0, 1.0]
    names = {"x/mAP": ap, "x/mINP": 0.4, "x/rank1": 0.0, "x/rank5": 1.0, "x/rank10": 1.0}
    assert result.scores("x") == pytest.approx(names)


def test_a_hit_at_the_head_has_precision_one_under_both_rules():
    for rule in ("step", "trapezoid"):
        result = scored([0], [0], np.array([[5.0, 1.0, 4.0, 3.0, 2.0, 6.0]]), ap=rule)
        assert (result.mAP, result.mINP, result.rank(1)) == (1.0, 1.0, 1.0)


def test_images_of_the_querys_own_camera_are_left_out_and_queries_without_a_match():
    """Of camera 1 the second image is no answer: the fifth, fourth in the list that remains, is the only one."""
    result = scored([0, 7], [1, 0])
    assert result.num_query_without_match == 1
    assert result.mAP == result.mINP == pytest.approx(1 / 4)
    kept = scored([0, 7], [1, 0], same_camera_filter=False)
    assert kept.mAP == pytest.approx((1 / 2 + 2 / 5) / 2)
    unknown = scored([0], [-1])
    assert unknown.mAP == pytest.approx((1 / 2 + 2 / 5) / 2)


@pytest.mark.parametrize("function", [reranking.Reranker.build, reranking.rerank, reranking.evaluate, ranking.evaluate])
def test_defaults_are_those_of_the_literature(function):
    """Zhong et al.: k1 20, k2 6, lambda 0.3; junk and images of the query's camera left out."""
    published = {"k1": 20, "k2": 6, "original_weight": 0.3, "drop_junk": True, "same_camera_filter": True}
    published |= {"ap": "step", "metric": None, "max_rank": 50}
    defaults = {name: value.default for name, value in inspect.signature(function).parameters.items()}
    shared = published.keys() & {name for name, value in defaults.items() if value is not inspect.Parameter.empty}
    assert len(shared) >= 3
    assert {name: defaults[name] for name in shared} == {name: published[name] for name in shared}
