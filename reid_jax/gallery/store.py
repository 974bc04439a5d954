"""The interface of a gallery on disk or on a server, and how one is opened by its path or URL."""

from __future__ import annotations

import abc
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from reid_jax import errors
from reid_jax.gallery import binding as binding_lib
from reid_jax.gallery import entries as entries_lib

# Of the tables; a gallery of another number is refused.
FORMAT = 1
POSTGRES = ("postgresql://", "postgres://")

# From the ids that a change has touched to what its line in the audit log will say, which is stored with the change.
Note = Callable[[np.ndarray], str]


@dataclasses.dataclass(frozen=True)
class Rows:
    """Vectors and labels of some entries, in the order in which they were added.

    Attributes:
        ids: [N] int64, ascending.
        features: [N, D] or [N, S, D] float32.
        visibility: [N, S] float32, or None.
        cameras: N names or None.
        identities: N names or None.
        tracks: N names or None.
        times: [N] float64, NaN where unknown.
        expires: [N] float64, infinity for never.
    """

    ids: np.ndarray
    features: np.ndarray
    visibility: np.ndarray | None
    cameras: Sequence[str | None]
    identities: Sequence[str | None]
    tracks: Sequence[str | None]
    times: np.ndarray
    expires: np.ndarray


@dataclasses.dataclass(frozen=True)
class State:
    """What tells a reader whether anything has changed.

    Attributes:
        added: the largest id ever given.
        removed: number of removals so far.
        settings: number of changes of the settings so far.
    """

    added: int
    removed: int
    settings: int


@dataclasses.dataclass(frozen=True)
class Removed:
    """What was removed and may still lie in free space until `compact`, to look for it there.

    Attributes:
        texts: names of files, people and tracks.
        vectors: the first bytes of vectors.
    """

    texts: tuple[str, ...]
    vectors: tuple[bytes, ...]


class Store(abc.ABC):
    """Rows, vectors and thumbnails of a gallery. Every change is one transaction: whole or not at all.

    Methods may be called from several threads; one writer at a time, and readers never wait for it.

    Attributes:
        name: path or URL without a password, for messages.
        id: random text that names this gallery for good.
        binding: the model that the vectors belong to.
    """

    name: str
    id: str
    binding: binding_lib.Binding

    @abc.abstractmethod
    def state(self) -> State:
        """Returns what tells whether anything has changed."""

    @abc.abstractmethod
    def read(self, after: int = 0) -> Iterator[Rows]:
        """Yields the entries with a larger id in blocks, in the order in which they were added."""

    @abc.abstractmethod
    def ids(self) -> np.ndarray:
        """Returns the ids of all entries, int64, ascending."""

    @abc.abstractmethod
    def add(
        self, entries: entries_lib.Entries, expires: Sequence[float | None], now: float, note: Note | None = None
    ) -> np.ndarray:
        """Adds entries in one transaction and returns their ids [N].

        Args:
            entries: the entries; shape and names have been checked.
            expires: when each leaves the gallery, in seconds since 1970; None for never.
            now: the time of adding.
            note: see `unlogged`.

        Raises:
            UserError: a file name is there already, another process is writing, or the disk is full; nothing is added.
        """

    @abc.abstractmethod
    def present(self, files: Sequence[str]) -> set[str]:
        """Returns those of some file names that are in the gallery."""

    @abc.abstractmethod
    def select(self, selection: entries_lib.Selection) -> np.ndarray:
        """Returns the ids of the entries that a selection means, ascending."""

    @abc.abstractmethod
    def expired(self, now: float) -> np.ndarray:
        """Returns the ids of the entries whose time is over, ascending."""

    @abc.abstractmethod
    def remove(self, ids: np.ndarray, note: Note | None = None) -> int:
        """Removes entries in one transaction and returns how many there were; for `note` see `unlogged`."""

    @abc.abstractmethod
    def details(self, ids: Sequence[int]) -> list[entries_lib.Entry]:
        """Returns some entries, in the order of the ids; those that are gone are left out."""

    @abc.abstractmethod
    def vectors(self, ids: Sequence[int], *, partly: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns features and visibility of some entries, in the order of the ids.

        Args:
            ids: numbers of entries.
            partly: leave out those that are gone, as happens while another thread or process removes entries.

        Raises:
            UserError: one of them is not in the gallery.
        """

    @abc.abstractmethod
    def count(self) -> int:
        """Returns the number of entries."""

    @abc.abstractmethod
    def at(self, places: Sequence[int]) -> np.ndarray:
        """Returns the ids of the entries at some places in the order of addition, ascending."""

    @property
    def searches(self) -> bool:
        """Whether `candidates` finds the entries that can be among the nearest; else all of them are read."""
        return False

    def candidates(
        self, features: np.ndarray, k: int, chosen: entries_lib.Filter, now: float
    ) -> tuple[Rows | None, int]:
        """Returns the entries that can be among the k nearest of some vectors, and how many pass the filter.

        Args:
            features: [n, D] float32.
            k: number of nearest entries that must be among them, for each vector.
            chosen: which entries are looked at.
            now: the time, for entries that have expired.
        """
        raise NotImplementedError

    @abc.abstractmethod
    def thumbnail(self, id: int) -> bytes | None:
        """Returns the encoded thumbnail of an entry, None where there is none."""

    @abc.abstractmethod
    def settings(self) -> dict[str, str]:
        """Returns the settings, JSON texts by name."""

    @abc.abstractmethod
    def change(self, settings: Mapping[str, str], note: Note | None = None) -> None:
        """Stores settings, JSON texts by name; for `note` see `unlogged`, it gets no ids."""

    @abc.abstractmethod
    def unlogged(self) -> dict[str, str]:
        """Returns the notes of changes that were not taken back by `logged`, by name, oldest first.

        A note is written in the transaction of its change, so that a change has a line in the audit log sooner or
        later, whenever its process is killed.
        """

    @abc.abstractmethod
    def logged(self, names: Sequence[str]) -> None:
        """Removes notes whose lines are in the audit log."""

    @abc.abstractmethod
    def compact(self) -> Removed:
        """Writes the tables anew without free space, and returns what was removed since the last time."""

    @abc.abstractmethod
    def remember(self, removed: Removed) -> None:
        """Notes what was removed once more, for the next time that the tables are compacted."""

    @abc.abstractmethod
    def files(self) -> list[pathlib.Path]:
        """Returns the files of the gallery on this machine; empty for a server."""

    @abc.abstractmethod
    def size(self) -> int:
        """Returns the bytes that the gallery takes."""

    @abc.abstractmethod
    def discard(self) -> None:
        """Closes the store and removes it, after its building has failed."""

    @abc.abstractmethod
    def close(self) -> None:
        """Closes the store; nothing is lost where it is not called."""


def is_url(place: str | os.PathLike[str]) -> bool:
    """Returns whether a place is the URL of a server rather than a path."""
    return str(place).startswith(POSTGRES)


def create(place: str | os.PathLike[str], binding: binding_lib.Binding, settings: Mapping[str, str]) -> Store:
    """Makes an empty gallery, whole or not at all.

    Args:
        place: path of a new file, or `postgresql://...`.
        binding: the model that its vectors belong to.
        settings: JSON texts by name.

    Raises:
        UserError: there is something already, or the place cannot be written.
    """
    if is_url(place):
        from reid_jax.gallery import postgres_store

        return postgres_store.PostgresStore.create(str(place), binding, settings)
    from reid_jax.gallery import sqlite_store

    return sqlite_store.SqliteStore.create(pathlib.Path(place), binding, settings)


def open_store(place: str | os.PathLike[str]) -> Store:
    """Opens a gallery.

    Raises:
        UserError: there is none, it is of another version, or the server does not answer.
    """
    if is_url(place):
        from reid_jax.gallery import postgres_store

        return postgres_store.PostgresStore(str(place))
    from reid_jax.gallery import sqlite_store

    return sqlite_store.SqliteStore(pathlib.Path(place))


def check_format(found: str | None, name: str) -> None:
    """Raises a `UserError` unless the tables have this version's format."""
    if found != str(FORMAT):
        raise errors.UserError(
            f"{name} has format {str(found)[:20]} of galleries, this version of reid_jax reads {FORMAT}; use the "
            "version that wrote it, or build the gallery again."
        )
