"""The source files of a prepared data set: whether they are still those that it was prepared from.

Preparation hashes the content of every file and stores the hashes with size and times of the files. Later only files
whose size or times differ are read again, so that a comparison of an unchanged source costs one look-up per file.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from reid_jax import errors, file_io

FILE = "source_files.npz"
DIGEST_BYTES = 16

_THREADS = 8
_BLOCK = 256
_T = TypeVar("_T")


def digest(data: bytes) -> bytes:
    """Returns the hash of a file's content, BLAKE2b of 16 bytes: 1 GB takes about a second on one core."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


@dataclasses.dataclass(frozen=True)
class SourceFiles:
    """Names and contents of the source files of a data set.

    Attributes:
        names: N names, `<split>/<file name>`.
        stamps: int64 [N, 3], size in bytes, and times of change of content and of entry in nanoseconds; 0 if unknown.
        hashes: uint8 [N, 16], see `digest`; zeros where the file could not be read.
    """

    names: tuple[str, ...]
    stamps: np.ndarray
    hashes: np.ndarray

    def save(self, folder: pathlib.Path) -> None:
        """Writes the file into the folder of a prepared data set."""
        # No file name has a zero byte, and an array of Python strings would take four bytes per letter.
        names = np.frombuffer("\0".join(self.names).encode(), np.uint8)
        arrays = {"names": names, "stamps": self.stamps, "hashes": self.hashes}
        file_io.write(
            folder / FILE, lambda file: np.savez(file, allow_pickle=False, **arrays), "the list of source files"
        )


@dataclasses.dataclass(frozen=True)
class Changes:
    """Differences between the source files then and now; names as in `SourceFiles`.

    Attributes:
        added: files that are new.
        removed: files that are gone.
        replaced: files of the same name with other content.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    replaced: tuple[str, ...]

    def text(self) -> str:
        """Returns a description, empty where nothing changed."""
        kinds = ((self.added, "new"), (self.removed, "gone"), (self.replaced, "with other content"))
        return "; ".join(f"{len(names):,} {kind}, such as {file_io.shown(names[0])}" for names, kind in kinds if names)


def take(rows: Mapping[str, Sequence[Any]], hashes: Sequence[bytes]) -> SourceFiles:
    """Returns the files of a builder's rows with the hashes of their contents.

    Args:
        rows: rows of every split.
        hashes: hashes of all files in the same order, empty for unreadable ones.
    """
    names = _names(rows)
    stamps = np.array(_in_threads(_stamp, _paths(rows)), np.int64).reshape(-1, 3)
    joined = b"".join(one or bytes(DIGEST_BYTES) for one in hashes)
    return SourceFiles(names, stamps, np.frombuffer(joined, np.uint8).reshape(-1, DIGEST_BYTES))


def load(folder: pathlib.Path) -> SourceFiles | None:
    """Returns the list in the folder of a prepared data set, None where it has none that can be read."""
    try:
        with np.load(folder / FILE, allow_pickle=False) as arrays:
            names = tuple(arrays["names"].tobytes().decode().split("\0")) if arrays["names"].size else ()
            found = SourceFiles(names, arrays["stamps"], arrays["hashes"])
    except Exception:  # written by an earlier version, or damaged: there is nothing to compare with
        return None
    shapes = (found.stamps.shape, found.hashes.shape)
    return found if shapes == ((len(names), 3), (len(names), DIGEST_BYTES)) else None


def compare(folder: pathlib.Path, then: SourceFiles, rows: Mapping[str, Sequence[Any]]) -> Changes:
    """Compares the source files of a prepared data set with those that are there now.

    Files whose size and times are the same are not read. Where others have their old content, the new times are
    stored, so that they are read once only.

    Args:
        folder: folder of the prepared data set.
        then: its list of source files.
        rows: the builder's rows now.
    """
    before = {name: place for place, name in enumerate(then.names)}
    names = _names(rows)
    shared = [
        (place, before[name], path) for place, (name, path) in enumerate(zip(names, _paths(rows))) if name in before
    ]
    stamps = np.array(_in_threads(_stamp, (path for _, _, path in shared)), np.int64).reshape(-1, 3)
    old = np.array([place for _, place, _ in shared], np.int64)
    suspects = np.flatnonzero((stamps != then.stamps[old]).any(axis=1) | (stamps[:, 1] == 0))
    hashes = _in_threads(_read_digest, (shared[one][2] for one in suspects))
    replaced = [
        int(old[one]) for one, found in zip(suspects, hashes, strict=True) if found != then.hashes[old[one]].tobytes()
    ]
    now = set(names)
    changes = Changes(
        added=tuple(name for name in names if name not in before),
        removed=tuple(name for name in then.names if name not in now),
        replaced=tuple(then.names[place] for place in replaced),
    )
    fresh = sorted(set(old[suspects].tolist()) - set(replaced))
    if fresh and (stamps[suspects, 1] != 0).any():
        updated = then.stamps.copy()
        updated[old] = np.where(np.isin(old, fresh)[:, None], stamps, then.stamps[old])
        with contextlib.suppress(errors.UserError):  # a folder that belongs to someone else
            dataclasses.replace(then, stamps=updated).save(folder)
    return changes


def _names(rows: Mapping[str, Sequence[Any]]) -> tuple[str, ...]:
    return tuple(f"{split}/{row.filename}" for split, listed in rows.items() for row in listed)


def _paths(rows: Mapping[str, Sequence[Any]]) -> list[Any]:
    return [row.path for listed in rows.values() for row in listed]


def _stamp(path: Any) -> tuple[int, int, int]:
    """Returns size and times of a file; zeros for objects without `stat`, and for files that are gone."""
    try:
        status = path.stat()
        return status.st_size, status.st_mtime_ns, status.st_ctime_ns
    except (OSError, AttributeError):
        return 0, 0, 0


def _read_digest(path: Any) -> bytes:
    """Returns the hash of a file's content, zeros where it cannot be read."""
    try:
        return digest(path.read_bytes())
    except OSError:
        return bytes(DIGEST_BYTES)


def _in_threads(function: Callable[[Any], _T], values: Iterable[Any]) -> list[_T]:
    """Returns the results of a function that waits for a file system."""
    listed = list(values)
    blocks = [listed[start : start + _BLOCK] for start in range(0, len(listed), _BLOCK)]
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        return [
            result for results in pool.map(lambda block: [function(one) for one in block], blocks) for result in results
        ]
