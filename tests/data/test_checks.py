"""Checks of a test set before it is evaluated: cameras, people in common, queries without a match."""

import numpy as np
import pytest

from reid_jax import errors
from reid_jax.data import checks, records


def _split(name, pids, camids):
    pids, camids = np.asarray(pids, np.int32), np.asarray(camids, np.int32)
    return records.Split(f"toy/{name}", [None] * len(pids), pids, camids, tuple(map(str, range(len(pids)))))


@pytest.mark.parametrize(
    ("query", "gallery", "cause"),
    [
        (([1, 2], [0, 0]), ([1, 2], [0, 0]), "all images come from one camera"),
        (([1, 2], [0, 1]), ([1, 1, 2], [0, 0, 1]), "each person was seen by one camera only"),
    ],
)
def test_single_camera_gallery_is_explained(query, gallery, cause):
    query, gallery = _split("query", *query), _split("gallery", *gallery)
    with pytest.raises(errors.UserError) as caught:
        checks.check_protocol(query, gallery)
    assert cause in str(caught.value)
    assert "same_camera_filter=False" in str(caught.value)
    assert checks.check_protocol(query, gallery, same_camera_filter=False) == 0


def test_unknown_cameras_are_never_the_same_camera():
    query, gallery = _split("query", [1, 2], [-1, 0]), _split("gallery", [1, 2, 2], [-1, 0, -1])
    assert checks.queries_without_match(query, gallery).tolist() == [False, False]
    assert checks.check_protocol(query, _split("gallery", [1, 2], [-1, 0])) == 1


def test_no_common_person_is_another_sentence():
    query, gallery = _split("query", [1, 2], [0, 0]), _split("gallery", [3, 0, -1], [1, 1, 1])
    for same_camera_filter in (True, False):
        with pytest.raises(errors.UserError, match=r"no identity of toy/query is in toy/gallery"):
            checks.check_protocol(query, gallery, same_camera_filter)


def test_empty_query_or_gallery():
    with pytest.raises(errors.UserError, match="toy/gallery is empty"):
        checks.check_protocol(_split("query", [1], [0]), _split("gallery", [], []))


def test_queries_without_match_agrees_with_the_definition():
    rng = np.random.default_rng(5)
    query = _split("query", rng.integers(1, 12, 60), rng.integers(-1, 3, 60))
    gallery = _split("gallery", rng.integers(-1, 12, 25), rng.integers(-1, 3, 25))
    for keep_camera in (True, False):
        expected = [
            not any(
                g == q and (d != c or d == -1 or not keep_camera)
                for g, d in zip(gallery.pids.tolist(), gallery.camids.tolist())
            )
            for q, c in zip(query.pids.tolist(), query.camids.tolist())
        ]
        found = checks.queries_without_match(query, gallery, keep_camera)
        assert found.tolist() == expected
        assert 0 < found.sum() < 60
