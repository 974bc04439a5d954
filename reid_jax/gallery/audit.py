"""Who asked a gallery what, when and why: an append-only file of JSON lines, chained by hashes.

Each line holds the hash of the one before and its own, so that a line that was changed, left out or put in between is
found (`check`). Queries are named by a reference (the hash of an image, the number of an entry), never by pixels or
vectors, and answers by the numbers of entries: after an erasure a number belongs to nobody. Lines have a retention time
of their own; those that are older are cut off at the front, and a line takes their place that says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from reid_jax import errors, file_io
from reid_jax.gallery import entries as entries_lib

ENDING = ".audit.jsonl"
_TAIL = 1 << 16
_MOST_BYTES = 1 << 31


def beside(gallery: str | os.PathLike[str]) -> pathlib.Path:
    """Returns the path of the log of a gallery in a file."""
    path = pathlib.Path(gallery).expanduser()
    return path.with_name(path.name + ENDING)


class Log:
    """The log of one gallery; may be used from several processes at a time.

    Attributes:
        path: the file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = pathlib.Path(path).expanduser()

    def check_writable(self) -> None:
        """Raises a `UserError` where no line could be added."""
        with file_io.appending(self.path, "the audit log"):
            pass

    def add(self, event: str, who: str, why: str, **facts: Any) -> None:
        """Adds a line, which is on the disk afterwards.

        Args:
            event: what was done ("query", "add", "remove", "expire", "compact", "calibrate").
            who: name of the person or service.
            why: the reason.
            **facts: JSON values.

        Raises:
            UserError: the file cannot be written; nothing was added.
        """
        line = {"time": entries_lib.iso(time.time()), "event": event, "who": who, "why": why, **facts}
        with file_io.appending(self.path, "the audit log") as file:
            self._append(file, line)

    def settle(
        self, waiting: Callable[[], Mapping[str, str]], done: Callable[[Sequence[str]], None], since: int = 0
    ) -> None:
        """Adds the lines of changes whose notes wait in a gallery, each once, see `store.Store.unlogged`.

        A process that was killed may have added a line and not removed its note, so the log is searched for it.

        Args:
            waiting: returns the notes by name.
            done: is called with their names when the lines are on the disk.
            since: size of the log, in bytes, before the oldest of these changes; the beginning is not searched.

        Raises:
            UserError: the file cannot be written; nothing was added.
        """
        settled: list[str] = []

        def finish() -> None:
            with contextlib.suppress(errors.UserError):  # next time, they are found in the log
                done(settled)

        with file_io.appending(self.path, "the audit log", finish) as file:
            notes = waiting()
            size = file.seek(0, os.SEEK_END)
            file.seek(since if since <= size else 0)  # lines at the front may have expired meanwhile
            there = file.read()
            for name, note in notes.items():
                if name.encode() not in there:
                    self._append(file, {**json.loads(note), "change": name})
                settled.append(name)

    def size(self) -> int:
        """Returns the bytes of the file, 0 where there is none."""
        return self.path.stat().st_size if self.path.exists() else 0

    @staticmethod
    def _append(file: BinaryIO, line: Mapping[str, Any]) -> None:
        previous = _last_hash(file)
        file.seek(0, os.SEEK_END)
        file.write(_chained(line, previous)[0])

    def lines(self) -> list[dict[str, Any]]:
        """Returns all lines, oldest first; none where there is no file.

        Raises:
            UserError: the file cannot be read, or a line is no JSON object.
        """
        if not self.path.exists():
            return []
        text = file_io.read_text(self.path, *_EXPECTED, limit=_MOST_BYTES)
        with file_io.reading(self.path, *_EXPECTED):
            whole = text[: text.rfind("\n") + 1]  # a killed process may have left a part of a line
            return [dict(json.loads(line)) for line in whole.splitlines()]

    def check(self) -> int:
        """Returns the number of lines after checking that none was changed, removed or added.

        The end of the log cannot be checked without a copy of its last hash kept elsewhere.

        Raises:
            UserError: the chain is broken; the message names the first line that does not fit.
        """
        previous = ""
        lines = self.lines()
        for number, line in enumerate(lines, start=1):
            claimed, before = line.pop("hash", None), line.pop("previous", None)
            digest = _chained(line, str(before))[1]
            if before != previous or claimed != digest:
                raise self._broken(number)
            previous = str(line["before"]) if line.get("event") == "cut" else digest
        return len(lines)

    def _broken(self, number: int) -> errors.UserError:
        return errors.UserError(
            f"line {number} of the audit log {file_io.shown(self.path)} does not fit to the one before: the log was "
            "changed by hand; compare it with a copy."
        )

    def expire(self, before: float) -> int:
        """Removes the lines older than a time (seconds since 1970) and returns how many there were."""
        if not self.path.exists():
            return 0
        with file_io.appending(self.path, "the audit log"):
            lines = self.lines()
            kept = [line for line in lines if entries_lib.parse_time(str(line["time"])) >= before]
            gone = lines[: len(lines) - len(kept)]
            if kept != lines[len(gone) :] or not gone or (len(gone) == 1 and gone[0]["event"] == "cut"):
                return 0  # times that do not ascend: a clock was set; the lines stay until all before them may go
            total = sum(int(line["lines"]) if line["event"] == "cut" else 1 for line in gone)
            last = gone[-1]["before" if gone[-1]["event"] == "cut" else "hash"]
            cut = {"time": entries_lib.iso(before), "event": "cut", "lines": total, "before": last}
            data = _chained(cut, "")[0] + b"".join(_line(line) for line in kept)
            file_io.write_bytes(self.path, data, "the audit log")
        return total


_EXPECTED = ("an audit log of a gallery (.audit.jsonl)", "look at it in an editor")


def _chained(line: Mapping[str, Any], previous: str) -> tuple[bytes, str]:
    """Returns a line with its hash as bytes, and the hash."""
    body = {**line, "previous": previous}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return _line({**body, "hash": digest}), digest


def _line(line: Mapping[str, Any]) -> bytes:
    return json.dumps(line, sort_keys=True).encode() + b"\n"


def _last_hash(file: BinaryIO) -> str:
    """Returns the hash of the last whole line of an open log, "" where there is none; cuts off a part of a line."""
    size = file.seek(0, os.SEEK_END)
    reach = _TAIL
    while True:
        start = max(0, size - reach)
        file.seek(start)
        tail = file.read(size - start)
        end = tail.rfind(b"\n") + 1
        begin = tail.rfind(b"\n", 0, max(end - 1, 0)) + 1
        if start == 0 or (end and begin):
            break
        reach *= 8
    if start + end < size:
        os.ftruncate(file.fileno(), start + end)
    if not end:
        return ""
    with file_io.reading(getattr(file, "name", "the audit log"), *_EXPECTED):
        line = json.loads(tail[begin : end - 1])
        return str(line["before"] if line["event"] == "cut" else line["hash"])


def reference(data: bytes) -> str:
    """Returns how a log names an image or a file: by its SHA-256."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def references(queries: Sequence[Any]) -> list[str]:
    """Returns how a log names vectors: by the SHA-256 of their bytes."""
    return [reference(query.tobytes()) for query in queries]


def spans(ids: np.ndarray) -> list[list[int]]:
    """Returns ascending numbers of entries as first and last of each gapless run.

    >>> spans(np.asarray([1, 2, 3, 7]))
    [[1, 3], [7, 7]]
    """
    breaks = np.flatnonzero(np.diff(ids) != 1) + 1
    return [[int(run[0]), int(run[-1])] for run in np.split(ids, breaks)]
