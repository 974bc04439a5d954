"""What every store of a gallery has to do; run over SQLite by `test_stores`, over PostgreSQL by `postgres`."""

from __future__ import annotations

import pathlib
import tempfile
import threading

import numpy as np
import pytest

from reid_jax import errors
from reid_jax.evaluation import distance_blocks, ranking
from reid_jax.gallery import answers, entries, gallery
from tests.helpers import small_galleries


def exact(place, log=None):
    """Rankings, ties and distances are the evaluation's to the last bit, for each metric and for slots."""
    for metric, slots in (("cosine", 0), ("euclidean", 0), ("cosine", 3)):
        features = small_galleries.drawn(metric, slots=slots, queries=20, images=700)
        with made(place(f"exact_{metric}_{slots}"), features, log) as opened:
            now = opened.snapshot()
            everything = opened.looked_at(now, entries.Filter())
            query, side = distance_blocks.prepare_both(features, metric)
            expected = distance_blocks.pairwise(query, side)
            order = np.argsort(expected, axis=1, kind="stable")
            assert len(np.unique(expected[0])) < 700  # there are ties
            asked = answers.Query(features.query_features, opened.binding, visibility := features.query_visibility)
            for row, reply in enumerate(opened.query(asked, k=6)):
                assert [hit.entry.id - 1 for hit in reply.hits] == order[row, :6].tolist()
                shown = distance_blocks.readable(expected[row, order[row, :6]], metric, bool(slots), query.scale)
                assert [hit.distance for hit in reply.hits] == shown.tolist()
            for k in (5, 700):
                found = opened.rank(features.query_features, everything, k, visibility)
                for row, (rows, values) in enumerate(found):
                    np.testing.assert_array_equal(rows, order[row, :k])
                    np.testing.assert_array_equal(values, expected[row, rows])
            compare_scores(features, found)


def compare_scores(features, found):
    """CMC, mAP and mINP of whole rankings equal those of `evaluate.py`, to the last bit."""
    places = np.empty((features.num_query, features.num_gallery), np.float32)
    for row, (rows, _) in enumerate(found):
        places[row, rows] = np.arange(len(rows))
    labels = (features.query_ids, features.gallery_ids, features.query_cams, features.gallery_cams)
    mine, theirs = ranking.rank_metrics_from_distances(places, *labels), ranking.evaluate(features)
    assert mine.scores() == theirs.scores()
    np.testing.assert_array_equal(mine.ap, theirs.ap)
    np.testing.assert_array_equal(mine.cmc, theirs.cmc)


def made(place, features, log=None, rows=None):
    """A gallery with the entries of a feature set; with a log where a file for it is given."""
    opened = gallery.Gallery.create(place, small_galleries.bound(features), audited=log is not None, log=log)
    opened.add(small_galleries.entries(features, rows), small_galleries.bound(features))
    return opened


def query_of(features, rows):
    """Some queries of a feature set."""
    return answers.Query(features.query_features[rows], small_galleries.bound(features))


def filters(place, log=None):
    """Filters act before the top k, and an empty result is a sentence."""
    features = small_galleries.drawn(queries=3, images=300)
    known = small_galleries.entries(features)
    with made(place("filters"), features, log) as opened:
        conditions = [
            (entries.Filter(cameras=("c1", "c3")), lambda e: e.camera in ("c1", "c3")),
            (entries.Filter(other_than=("c1",)), lambda e: e.camera != "c1"),
            (entries.Filter(since=1100, until=1150), lambda e: e.time is not None and 1100 <= e.time <= 1150),
            (entries.Filter(known=True), lambda e: e.identity is not None),
            (entries.Filter(known=False, cameras=("c2",)), lambda e: e.identity is None and e.camera == "c2"),
            (entries.Filter(identities=("person 3",)), lambda e: e.identity == "person 3"),
            (entries.Filter(leave_out=(1, 2, 3)), lambda e: e.id > 3),
        ]
        whole = opened.query(query_of(features, [0]), k=300)[0]
        assert whole.looked_at == len(whole.hits) == 300
        assert whole.nobody is None
        for chosen, passes in conditions:
            reply = opened.query(query_of(features, [0]), k=300, chosen=chosen)[0]
            assert [hit.entry for hit in reply.hits] == [hit.entry for hit in whole.hits if passes(hit.entry)]
            few = opened.query(query_of(features, [0]), k=4, chosen=chosen)[0]
            assert few.hits == reply.hits[:4]
        one = whole.hits[0].entry
        row = one.id - 1
        assert (one.file, one.identity, one.camera, one.time, one.track) == tuple(
            values[row] for values in (known.files, known.identities, known.cameras, known.times, known.tracks)
        )
        assert opened.thumbnail(2) == b"picture 1"
        assert opened.thumbnail(1) is None
        with pytest.raises(errors.UserError, match=r"none of the 300 entries .* passes the filter \(camera c9\)"):
            opened.query(query_of(features, [0]), chosen=entries.Filter(cameras=("c9",)))
        with pytest.raises(errors.UserError, match=r"\(not the query itself, not expired\)"):
            opened.query(query_of(features, [0]), chosen=entries.Filter(leave_out=tuple(range(1, 301))))


def changes(place, log=None):
    """Additions and removals are found, or not found any more, also after opening again; numbers are not used twice."""
    features = small_galleries.drawn(queries=2, images=400, ties=False)
    where = place("changes")
    with made(where, features, log, range(300)) as opened:
        binding = small_galleries.bound(features)
        asked = query_of(features, [0])
        before = opened.query(asked, k=300)[0]
        with gallery.Gallery.open(where, log=log) as other:
            assert [h.entry for h in other.query(asked, k=300)[0].hits] == [h.entry for h in before.hits]
            added = opened.add(small_galleries.entries(features, range(290, 400)), binding, skip_existing=True)
            assert len(added.ids) == 100
            assert len(added.skipped) == 10
            # Another process sees it without opening again.
            assert other.query(asked, k=500)[0].looked_at == 400
            fresh = other.query(asked, k=500)[0]
            assert opened.query(asked, k=500)[0].hits == fresh.hits
            removals = [
                (entries.Selection(files=("gallery/7.jpg", "gallery/8.jpg")), lambda e: e.file not in _TWO),
                (entries.Selection(identities=("person 3",)), lambda e: e.identity != "person 3"),
                (entries.Selection(tracks=("track 5",)), lambda e: e.track != "track 5"),
                (entries.Selection(since=1050, until=1060), lambda e: not (e.time and 1050 <= e.time <= 1060)),
                (entries.Selection(ids=(400, 399)), lambda e: e.id not in (399, 400)),
            ]
            left = [hit.entry for hit in fresh.hits]
            for selection, stays in removals:
                count = opened.remove(selection)
                assert count == sum(not stays(entry) for entry in left) > 0
                left = [entry for entry in left if stays(entry)]
                for each in (opened, other):
                    assert [hit.entry for hit in each.query(asked, k=500)[0].hits] == left
        with pytest.raises(errors.UserError, match=r"nothing in the gallery .* fits identity person 3"):
            opened.remove(entries.Selection(identities=("person 3",)))
        again = opened.add(small_galleries.entries(features, [398, 399]), binding)
        assert again.ids.tolist() == [401, 402]
        with pytest.raises(errors.UserError, match="2 of the 3 images are in the gallery already"):
            opened.add(small_galleries.entries(features, [6, 7, 397]), binding)
        opened.store.compact()
        with gallery.Gallery.open(where, log=log) as reopened:
            assert len(reopened.query(asked, k=500)[0].hits) == len(left) + 2


_TWO = ("gallery/7.jpg", "gallery/8.jpg")


def grows_and_shrinks(place, log=None):
    """Snapshots that a reader holds never change, however the gallery does."""
    features = small_galleries.drawn(queries=2, images=300, ties=False)
    binding = small_galleries.bound(features)
    with made(place("grows"), features, log, range(10)) as opened:
        first = opened.snapshot()
        held = first.side.features.copy(), first.alive.copy()
        opened.add(small_galleries.entries(features, range(10, 300)), binding)
        opened.remove(entries.Selection(ids=tuple(range(1, 6))))
        second = opened.snapshot()
        assert (first.count, second.count) == (10, 295)
        opened.remove(entries.Selection(ids=tuple(range(1, 250))))
        assert opened.snapshot().count == 51
        assert opened.snapshot().side.num_rows == 51  # read again, for most rows were gone
        np.testing.assert_array_equal(first.side.features, held[0])
        np.testing.assert_array_equal(first.alive, held[1])
        opened.remove(entries.Selection(ids=tuple(range(1, 301))))
        with pytest.raises(errors.UserError, match=r"the gallery .* is empty; add images"):
            opened.query(query_of(features, [0]))


def expiry(place, log=None):
    """Expired entries are not found, and `expire` removes them."""
    features = small_galleries.drawn(queries=1, images=20)
    binding = small_galleries.bound(features)
    with made(place("expiry"), features, log, range(10)) as opened:
        opened.add(small_galleries.entries(features, range(10, 15)), binding, keep=-1.0)
        opened.add(small_galleries.entries(features, range(15, 20)), binding, keep=None)
        assert opened.info()["expired"] == 5
        assert opened.query(query_of(features, [0]), k=30)[0].looked_at == 15
        assert opened.expire()[0] == 5
        assert opened.info()["entries"] == 15
        assert opened.expire(now=1e12)[0] == 10
        assert opened.expire(now=1e12)[0] == 0


def threads(place, log=None):
    """Readers in several threads see whole states, whatever a writer does, and nobody waits for long."""
    features = small_galleries.drawn(queries=2, images=400, ties=False)
    binding = small_galleries.bound(features)
    broken, over = [], threading.Event()
    with made(place("threads"), features, log, range(40)) as opened:

        def ask():
            try:
                while not over.is_set():
                    count = opened.query(query_of(features, [0]), k=500)[0].looked_at
                    assert count % 40 == 0
            except BaseException as error:
                broken.append(error)

        readers = [threading.Thread(target=ask) for _ in range(3)]
        for reader in readers:
            reader.start()
        for first in range(40, 400, 40):
            opened.add(small_galleries.entries(features, range(first, first + 40)), binding)
        opened.remove(entries.Selection(ids=tuple(range(41, 81))))
        over.set()
        for reader in readers:
            reader.join()
        assert not broken, broken
        assert opened.query(query_of(features, [0]), k=500)[0].looked_at == 360


def logged_once(place, log=None):
    """A change whose process is killed before, while or after it writes the line has one line, and one alone."""
    with tempfile.TemporaryDirectory() as folder:  # a server has no folder for the log
        _logged_once(place("logged"), pathlib.Path(folder) / "logged.audit.jsonl")


def _logged_once(where, file):
    features = small_galleries.drawn(queries=1, images=12)
    with made(where, features, file, range(9)) as opened:
        note = opened._reminder("remove", "kim", "test")
        for id in (1, 2):
            opened.store.remove(np.asarray([id]), note)  # killed before the line, twice
        assert opened.log.check() == 1
        assert len(opened.store.unlogged()) == 2
        assert not any("unlogged" in name for name in opened.store.settings())
    with gallery.Gallery.open(where, log=file) as opened:
        assert [line.get("ids") for line in opened.log.lines()] == [[[1, 9]], [[1, 1]], [[2, 2]]]
        assert opened.store.unlogged() == {}
        with pytest.MonkeyPatch.context() as patched:  # killed after the line, before its note is removed
            patched.setattr(type(opened.store), "logged", refused)
            assert opened.remove(entries.Selection(ids=(3,)), who="kim", why="test") == 1
        assert len(opened.store.unlogged()) == 1
        opened.set_threshold(None, who="kim", why="test")
        assert opened.store.unlogged() == {}
        lines = opened.log.lines()
        assert [(line["event"], line.get("ids")) for line in lines[3:]] == [("remove", [[3, 3]]), ("calibrate", None)]
        assert len({line["change"] for line in lines}) == opened.log.check() == 5
        assert {line["gallery"] for line in lines} == {opened.store.id}


def refused(store, names):
    """A store that cannot be written at this moment."""
    raise errors.UserError("another process is writing")


ALL = (exact, filters, changes, grows_and_shrinks, expiry, threads, logged_once)
