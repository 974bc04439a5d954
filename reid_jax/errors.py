"""Errors that the user can fix: one sentence that says what was expected, what was found, and what to do."""

from __future__ import annotations

import csv
import difflib
import json
import re
import zipfile
import zlib
from collections.abc import Iterable


class UserError(Exception):
    """Error in the user's input (files, names, settings), not in this package.

    Commands print the message without a traceback and exit with code 2 (`reid_jax.cli.command_line.run`). A word of the
    message longer than `LONGEST_WORD` characters (a value that was given, never one of ours) keeps its ends alone.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_LONG_WORD.sub(lambda word: f"{word[0][:200]}...{word[0][-60:]}", message))


class Stopped(UserError):
    """End of a run that was asked to stop, by a scheduler or by Ctrl-C; everything up to its step is saved.

    Attributes:
        number: the signal; the process ends with 128 + `number`, as after a signal that nobody handled.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


# Longer than most systems' longest file name, so that a path of a few folders stands whole.
LONGEST_WORD = 1000
# Of more names than these, a message lists those near the unknown one.
MOST_NAMES = 50
_LONG_WORD = re.compile(rf"\S{{{LONGEST_WORD + 1},}}")


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Returns the error for an unknown name.

    Args:
        kind: kind of object in the singular ("model", "loss", "preset").
        name: the unknown name.
        known: all known names.

    Returns:
        A `UserError` that suggests the most similar known name and lists all of them, or the near ones of very many.
    """
    names = sorted(str(candidate) for candidate in known)
    nearest = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    suggestion = f" did you mean {nearest[0]!r}?" if nearest else ""
    if len(names) > MOST_NAMES:
        near = difflib.get_close_matches(str(name), names, n=8, cutoff=0.3)
        return UserError(
            f"unknown {kind} {name!r};{suggestion} {len(names)} are known, near it: {', '.join(near) or 'none'}."
        )
    return UserError(f"unknown {kind} {name!r};{suggestion} known: {', '.join(names) or 'none'}.")


def reason(error: BaseException, limit: int = 160) -> str:
    """Returns the reason that an exception gives as a short text on one line, for the parentheses of a message.

    Args:
        error: any exception; the system's own words of an `OSError`, else the first line of its text, else its class.
        limit: largest number of characters; text of unknown files must not fill a screen.
    """
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if isinstance(error, KeyError):
        text = f"there is no {text}"
    text = " ".join(text.strip().splitlines()[:1]) or type(error).__name__
    text = "".join(letter if letter.isprintable() else "?" for letter in text).rstrip(". ")
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


class MalformedError(Exception):
    """A file contradicts itself, or asks for more than its budget; the message is a clause in this package's words."""


# What exceptions of parsers say about a file; the first class that fits counts. Their own texts speak of the code of a
# library ("invalid start byte", "list indices must be integers"), not of the file.
_FAULTS: tuple[tuple[type[BaseException], str], ...] = (
    (UnicodeError, "it is no text in UTF-8"),
    (csv.Error, "it is no table of comma-separated values"),
    (zipfile.BadZipFile, "it is no complete zip archive"),
    (EOFError, "it ends early"),
    (zlib.error, "its compressed content is damaged"),
    (RecursionError, "it is nested too deeply"),
    (MemoryError, "it asks for more memory than there is"),
)


def fault(error: BaseException) -> str:
    """Returns what is wrong with a file that was written elsewhere, given what its reading raised.

    Args:
        error: any exception. The system's words of an `OSError`, the text of a `MalformedError` or `UserError`, and the
            name of a missing entry are passed on; of all others only the kind.
    """
    if isinstance(error, OSError) and error.strerror:
        return reason(error)
    if isinstance(error, (MalformedError, UserError)):
        return reason(error)
    if isinstance(error, json.JSONDecodeError):
        return f"it is no valid JSON from line {error.lineno}, column {error.colno} on"
    if isinstance(error, KeyError):
        return reason(error)
    known = (text for kind, text in _FAULTS if isinstance(error, kind))
    return next(known, "its content has another form")
