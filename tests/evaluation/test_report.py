"""The page of ranked lists says what the ranking says."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from PIL import Image

from reid_jax import errors
from reid_jax.data.feature_set import FeatureSet
from reid_jax.evaluation import charts, distance_blocks, image_files, ranking, report


@pytest.fixture(scope="module")
def features():
    generator = np.random.default_rng(0)
    ids = generator.integers(1, 5, 12), generator.integers(-1, 5, 60)
    centers = generator.standard_normal((6, 5))
    arrays = [(centers[one] + generator.standard_normal((len(one), 5))).astype(np.float32) for one in ids]
    cams = [generator.integers(0, 3, len(one)) for one in ids]
    names = [f"query_{row}<&>.jpg" for row in range(12)]
    return FeatureSet(*arrays, *ids, *cams, names, meta={"dataset": "toy", "metric": "cosine"})


def load(side, row):
    return np.full((8, 4, 3), row if side == "query" else 100 + row, np.uint8)


def test_lists_agree_with_the_metrics(features):
    result = ranking.evaluate(features)
    rows = np.flatnonzero(result.first_hit >= 0)
    for one in report.ranked_lists(features, result, rows, top=80):
        assert (features.gallery_ids[one.gallery] != -1).all()
        hits = np.flatnonzero(one.correct)
        assert hits[0] == result.first_hit[one.query]
        assert len(hits) == result.num_relevant[one.query]
        assert np.mean((np.arange(len(hits)) + 1) / (hits + 1)) == pytest.approx(result.ap[one.query])
        assert (np.diff(one.distances) >= 0).all()
        unit = [distance_blocks.unit_length(side) for side in (features.query_features, features.gallery_features)]
        assert one.distances[0] == pytest.approx(1 - unit[0][one.query] @ unit[1][one.gallery[0]], abs=1e-5)


def test_given_distances_are_shown_as_they_are(features):
    result = ranking.evaluate(features, same_camera_filter=False)
    matrix = np.random.default_rng(1).random((12, 60))
    one = report.ranked_lists(features, result, np.array([4]), top=3, distance_rows=lambda rows: matrix[rows])[0]
    kept = np.flatnonzero(features.gallery_ids != -1)
    np.testing.assert_array_equal(one.gallery, kept[np.argsort(matrix[4, kept])[:3]])
    np.testing.assert_array_equal(one.distances, matrix[4, one.gallery])


def test_queries_shown_are_the_worst_and_a_spread():
    ap = np.linspace(1, 0, 101)
    ap[7] = np.nan
    fake = type("Result", (), {"ap": ap})()
    chosen = report.choose_queries(fake, 20)
    assert len(chosen) == 20
    assert (np.diff(ap[chosen]) >= 0).all()
    assert chosen[:10].tolist() == list(range(100, 90, -1))
    assert chosen[-1] == 0
    assert len(report.choose_queries(fake, 500)) == 100


def test_page(features, tmp_path):
    result = ranking.evaluate(features)
    path = report.write_ranked_lists(tmp_path / "deep" / "page.html", features, result, load, top=5, max_queries=6)
    page = path.read_text()
    assert [one.name for one in path.parent.iterdir()] == ["page.html"]
    assert page.count('class="card"') == 6
    assert f"{100 * result.mAP:.1f}" in page
    assert "AP rule: <b>step</b>" in page
    assert "query_" in page
    assert "<&>" not in page
    assert not re.search(r'(src|href)="(?!data:)', page), "the page must not need anything beside it"
    assert not re.search(r"<!--[A-Z]+-->", page), "a placeholder was left"
    aps = [float(value) for value in re.findall(r'data-ap="([\d.]+)"', page)]
    assert aps == sorted(aps)
    assert page.count('<figure class="right') + page.count('<figure class="wrong') >= 30


def test_charts_survive_extremes():
    for values in (np.zeros(1), np.ones(50), np.linspace(0, 1, 7)):
        assert charts.cmc_curve(values).count("<circle") >= 1
    assert "nan" not in charts.ap_histogram(np.array([np.nan, 0.0, 1.0]))


def _pair(names, meta=None):
    return FeatureSet(np.eye(1), np.eye(1), [1], [1], [0], [1], [names[0]], [names[1]], meta=meta or {})


def _solid(path, level):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 3), (level, 0, 0)).save(path)


def _levels(root, features):
    images = image_files.ImageFiles(root, features)
    return [int(images(side, 0)[0, 0, 0]) for side in ("query", "gallery")]


def test_pictures_are_found_by_paths_relative_to_the_source(tmp_path):
    for level, name in enumerate(("query/anna/0.png", "gallery/anna/0.png", "gallery/ben/0.png")):
        _solid(tmp_path / "set" / name, level)
    features = _pair(("query/anna/0.png", "gallery/ben/0.png"), {"source": "/elsewhere"})
    assert _levels(tmp_path / "set", features) == [0, 2]
    for other in ("set/gallery", "set/query", "."):  # a path is not shortened to find anything
        with pytest.raises(errors.UserError, match=r"query/anna/0.png \(query\) is not in .*--images DIR"):
            image_files.ImageFiles(tmp_path / other, features)
    with pytest.raises(errors.UserError, match="no folder"):
        image_files.ImageFiles(tmp_path / "nowhere", features)


def test_bare_names_are_found_only_where_they_mean_one_picture(tmp_path):
    _solid(tmp_path / "query" / "x.png", 7)
    _solid(tmp_path / "bounding_box_test" / "y.png", 9)
    assert _levels(tmp_path, _pair(("x.png", "y.png"))) == [7, 9]
    _solid(tmp_path / "gt_bbox" / "x.png", 7)  # the same picture again
    assert _levels(tmp_path, _pair(("x.png", "y.png"))) == [7, 9]
    _solid(tmp_path / "other" / "x.png", 8)
    with pytest.raises(errors.UserError, match=r"x.png \(query\) may be .*/x.png or .*/x.png"):
        image_files.ImageFiles(tmp_path, _pair(("x.png", "y.png")))
    with pytest.raises(errors.UserError, match=r"both have the name x.png, which is one file"):
        image_files.ImageFiles(tmp_path / "query", _pair(("x.png", "x.png")))
    twice = FeatureSet(np.eye(2), np.eye(1, 2), [1, 1], [1], [0, 0], [1], ["x.png", "x.png"], ["y.png"])
    with pytest.raises(errors.UserError, match=r"the query has 1 names twice, such as x.png"):
        image_files.ImageFiles(tmp_path, twice)


@pytest.mark.parametrize("name", ["../secret.png", "{root}/../secret.png", "a\0b.png", "", "query"])
def test_names_from_elsewhere_do_not_lead_out_of_the_folder(tmp_path, name):
    _solid(tmp_path / "secret.png", 1)
    _solid(tmp_path / "set" / "query" / "x.png", 2)
    root = tmp_path / "set"
    for meta in ({}, {"source": str(root)}):
        with pytest.raises(errors.UserError, match="is not in"):
            image_files.ImageFiles(root, _pair((name.format(root=root), "query/x.png"), meta))


def test_pictures_of_a_prepared_data_set(tmp_path, market):
    from reid_jax.data import prepare

    market.write(tmp_path / "market1501", train_identities=2, test_identities=2, height=16, width=8)
    dataset = prepare.ensure("market1501", tmp_path)
    for names in ("names", "filenames"):
        features = _pair([getattr(split, names)[1] for split in (dataset.query, dataset.gallery)])
        images = image_files.ImageFiles(tmp_path / "prepared" / "market1501", features)
        np.testing.assert_array_equal(images("query", 0), dataset.query.image(1))
        np.testing.assert_array_equal(images("gallery", 0), dataset.gallery.image(1))
    with pytest.raises(errors.UserError, match="is not in the prepared data set"):
        image_files.ImageFiles(dataset.path, _pair(("a.png", "b.png")))


def test_people_are_shown_by_their_own_names(features, tmp_path):
    named = dataclasses.replace(features, meta={"people": {"1": "an<na>", "2": 7, "3": "x" * 999}})
    assert [len(named.person(pid)) for pid in (1, 2, 3, 4)] == [6, 0, 200, 0]
    path = report.write_ranked_lists(tmp_path / "page.html", named, ranking.evaluate(named), load)
    page = path.read_text()
    assert "an&lt;na&gt;" in page
    assert "an<na>" not in page
    assert "id 2" in page
    assert dataclasses.replace(features, meta={"people": ["anna"]}).person(0) == ""
