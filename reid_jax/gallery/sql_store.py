"""What the galleries in SQL databases share: tables, statements, and the way from rows to arrays."""

from __future__ import annotations

import abc
import contextlib
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from reid_jax import errors, file_io
from reid_jax.gallery import binding as binding_lib
from reid_jax.gallery import entries as entries_lib
from reid_jax.gallery import store

PROBE = 32  # bytes of a removed vector that are kept until the tables are compacted
_UNLOGGED = "unlogged/"  # begin of the names of notes among the settings
_READ_AT_ONCE = 4096
_MOST_PARAMETERS = 500  # of a statement
_COLUMNS = "id, file, identity, camera, time, track, added, expires, folder"
ROWS = "e.id, e.camera, e.identity, e.track, e.time, e.expires, v.vector, v.visibility"


class SqlStore(store.Store):
    """A gallery in the tables `settings`, `entries`, `vectors`, `thumbnails` and `removed` of a database."""

    def __init__(self, name: str) -> None:
        self.name = name
        # One connection, used by one thread at a time: statements are short, and searches happen in memory.
        self._lock = threading.RLock()

    # ---- what a database brings

    @abc.abstractmethod
    def _query(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Runs a statement and returns its rows; parameters are marked by `?`."""

    @abc.abstractmethod
    def _many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Runs a statement for each of some rows of parameters."""

    @abc.abstractmethod
    def _transaction(self) -> contextlib.AbstractContextManager[None]:
        """Surrounds a change: one writer at a time, all of it or nothing; errors of the database as sentences."""

    @abc.abstractmethod
    def _reading(self) -> contextlib.AbstractContextManager[None]:
        """Surrounds reads; errors of the database as sentences."""

    @abc.abstractmethod
    def _encode(self, vector: np.ndarray) -> Any:
        """Returns an image's features as the column `vector` takes them."""

    @abc.abstractmethod
    def _decode(self, values: Sequence[Any]) -> np.ndarray:
        """Returns the features [N, ...] of values of the column `vector`."""

    # ---- opening

    def _fill(self, binding: binding_lib.Binding, settings: Mapping[str, str]) -> None:
        """Writes the first settings into empty tables, within a transaction."""
        values = {
            "format": str(store.FORMAT),
            "id": secrets.token_hex(16),
            "binding": binding.as_json(),
            "added": "0",
            "removed": "0",
            "changed": "0",
            **settings,
        }
        self._many("insert into settings (name, value) values (?, ?)", sorted(values.items()))

    def _load(self) -> None:
        """Reads what the gallery is."""
        values = self.settings()
        store.check_format(values.get("format"), self.name)
        with self._damaged():
            self.id = values["id"]
            self.binding = binding_lib.Binding.from_json(values["binding"])

    # ---- reading

    def state(self) -> store.State:
        """Returns what tells whether anything has changed."""
        with self._lock, self._reading():
            found = dict(self._query("select name, value from settings where name in ('added', 'removed', 'changed')"))
        with self._damaged():
            return store.State(int(found["added"]), int(found["removed"]), int(found["changed"]))

    def read(self, after: int = 0) -> Iterator[store.Rows]:
        """Yields the entries with a larger id in blocks, in the order in which they were added."""
        while True:
            with self._lock, self._reading():
                rows = self._query(
                    f"select {ROWS} from entries e join vectors v on v.id = e.id where e.id > ? "
                    f"order by e.id limit {_READ_AT_ONCE}",
                    (after,),
                )
            if not rows:
                return
            after = int(rows[-1][0])
            yield self._as_rows(rows)

    def _as_rows(self, rows: list[tuple[Any, ...]]) -> store.Rows:
        with self._damaged():
            return self._columns(rows)

    def _damaged(self) -> contextlib.AbstractContextManager[None]:
        """Surrounds what a foreign or damaged gallery can make fail."""
        return file_io.reading(self.name, "a gallery", "restore a copy, or build it again")

    def _columns(self, rows: list[tuple[Any, ...]]) -> store.Rows:
        ids, cameras, identities, tracks, times, expires, vectors, visibility = zip(*rows, strict=True)
        return store.Rows(
            np.asarray(ids, np.int64),
            self._decode(vectors),
            self._visibility(visibility),
            _texts(cameras),
            _texts(identities),
            _texts(tracks),
            np.asarray([np.nan if time is None else time for time in times], np.float64),
            np.asarray([np.inf if time is None else time for time in expires], np.float64),
        )

    def _visibility(self, values: Sequence[Any]) -> np.ndarray | None:
        if not self.binding.visibility:
            return None
        joined = b"".join(bytes(value) for value in values)
        return np.frombuffer(joined, "<f4").reshape(len(values), self.binding.shape[0]).astype(np.float32)

    def ids(self) -> np.ndarray:
        """Returns the ids of all entries, int64, ascending."""
        with self._lock, self._reading():
            return np.asarray([row[0] for row in self._query("select id from entries order by id")], np.int64)

    def present(self, files: Sequence[str]) -> set[str]:
        """Returns those of some file names that are in the gallery."""
        found: set[str] = set()
        for part in parts(files):
            with self._lock, self._reading():
                found |= {
                    row[0] for row in self._query(f"select file from entries where file in ({marks(part)})", part)
                }
        return found

    def select(self, selection: entries_lib.Selection) -> np.ndarray:
        """Returns the ids of the entries that a selection means, ascending."""
        found: list[int] = []
        for column in ("files", "identities", "tracks", "ids"):
            name = {"files": "file", "identities": "identity", "tracks": "track", "ids": "id"}[column]
            for part in parts(getattr(selection, column)):
                with self._lock, self._reading():
                    found += [
                        r[0] for r in self._query(f"select id from entries where {name} in ({marks(part)})", part)
                    ]
        if selection.since is not None or selection.until is not None:
            low = -1e300 if selection.since is None else selection.since
            high = 1e300 if selection.until is None else selection.until
            with self._lock, self._reading():
                found += [r[0] for r in self._query("select id from entries where time between ? and ?", (low, high))]
        return np.unique(np.asarray(found, np.int64))

    def expired(self, now: float) -> np.ndarray:
        """Returns the ids of the entries whose time is over, ascending."""
        with self._lock, self._reading():
            rows = self._query("select id from entries where expires <= ? order by id", (now,))
        return np.asarray([row[0] for row in rows], np.int64)

    def details(self, ids: Sequence[int]) -> list[entries_lib.Entry]:
        """Returns some entries, in the order of the ids; those that are gone are left out."""
        found: dict[int, entries_lib.Entry] = {}
        for part in parts([int(id) for id in ids]):
            with self._lock, self._reading():
                rows = self._query(f"select {_COLUMNS} from entries where id in ({marks(part)})", part)
            with self._damaged():
                found |= {row[0]: _entry(row) for row in rows}
        return [found[int(id)] for id in ids if int(id) in found]

    def vectors(self, ids: Sequence[int], *, partly: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns features and visibility of some entries, in the order of the ids."""
        found: dict[int, tuple[Any, Any]] = {}
        for part in parts([int(id) for id in ids]):
            with self._lock, self._reading():
                rows = self._query(f"select id, vector, visibility from vectors where id in ({marks(part)})", part)
            found |= {row[0]: (row[1], row[2]) for row in rows}
        missing = [int(id) for id in ids if int(id) not in found]
        if missing and (not partly or not found):
            raise errors.UserError(f"there is no entry {missing[0]} in the gallery {self.name}; see search.py info.")
        vectors, visibility = zip(*(found[int(id)] for id in ids if int(id) in found), strict=True)
        with self._damaged():
            return self._decode(vectors), self._visibility(visibility)

    def at(self, places: Sequence[int]) -> np.ndarray:
        """Returns the ids of the entries at some places in the order of addition, ascending."""
        found: list[int] = []
        for part in parts([int(place) for place in places]):
            with self._lock, self._reading():
                rows = self._query(
                    "select id from (select id, row_number() over (order by id) - 1 as place from entries) as numbered "
                    f"where place in ({marks(part)})",
                    part,
                )
            found += [row[0] for row in rows]
        return np.sort(np.asarray(found, np.int64))

    def count(self) -> int:
        """Returns the number of entries."""
        with self._lock, self._reading():
            return int(self._query("select count(*) from entries")[0][0])

    def _where(self, chosen: entries_lib.Filter, now: float) -> tuple[str, list[Any]]:
        """Returns the condition and parameters of a filter; the table `entries` is `e`."""
        conditions = ["(e.expires is null or e.expires > ?)"]
        parameters: list[Any] = [now]
        values: list[Any]
        for condition, values in (
            ("e.camera in ({marks})", list(chosen.cameras)),
            ("(e.camera is null or e.camera not in ({marks}))", list(chosen.other_than)),
            ("e.identity in ({marks})", list(chosen.identities)),
            ("e.id not in ({marks})", list(chosen.leave_out)),
            ("e.time >= {marks}", [] if chosen.since is None else [chosen.since]),
            ("e.time <= {marks}", [] if chosen.until is None else [chosen.until]),
        ):
            if values:
                conditions.append(condition.format(marks=marks(values)))
                parameters += values
        if chosen.known is not None:
            conditions.append(f"e.identity is {'not ' if chosen.known else ''}null")
        return " and ".join(conditions), parameters

    def thumbnail(self, id: int) -> bytes | None:
        """Returns the encoded thumbnail of an entry, None where there is none."""
        with self._lock, self._reading():
            rows = self._query("select image from thumbnails where id = ?", (int(id),))
        with self._damaged():
            return bytes(rows[0][0]) if rows else None

    def settings(self) -> dict[str, str]:
        """Returns the settings, JSON texts by name."""
        with self._lock, self._reading():
            found = self._query("select name, value from settings")
        return {str(name): str(value) for name, value in found if not str(name).startswith(_UNLOGGED)}

    def unlogged(self) -> dict[str, str]:
        """Returns the notes of changes that have no line in the audit log yet, by name, oldest first."""
        with self._lock, self._reading():
            found = self._query(
                f"select name, value from settings where substr(name, 1, {len(_UNLOGGED)}) = '{_UNLOGGED}'"
            )
        return {str(name).removeprefix(_UNLOGGED): str(value) for name, value in sorted(found)}

    # ---- writing

    def add(
        self, entries: entries_lib.Entries, expires: Sequence[float | None], now: float, note: store.Note | None = None
    ) -> np.ndarray:
        """Adds entries in one transaction and returns their ids [N]."""
        if not len(entries):
            return np.zeros(0, np.int64)
        with self._lock, self._transaction():
            taken = self._taken(entries.files)
            if taken:
                raise errors.UserError(
                    f"{len(taken)} of the {len(entries)} images are in the gallery already, such as "
                    f"{file_io.shown(taken[0])[:200]}; leave them out (--skip-existing) or name them otherwise "
                    "(--prefix)."
                )
            with self._damaged():
                first = int(self._query("select value from settings where name = 'added'")[0][0]) + 1
            ids = np.arange(first, first + len(entries), dtype=np.int64)
            labels = (entries.files, entries.identities, entries.cameras, entries.times, entries.tracks)
            self._many(
                f"insert into entries ({_COLUMNS}) values ({', '.join('?' * 9)})",
                [
                    (id, *values, now, expiry, entries.folder)
                    for id, *values, expiry in zip(ids.tolist(), *labels, expires, strict=True)
                ],
            )
            seen = entries.visibility
            visible = [None] * len(ids) if seen is None else [row.astype("<f4").tobytes() for row in seen]
            self._many(
                "insert into vectors (id, vector, visibility) values (?, ?, ?)",
                [(id, self._encode(entries.features[row]), visible[row]) for row, id in enumerate(ids.tolist())],
            )
            pictures = [(id, image) for id, image in zip(ids.tolist(), entries.thumbnails) if image is not None]
            self._many("insert into thumbnails (id, image) values (?, ?)", pictures)
            self._query("update settings set value = ? where name = 'added'", (str(int(ids[-1])),))
            self._remind(note, ids)
        return ids

    def _remind(self, note: store.Note | None, ids: np.ndarray) -> None:
        """Writes the note of a change, within its transaction; names ascend."""
        if note is not None:
            name = f"{_UNLOGGED}{time.time_ns():016x}{secrets.token_hex(8)}"
            self._query("insert into settings (name, value) values (?, ?)", (name, note(ids)))

    def logged(self, names: Sequence[str]) -> None:
        """Removes notes whose lines are in the audit log."""
        with self._lock, self._transaction():
            for name in names:
                self._query("delete from settings where name = ?", (_UNLOGGED + name,))

    def _taken(self, files: Sequence[str]) -> list[str]:
        """Returns those file names that are there already or occur twice."""
        there = self.present(files)
        seen: set[str] = set()
        taken = []
        for file in files:
            if file in there or file in seen:
                taken.append(file)
            seen.add(file)
        return taken

    def remove(self, ids: np.ndarray, note: store.Note | None = None) -> int:
        """Removes entries in one transaction and returns how many there were."""
        removed = 0
        with self._lock, self._transaction():
            for part in parts([int(id) for id in ids]):
                chosen = marks(part)
                rows = self._query(
                    "select e.file, e.identity, e.track, v.vector from entries e join vectors v on v.id = e.id "
                    f"where e.id in ({chosen})",
                    part,
                )
                if not rows:
                    continue
                vectors = self._decode([row[3] for row in rows])
                kept: set[tuple[str, bytes]] = {
                    ("vector", vector.astype("<f4").tobytes()[:PROBE]) for vector in vectors
                }
                kept |= {("text", str(text).encode("utf-8", "replace")) for row in rows for text in row[:3] if text}
                self._many("insert into removed (kind, content) values (?, ?)", sorted(kept))
                for table in ("thumbnails", "vectors", "entries"):
                    self._query(f"delete from {table} where id in ({chosen})", part)
                removed += len(rows)
            if removed:
                self._query(
                    "update settings set value = cast(cast(value as bigint) + 1 as text) where name = 'removed'"
                )
                self._remind(note, ids)
        return removed

    def change(self, settings: Mapping[str, str], note: store.Note | None = None) -> None:
        """Stores settings, JSON texts by name."""
        with self._lock, self._transaction():
            for name, value in settings.items():
                self._query("delete from settings where name = ?", (name,))
                self._query("insert into settings (name, value) values (?, ?)", (name, value))
            self._query("update settings set value = cast(cast(value as bigint) + 1 as text) where name = 'changed'")
            self._remind(note, np.zeros(0, np.int64))

    def remember(self, removed: store.Removed) -> None:
        """Notes what was removed once more, for the next time that the tables are compacted."""
        rows = [("text", text.encode()) for text in removed.texts] + [("vector", each) for each in removed.vectors]
        with self._lock, self._transaction():
            self._many("insert into removed (kind, content) values (?, ?)", rows)

    def _removed(self) -> store.Removed:
        """Returns what has been removed and is no longer in the gallery under any entry."""
        rows = self._query("select distinct kind, content from removed")
        with self._damaged():
            texts = [bytes(content).decode() for kind, content in rows if kind == "text"]
        for part in parts(texts):
            for column in ("file", "identity", "track"):
                living = self._query(f"select distinct {column} from entries where {column} in ({marks(part)})", part)
                texts = [text for text in texts if (text,) not in set(living)]
        return store.Removed(tuple(sorted(texts)), tuple(bytes(content) for kind, content in rows if kind == "vector"))


def _entry(row: Sequence[Any]) -> entries_lib.Entry:
    """Returns an entry of the columns of a row."""
    id, file, identity, camera, time, track, added, expires, folder = row
    identity, camera, track, folder = _texts((identity, camera, track, folder))
    time, expires = (None if value is None else float(value) for value in (time, expires))
    return entries_lib.Entry(int(id), str(file), identity, camera, time, track, float(added), expires, folder)


def _texts(values: Sequence[Any]) -> list[str | None]:
    return [None if value is None else str(value) for value in values]


def parts(values: Sequence[Any]) -> Iterator[list[Any]]:
    """Yields values in lists that one statement takes as parameters."""
    for start in range(0, len(values), _MOST_PARAMETERS):
        yield list(values[start : start + _MOST_PARAMETERS])


def marks(values: Sequence[Any]) -> str:
    """Returns as many marks of parameters."""
    return ", ".join("?" * len(values))
