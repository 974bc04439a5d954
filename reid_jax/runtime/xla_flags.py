"""Flags of XLA that it does not know, found before it ends the process over them.

XLA reads `XLA_FLAGS` when the first device starts, and ends the process at an unknown flag, with a line of its own log.
Python cannot ask it for its flags, but their names stand in its library, which is searched for those that are given.
"""

from __future__ import annotations

import importlib.util
import mmap
import os
import pathlib
from collections.abc import MutableMapping

from reid_jax import errors

VARIABLE = "XLA_FLAGS"
_PREFIX = "xla_"
_SURELY = b"xla_dump_to\0"  # a flag of every version: where it is not found, names are stored in another way


def refuse_unknown(environment: MutableMapping[str, str] = os.environ) -> None:
    """Raises a `UserError` that names the flags of XLA that the installed one does not know; takes milliseconds.

    Args:
        environment: the environment that holds `XLA_FLAGS`.
    """
    names = [word.strip("'\"-").partition("=")[0] for word in environment.get(VARIABLE, "").split()]
    names = [name for name in names if name.startswith(_PREFIX)]
    if not names:
        return
    try:
        unknown = _unknown(_library(), names)
    except (OSError, ValueError, AttributeError):
        return  # XLA's own line has to do
    if unknown:
        raise errors.UserError(
            f"expected flags in {VARIABLE} that this version of jaxlib knows, got --{unknown[0][:80]}; correct or "
            "remove it."
        )


def _library() -> pathlib.Path:
    """Returns the file of jaxlib that holds XLA, the largest one."""
    spec = importlib.util.find_spec("jaxlib")
    files = pathlib.Path(str(spec and spec.origin)).parent.glob("*.so")
    return max(files, key=lambda path: path.stat().st_size)


def _unknown(library: pathlib.Path, names: list[str]) -> list[str]:
    """Returns those names that are not among the strings of a library; none where it cannot be told."""
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(_SURELY) < 0:
            return []
        return [name for name in names if content.find(name.encode() + b"\0") < 0]
