"""A lock on a run folder: the second run is refused, with process, host and time of the first, which goes on.

The lock is one of the operating system (`flock`) on the file `.lock`, so that it ends with its process however that
ends; the file's content only says whose it is. File systems shared by several hosts may not carry such locks from host
to host. There, an owner on another host counts as alive while it renews the file's time; after `WATCH` seconds without
a renewal its lock is taken over.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import pathlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from reid_jax import file_io
from reid_jax.errors import UserError

LOG = logging.getLogger(__name__)

FILE = ".lock"
RENEWAL = 10.0  # seconds
WATCH = 35.0
# File systems of one machine: what `flock` says there is the whole truth.
LOCAL = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "tmpfs", "overlay", "apfs", "hfs"}

_held: set[str] = set()  # by this process


@contextlib.contextmanager
def held(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Holds the lock of a folder; within it, the same process may take it again.

    Args:
        folder: an existing folder.

    Raises:
        UserError: another process holds it, or the folder cannot be written.
    """
    name = os.path.realpath(folder)
    if name in _held:
        yield
        return
    path = pathlib.Path(folder) / FILE
    descriptor = _acquire(path)
    stop = threading.Event()
    try:
        threading.Thread(target=_renew, args=(descriptor, stop), name="folder lock", daemon=True).start()
        _held.add(name)
        yield
    finally:
        _held.discard(name)
        stop.set()
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
        os.close(descriptor)


def _acquire(path: pathlib.Path) -> int:
    """Returns the open and locked file, after writing this process's name into it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise file_io.cannot_write(path, "the lock of the run folder", error) from error
    try:
        whole_truth = _lock(descriptor, path)
        owner = _owner(descriptor)
        if owner and not whole_truth and _is_alive(descriptor, owner):
            raise _in_use(path, owner)
        mine = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S %z")}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(mine).encode(), 0)
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, OSError):
            raise file_io.cannot_write(path, "the lock of the run folder", error) from error
        raise
    return descriptor


def _lock(descriptor: int, path: pathlib.Path) -> bool:
    """Locks the file; returns whether that alone proves that no other process holds the lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise _in_use(path, _owner(descriptor)) from None
        return False  # this file system has no locks
    return _file_system(path) in LOCAL


def _owner(descriptor: int) -> dict[str, Any]:
    """Returns what the file says about the lock's owner; nothing after an orderly end or while it is being written."""
    try:
        owner = json.loads(os.pread(descriptor, 4096, 0))
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _is_alive(descriptor: int, owner: dict[str, Any]) -> bool:
    """Returns whether an owner of whom the lock proves nothing is alive, by its process here or by its renewals."""
    if owner.get("host") == socket.gethostname():
        try:
            os.kill(int(owner["pid"]), 0)
        except (ProcessLookupError, ValueError, KeyError, TypeError, OverflowError):
            return False
        except PermissionError:
            pass
    LOG.warning("%s; waiting %.0f s to see whether it still is.", _whose(owner), WATCH)
    before, end = os.fstat(descriptor).st_mtime_ns, time.monotonic() + WATCH
    while time.monotonic() < end:
        time.sleep(min(1.0, WATCH / 5))
        if os.fstat(descriptor).st_mtime_ns != before:
            return True
    return False


def _renew(descriptor: int, stop: threading.Event) -> None:
    """Renews the file's time until the lock is released."""
    while not stop.wait(RENEWAL):
        with contextlib.suppress(OSError):
            os.utime(descriptor)


def _whose(owner: dict[str, Any]) -> str:
    pid, host, since = (str(owner.get(key, "?"))[:64] for key in ("pid", "host", "since"))
    return f"the run folder is in use by process {pid} on {host} since {since}"


def _in_use(path: pathlib.Path, owner: dict[str, Any]) -> UserError:
    return UserError(f"{_whose(owner)}: {path.parent}; wait until that run ends, or give another --workdir.")


def _file_system(path: pathlib.Path) -> str:
    """Returns the type of the file system of a path, "" where the system does not tell."""
    try:
        mounts = [line.split() for line in pathlib.Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError):
        return ""
    real = pathlib.Path(os.path.realpath(path))
    # The last mount of the longest folder is the one that is seen.
    found = [(len(fields[1]), number) for number, fields in enumerate(mounts) if real.is_relative_to(fields[1])]
    return mounts[max(found)[1]][2] if found else ""
