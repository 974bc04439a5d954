"""The conformance suite over the default store, and what is SQLite's own."""

import sqlite3

import numpy as np
import pytest

from reid_jax import errors
from reid_jax.gallery import entries, gallery
from tests.gallery import conformance
from tests.helpers import small_galleries


@pytest.mark.parametrize("check", conformance.ALL, ids=lambda check: check.__name__)
def test_sqlite_conforms(check, tmp_path):
    check(lambda name: tmp_path / f"{name}.gallery")


@pytest.fixture
def small(tmp_path):
    features = small_galleries.drawn(queries=2, images=30)
    with conformance.made(tmp_path / "small.gallery", features) as opened:
        yield features, opened


def test_one_writer_at_a_time_and_readers_go_on(small, tmp_path, monkeypatch):
    features, opened = small
    other = sqlite3.connect(tmp_path / "small.gallery", isolation_level=None)
    other.execute("begin immediate")
    opened.store._connection.execute("pragma busy_timeout = 20")
    with pytest.raises(errors.UserError, match=r"another process is writing to the gallery .* Nothing was changed"):
        opened.remove(entries.Selection(ids=(1,)))
    assert len(opened.query(conformance.query_of(features, [0]), k=50)[0].hits) == 30
    other.execute("rollback")
    other.close()
    assert opened.remove(entries.Selection(ids=(1,))) == 1


def test_a_full_disk_changes_nothing(small):
    features, opened = small
    pages = opened.store._query("pragma page_count")[0][0]
    opened.store._query(f"pragma max_page_count = {pages}")
    more = small_galleries.drawn(images=2000, seed=1)
    named = small_galleries.entries(more)
    new = entries.Entries([f"new/{name}" for name in named.files], named.features)
    with pytest.raises(errors.UserError, match=r"cannot write the gallery .*no space left on device.*Nothing was"):
        opened.add(new, small_galleries.bound(features))
    assert opened.snapshot().count == 30


def test_what_is_no_gallery_is_refused(small, tmp_path):
    features, opened = small
    with pytest.raises(errors.UserError, match="exists already; add to it"):
        gallery.Gallery.create(tmp_path / "small.gallery", opened.binding)
    for name, content, message in (
        ("none", None, "found nothing; make one with search.py build"),
        ("text", b"hello" * 50, "it is another file"),
        ("other", None, "it is another file"),
        ("new", None, "has format 99 of galleries, this version of reid_jax reads 1"),
    ):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        if name == "other":
            sqlite3.connect(path).executescript("create table a (b)")
        if name == "new":
            with gallery.Gallery.create(path, opened.binding, audited=False) as future:
                future.store._query("update settings set value = '99' where name = 'format'")
        with pytest.raises(errors.UserError, match=message):
            gallery.Gallery.open(path)
    damaged = tmp_path / "damaged"
    opened.store.compact()
    data = (tmp_path / "small.gallery").read_bytes()
    damaged.write_bytes(data[:16384] + b"\xff" * 16384 + data[32768:])
    with pytest.raises(errors.UserError, match=r"is damaged|cannot be used"), gallery.Gallery.open(damaged) as opened:
        opened.query(conformance.query_of(features, [0]))


def test_names_and_vectors_leave_the_file(small, tmp_path):
    features, opened = small
    name = opened.entry(2).file
    identity = opened.entry(2).identity
    vector = features.gallery_features[1].tobytes()
    path = tmp_path / "small.gallery"
    contents = lambda: b"".join(file.read_bytes() for file in opened.store.files())
    assert vector in contents()
    opened.remove(entries.Selection(ids=(2,)))
    removed = opened.store.compact()
    assert name in removed.texts
    assert name.encode() not in contents().replace(f"{name[:-4]}0.jpg".encode(), b"")
    assert vector[:32] not in contents() or (features.gallery_features[2:] == features.gallery_features[1]).all(1).any()
    assert identity is None or identity.encode() in contents() or identity in removed.texts
    assert opened.store.free_pages() == 0
    assert oct(path.stat().st_mode)[-3:] == "600"
    assert opened.store._query("pragma page_size") == [(16384,)]  # several vectors in each


def test_features_far_from_the_origin_rank_like_the_evaluation(tmp_path):
    drawn = small_galleries.drawn("euclidean", queries=3, images=600, ties=False)
    moved = conformance.small_galleries.drawn("euclidean", queries=3, images=600, ties=False)
    object.__setattr__(moved, "query_features", drawn.query_features + np.float32(1000))
    object.__setattr__(moved, "gallery_features", drawn.gallery_features + np.float32(1000))
    from reid_jax.evaluation import distance_blocks

    expected = distance_blocks.pairwise(*distance_blocks.prepare_both(moved, "euclidean"))
    with conformance.made(tmp_path / "far", moved) as opened:
        now = opened.snapshot()
        assert now.placement.changes
        for row, (rows, values) in enumerate(opened.rank(moved.query_features, now.alive, 20)):
            np.testing.assert_array_equal(rows, np.argsort(expected[row], kind="stable")[:20])
            np.testing.assert_array_equal(values, expected[row, rows])
        # Vectors around the origin take the place of most: they are placed anew.
        opened.remove(entries.Selection(ids=tuple(range(1, 301))))
        near = small_galleries.drawn("euclidean", images=900, seed=3)
        names = [f"near/{row}" for row in range(900)]
        opened.add(entries.Entries(names, near.gallery_features), small_galleries.bound(moved))
        assert not opened.snapshot().placement.changes
        assert opened.snapshot().count == 1200
