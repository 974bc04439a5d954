"""Errors a user can mend: one sentence that says what was expected, what came, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in what the user gave (files, names, settings), not in this package.

    Scripts print the message alone, without a traceback, and end with exit code 2 (`reid_jax.cli.command_line.main`).
    """


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Builds the error for a name that is in no table.

    Args:
        kind: what the name stands for, in the singular ("model", "loss", "preset").
        name: the name that came.
        known: the names there are.

    Returns:
        A `UserError` that suggests the nearest known name and lists all of them.
    """
    names = sorted(str(one) for one in known)
    nearest = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    suggestion = f" did you mean {nearest[0]!r}?" if nearest else ""
    return UserError(f"unknown {kind} {name!r};{suggestion} known: {', '.join(names) or 'none'}.")
