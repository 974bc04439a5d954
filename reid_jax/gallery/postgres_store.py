"""A gallery on a PostgreSQL server with the extension pgvector: many readers and writers on many machines.

Searches for single entries run on the server: it scans its rows (without an index, so nothing is missed) under the
filter, and sends those that can be among the nearest; they are ranked here by the evaluation's distances, so that
order, ties and distances are those of a gallery in a file. Slots, own metrics and votes of tracks read the whole
gallery into memory, as for a file.

The tables lie in the schema that the URL leads to, `public` unless it says `?options=-csearch_path%3DNAME`. Deleted
rows, archives of the server's log, replicas and backups are the server's: see to their retention there.
"""

from __future__ import annotations

import contextlib
import pathlib
import re
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from reid_jax import errors
from reid_jax.gallery import binding as binding_lib
from reid_jax.gallery import entries as entries_lib
from reid_jax.gallery import exact, sql_store, store

LONGEST = 16_000  # numbers of a vector that pgvector stores
_WAIT_SECONDS = 5
_MORE = 32  # candidates beyond the k-th at first
_TABLES = """
create table settings (name text primary key, value text not null);
create table entries (
    id bigint primary key, file text not null unique, identity text, camera text, time double precision, track text,
    added double precision not null, expires double precision, folder text
);
create index entries_identity on entries (identity) where identity is not null;
create index entries_track on entries (track) where track is not null;
create index entries_time on entries (time) where time is not null;
create index entries_expires on entries (expires) where expires is not null;
create table vectors (id bigint primary key, vector vector({size}) not null, visibility bytea);
create table thumbnails (id bigint primary key, image bytea not null);
create table removed (kind text not null, content bytea not null);
"""
_TYPES = {
    "settings": ("text", "text"),
    "entries": ("int8", "text", "text", "text", "float8", "text", "float8", "float8", "text"),
    "vectors": ("int8", "vector", "bytea"),
    "thumbnails": ("int8", "bytea"),
    "removed": ("text", "bytea"),
}
# The server's cosine distance of a zero vector is NaN; the evaluation's is that of two vectors at 60 degrees.
_OF_ZERO = 0.5
# Distance of the server by metric: operator, and the power that it is raised to for the evaluation's, times a factor.
_OPERATORS = {"cosine": ("<=>", 1, 2.0), "euclidean": ("<->", 2, 1.0)}


class PostgresStore(sql_store.SqlStore):
    """A gallery in the tables of a PostgreSQL server."""

    def __init__(self, url: str) -> None:
        """Opens a gallery.

        Raises:
            UserError: a package is missing, the server does not answer, or has no gallery there.
        """
        super().__init__(_without_password(url))
        self._url = url
        self._connection: Any = None
        self._in_transaction = False
        with self._reading():
            there = self._query("select to_regclass('settings') is not null and to_regclass('vectors') is not null")
        if not there[0][0]:
            raise errors.UserError(
                f"expected a gallery at {self.name}, found none; make one with search.py build --store URL."
            )
        self._load()

    @classmethod
    def create(cls, url: str, binding: binding_lib.Binding, settings: Mapping[str, str]) -> PostgresStore:
        """Makes an empty gallery, whole or not at all, see `store.create`."""
        size = int(np.prod(binding.shape))
        if size > LONGEST:
            raise errors.UserError(
                f"expected features of at most {LONGEST:,} numbers for a server with pgvector, got {size:,}; keep this "
                "gallery in a file."
            )
        made = cls.__new__(cls)
        sql_store.SqlStore.__init__(made, _without_password(url))
        made._url, made._connection, made._in_transaction = url, None, False
        with made._reading():
            if made._query("select to_regclass('settings') is not null")[0][0]:
                raise errors.UserError(
                    f"there is a gallery or a table of its names at {made.name}; add to it with search.py add, or give "
                    "another database or schema."
                )
        with made._writing():
            made._query("create extension if not exists vector")
            for statement in _TABLES.format(size=size).strip().split(";")[:-1]:
                made._query(statement)
            made._fill(binding, settings)
        made.close()
        return cls(url)

    # ---- the connection

    def _connected(self) -> Any:
        """Returns the connection, a new one where the last was lost outside a transaction."""
        psycopg, _ = _packages()
        if self._connection is None or (self._connection.closed and not self._in_transaction):
            self._connection = psycopg.connect(self._url, autocommit=True, connect_timeout=10)
            self._vectors_known = False
        return self._connection

    def _know_vectors(self) -> None:
        """Teaches a new connection the type `vector`, which exists once the extension does."""
        if not self._vectors_known:
            _, pgvector = _packages()
            pgvector.register_vector(self._connection)
            self._vectors_known = True

    @contextlib.contextmanager
    def _sentences(self) -> Iterator[None]:
        psycopg, _ = _packages()
        try:
            yield
        except psycopg.errors.LockNotAvailable as error:
            raise errors.UserError(
                f"another process is writing to the gallery {self.name}; wait until it has ended, and try again. "
                "Nothing was changed."
            ) from error
        except psycopg.errors.DiskFull as error:
            raise errors.UserError(
                f"cannot write the gallery {self.name} (no space left on the server); free some space there. "
                "Nothing was changed."
            ) from error
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise errors.UserError(
                f"the server of the gallery {self.name} does not answer ({errors.reason(error)}); look whether it runs "
                "and can be reached, and try again."
            ) from error
        except psycopg.Error as error:
            raise errors.UserError(
                f"the gallery {self.name} cannot be used ({errors.reason(error)}); see to rights and tables there."
            ) from error

    def _reading(self) -> contextlib.AbstractContextManager[None]:
        return self._sentences()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Surrounds a transaction without the lock of the tables."""
        with self._sentences():
            connection = self._connected()
            with connection.transaction():
                self._in_transaction = True
                try:
                    yield
                finally:
                    self._in_transaction = False

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._writing():
            self._query(f"set local lock_timeout = '{_WAIT_SECONDS}s'")
            # Others may read; nobody else may write until the end.
            self._query("lock table settings in share row exclusive mode")
            yield

    def _query(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        connection = self._connected()
        if "vector" in statement and "create" not in statement and "regclass" not in statement:
            self._know_vectors()
        cursor = connection.execute(statement.replace("?", "%s"), parameters or None, binary=True)
        return cursor.fetchall() if cursor.description else []

    def _many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        found = re.fullmatch(r"insert into (\w+) \(([\w, ]+)\) values .*", statement)
        assert found is not None, statement
        connection = self._connected()
        if found[1] == "vectors":
            self._know_vectors()
        with (
            connection.cursor() as cursor,
            cursor.copy(f"copy {found[1]} ({found[2]}) from stdin (format binary)") as copy,
        ):
            copy.set_types(_TYPES[found[1]])
            for row in rows:
                copy.write_row(row)

    def _encode(self, vector: np.ndarray) -> Any:
        import pgvector

        return pgvector.Vector(vector.reshape(-1))

    def _decode(self, values: Sequence[Any]) -> np.ndarray:
        stacked = np.stack([value.to_numpy() for value in values]).astype(np.float32)
        return stacked.reshape(len(values), *self.binding.shape)

    # ---- search on the server

    @property
    def searches(self) -> bool:
        """Whether the server can find candidates: plain vectors and a built-in metric."""
        return len(self.binding.shape) == 1 and self.binding.metric in _OPERATORS

    def candidates(
        self, features: np.ndarray, k: int, chosen: entries_lib.Filter, now: float
    ) -> tuple[store.Rows | None, int]:
        """Returns the entries that can be among the k nearest of some vectors, and how many pass the filter."""
        where, parameters = self._where(chosen, now)
        with self._lock, self._reading():
            count = int(self._query(f"select count(*) from entries e where {where}", parameters)[0][0])
        ids: set[int] = set()
        for vector in features if count else ():
            ids |= set(self._near(vector, k, where, parameters))
        if not ids:
            return None, count
        rows: list[tuple[Any, ...]] = []
        for part in sql_store.parts(sorted(ids)):
            with self._lock, self._reading():
                rows += self._query(
                    f"select {sql_store.ROWS} from entries e join vectors v on v.id = e.id "
                    f"where e.id in ({sql_store.marks(part)}) order by e.id",
                    part,
                )
        return self._as_rows(rows) if rows else None, count

    def _near(self, vector: np.ndarray, k: int, where: str, parameters: Sequence[Any]) -> list[int]:
        """Returns the ids of the rows that can be among the k nearest of one vector, by the server's distances.

        These are sums in another order than the evaluation's; whoever is farther than the k-th by more than rounding
        can explain (`exact.slack`) is left out.
        """
        operator, power, factor = _OPERATORS[self.binding.metric]
        unit = self.binding.metric == "cosine"
        length = 1.0 if unit else float(np.sum(vector.astype(np.float64) ** 2))
        limit = k + _MORE
        while True:
            with self._lock, self._reading():
                rows = self._query(
                    f"select id, coalesce(nullif(d, 'NaN'), {_OF_ZERO}) as d from (select v.id, v.vector {operator} ? "
                    f"as d from vectors v join entries e on e.id = v.id where {where}) as found "
                    f"order by 2, 1 limit {limit}",
                    (self._encode(vector), *parameters),
                )
            values = np.asarray([row[1] for row in rows], np.float64) ** power * factor
            if len(rows) < limit:
                return [int(row[0]) for row in rows]
            longest = 1.0 if unit else (np.sqrt(length) + np.sqrt(values[-1])) ** 2
            margin = float(exact.slack(np.asarray([length]), float(longest), len(vector))[0])
            inside = values <= values[k - 1] + margin
            if not inside[-1]:
                return [int(row[0]) for row, near in zip(rows, inside, strict=True) if near]
            limit *= 4

    # ---- upkeep

    def compact(self) -> store.Removed:
        """Writes the tables anew without dead rows, and returns what was removed since the last time."""
        with self._lock:
            with self._transaction():
                removed = self._removed()
                self._query("delete from removed")
            with self._sentences():
                for table in _TYPES:
                    self._query(f"vacuum full {table}")
                self._query("checkpoint")
        return removed

    def files(self) -> list[pathlib.Path]:
        """Returns no file: those of a server are not at hand."""
        return []

    def size(self) -> int:
        """Returns the bytes of the tables and their indexes."""
        total = " + ".join(f"pg_total_relation_size('{table}')" for table in _TYPES)
        with self._lock, self._reading():
            return int(self._query(f"select {total}")[0][0])

    def discard(self) -> None:
        """Removes the tables and closes the store, after its building has failed."""
        with self._lock, self._writing():
            for table in _TYPES:
                self._query(f"drop table {table}")
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()


def _packages() -> tuple[Any, Any]:
    """Returns the modules that talk to the server.

    Raises:
        UserError: they are not installed.
    """
    try:
        import pgvector.psycopg
        import psycopg
    except ImportError as error:
        raise errors.UserError(
            f"a gallery on a server needs the packages of the extra pgvector ({error.name} is missing); "
            "install them: pip install 'reid_jax[pgvector]'."
        ) from error
    return psycopg, pgvector.psycopg


def _without_password(url: str) -> str:
    """Returns a URL for messages: user, host and database, without password and options.

    >>> _without_password("postgresql://kim:secret@db.example:5432/people?sslmode=require")
    'postgresql://kim@db.example:5432/people'
    """
    try:
        parts = urllib.parse.urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError as error:
        raise errors.UserError(
            "expected the URL of a server, postgresql://USER@HOST/DATABASE, it cannot be read; correct it."
        ) from error
    user = f"{parts.username}@" if parts.username else ""
    return f"{parts.scheme}://{user}{parts.hostname or ''}{port}{parts.path}"
