"""Help pages and lists of all commands: wrapped to the terminal, at most 100 columns wide."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Iterable, Sequence

WIDEST = 100

# How help pages call the values of flags that do not say it themselves.
VALUES = {
    **dict.fromkeys(("source", "output", "weights"), "PATH"),
    **dict.fromkeys(("root", "workdir", "results"), "DIR"),
    **dict.fromkeys(("split", "metric", "ap", "interpolation", "dtype", "model", "into", "preset", "name"), "NAME"),
    **dict.fromkeys(("rows", "metrics", "size"), "NAME,..."),
    **dict.fromkeys(("batch", "seeds"), "N,..."),
    "compare": "ROW=ROW,...",
    "config": "FILE",
    "on_bad_image": "fail|skip",
    "override": "KEY=VALUE",
}


def width() -> int:
    """Returns the columns of help pages and lists."""
    return min(shutil.get_terminal_size().columns, WIDEST)


def wrapped(doc: str) -> str:
    """Returns a docstring with its prose wrapped to `width`; indented blocks, the examples, stay as they are."""
    blocks = doc.strip("\n").split("\n\n")
    return "\n\n".join(
        block if block.startswith(" ") else textwrap.fill(block, width(), break_on_hyphens=False) for block in blocks
    )


def table(rows: Iterable[Sequence[str]], *, indent: str = "") -> str:
    """Returns rows of text in aligned columns; the last one, a sentence, is wrapped.

    Args:
        rows: cells, the same number in each row.
        indent: text in front of every line.
    """
    rows = [list(row) for row in rows]
    widths = [max((len(row[column]) for row in rows), default=0) + 2 for column in range(len(rows[0]) - 1)]
    left = len(indent) + sum(widths)
    lines = []
    for *cells, sentence in rows:
        text = textwrap.wrap(sentence, max(width() - left, 24), break_on_hyphens=False) or [""]
        head = indent + "".join(cell.ljust(size) for cell, size in zip(cells, widths, strict=True))
        lines += [(head + text[0]).rstrip(), *(" " * left + line for line in text[1:])]
    return "\n".join(lines)


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Wraps at `width`, and calls the values of flags by what they are: N for a number, else see `VALUES`."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=width())

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        kind = getattr(action.type, "__qualname__", "")
        if kind.startswith(("whole.", "number.")):
            return "N"
        return VALUES.get(action.dest) or super()._get_default_metavar_for_optional(action)
