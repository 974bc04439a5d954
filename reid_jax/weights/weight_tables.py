"""Where the weights stand in a checkpoint: under which key, and with which prefix of their names.

Recipes save `{"state_dict": ..., "epoch": ...}`, `{"net": ...}` or the weights alone, and wrappers (data parallelism,
`torch.compile`, Lightning) put a word before every name. What was looked through is noted and reported.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from reid_jax import errors, file_io

ENDINGS = (".npz", ".safetensors")  # of files that `convert.save` writes
# Keys under which recipes save the weights; the first that is there is taken.
KEYS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "net_dict",
    "model_dict",
    "net_state_dict",
    "network_state_dict",
    "weights",
    "params",
    "module",
)
# Prefixes of wrappers: data parallelism, torch.compile, Lightning.
PREFIXES = ("module.", "_orig_mod.", "model.")
# Data parallelism leaves few names without its prefix, where a layer was added afterwards.
_MIXED = "module."
_MOST_SHOWN = 5
_LONGEST = 40


class Table(dict[str, np.ndarray]):
    """Arrays by name.

    Attributes:
        notes: what was looked through to find them, a clause each; empty for a plain table.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], notes: tuple[str, ...] = ()) -> None:
        super().__init__(arrays)
        self.notes = notes


def find(tree: Any, path: str | os.PathLike[str]) -> Table:
    """Returns the table of weights in what a checkpoint holds.

    Args:
        tree: value of `torch_files.load`.
        path: the file, for messages.

    Raises:
        UserError: there is none, or there are several and none has a usual key.
    """
    notes: list[str] = []
    for _ in range(3):  # levels: {"model": {"state_dict": {...}}}
        inner = _inner(tree, path)
        if inner is None:
            break
        tree = tree[inner]
        notes.append(f"weights found under {shown(inner)}")
    arrays = _arrays(tree)
    if not arrays:
        raise errors.UserError(
            f"{file_io.shown(path)} holds no table of tensors (found {_described(tree)}); save model.state_dict() and "
            "try again."
        )
    return Table(arrays, tuple(notes))


def _inner(tree: Any, path: str | os.PathLike[str]) -> str | None:
    """Returns the key of the table inside a mapping, None where the mapping is the table itself."""
    if not isinstance(tree, Mapping):
        return None
    usual = [key for key in KEYS if _holds_arrays(tree.get(key))]
    if usual:
        return usual[0]
    if _arrays(tree):
        return None
    others = [key for key, value in tree.items() if isinstance(key, str) and _arrays(value)]
    if len(others) > 1:
        listed = ", ".join(shown(key) for key in others[:_MOST_SHOWN])
        more = " and more" if len(others) > _MOST_SHOWN else ""
        raise errors.UserError(
            f"{file_io.shown(path)} holds several tables of tensors ({listed}{more}); save the wanted one alone and "
            "try again."
        )
    return others[0] if others else None


def _holds_arrays(value: Any) -> bool:
    """Returns whether a value is a table, or a mapping with a table under a usual key."""
    return bool(_arrays(value)) or (
        isinstance(value, Mapping) and any(_arrays(value.get(key)) for key in KEYS if key in value)
    )


def _arrays(value: Any) -> dict[str, np.ndarray]:
    if not isinstance(value, Mapping):
        return {}
    return {name: array for name, array in value.items() if isinstance(name, str) and isinstance(array, np.ndarray)}


def _described(tree: Any) -> str:
    if isinstance(tree, Mapping):
        keys = [shown(key) for key in tree if isinstance(key, str)]
        listed = ", ".join(keys[:_MOST_SHOWN]) + (", ..." if len(keys) > _MOST_SHOWN else "")
        return f"a dict with {listed}" if keys else "an empty dict" if not tree else "a dict"
    return type(tree).__name__


def without_prefixes(table: Table) -> Table:
    """Returns the table without the prefixes of wrappers, again and again; a note says which.

    A prefix that all names have is dropped; "module." also where most names have it, unless two names became one.
    """
    names, notes = dict(table), list(table.notes)
    for _ in range(6):
        prefix = next((prefix for prefix in PREFIXES if _is_prefix(names, prefix)), None)
        if prefix is None:
            break
        count = sum(name.startswith(prefix) for name in names)
        notes.append(f"prefix {prefix!r} dropped from {count} of {len(names)} names")
        names = {name.removeprefix(prefix): value for name, value in names.items()}
    return Table(names, tuple(notes))


def _is_prefix(names: Mapping[str, Any], prefix: str) -> bool:
    count = sum(name.startswith(prefix) and len(name) > len(prefix) for name in names)
    if not names or (count < len(names) and (prefix != _MIXED or 2 * count <= len(names))):
        return False
    return len({name.removeprefix(prefix) for name in names}) == len(names)


def shown(name: str) -> str:
    """Returns a name of a file for a message: quoted, short, on one line."""
    text = "".join(letter if letter.isprintable() else "?" for letter in name)
    return repr(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...")
