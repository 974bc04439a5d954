"""Feature files: validation, errors, and reading what was written."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from reid_jax import errors
from reid_jax.data.feature_set import FeatureSet


def arrays(**changes):
    generator = np.random.default_rng(0)
    base = {
        "query_features": generator.standard_normal((3, 4)).astype(np.float32),
        "gallery_features": generator.standard_normal((5, 4)).astype(np.float32),
        "query_ids": np.array([1, 2, 3]),
        "gallery_ids": np.array([1, 2, 3, 0, -1]),
        "query_cams": np.array([0, 0, 0]),
        "gallery_cams": np.array([1, 1, 1, 1, 1]),
        "query_names": ["a.jpg", "b.jpg", "c.jpg"],
    }
    return base | changes


def with_nan(rows):
    features = arrays()["query_features"].copy()
    features[rows, 1] = np.nan
    return features


def test_round_trip(tmp_path):
    seen = np.full((3, 2), 0.5, np.float32), np.ones((5, 2), np.float32)
    slots = {f"{side}_features": arrays()[f"{side}_features"].reshape(-1, 2, 2) for side in ("query", "gallery")}
    first = FeatureSet(
        **arrays(**slots), query_visibility=seen[0], gallery_visibility=seen[1], meta={"metric": "cosine", "model": "m"}
    )
    first.save(tmp_path / "deep" / "f.npz")
    second = FeatureSet.load(tmp_path / "deep" / "f.npz")
    np.testing.assert_array_equal(first.query_features, second.query_features)
    np.testing.assert_array_equal(second.gallery_visibility, seen[1])
    assert second.query_names == ("a.jpg", "b.jpg", "c.jpg")
    assert second.metric == "cosine"
    assert second.meta["model"] == "m"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["f.npz"]


def test_defaults_and_junk():
    features = FeatureSet(**arrays())
    assert features.metric == "euclidean"
    assert features.gallery_names[4] == "gallery[4]"
    assert features.query_ids.dtype == np.int32
    assert features.without_junk().gallery_ids.tolist() == [1, 2, 3, 0]
    assert features.without_junk().without_junk().num_gallery == 4


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"query_features": with_nan([0, 2])}, r"2 of 3 rows hold NaN or infinity: rows 0 \(a.jpg\), 2 \(c.jpg\)"),
        ({"query_ids": np.array([1, 2])}, r"query_ids must have one entry per row of query_features \(3\)"),
        ({"gallery_cams": np.zeros(7, int)}, "gallery_cams must have one entry per row"),
        ({"query_names": ["a.jpg"]}, "query_names must have one entry per row"),
        ({"gallery_features": np.zeros((0, 4), np.float32)}, "gallery_features is empty"),
        ({"gallery_features": np.zeros((5, 6), np.float32)}, "same size"),
        ({"query_features": np.zeros((3, 4), np.float16)}, "float16"),
        ({"query_features": np.zeros((3, 4), complex)}, "real numbers"),
        ({"query_features": np.zeros(3, np.float32)}, "shape"),
        ({"query_ids": np.array(["x", "y", "z"])}, "integers"),
        ({"query_ids": np.array([1, 2, 2**40])}, "32-bit"),
        ({"query_visibility": np.ones((3, 2))}, r"query_visibility must be \(images, slots\)"),
    ],
)
def test_bad_arrays(changes, sentence):
    with pytest.raises(errors.UserError, match=sentence) as caught:
        FeatureSet(**arrays(**changes))
    assert "\n" not in str(caught.value)


def test_visibility_is_given_for_both_or_neither_and_in_range():
    slots = {f"{side}_features": arrays()[f"{side}_features"].reshape(-1, 2, 2) for side in ("query", "gallery")}
    with pytest.raises(errors.UserError, match="both"):
        FeatureSet(**arrays(**slots), query_visibility=np.ones((3, 2)))
    with pytest.raises(errors.UserError, match=r"\[0, 1\]"):
        FeatureSet(**arrays(**slots), query_visibility=np.full((3, 2), 2.0), gallery_visibility=np.ones((5, 2)))


def test_all_junk():
    with pytest.raises(errors.UserError, match="all of them are junk"):
        FeatureSet(**arrays(gallery_ids=np.full(5, -1))).without_junk()


def test_bad_files(tmp_path):
    path = tmp_path / "f.npz"
    with pytest.raises(errors.UserError, match="no features file"):
        FeatureSet.load(path)
    path.write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(errors.UserError, match="expected a features file"):
        FeatureSet.load(path)
    np.savez(path, features=np.zeros((2, 3)), names=["a", "b"])
    with pytest.raises(errors.UserError, match="those of a plain folder of images"):
        FeatureSet.load(path)
    np.savez(path, **arrays(query_features=np.array([{"a": 1}] * 3, dtype=object)))
    with pytest.raises(errors.UserError, match="expected a features file"):
        FeatureSet.load(path)  # pickled objects are never loaded
    np.save(tmp_path / "q.npy", np.ones((6, 16)))
    with pytest.raises(errors.UserError, match=r"one array without names \(\.npy\)"):
        FeatureSet.load(tmp_path / "q.npy")
    np.savez(path, **arrays(), meta="[1")
    with pytest.raises(errors.UserError, match="JSON"):
        FeatureSet.load(path)
    np.savez(path, **arrays(query_features=with_nan([1])))
    with pytest.raises(errors.UserError, match=r"f.npz: query_features must be finite.*row"):
        FeatureSet.load(path)


@pytest.mark.parametrize("seed", range(3))
def test_damaged_files_are_one_sentence(tmp_path, seed):
    """Bytes changed, cut out or repeated anywhere: an ordinary set, or one sentence."""
    path, random = tmp_path / "f.npz", np.random.default_rng(seed)
    FeatureSet(**arrays(), meta={"metric": "cosine"}).save(path)
    whole = path.read_bytes()
    for _ in range(60):
        content = bytearray(whole)
        for place in random.integers(0, len(content), random.integers(1, 20)):
            content[place] = random.integers(0, 256)
        first, last = sorted(random.integers(0, len(content), 2))
        path.write_bytes([bytes(content), content[:first] + content[last:], content[:last] + content[first:]][seed])
        with contextlib.suppress(errors.UserError):
            assert np.isfinite(FeatureSet.load(path).query_features).all()


@pytest.mark.parametrize(
    "key", ["query_features", "gallery_ids", "query_cams", "gallery_names", "meta", "query_visibility"]
)
def test_arrays_of_other_kinds_are_one_sentence(tmp_path, key):
    path = tmp_path / "f.npz"
    dates = np.array(["2020-01-01"], "datetime64[D]")
    fields = np.zeros(2, [("a", "f4")])
    kinds = (
        np.zeros(()),
        np.zeros((3, 0)),
        np.ones(3, complex),
        dates,
        fields,
        np.array("x"),
        np.full((3, 3), 1e300),
        b"",
    )
    for value in kinds:
        np.savez(path, **{**arrays(), key: value})
        message = ""
        try:
            assert np.isfinite(FeatureSet.load(path).query_features).all()
        except errors.UserError as error:
            message = str(error)
        assert "\n" not in message
        assert len(message) < 1000


def test_float16_file_is_refused_unless_asked_for(tmp_path):
    path = tmp_path / "half.npz"
    halves = {f"{side}_features": arrays()[f"{side}_features"].astype(np.float16) for side in ("query", "gallery")}
    np.savez(path, **arrays(**halves))
    with pytest.raises(errors.UserError, match="--allow-float16"):
        FeatureSet.load(path)
    loaded = FeatureSet.load(path, allow_float16=True)
    assert loaded.query_features.dtype == np.float32
    np.testing.assert_array_equal(loaded.query_features, halves["query_features"].astype(np.float32))
