"""Writes and reads of the user's files: whole or not at all, and one sentence where the disk does not allow it.

`write` fills a file next to its place, brings it to the disk, and renames it: a reader sees the old content or the new,
whatever happens meanwhile (a full disk, a signal, a kill). `reading` surrounds everything that parses a user's file and
turns any exception into a `UserError`, because what a damaged file makes a library raise cannot be listed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import secrets
import stat
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from reid_jax import errors

# Unfinished files, also those that a killed process left.
INCOMPLETE = ".incomplete-"

_REMEDIES = {
    errno.ENOSPC: "free some space on that disk, or write elsewhere",
    errno.EDQUOT: "free some space of your quota, or write elsewhere",
    errno.EFBIG: "raise the limit of the file size (ulimit -f)",
    errno.EISDIR: "give the name of a file",
    errno.ENAMETOOLONG: "give a shorter name",
}


# ---- writing ---------------------------------------------------------------------------------------------------------


def write(path: str | os.PathLike[str], fill: Callable[[BinaryIO], object], what: str = "the file") -> None:
    """Writes a file whole or not at all.

    The content goes to a file of another name in the same folder, is flushed to the disk, and is renamed. A symbolic
    link is followed; a device or a pipe (`/dev/stdout`) is written directly. The folder must exist.

    Args:
        path: the file.
        fill: writes the content to an open binary file.
        what: noun with article for the message ("the features file").

    Raises:
        UserError: the file cannot be written, for example on a full disk; the previous content is untouched.
    """
    with _sentence_for(path, what):
        target = pathlib.Path(os.path.realpath(path))
        if not _is_replaceable(target):
            with target.open("wb") as stream:
                fill(stream)
            return
        with _taking_place_of(target) as beside, beside.open("xb") as file:
            fill(file)
            file.flush()


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], what: str = "the file") -> Iterator[pathlib.Path]:
    """Yields the path of a new file that takes the place of `path` when the block ends without an exception.

    For content that is written by path, such as a memory-mapped array; otherwise see `write`. The folder must exist.

    Args:
        path: the file, whose content stays as it is until then.
        what: noun with article for the message.

    Raises:
        UserError: the block, or the renaming, met an error of the disk.
    """
    with _sentence_for(path, what):
        target = pathlib.Path(os.path.realpath(path))
        if not _is_replaceable(target):
            raise OSError(errno.EINVAL, "a device or a pipe", str(target))
        with _taking_place_of(target) as beside:
            yield beside


@contextlib.contextmanager
def _taking_place_of(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a new name in the same folder; brings that file to the disk and renames it, or removes it on an error."""
    beside = _beside(target)
    try:
        yield beside
        with beside.open("r+b") as file:
            _to_disk(file.fileno())
        beside.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
    _folder_to_disk(target.parent)


@contextlib.contextmanager
def appending(
    path: str | os.PathLike[str], what: str = "the file", then: Callable[[], None] | None = None
) -> Iterator[BinaryIO]:
    """Yields a file that is open for reading and for writing at its end, under a lock; made where it is absent.

    What the block writes is on the disk afterwards, or not in the file at all: an error cuts it off again. A killed
    process may leave a part of its last write. Only its owner may read a new file.

    Args:
        path: the file; its folder must exist.
        what: noun with article for the message.
        then: is called when it is on the disk, under the lock.

    Raises:
        UserError: the file cannot be opened or written, for example on a full disk.
    """
    with _sentence_for(path, what), _locked(path) as file:
        before = file.seek(0, os.SEEK_END)
        try:
            yield file
            file.flush()
            _to_disk(file.fileno())
        except BaseException:
            with contextlib.suppress(OSError):
                os.ftruncate(file.fileno(), before)
            raise
        if then is not None:
            then()


@contextlib.contextmanager
def _locked(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Yields the open file at a path under a lock; waits for whoever has it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                replaced = not os.path.samestat(os.fstat(file.fileno()), os.stat(path))
            except FileNotFoundError:
                replaced = True
            if not replaced:  # while this process waited
                yield file
                return


def write_bytes(path: str | os.PathLike[str], data: bytes, what: str = "the file") -> None:
    """Writes bytes, see `write`."""
    write(path, lambda file: file.write(data), what)


def write_text(path: str | os.PathLike[str], text: str, what: str = "the file") -> None:
    """Writes text as UTF-8, see `write`; file names in it that are not UTF-8 keep their bytes."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"), what)


def write_json(path: str | os.PathLike[str], value: Any, what: str = "the file", *, sort_keys: bool = False) -> None:
    """Writes a JSON value with an indent of two and a final newline, see `write`."""
    write_text(path, json.dumps(value, indent=2, sort_keys=sort_keys) + "\n", what)


def make_folder(path: str | os.PathLike[str], what: str = "the folder") -> pathlib.Path:
    """Returns a folder after making it and its parents where they are absent.

    Raises:
        UserError: it cannot be made, or a file has its name.
    """
    folder = pathlib.Path(path)
    with _sentence_for(folder, what):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise errors.UserError(f"expected {what} {folder} to be a folder, it is a file; give another.") from error
    return folder


def check_writable(path: str | os.PathLike[str], what: str = "the file") -> None:
    """Checks, before the work, that a file can be written later: makes and removes an empty file next to it.

    Raises:
        UserError: the folder does not exist or cannot be written, or the path is a folder.
    """
    with _sentence_for(path, what):
        target = pathlib.Path(os.path.realpath(path))
        if not _is_replaceable(target):
            return
        beside = _beside(target)
        beside.touch(exist_ok=False)
        beside.unlink()


def check_place(path: str | os.PathLike[str], what: str = "the file") -> None:
    """Checks, before the work, that a file can be written later below folders that are made then; makes nothing.

    Raises:
        UserError: the nearest folder that exists cannot be written or is a file, or the path is a folder.
    """
    with _sentence_for(path, what):
        target = pathlib.Path(os.path.realpath(path))
        folder = target.parent
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
        if folder == target.parent:
            check_writable(path, what)
        elif not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def remove_incomplete(folder: str | os.PathLike[str]) -> list[str]:
    """Removes the unfinished files that a killed process left in a folder, and returns their names.

    Only for a folder that no other process writes to.
    """
    removed = []
    with contextlib.suppress(OSError):
        for entry in sorted(pathlib.Path(folder).iterdir()):
            if entry.name.startswith(INCOMPLETE) and entry.is_file():
                with contextlib.suppress(OSError):
                    entry.unlink()
                    removed.append(entry.name)
    return removed


def cannot_write(path: str | os.PathLike[str], what: str, error: BaseException) -> errors.UserError:
    """Returns the error for a file that cannot be written: the file, the system's reason, and what to do.

    Args:
        path: the file or folder.
        what: noun with article ("the checkpoint").
        error: what the system or a library raised.
    """
    code = error.errno if isinstance(error, OSError) else None
    parent = pathlib.Path(path).parent
    remedy = _REMEDIES.get(code or 0, "give a place that can be written")
    if code == errno.ENOENT and not parent.is_dir():
        remedy = f"the folder {parent} does not exist, make it first"
    return errors.UserError(f"cannot write {what} {shown(path)} ({errors.reason(error)}); {remedy}.")


def shown(path: str | os.PathLike[str]) -> str:
    """Returns a path for a message: on one line, bytes that are no text as question marks."""
    return "".join(letter if letter.isprintable() else "?" for letter in os.fspath(path))


@contextlib.contextmanager
def _sentence_for(path: str | os.PathLike[str], what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        # A name with a zero byte is a ValueError of the system call.
        if isinstance(error, ValueError) and "null" not in str(error):
            raise
        raise cannot_write(path, what, error) from error


def _is_replaceable(target: pathlib.Path) -> bool:
    """Returns whether a path is a regular file or nothing yet; a device or a pipe must not be replaced by a file.

    Raises:
        OSError: a folder, or a file that the user has protected.
    """
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return True
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(target))
    return stat.S_ISREG(mode)


def _beside(target: pathlib.Path) -> pathlib.Path:
    """Returns a new name in the same folder, short because a file name may be as long as the file system allows."""
    return target.parent / f"{INCOMPLETE}{secrets.token_hex(6)}"


def _to_disk(descriptor: int) -> None:
    """Flushes a file or folder to the disk, where the file system knows how to."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EROFS):
            raise


def _folder_to_disk(folder: pathlib.Path) -> None:
    """Makes a rename last; the file is in place already, so nothing is lost where this fails."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# ---- reading ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def reading(path: str | os.PathLike[str], expected: str, remedy: str) -> Iterator[None]:
    """Turns every exception of a block that reads a user's file into a `UserError`.

    Args:
        path: the file, named in the message.
        expected: what it should have been, with its article ("a features file (.npz)").
        remedy: what the user can do, without a full stop.

    Raises:
        UserError: for any exception; one that the block raises itself passes unchanged.
    """
    try:
        yield
    except errors.UserError:
        raise
    except MemoryError as error:
        raise errors.UserError(
            f"{shown(path)} needs more memory than there is; expected {expected}: {remedy}."
        ) from error
    except Exception as error:
        raise errors.UserError(
            f"expected {expected} at {shown(path)}, it cannot be read ({errors.fault(error)}); {remedy}."
        ) from error


def read_bytes(path: str | os.PathLike[str], expected: str, remedy: str, *, limit: int | None = None) -> bytes:
    """Returns the content of a user's file.

    Args:
        path: the file.
        expected: see `reading`.
        remedy: see `reading`.
        limit: largest size in bytes.

    Raises:
        UserError: the file cannot be read or is larger than the limit.
    """
    with reading(path, expected, remedy), open(path, "rb") as file:
        data = file.read() if limit is None else file.read(limit + 1)
        if limit is not None and len(data) > limit:
            raise too_large(path, expected, remedy, limit)
    return data


def too_large(path: str | os.PathLike[str], expected: str, remedy: str, limit: int) -> errors.UserError:
    """Returns the error for a file of more bytes than its limit, see `read_bytes`."""
    return errors.UserError(f"expected {expected} of at most {limit} bytes at {path}, it is larger; {remedy}.")


def read_text(path: str | os.PathLike[str], expected: str, remedy: str, *, limit: int | None = None) -> str:
    """Returns the text of a user's file, which must be UTF-8 (a byte order mark is dropped), see `read_bytes`."""
    data = read_bytes(path, expected, remedy, limit=limit)
    with reading(path, expected, remedy):
        return data.decode("utf-8-sig")


def read_json(path: str | os.PathLike[str], expected: str, remedy: str, *, limit: int | None = None) -> dict[str, Any]:
    """Returns the JSON object of a user's file, see `read_text`; any other JSON value is an error."""
    text = read_text(path, expected, remedy, limit=limit)
    with reading(path, expected, remedy):
        value = json.loads(text)
    if not isinstance(value, dict):
        raise errors.UserError(f"expected {expected} at {path}, got JSON that is no object; {remedy}.")
    return value
