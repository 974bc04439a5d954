"""An image as a user lists it, and what the text of an identity or a camera means."""

from __future__ import annotations

import os
import pathlib
import re
import unicodedata
from typing import NamedTuple

SPLITS = ("train", "query", "gallery")

# Whole numbers, also as programs write them that know decimals only (1.0); longer ones are words.
_WHOLE = re.compile(r"(-?\d{1,18})(?:\.0+)?")


class Listed(NamedTuple):
    """An image as listed by the user.

    Attributes:
        path: the file.
        identity: the person, a number or a word.
        camera: the camera, a number or a word; empty where it is unknown.
        filename: name, unique within the split.
    """

    path: pathlib.Path
    identity: str
    camera: str
    filename: str


def as_key(text: str) -> tuple[int, int, str]:
    """Returns a sort key: whole numbers come by value before words, and 7 equals 0007 and 7.0."""
    match = _WHOLE.fullmatch(text)
    return (0, int(match[1]), "") if match else (1, 0, unicodedata.normalize("NFC", text))


def plain(text: str | os.PathLike[str]) -> str:
    """Returns a name for a message: on one line, and shortened where it is very long."""
    text = "".join(letter if letter.isprintable() else "?" for letter in str(text))
    return text if len(text) <= 300 else f"{text[:150]}...{text[-140:]}"


def shown(text: str | os.PathLike[str]) -> str:
    """Returns a name in quotation marks for a message, see `plain`."""
    return repr(plain(text))
