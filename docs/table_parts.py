"""What the makers of tables share: files of `results/`, and markdown tables."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"

SPACE = "\u00a0"  # keeps a number and its spread on one line
# Two-sided 95 % quantiles of Student's distribution by degrees of freedom.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def grid(titles: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A markdown table; cells that hold a vertical bar have it escaped."""
    body = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines]
    return "\n".join([f"| {' | '.join(titles)} |", "|" + "---|" * len(titles), *body]) + "\n"


def read(file: str) -> dict[str, Any]:
    """The content of a JSON file of `results/`.

    Raises:
        ValueError: there is no such file.
    """
    path = RESULTS / file
    if not path.is_file():
        raise ValueError(f"expected the file results/{file}, there is none; make it or drop the directive.")
    return json.loads(path.read_text())
