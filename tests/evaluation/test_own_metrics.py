"""Metrics named by path: ranked, re-ranked and verified like the built-in ones, errors in one sentence."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest

from reid_jax import errors
from reid_jax.cli import evaluate
from reid_jax.data.feature_set import FeatureSet
from reid_jax.evaluation import distance_blocks, expansion, own_metrics, ranking, report, reranking, suite, verification

MODULE = """
import jax.numpy as jnp
import numpy as np

calls = []


def squared(x, y):
    calls.append(1)
    return ((x[:, None] - y[None]) ** 2).sum(axis=2)


def city_block(x, y):
    return jnp.abs(x[:, None] - y[None]).sum(axis=2)


def lopsided(x, y):
    return jnp.maximum(x[:, None] - y[None], 0).sum(axis=2)


def similarity(x, y):
    return -x @ y.T


def angular(x, y):
    x, y = (one / jnp.linalg.norm(one, axis=1, keepdims=True) for one in (x, y))
    return jnp.arccos(jnp.clip(x @ y.T, -1, 1))


def careless(x, y):
    x, y = (one / jnp.linalg.norm(one, axis=1, keepdims=True) for one in (x, y))
    return jnp.arccos(1.01 * x @ y.T)


def numpy_only(x, y):
    return np.linalg.norm(np.asarray(x)[:, None] - np.asarray(y)[None], axis=2)


def one_row(x, y):
    return x.sum(axis=1)


number = 3
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Prefix of the paths into a module outside the package."""
    folder = tmp_path_factory.mktemp("own_metrics")
    (folder / "own_distances.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield "own_distances:"


def draw(seed=0, num_query=30, num_gallery=700, size=6, integers=False, slots=()):
    generator = np.random.default_rng(seed)
    ids = generator.integers(1, 9, num_query), generator.integers(-1, 9, num_gallery)
    shapes = [(len(one), *slots, size) for one in ids]
    if integers:
        features = [generator.integers(-2, 3, shape).astype(np.float32) for shape in shapes]
    else:
        features = [generator.standard_normal(shape).astype(np.float32) for shape in shapes]
    return FeatureSet(*features, *ids, *(generator.integers(0, 3, len(one)) for one in ids))


def matrix_scores(features, distances):
    """Ranks a matrix over the gallery without junk, by the functions that given distances go through."""
    labels = (features.query_ids, features.gallery_ids, features.query_cams, features.gallery_cams)
    return ranking.rank_metrics_from_distances(distances, *labels)


def city_block(x, y):
    return np.abs(x[:, None] - y[None]).sum(axis=-1)


def assert_equal_ranking(got, want):
    np.testing.assert_array_equal(got.first_hit, want.first_hit)
    np.testing.assert_allclose(got.ap, want.ap, atol=1e-12)


def test_ranking_equals_sorted_matrix_with_many_ties(own):
    features = draw(integers=True).without_junk()
    got = ranking.evaluate(features, metric=own + "city_block")
    assert_equal_ranking(got, matrix_scores(features, city_block(features.query_features, features.gallery_features)))
    assert got.metric == own + "city_block"
    assert got.as_dict()["metric"] == own + "city_block"


def test_block_sizes_and_devices_do_not_matter(own):
    features = draw(num_gallery=1500).without_junk()
    # Copies of images under other identities: their ties must fall by gallery order everywhere.
    gallery = features.gallery_features.copy()
    gallery[700:1200] = gallery[100:600]
    features = dataclasses.replace(features, gallery_features=gallery)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:4])
    first = ranking.evaluate(features, metric=own + "angular")
    for options in ({"mesh": mesh}, {"gallery_block": 256}, {"query_block": 64}):
        assert_equal_ranking(ranking.evaluate(features, metric=own + "angular", **options), first)
    sides = [
        distance_blocks.prepare(one, own + "angular") for one in (features.query_features, features.gallery_features)
    ]
    assert_equal_ranking(first, matrix_scores(features, distance_blocks.pairwise(*sides)))


def test_queries_come_first_in_every_block_function(own):
    x, y = draw().query_features, draw().gallery_features[:300]
    want = np.maximum(x[:, None] - y[None], 0).sum(axis=2)
    query, gallery = (distance_blocks.prepare(one, own + "lopsided") for one in (x, y))
    np.testing.assert_allclose(distance_blocks.pairwise(query, gallery), want, rtol=1e-5)
    np.testing.assert_allclose(distance_blocks.jitted_block(gallery, query), want.T, rtol=1e-5)
    near = distance_blocks.nearest(query, gallery, 5)
    np.testing.assert_array_equal(near.rows, np.argsort(want, axis=1, kind="stable")[:, :5])
    np.testing.assert_allclose(near.farthest, want.max(axis=1), rtol=1e-5)
    np.testing.assert_allclose(distance_blocks.pairs(query, gallery.take(slice(0, 30))), np.diag(want), rtol=1e-5)


def test_slots_are_compared_one_by_one(own):
    features = draw(slots=(3,))
    x, y = features.query_features, features.gallery_features
    seen = [(np.random.default_rng(len(one)).random((len(one), 3)) < 0.7).astype(np.float32) for one in (x, y)]
    both = seen[0][:, None] * seen[1][None]
    each = city_block(x, y)  # [Q, G, S]
    with np.errstate(invalid="ignore"):
        want = np.where(both.sum(2) > 0, (both * each).sum(2) / both.sum(2), np.inf)
    sides = [distance_blocks.prepare(one, own + "city_block", part) for one, part in zip((x, y), seen, strict=True)]
    got = distance_blocks.readable(distance_blocks.pairwise(*sides), own + "city_block", slots=True)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    rows = distance_blocks.pairs(sides[0], sides[1].take(slice(0, 30)))
    np.testing.assert_allclose(rows[np.isfinite(np.diag(want))], np.diag(want)[np.isfinite(np.diag(want))], rtol=1e-5)


def test_hidden_slots_need_no_distance(own):
    features = draw(slots=(3,))
    hidden = [np.where(np.arange(3) > 0, one, 0).astype(np.float32) for one in (np.ones((30, 3)), np.ones((700, 3)))]
    zeroed = [one * seen[:, :, None] for one, seen in zip((features.query_features, features.gallery_features), hidden)]
    sides = [distance_blocks.prepare(one, own + "angular", seen) for one, seen in zip(zeroed, hidden, strict=True)]
    assert np.isfinite(distance_blocks.pairwise(*sides)).all()


def test_reranking_and_expansion_equal_the_built_in_metric(own):
    features = draw()
    for function in (
        lambda metric: reranking.rerank(features, metric=metric).matrix(),
        lambda metric: expansion.expand_queries(features, metric=metric, gallery_too=True).query_features,
    ):
        np.testing.assert_allclose(function(own + "squared"), function("euclidean"), atol=1e-5)


def test_reranking_refuses_negative_distances(own):
    with pytest.raises(errors.UserError, match="not negative"):
        reranking.rerank(draw(), metric=own + "similarity")


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("name", ["squared", "similarity"])
def test_verification(own, exact, name):
    features = draw(size=40)
    got = verification.verify(features, metric=own + name, exact=exact)
    if name == "squared":
        want = verification.verify(features, metric="euclidean", exact=True)
        np.testing.assert_allclose(np.sqrt(got.eer_threshold), want.eer_threshold, rtol=1e-3)
    else:
        want = verification.verify(features, metric=own + name, exact=True)
        np.testing.assert_allclose(got.eer_threshold, want.eer_threshold, atol=2e-3)
    np.testing.assert_allclose([got.auc, got.eer], [want.auc, want.eer], atol=1e-4)
    assert (got.num_same, got.num_different) == (want.num_same, want.num_different)


def test_programs_are_cached_by_the_function(own):
    import own_distances

    features = draw(seed=5)
    ranking.evaluate(features, metric=own + "squared")
    traced = len(own_distances.calls)
    ranking.evaluate(draw(seed=6), metric=own + "squared")
    assert len(own_distances.calls) == traced


@pytest.mark.parametrize("run", ["ranking", "pairwise", "nearest", "verify", "verify exactly", "wide"])
def test_not_finite_distances_are_refused(own, run):
    features = draw(num_gallery=2000)
    # One image that a query resembles all too much.
    gallery = features.gallery_features.copy()
    gallery[321] = features.query_features[3]
    features = dataclasses.replace(features, gallery_features=gallery)
    metric = own + "careless"
    sides = [distance_blocks.prepare(one, metric) for one in (features.query_features, features.gallery_features)]
    wide = dataclasses.replace(features, query_ids=np.ones(30), gallery_ids=np.ones(2000))
    with pytest.raises(errors.UserError, match="finite distances from the metric 'own_distances:careless'"):
        {
            "ranking": lambda: ranking.evaluate(features, metric=metric),
            "pairwise": lambda: distance_blocks.pairwise(*sides),
            "nearest": lambda: distance_blocks.nearest(*sides, 3),
            "verify": lambda: verification.verify(features, metric=metric),
            "verify exactly": lambda: verification.verify(features, metric=metric, exact=True),
            "wide": lambda: ranking.evaluate(wide, metric=metric),
        }[run]()


def test_not_finite_on_many_devices(own):
    features = draw(num_gallery=3000)
    gallery = np.tile(features.query_features, (100, 1))
    features = dataclasses.replace(features, gallery_features=gallery)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:4])
    with pytest.raises(errors.UserError, match="finite distances"):
        ranking.evaluate(features, metric=own + "careless", mesh=mesh)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("numpy_only", "failed on blocks of .* with TracerArrayConversionError.*jax operations"),
        ("one_row", r"real numbers of shape \(64, 512\).* got float32 of shape"),
        ("number", "to be a function of two blocks of features, it is a int"),
        ("absent", "unknown metric in the module 'own_distances'"),
    ],
)
def test_bad_functions_are_one_sentence(own, name, message):
    with pytest.raises(errors.UserError, match=message) as caught:
        ranking.evaluate(draw(), metric=own + name)
    assert "\n" not in str(caught.value)


def test_unknown_metric_names_the_paths():
    with pytest.raises(errors.UserError, match=r"known: cosine, euclidean, package\.module:Name"):
        distance_blocks.check_metric("cosin")
    with pytest.raises(errors.UserError, match=r"expected the module 'no_such_project\.distances'"):
        distance_blocks.check_metric("no_such_project.distances:angular")


def test_command_and_features_file(own, tmp_path, capsys):
    features = dataclasses.replace(draw(), meta={"metric": own + "city_block", "dataset": "shop"})
    features.save(tmp_path / "features.npz")
    output = tmp_path / "result.json"
    common = ["--features", str(tmp_path / "features.npz"), "--output", str(output), "--rerank", "--verification"]
    assert evaluate.main(common) == 0  # the metric of the file
    assert f"Distance: {own}city_block" in capsys.readouterr().out
    first = json.loads(output.read_text())
    assert first["metric"] == own + "city_block"
    assert evaluate.main([*common, "--metric", own + "angular"]) == 0
    assert json.loads(output.read_text())["metric"] == own + "angular"
    assert json.loads(output.read_text())["shop/mAP"] != first["shop/mAP"]


def test_ranked_lists_show_the_distance_of_the_metric(own):
    features = draw()
    result = suite.run("shop", features, suite.Protocol(metric=own + "city_block")).plain
    (first,) = report.ranked_lists(features, result, np.array([2]), top=3)
    want = np.abs(features.gallery_features[first.gallery] - features.query_features[2]).sum(axis=1)
    np.testing.assert_allclose(first.distances, want, rtol=1e-5)


def test_find_needs_a_function(own):
    assert own_metrics.find(own + "squared") is own_metrics.find(own + "squared")
    with pytest.raises(errors.UserError, match="name a function"):
        own_metrics.find("reid_jax.errors:UserError")
