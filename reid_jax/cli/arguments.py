"""Types and checks of command-line arguments: what a value may be, in one sentence and before any work.

    parser.add_argument("--steps", type=arguments.whole(1, 100_000), default=5)

The functions that make a type are argparse's: text in, value out, and a sentence when the text cannot be meant.
"""

from __future__ import annotations

import argparse
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence

from reid_jax import errors
from reid_jax.config import rules
from reid_jax.stores import mirror, objects

SEED = (0, 2**32 - 1)
PIXELS = (1, 16_384)


def whole(low: int, high: int) -> Callable[[str], int]:
    """Returns the type of whole numbers in a range, both ends included."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected a whole number from {low} to {high}, got {rules.plain(text)!r}")
        return value

    return parse


def number(low: float, high: float) -> Callable[[str], float]:
    """Returns the type of finite numbers in a range, both ends included."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected a number from {low:g} to {high:g}, got {rules.plain(text)!r}")
        return value

    return parse


def text(text: str) -> str:
    """Is the type of text that is neither empty nor unprintable."""
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError(f"expected text that is not empty, got {rules.plain(text)!r}")
    return text


def wholes(flag: str, given: str, low: int, high: int) -> list[int]:
    """Returns whole numbers separated by commas.

    Raises:
        UserError: another text, or a number out of range or given twice.
    """
    try:
        values = [int(each) for each in given.split(",")]
    except ValueError:
        values = []
    if not values or min(values) < low or max(values) > high:
        raise errors.UserError(
            f"expected {flag} as whole numbers from {low} to {high} separated by commas, got {rules.plain(given)!r}."
        )
    if len(set(values)) < len(values):
        raise errors.UserError(f"expected each number of {flag} once, got {rules.plain(given)!r}; leave one out.")
    return values


def names(flag: str, given: str, known: Iterable[str] | None = None) -> list[str]:
    """Returns names separated by commas.

    Raises:
        UserError: an empty name, or one that is not known.
    """
    values = [each.strip() for each in given.split(",")]
    if not all(values):
        raise errors.UserError(f"expected {flag} as names separated by commas, got {rules.plain(given)!r}.")
    for value in values if known is not None else ():
        if value not in (known := list(known or ())):
            raise errors.unknown(f"value of {flag}", rules.plain(value), known)
    return values


def steps(flag: str, given: str, most: int) -> tuple[int, int]:
    """Returns the first and the last of a range of steps, FROM:TO, counted from 1.

    Raises:
        UserError: another text, a range that ends before it begins, or one of more than `most` steps.
    """
    first, _, last = given.partition(":")
    # `isdecimal` is also true of other scripts' digits; eighteen digits are beyond any run.
    if not (first.isascii() and first.isdecimal() and last.isascii() and last.isdecimal() and len(given) < 38):
        raise errors.UserError(
            f"expected {flag} as FROM:TO, such as 20:25, got {rules.plain(given)!r}; give two steps."
        )
    low, high = int(first), int(last)
    if not 1 <= low <= high < low + most:
        raise errors.UserError(
            f"expected {flag} as FROM:TO of 1 to {most} steps counted from 1, got {given}; give others."
        )
    return low, high


def one_of(flag: str, given: str | None, known: Sequence[str]) -> None:
    """Raises a `UserError` for a value that is not among the known ones; None is no value."""
    if given is not None and given not in known:
        raise errors.unknown(f"value of {flag}", rules.plain(given), known)


def existing_file(flag: str, given: str, what: str) -> pathlib.Path:
    """Returns the path of a file that exists.

    Args:
        flag: the argument, for the message.
        given: its value.
        what: noun with article ("a weights file").
    """
    place = path(flag, given)
    if not place.is_file():
        raise errors.UserError(
            f"expected {what} as {flag}, found {_found(place)} at {rules.plain(given)}; give a file."
        )
    return place


def existing_folder(flag: str, given: str, what: str) -> pathlib.Path:
    """Returns the path of a folder that exists, see `existing_file`."""
    place = path(flag, given)
    if not place.is_dir():
        raise errors.UserError(
            f"expected {what} as {flag}, found {_found(place)} at {rules.plain(given)}; give a folder."
        )
    return place


def run_folder(flag: str, given: str) -> str:
    """Returns a run folder that exists, a path or the URL of one in an object store.

    Raises:
        UserError: it is no folder, or the store cannot be read.
    """
    if not objects.is_remote(given):
        return str(existing_folder(flag, given, "a run folder"))
    objects.check(given, flag)
    mirror.opened(given)
    return given


def new_file(flag: str, given: str, endings: Sequence[str] = ()) -> pathlib.Path:
    """Returns the path of a file that can be written; its folder is made later.

    Args:
        flag: the argument, for the message.
        given: its value.
        endings: endings that are allowed, in lower case; empty for any.

    Raises:
        UserError: another ending, a folder of that name, or a place that cannot be written.
    """
    place = path(flag, given)
    if endings and place.suffix.lower() not in endings:
        raise errors.UserError(
            f"expected {flag} to end in {' or '.join(endings)}, got {rules.plain(given)!r}; name another file."
        )
    if place.is_dir():
        raise errors.UserError(f"expected a file as {flag}, {rules.plain(given)} is a folder; name a file in it.")
    _check_place(flag, given, place.parent)
    if place.exists() and not os.access(place, os.W_OK):
        raise errors.UserError(f"cannot write {flag} {rules.plain(given)}: permission denied; name another file.")
    return place


def new_folder(flag: str, given: str) -> pathlib.Path:
    """Returns the path of a folder that exists or can be made.

    Raises:
        UserError: a file of that name, or a place that cannot be written.
    """
    place = path(flag, given)
    _check_place(flag, given, place)
    return place


def _check_place(flag: str, given: str, folder: pathlib.Path) -> None:
    """Raises a `UserError` unless a folder exists, or can be made, in which one can write."""
    nearest = next(each for each in (folder, *folder.parents) if each.exists() or each == each.parent)
    if not nearest.is_dir():
        raise errors.UserError(
            f"expected a place to write as {flag}, {rules.plain(given)} lies below the file {nearest}; name another."
        )
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise errors.UserError(
            f"cannot write {flag} {rules.plain(given)}: no permission to write in {nearest}; name another place."
        )


def path(flag: str, given: str) -> pathlib.Path:
    """Returns a path that is neither empty nor impossible, of which nothing else is known.

    Raises:
        UserError: an empty text, a zero byte in it, a name that no file system takes, or an object store.
    """
    too_long = max(len(os.fsencode(part)) for part in (*pathlib.Path(given).parts, "")) > 255
    if not given.strip() or "\0" in given or too_long:
        raise errors.UserError(f"expected a path as {flag}, got {rules.plain(given)!r}; give one.")
    if given.startswith(tuple(f"{scheme}://" for scheme in objects.LIBRARIES)):
        raise errors.UserError(
            f"expected a path on this machine as {flag}, got {rules.plain(given)}; object stores are for --workdir and "
            "--run, and for data.root and init of configs."
        )
    return pathlib.Path(given)


def _found(path: pathlib.Path) -> str:
    return "a folder" if path.is_dir() else "a file" if path.exists() else "nothing"
