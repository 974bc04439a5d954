"""The map of embeddings: places, what is on the page, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import re

import numpy as np
import pytest

from reid_jax import errors
from reid_jax.cli import explain as command
from reid_jax.data.feature_set import FeatureSet
from reid_jax.explain import embedding_map, projection

HOSTILE = '</script><img src=x onerror="alert(1)">'


@pytest.fixture(scope="module")
def features():
    generator = np.random.default_rng(0)
    ids = np.array([1, 1, 2, 3]), np.array([1, 2, 2, 3, 0, 0, -1, 4])
    arrays = [generator.standard_normal((len(one), 6)).astype(np.float32) for one in ids]
    cams = [np.arange(len(one)) % 2 for one in ids]
    names = [[f"{side}{row}{HOSTILE}.jpg" for row in range(len(one))] for side, one in zip("qg", ids)]
    return FeatureSet(*arrays, *ids, *cams, *names, meta={"dataset": HOSTILE, "people": {"2": HOSTILE}})


def image(side, row):
    return np.full((8, 4, 3), row if side == "query" else 100 + row, np.uint8)


def test_a_page_holds_every_image_but_junk_as_text(features, tmp_path):
    path = embedding_map.write(tmp_path / "out" / "map.html", features, image, method="pca")
    page = path.read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert len(data["points"]) == 11
    assert sum(1 for point in data["points"] if point[2] == 0) == 4
    assert [data["known"][point[3]] for point in data["points"]].count(False) == 2  # the distractors
    assert HOSTILE in data["people"]
    assert "<img src=x" not in page
    assert "default-src 'none'" in page
    assert all(0 <= place <= 1 for point in data["points"] for place in point[:2])
    assert len(data["pictures"]) == 11


def test_people_are_chosen_whole_and_distractors_last(features):
    query, gallery = embedding_map.choose(features, 5)
    ids = features.query_ids[query].tolist() + features.gallery_ids[gallery].tolist()
    assert len(ids) == 5
    assert not {-1, 0} & set(ids)
    whole = [sum((side == person).sum() for side in (features.query_ids, features.gallery_ids)) for person in set(ids)]
    assert sorted(ids.count(person) for person in set(ids))[1:] == sorted(whole)[1:]


def test_principal_components_keep_the_two_largest_directions():
    generator = np.random.default_rng(1)
    vectors = generator.standard_normal((200, 5)) * [1, 20, 1, 7, 1]
    places = projection.project(vectors, "pca")
    for column, axis in ((0, 1), (1, 3)):
        assert abs(np.corrcoef(places[:, column], vectors[:, axis])[0, 1]) > 0.95
    assert places.min() == 0
    assert places.max() == 1


def test_slots_become_one_vector_of_unit_length():
    values = np.random.default_rng(0).standard_normal((3, 2, 4))
    unit = embedding_map.unit_vectors(values, np.array([[1, 0], [1, 1], [0.5, 0.5]]))
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1)
    assert not unit[0, 4:].any()


def test_refusals(features, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.UserError, match="at least 4 images for a map, got 3"):
        projection.project(np.eye(3), "pca")
    with pytest.raises(errors.UserError, match="unknown method of the map 'umap'"):
        projection.project(np.eye(5), "umap")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(errors.UserError, match=r"scikit-learn for a map by t-SNE.*reid_jax\[map\]"):
        projection.project(np.eye(5))
    features.save(tmp_path / "f.npz")
    for arguments, message in (
        ("map --output a.html", "either --run DIR or --features FILE"),
        ("map --features f.npz --method pca --output a.png", "end in .html"),
        ("map --features f.npz --method pca --output a.html", "expected --images DIR"),
        ("sheet --features f.npz", "are for the map of embeddings"),
    ):
        with pytest.raises(errors.UserError, match=message):
            command.main(arguments.split())
    assert [path.name for path in tmp_path.iterdir()] == ["f.npz"]
