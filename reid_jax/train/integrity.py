"""Integrity of checkpoints: a list of a checkpoint's files with sizes and hashes, written before it counts as complete.

A bit that a disk has turned inside an array would otherwise be read as another number. The list, `files.json`, has a
hash of its own: if the list itself is damaged it proves nothing, and the checkpoint is read as one without a list. A
damaged checkpoint is set aside where an older one can take its place.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import pathlib
import re
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from reid_jax import errors, file_io
from reid_jax.errors import UserError

LOG = logging.getLogger(__name__)

STATE, META = "state", "meta"  # the folders within a checkpoint
LIST = "files.json"


class Unreadable(UserError):
    """Error of a checkpoint whose files are damaged."""


def write(folder: pathlib.Path) -> None:
    """Writes the list of a folder's files.

    Args:
        folder: a checkpoint that is complete except for its name.

    Raises:
        UserError: the list cannot be written.
    """
    entries = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": _hash(path)}
        for path in sorted(folder.rglob("*"))
        # Orbax notes the time of completion in the files of the top, after this list.
        if path.is_file() and path.parent != folder
    }
    file_io.write_json(
        folder / LIST, {"files": entries, "sha256": _hash_of(entries)}, "the list of a checkpoint's files"
    )


def is_listed(folder: pathlib.Path) -> bool:
    """Returns whether a checkpoint has a valid list; one written before version 0.3 has none."""
    return _entries(folder) is not None


def damage(folder: pathlib.Path, *, content: bool = True) -> str | None:
    """Returns what is wrong with a checkpoint's files, `None` if nothing is or if nothing is known for want of a list.

    Args:
        folder: a complete checkpoint.
        content: compare hashes too, which reads every file; else existence and size only.

    Returns:
        The first damaged file, relative to the folder, and its damage: "state/d/1f is missing".
    """
    for name in (STATE, META):
        if not (folder / name).is_dir():
            return f"{name}/ is missing"
    for name, entry in (_entries(folder) or {}).items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        try:
            size = path.stat().st_size
            if size != entry["bytes"]:
                return f"{name} has {size} bytes, expected {entry['bytes']}"
            if content and _hash(path) != entry["sha256"]:
                return f"{name} has changed since it was written"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
    return None


def _entries(folder: pathlib.Path) -> dict[str, dict[str, Any]] | None:
    """Returns the entries of a list by file, `None` if there is none or it is damaged."""
    try:
        content = json.loads((folder / LIST).read_bytes())
        entries: dict[str, dict[str, Any]] = content["files"]
        return entries if content["sha256"] == _hash_of(entries) else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _hash_of(entries: Any) -> str:
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def _hash(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- the checkpoints of a folder -------------------------------------------------------------------------------------


def folders(directory: str | pathlib.Path) -> list[int]:
    """Returns the steps of all checkpoints, also of damaged ones, ascending."""
    folder = pathlib.Path(directory)
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.is_dir() else []


def unfinished(directory: pathlib.Path) -> list[pathlib.Path]:
    """Returns the folders of checkpoints that are being written, or were when their process ended."""
    return sorted(directory.glob("*orbax-checkpoint-tmp*"))


@contextlib.contextmanager
def reading(folder: pathlib.Path) -> Iterator[None]:
    """Names the damaged file when a checkpoint cannot be read, in one sentence in place of a library's many.

    Raises:
        Unreadable: the files are damaged; for a checkpoint without a list, whenever the block fails.
    """
    found = damage(folder)
    if found is None and is_listed(folder):
        # The files are those that were written: what goes wrong now has another reason.
        yield
        return
    try:
        if found is not None:
            raise ValueError(found)
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        raise Unreadable(
            f"the checkpoint {folder} is damaged: {found or errors.fault(error)}; use another step, or restore it "
            "from a copy."
        ) from error


def newest_readable(directory: pathlib.Path) -> int | None:
    """Returns the newest step whose files are not damaged, after a warning for each newer one.

    Raises:
        Unreadable: there are checkpoints, but each is damaged.
    """
    damaged: dict[int, str] = {}
    for step in reversed(folders(directory)):
        found = damage(directory / str(step))
        if found is None:
            return step
        damaged[step] = found
        LOG.warning("the checkpoint %s is damaged (%s); reading an older one.", directory / str(step), found)
    if damaged:
        raise none_readable(directory, damaged)
    return None


def set_damaged_aside(directory: pathlib.Path) -> None:
    """Renames damaged checkpoints if there is a readable one; the content of the newest readable one is compared.

    Raises:
        Unreadable: there are checkpoints, but each is damaged.
        UserError: the folder cannot be changed.
    """
    damaged: dict[int, str] = {}
    readable = False
    for step in reversed(folders(directory)):
        found = damage(directory / str(step), content=not readable)
        if found is None:
            readable = True
        else:
            damaged[step] = found
    if damaged and not readable:
        raise none_readable(directory, damaged)
    for step, found in damaged.items():
        set_aside(directory / str(step), f"the checkpoint {directory / str(step)} is damaged: {found}")


def none_readable(directory: pathlib.Path | str, damaged: Mapping[int, str]) -> Unreadable:
    """Returns the error for checkpoints that are all damaged, given what is wrong by step."""
    found = "; ".join(f"{step}: {text}" for step, text in damaged.items())
    return Unreadable(
        f"no checkpoint in {directory} can be read ({found}); restore one from a copy, or remove the folder to train "
        "from the start."
    )


def set_aside(folder: pathlib.Path, sentence: str) -> None:
    """Renames a damaged checkpoint, whose step can then be saved again.

    Args:
        folder: the checkpoint.
        sentence: what is wrong with it, for the log, without a full stop.

    Raises:
        UserError: it cannot be renamed.
    """
    aside = folder.with_name(f"{folder.name}.damaged")
    if aside.exists():
        shutil.rmtree(aside, ignore_errors=True)
    try:
        folder.rename(aside)
    except OSError as error:
        raise file_io.cannot_write(aside, "the damaged checkpoint to", error) from error
    LOG.warning("%s; set aside as %s, an older checkpoint takes its place.", sentence.partition(";")[0], aside.name)


def system_error(error: Exception) -> Exception:
    """Returns the system's error that a library's text quotes ("... ENOSPC No space left on device ...")."""
    if not isinstance(error, OSError):
        for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO, errno.ENOENT):
            if re.search(rf"\b{errno.errorcode[code]}\b|{os.strerror(code)}", str(error)):
                return OSError(code, os.strerror(code))
    return error
