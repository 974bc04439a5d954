"""The page of ranked lists says what the ranking says."""

from __future__ import annotations

import base64
import dataclasses
import functools
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from reid_jax import errors
from reid_jax.data.feature_set import FeatureSet
from reid_jax.evaluation import charts, distance_blocks, image_files, ranking, report, suite, thumbnails, verification


@pytest.fixture(scope="module")
def features():
    generator = np.random.default_rng(0)
    ids = generator.integers(1, 5, 12), generator.integers(-1, 5, 60)
    centers = generator.standard_normal((6, 5))
    arrays = [(centers[one] + generator.standard_normal((len(one), 5))).astype(np.float32) for one in ids]
    cams = [generator.integers(0, 3, len(one)) for one in ids]
    names = [f"query_{row}<&>.jpg" for row in range(12)]
    return FeatureSet(*arrays, *ids, *cams, names, meta={"dataset": "toy", "metric": "cosine"})


def data_of(path):
    """The entries of a page."""
    return json.loads(re.search(r'id="data">(.*?)</script>', path.read_text(), re.DOTALL)[1])


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


def test_nearest_keeps_gallery_order_among_equals():
    generator = np.random.default_rng(2)
    for count in (1, 3, 10, 40, 99):
        distances = generator.integers(0, 4, 60).astype(np.float32)
        kept = np.flatnonzero(generator.random(60) < 0.7)
        expected = kept[np.argsort(distances[kept], kind="stable")[:count]]
        np.testing.assert_array_equal(report._nearest(distances, kept, count), expected)


def test_queries_shown_are_the_worst_and_a_spread():
    ap = np.linspace(1, 0, 101)
    ap[7] = np.nan
    fake = type("Result", (), {"ap": ap})()
    chosen = report.choose_queries(fake, 20)
    assert len(chosen) == 20
    assert (np.diff(ap[chosen]) >= 0).all()
    assert chosen[:10].tolist() == list(range(100, 90, -1))
    assert chosen[-1] == 0
    everything = report.choose_queries(fake, 500)
    assert (len(everything), everything[-1]) == (101, 7)  # the one that is not scored stands last


@pytest.fixture(scope="module")
def page(features, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "deep" / "page.html"
    facts = {"run": "run<1>", "made": "today"}
    return report.write_page(path, suite.run("toy", features, suite.Protocol()), load, top=5, facts=facts)


def test_page_shows_every_query(features, page):
    result = ranking.evaluate(features)
    data = data_of(page)
    assert [one.name for one in page.parent.iterdir()] == ["page.html"]
    assert len(data["queries"]) == features.num_query == 12
    for entry in data["queries"]:
        (one,) = report.ranked_lists(features, result, np.array([entry["row"]]), top=5)
        assert entry["name"] == features.query_names[entry["row"]]
        assert entry["identity"] == str(features.query_ids[entry["row"]])
        assert entry["ap"] == pytest.approx(result.ap[entry["row"]], abs=1e-6)
        assert entry["first"] == result.first_hit[entry["row"]] + 1
        shown = [data["gallery"][place] for place in entry["gallery"]]
        assert [image["name"] for image in shown] == [features.gallery_names[row] for row in one.gallery]
        assert entry["right"] == "".join("01"[int(right)] for right in one.correct)
        assert (entry["later"] is not None) == (entry["first"] > 5)
        # Each picture is the image itself, and stored once.
        for image, row in zip(shown, one.gallery, strict=True):
            with Image.open(io.BytesIO(base64.b64decode(data["pictures"][image["picture"]]))) as picture:
                assert abs(np.asarray(picture).mean() - (100 + row)) < 3
    assert len(data["pictures"]) == len(data["queries"]) + len(data["gallery"])


def test_page_says_what_was_measured(features, page):
    text, result = page.read_text(), ranking.evaluate(features)
    verified = verification.verify(features)
    assert "<title>toy · run&lt;1&gt; · ranked lists</title>" in text
    assert f"<dd>{100 * result.mAP:.1f}<small>" in text
    assert "AP rule: <b>step</b>" in text
    assert f"EER {100 * verified.eer:.1f} % at {verified.eer_threshold:.3f}" in text
    assert f"({verified.num_same:,})" in text
    assert "made <b>today</b>" in text
    assert "<&>" not in text
    assert not re.search(r"(src|href)=[\"'](?!data:|#)|url\(|@import", text), (
        "the page must not need anything beside it"
    )
    assert not re.search(r"<!--[A-Z]+-->", text), "a placeholder was left"


def test_page_stays_within_its_budget(features, tmp_path):
    result = ranking.evaluate(features)
    noise = np.random.default_rng(0).integers(0, 255, (192, 96, 3), np.uint8)
    path = report.write_ranked_lists(
        tmp_path / "page.html", features, result, lambda side, row: noise, max_queries=6, budget=20_000
    )
    data = data_of(path)
    assert len(data["queries"]) == 6
    assert 20_000 <= len("".join(data["pictures"])) * 3 / 4 < 40_000
    assert data["queries"][0]["picture"] == 0
    assert data["queries"][-1]["picture"] == -1, "the best queries lose their pictures first"
    assert "pictures of the lists with the highest AP are left out" in path.read_text()
    assert "6 of 12 queries are on this page" in path.read_text()
    assert "Distances of all" not in path.read_text()
    assert thumbnails.Thumbnails(load, 100_000).size < thumbnails.Thumbnails(load, 10).size


def test_explanations_are_added_within_the_budget(features, tmp_path):
    asked = []

    def explain(query, gallery):
        asked.append(query)
        return [np.full((20, 60, 3), row, np.uint8) for row in gallery]

    result = ranking.evaluate(features)
    write = functools.partial(report.write_ranked_lists, tmp_path / "page.html", features, result, load, top=3)
    data = data_of(write(explain=explain, explained=2))
    first, second, *others = data["queries"]
    assert asked == [first["row"], second["row"]]
    assert not any("why" in entry for entry in others)
    assert len(first["why"]) == 3
    picture = Image.open(io.BytesIO(base64.b64decode(data["pictures"][first["why"][2]])))
    assert picture.size == (60, 20)
    thumbs = thumbnails.Thumbnails(load, 1, budget=1)
    assert (thumbs.add(load("query", 1)), thumbs.add(load("query", 1))) == (0, -1)


def test_cameras_are_counted_as_in_the_names(features, tmp_path):
    names = {
        f"{side}_names": [
            f"{side}{row}_c{camera + 1}.jpg" for row, camera in enumerate(getattr(features, f"{side}_cams"))
        ]
        for side in ("query", "gallery")
    }
    named = dataclasses.replace(features, **names)
    data = data_of(report.write_ranked_lists(tmp_path / "page.html", named, ranking.evaluate(named), load))
    assert all(f"_c{entry['camera']}." in entry["name"] for entry in (*data["queries"], *data["gallery"]))
    own = dataclasses.replace(named, meta={"cameras": {"0": "<door>", "1": 7, "2": ""}})
    assert own.camera_labels() == {0: "<door>", 1: "2", 2: "3"}
    assert dataclasses.replace(named, meta={"cameras": 3}).camera_labels()[0] == "1"


def test_one_person_has_a_page_without_a_threshold(tmp_path):
    alone = FeatureSet(np.eye(2), np.eye(2), [1, 1], [1, 1], [0, 0], [1, 1])
    path = report.write_page(tmp_path / "page.html", suite.run("one", alone, suite.Protocol()), load)
    assert "Distances of all" not in path.read_text()
    assert data_of(path)["queries"][0]["ap"] == 1


def test_an_image_that_cannot_be_read_leaves_no_page(features, tmp_path):
    def broken(side, row):
        raise errors.UserError("damaged")

    with pytest.raises(errors.UserError, match="damaged"):
        report.write_ranked_lists(tmp_path / "new" / "page.html", features, ranking.evaluate(features), broken)
    assert not list(tmp_path.iterdir())


def test_headline_comes_from_the_meta_data(features):
    known = {"weights": {"run": "mine", "step": 7}, "model": {"name": "bot"}}
    facts = report.about(dataclasses.replace(features, meta=known))
    assert (facts["run"], facts["step"], facts["model"], facts["weights"]) == ("mine", "7", "bot", "")
    foreign = report.about(dataclasses.replace(features, meta={"model": "theirs", "weights": "x.pth"}), step=9)
    assert (foreign["run"], foreign["step"], foreign["model"], foreign["weights"]) == ("", "9", "theirs", "x.pth")
    assert re.fullmatch(r"\d+ \w+ \d{4}, \d\d:\d\d UTC", facts["made"])


def test_charts_survive_extremes():
    for values in (np.zeros(1), np.ones(50), np.linspace(0, 1, 7)):
        assert charts.cmc_curve(values).count("<circle") >= 1
    assert "nan" not in charts.ap_histogram(np.array([np.nan, 0.0, 1.0]))
    for edges in ([0.0, 1e-6], [-3.0, 1e9], [0.9, 1.1]):
        counts = np.array([3]), np.array([0])
        drawn = charts.distance_histogram(verification.Histogram(np.array(edges), *counts), 0.0, float("inf"))
        assert "nan" not in drawn
        assert "<polygon" in drawn


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
    data = data_of(path)
    people = {entry["identity"] for entry in data["queries"]} | {image["person"] for image in data["gallery"]}
    assert {"an<na>", "2", "id 2"} <= people
    assert "an<na>" not in path.read_text()
    assert dataclasses.replace(features, meta={"people": ["anna"]}).person(0) == ""
