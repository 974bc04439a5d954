"""Copies of objects on this machine: a cache of data sets and weights, and scratch folders of runs.

    folder = local_copies.folder(url, local_copies.listing(url))  # fetched once, then read from the disk
    file = local_copies.file("gs://bucket/weights.safetensors")

`REID_JAX_STORE_CACHE` names the place (`~/.cache/reid_jax/stores` without it), `REID_JAX_STORE_CACHE_GB` the size of
the cache in 10^9 bytes (50 without it). The key of a copy holds the versions of its objects, so objects that change are
fetched anew and a copy never changes. It is fetched under another name, its sizes are compared, and it is renamed:
nobody sees a part of it. Processes of one machine wait for the one that fetches. What was used least recently goes
first when the size is reached; a copy in use stays.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import hashlib
import json
import logging
import math
import os
import pathlib
import random
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import BinaryIO

from reid_jax import errors, file_io, progress
from reid_jax.stores import objects

LOG = logging.getLogger(__name__)

PLACE, SIZE = "REID_JAX_STORE_CACHE", "REID_JAX_STORE_CACHE_GB"
DEFAULT_GB = 50.0

_files: dict[str, pathlib.Path] = {}  # of this process, by URL
_in_use: dict[str, BinaryIO] = {}  # shared locks of this process, by key


def place() -> pathlib.Path:
    """Returns the folder of all copies."""
    return pathlib.Path(os.environ.get(PLACE) or "~/.cache/reid_jax/stores").expanduser()


def limit() -> float:
    """Returns the size of the cache in bytes.

    Raises:
        UserError: the environment variable is no number above 0.
    """
    text = os.environ.get(SIZE) or str(DEFAULT_GB)
    try:
        size = float(text) * 1e9
    except ValueError:
        size = 0.0
    if not size > 0 or math.isnan(size):
        raise errors.UserError(f"expected a size in GB above 0 as {SIZE}, got {file_io.shown(text)[:80]!r}; change it.")
    return size


def file(url: str, key: str = "") -> pathlib.Path:
    """Returns a local copy of one object.

    Args:
        url: "gs://bucket/weights.safetensors".
        key: the flag or key that it was given for, for the sentence.

    Raises:
        StoreError: there is no such object, or it cannot be read.
        UserError: it is larger than the cache, or the disk is full.
    """
    if url in _files:
        return _files[url]
    objects.check(url, key)
    parent, _, name = url.rpartition("/")
    entry = objects.Store(parent).entry(name)
    if entry is None:
        given = f" as {key}" if key else ""
        raise objects.StoreError(f"expected an object{given} at {file_io.shown(url)[:200]}, there is none; check it.")
    _files[url] = _copy(objects.Store(parent), {name: entry}) / name
    return _files[url]


def listing(url: str, key: str = "") -> dict[str, objects.Entry]:
    """Returns all objects below a URL by their relative name; none if there are none.

    Args:
        url: "gs://bucket/data/prepared/name".
        key: as for `file`.

    Raises:
        StoreError: there is no such bucket, or it cannot be read.
    """
    objects.check(url, key)
    return objects.Store(url).listing()


def folder(url: str, entries: Mapping[str, objects.Entry]) -> pathlib.Path:
    """Returns a local copy of objects below a URL.

    Args:
        url: "gs://bucket/data/prepared/name".
        entries: the objects, of `listing`.

    Raises:
        StoreError: it cannot be read.
        UserError: it is larger than the cache, or the disk is full.
    """
    return _copy(objects.Store(url), entries)


def _copy(store: objects.Store, entries: Mapping[str, objects.Entry]) -> pathlib.Path:
    """Returns the folder of a copy, fetched first where it is absent; it stays until this process ends."""
    about = json.dumps([store.url, sorted((name, entry.size, entry.version) for name, entry in entries.items())])
    key = hashlib.sha256(about.encode()).hexdigest()[:24]
    cache = file_io.make_folder(place() / "cache", f"the cache of stores ({PLACE})")
    target = cache / key
    if key in _in_use and target.is_dir():
        return target
    while not _keep(key, target):
        # Never waits for the exclusive lock: whoever has fetched the copy meanwhile keeps a shared one until it ends.
        try:
            lock = _lock(_lock_file(target), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # it is being fetched, or only looked for
            time.sleep(random.uniform(0.01, 0.05))
            continue
        with lock:
            if not target.is_dir():
                _make_room(cache, sum(entry.size for entry in entries.values()), store.url)
                _fetch(store, entries, target)
    os.utime(target)
    return target


def _keep(key: str, target: pathlib.Path) -> bool:
    """Returns whether a copy is there, after one that is being fetched, and keeps it until this process ends.

    The lock is shared with other processes and threads that use the copy; whoever asked for an exclusive one first
    would wait for their end.
    """
    held = _lock(_lock_file(target), fcntl.LOCK_SH)
    if not target.is_dir():
        held.close()
        return False
    if _in_use.setdefault(key, held) is not held:  # another thread of this process keeps it
        held.close()
    return True


def _lock_file(target: pathlib.Path) -> pathlib.Path:
    return target.with_name(f"{target.name}.lock")


def _fetch(store: objects.Store, entries: Mapping[str, objects.Entry], target: pathlib.Path) -> None:
    beside = target.with_name(f"{file_io.INCOMPLETE}{target.name}")
    shutil.rmtree(beside, ignore_errors=True)  # of a process that was killed
    total = sum(entry.size for entry in entries.values())
    LOG.info("fetching %d objects (%.1f MB) of %s.", len(entries), total / 1e6, store.url)
    try:
        with progress.waiting("fetching from the store"):
            for name, entry in sorted(entries.items()):
                _check_name(store.url, name)
                path = beside / name
                path.parent.mkdir(parents=True, exist_ok=True)
                store.download(name, path, entry.size)
        beside.rename(target)
    except OSError as error:
        raise file_io.cannot_write(beside, "the local copy", error) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _check_name(url: str, name: str) -> None:
    """Raises a `StoreError` for the name of an object that would be written outside its folder."""
    path = pathlib.PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise objects.StoreError(
            f"the object {file_io.shown(name)[:200]!r} below {file_io.shown(url)} has a name that is no place in a "
            "folder; remove it."
        )


def _make_room(cache: pathlib.Path, needed: int, url: str) -> None:
    """Removes copies that no process uses, those of the longest ago first, until a new one fits.

    Raises:
        UserError: the new one alone is larger than the cache.
    """
    most = limit()
    if needed > most:
        raise errors.UserError(
            f"expected a store cache of {needed / 1e9:.3g} GB or more for {file_io.shown(url)}, it has "
            f"{most / 1e9:.3g} GB; raise {SIZE}."
        )
    copies = sorted((path.stat().st_mtime, path) for path in cache.iterdir() if path.is_dir())
    sizes = {path: sum(one.stat().st_size for one in path.rglob("*") if one.is_file()) for _, path in copies}
    for _, path in copies:
        if sum(sizes.values()) + needed <= most:
            return
        with (
            contextlib.suppress(BlockingIOError),
            _locked(cache / f"{path.name.removeprefix(file_io.INCOMPLETE)}.lock", fcntl.LOCK_EX | fcntl.LOCK_NB),
        ):
            LOG.info("removing a copy of %.1f MB from the store cache.", sizes[path] / 1e6)
            shutil.rmtree(path, ignore_errors=True)
            del sizes[path]
    if sum(sizes.values()) + needed > most:
        LOG.warning("the store cache holds more than %.3g GB, because all of it is in use (%s).", most / 1e9, SIZE)


def _lock(path: pathlib.Path, kind: int) -> BinaryIO:
    """Returns an open file with a lock, which ends with the file or the process."""
    opened = open(path, "ab")  # noqa: SIM115 - its life is that of the lock
    try:
        fcntl.flock(opened, kind)
    except BaseException:
        opened.close()
        raise
    return opened


@contextlib.contextmanager
def _locked(path: pathlib.Path, kind: int) -> Iterator[None]:
    with _lock(path, kind):
        yield


# ---- scratch folders -------------------------------------------------------------------------------------------------


def scratch(name: str) -> pathlib.Path:
    """Returns a new empty folder of a name, removed when the process ends; removes those that killed ones left.

    Args:
        name: last part of its path.
    """
    runs = file_io.make_folder(place() / "runs", f"the folder of runs in stores ({PLACE})")
    with _locked(runs / ".lock", fcntl.LOCK_EX):  # no other process finds the new folder without its lock
        for left in runs.glob("run-*"):
            with contextlib.suppress(OSError), _locked(left / ".alive", fcntl.LOCK_EX | fcntl.LOCK_NB):
                shutil.rmtree(left, ignore_errors=True)
        made = pathlib.Path(tempfile.mkdtemp(prefix="run-", dir=runs))
        alive = _lock(made / ".alive", fcntl.LOCK_EX)

    def remove() -> None:
        shutil.rmtree(made, ignore_errors=True)
        alive.close()

    atexit.register(remove)
    return file_io.make_folder(made / name)
