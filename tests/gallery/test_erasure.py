"""Removed names and vectors are looked for in every byte, and found where they are."""

import numpy as np
import pytest

from reid_jax import errors
from reid_jax.gallery import audit, entries, erasure
from tests.gallery import conformance
from tests.helpers import small_galleries


def test_patterns_are_found_wherever_they_lie(tmp_path, monkeypatch):
    monkeypatch.setattr(erasure, "_AT_ONCE", 1000)
    random = np.random.default_rng(0)
    data = bytearray(random.integers(0, 256, 5000, np.uint8).tobytes())
    patterns = [random.integers(0, 256, size, np.uint8).tobytes() for size in (8, 32, 31, 100)]
    places = [0, 991, 2501, 4900]  # the second lies across two blocks
    for place, pattern in zip(places, patterns):
        data[place : place + len(pattern)] = pattern
    path = tmp_path / "file"
    path.write_bytes(data)
    absent = [b"absent as a whole", bytes(data[:7]) + b"!"]
    assert erasure.occurrences(path, [*patterns, *absent]) == set(patterns)
    assert erasure.occurrences(path, []) == set()


@pytest.fixture
def opened(tmp_path):
    features = small_galleries.drawn(queries=1, images=60, ties=False)
    with conformance.made(tmp_path / "g.gallery", features) as gallery:
        yield gallery


def test_a_change_that_cannot_be_logged_is_told(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(opened, "log", audit.Log(tmp_path / "none" / "log"))
    with pytest.raises(errors.UserError, match=r"1 entry was removed, but the log has no line .*: cannot write"):
        opened.remove(entries.Selection(ids=(3,)))


def test_compacting_proves_that_nothing_is_left(opened, monkeypatch):
    ids = (2, 4, 6)
    names = {opened.entry(id).file for id in ids}
    identity = opened.entry(1).identity or opened.entry(2).identity
    count = opened.remove(entries.Selection(identities=(identity,)))
    opened.remove(entries.Selection(ids=ids[1:] if opened.store.details([2]) == [] else ids))
    before = b"".join(path.read_bytes() for path in opened.store.files())
    assert any(name.encode() in before for name in names)  # in the list of what to look for
    proof = opened.compact()
    assert proof.vectors >= count + 2
    assert proof.names >= count + 2
    assert proof.scanned == sum(path.stat().st_size for path in opened.store.files())
    assert "none of" in proof.text()
    again = opened.compact()
    assert (again.names, again.vectors) == (0, 0)
    # A file that still holds something of a removed entry is found out.
    opened.remove(entries.Selection(ids=(10,)))
    untouched = type(opened.store).compact

    def leave_a_copy(store):
        removed = untouched(store)
        store.change({"note": '"' + removed.texts[0] + '"'})
        return removed

    monkeypatch.setattr(type(opened.store), "compact", leave_a_copy)
    with pytest.raises(errors.UserError, match=r"1 removed items .a name. are still in"):
        opened.compact()
    # The list of what to look for is kept, and the next time tells.
    monkeypatch.setattr(type(opened.store), "compact", untouched)
    opened.store.change({"note": "0"})
    proof = opened.compact()
    assert (proof.names, proof.vectors) == (1, 1)


def test_living_names_in_a_row_are_no_finding(tmp_path):
    features = small_galleries.drawn(queries=1, images=4, ties=False)
    with conformance.made(tmp_path / "g", features, rows=[]) as opened:
        named = {"identities": ["person 12", "person 1", "person 1", "somebody"], "cameras": ["x", "2", "3", "2"]}
        made = entries.Entries(["image-a", "image-b", "image-c", "image-d"], features.gallery_features, **named)
        opened.add(made, small_galleries.bound(features))
        opened.remove(entries.Selection(ids=(1, 4)))
        proof = opened.compact()
        assert (proof.names, proof.unclear, proof.short) == (1, 1, 2)  # somebody; person 12; two files of seven letters
        assert "could not be judged" in proof.text()
