"""The temporary folder that a data set is prepared in, and those that killed processes left."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import shutil
import time
import uuid
from collections.abc import Iterator
from typing import BinaryIO

from reid_jax import errors, file_io

_LOCK = "lock"  # held in a temporary folder while its process lives
_ABANDONED_SECONDS = 24 * 3600  # where the file system has no locks: the process of a folder this old was killed
_STARTING_SECONDS = 60  # a folder without a lock may be that of a process which has just made it


@contextlib.contextmanager
def temporary_folder(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a temporary folder on the file system of `folder`, for an atomic rename, and removes it at the end.

    Temporary folders that killed processes left are removed first.
    """
    temporary = folder.parent / f"{file_io.INCOMPLETE}{folder.name}-{uuid.uuid4().hex[:8]}"
    lock = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for other in folder.parent.glob(f"{file_io.INCOMPLETE}*"):
            if other.is_dir() and _is_abandoned(other):
                shutil.rmtree(other, ignore_errors=True)
        temporary.mkdir()
        lock = (temporary / _LOCK).open("wb")
        _try_lock(lock)
        yield temporary
    except OSError as error:
        if error.filename is not None and not _is_near(pathlib.Path(os.fsdecode(error.filename)), folder.parent):
            raise errors.UserError(
                f"cannot read {file_io.shown(os.fsdecode(error.filename))} ({errors.reason(error)}); repair it, and "
                "prepare the data set again."
            ) from None
        raise file_io.cannot_write(folder, "the prepared data set", error) from None
    except RuntimeError as error:
        if (system_error := _quoted(error)) is None:
            raise
        raise file_io.cannot_write(folder, "the prepared data set", system_error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if lock is not None:
            lock.close()


def _is_near(path: pathlib.Path, folder: pathlib.Path) -> bool:
    """Returns whether a path is a folder, in it or above it."""
    return path.is_relative_to(folder) or folder.is_relative_to(path)


def _quoted(error: RuntimeError) -> OSError | None:
    """Returns the system's error that the writer of records quotes ("... No space left on device; ...")."""
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES)
    return next((OSError(code, os.strerror(code)) for code in codes if os.strerror(code) in str(error)), None)


def _is_abandoned(folder: pathlib.Path) -> bool:
    """Returns whether the process that made a temporary folder is gone; its lock ends with it, however it ends."""
    try:
        age = time.time() - folder.stat().st_mtime
        if not (folder / _LOCK).exists():
            return age > _STARTING_SECONDS
        with (folder / _LOCK).open("r+b") as file:
            locked = _try_lock(file)
    except OSError:
        return False
    return age > _ABANDONED_SECONDS if locked is None else locked


def _try_lock(file: BinaryIO) -> bool | None:
    """Locks an open file: True, False where another process holds it, None where locks are not to be had."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
    return True
