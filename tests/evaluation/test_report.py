"""The page of ranked lists says what the ranking says."""

from __future__ import annotations

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


def test_image_files(features, tmp_path):
    folder = tmp_path / "images" / "bounding_box_test"
    folder.mkdir(parents=True)
    (tmp_path / "images" / "query").mkdir()
    pair = FeatureSet(np.eye(1), np.eye(1), [1], [1], [0], [1], ["x.png"], ["x.png"])
    with pytest.raises(errors.UserError, match=r"x.png \(query\)"):
        image_files.ImageFiles(tmp_path / "images", pair)
    Image.new("RGB", (2, 3), (9, 0, 0)).save(folder / "x.png")
    Image.new("L", (2, 3), 7).save(tmp_path / "images" / "query" / "x.png")
    images = image_files.ImageFiles(tmp_path / "images", pair)
    assert images("query", 0).tolist()[0][0] == [7, 7, 7]
    assert images("gallery", 0).tolist()[0][0] == [9, 0, 0]
    with pytest.raises(errors.UserError, match="no folder"):
        image_files.ImageFiles(tmp_path / "nowhere", pair)
