"""A gallery in one SQLite file: no server, no further package, safe against kills.

Changes are transactions in write-ahead mode, flushed to the disk: a killed writer leaves the state before or after,
and readers go on meanwhile. Freed space is overwritten with zeros (`secure_delete`); `compact` writes the file anew
and empties the write-ahead log, so that no file holds anything of removed entries.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from reid_jax import errors, file_io
from reid_jax.gallery import binding as binding_lib
from reid_jax.gallery import sql_store, store

_APPLICATION = 0x52654964  # "ReId" in the header of the file
_PAGE = 16_384  # several vectors per page; in pages of 4,096 bytes one of 512 numbers would take a whole page
_WAIT = 5.0  # seconds for another writer's transaction
_SIDECARS = ("-wal", "-shm", "-journal")

_TABLES = """
create table settings (name text primary key, value text not null);
create table entries (
    id integer primary key, file text not null unique, identity text, camera text, time real, track text,
    added real not null, expires real, folder text
);
create index entries_identity on entries (identity) where identity is not null;
create index entries_track on entries (track) where track is not null;
create index entries_time on entries (time) where time is not null;
create index entries_expires on entries (expires) where expires is not null;
create table vectors (id integer primary key, vector blob not null, visibility blob);
create table thumbnails (id integer primary key, image blob not null);
create table removed (kind text not null, content blob not null);
"""


class SqliteStore(sql_store.SqlStore):
    """A gallery in a SQLite file."""

    def __init__(self, path: pathlib.Path) -> None:
        """Opens a gallery.

        Raises:
            UserError: there is no gallery at that path, or one of another version.
        """
        super().__init__(file_io.shown(path))
        self.path = path.expanduser()
        if not self.path.is_file():
            found = "a folder" if self.path.is_dir() else "nothing"
            raise errors.UserError(
                f"expected a gallery at {self.name}, found {found}; make one with search.py build, or give another."
            )
        with file_io.reading(self.path, "a gallery", "give another, or build it again"), self.path.open("rb") as file:
            head = file.read(100)
        if head[:16] != b"SQLite format 3\0" or int.from_bytes(head[68:72], "big") != _APPLICATION:
            raise errors.UserError(
                f"expected a gallery at {self.name}, it is another file; give one that search.py build has made."
            )
        self._connection = _connect(self.path)
        self._load()

    @classmethod
    def create(cls, path: pathlib.Path, binding: binding_lib.Binding, settings: Mapping[str, str]) -> SqliteStore:
        """Makes an empty gallery, whole or not at all, see `store.create`."""
        path = path.expanduser()
        if path.exists():
            raise errors.UserError(
                f"{file_io.shown(path)} exists already; add to it with search.py add, or give another place."
            )
        file_io.make_folder(path.parent, "the folder of the gallery")
        for name in _SIDECARS:  # of a gallery that was deleted by hand: they would be taken for this one's
            with contextlib.suppress(OSError):
                path.with_name(path.name + name).unlink()
        with file_io.replacing(path, "the gallery") as beside:
            made = cls.__new__(cls)
            sql_store.SqlStore.__init__(made, file_io.shown(path))
            made.path = beside
            beside.touch(mode=0o600)  # only its owner may read it, and the sidecars that SQLite makes
            made._connection = sqlite3.connect(beside, isolation_level=None)
            with contextlib.closing(made._connection), made._sentences():
                made._connection.execute(f"pragma page_size = {_PAGE}")  # before anything is written
                made._connection.execute(f"pragma application_id = {_APPLICATION}")
                # One transaction with the tables: this file is not in write-ahead mode yet.
                made._connection.executescript(f"begin;{_TABLES}")
                made._fill(binding, settings)
                made._connection.execute("commit")
        return cls(path)

    @contextlib.contextmanager
    def _sentences(self) -> Iterator[None]:
        """Turns errors of the database into sentences."""
        try:
            yield
        except (sqlite3.Error, UnicodeError) as error:  # messages about a damaged file can hold any byte
            raise self._sentence(error) from error

    def _sentence(self, error: Exception) -> errors.UserError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return errors.UserError(
                f"another process is writing to the gallery {self.name}; wait until it has ended, and try again. "
                "Nothing was changed."
            )
        if code == sqlite3.SQLITE_FULL:
            return errors.UserError(
                f"cannot write the gallery {self.name} (no space left on device); free some space on that disk. "
                "Nothing was changed."
            )
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            return errors.UserError(
                f"cannot write the gallery {self.name} (permission denied); give a place that can be written, with "
                "its folder. Nothing was changed."
            )
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return errors.UserError(
                f"the gallery {self.name} is damaged ({errors.reason(error)}); restore a copy, or build it again."
            )
        if code == sqlite3.SQLITE_IOERR:
            return errors.UserError(
                f"cannot read or write the gallery {self.name} ({errors.reason(error)}); look at that disk. "
                "Nothing was changed."
            )
        return errors.UserError(
            f"the gallery {self.name} cannot be used ({errors.reason(error)}); restore a copy, or build it again."
        )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._sentences():
            self._connection.execute("begin immediate")
            try:
                yield
                self._connection.execute("commit")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("rollback")
                raise

    def _reading(self) -> contextlib.AbstractContextManager[None]:
        return self._sentences()

    def _query(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._connection.execute(statement, parameters).fetchall()

    def _many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        self._connection.executemany(statement, rows)

    def _encode(self, vector: np.ndarray) -> bytes:
        return vector.astype("<f4").tobytes()

    def _decode(self, values: Sequence[bytes]) -> np.ndarray:
        expected = 4 * int(np.prod(self.binding.shape))
        if any(len(value) != expected for value in values):
            raise errors.UserError(
                f"the gallery {self.name} is damaged (a vector has another length); restore a copy, or build it again."
            )
        return (
            np.frombuffer(b"".join(values), "<f4")
            .reshape(len(values), *self.binding.shape)
            .astype(np.float32, copy=False)
        )

    def compact(self) -> store.Removed:
        """Writes the file anew without free space, empties the log, and returns what was removed since the last time.

        Raises:
            UserError: another process reads or writes at this moment, or the disk has no room for a second copy.
        """
        with self._lock:
            with self._transaction():
                removed = self._removed()
                self._query("delete from removed")
            with self._sentences():
                self._connection.execute("vacuum")
                busy = self._query("pragma wal_checkpoint(truncate)")[0][0]
            if busy:
                raise errors.UserError(
                    f"the log of the gallery {self.name} cannot be emptied while another process reads it; end that, "
                    "and compact again."
                )
        return removed

    def free_pages(self) -> int:
        """Returns the number of unused pages of the file."""
        with self._lock, self._sentences():
            return int(self._query("pragma freelist_count")[0][0])

    def files(self) -> list[pathlib.Path]:
        """Returns the file of the gallery and its sidecars, as far as they exist."""
        names = [self.path, *(self.path.with_name(self.path.name + name) for name in _SIDECARS)]
        return [name for name in names if name.exists()]

    def size(self) -> int:
        """Returns the bytes of the files."""
        return sum(os.path.getsize(path) for path in self.files())

    def discard(self) -> None:
        """Closes the store and removes its files, after its building has failed."""
        files = self.files()
        self.close()
        for path in files:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Closes the connection."""
        with self._lock, contextlib.suppress(sqlite3.Error):
            self._connection.close()


def _connect(path: pathlib.Path) -> sqlite3.Connection:
    """Returns a connection in write-ahead mode, to be used under a lock."""
    try:
        connection = sqlite3.connect(path, timeout=_WAIT, isolation_level=None, check_same_thread=False)
        connection.execute("pragma trusted_schema = off")  # a file from elsewhere may hold triggers and views
        connection.execute("pragma secure_delete = on")
        connection.execute("pragma synchronous = full")
        connection.execute("pragma journal_mode = wal")
    except (sqlite3.Error, UnicodeError) as error:
        damaged = getattr(error, "sqlite_errorcode", 0) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
        remedy = "put back a copy of the whole file" if damaged else "its folder must be writable"
        raise errors.UserError(
            f"cannot open the gallery {file_io.shown(path)} ({errors.reason(error)}); {remedy}."
        ) from error
    return connection
