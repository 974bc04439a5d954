"""Copies the tables of `results/` into the README, so that no number there is typed by hand.

    python scripts/quote_results.py            # writes README.md
    python scripts/quote_results.py --check    # exit code 2 where README.md differs from the tables

A block of README.md between `<!-- results/FILE.md -->` and `<!-- end -->` holds the tables of that file.
"""

from __future__ import annotations

import pathlib
import re

from reid_jax import errors
from reid_jax.cli import command_line

ROOT = pathlib.Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(<!-- (results/[\w./-]+\.md)(?: (\d+))? -->\n).*?(<!-- end -->)", re.DOTALL)


def quoted(readme: str, root: pathlib.Path) -> str:
    """The text with every block filled: all tables of its file, or the one with the number (from 1) behind the name.

    Raises:
        UserError: a block names a file that is not there, or a table it has not.
    """

    def fill(block: re.Match[str]) -> str:
        file = root / block[2]
        if not file.is_file():
            raise errors.UserError(f"README.md quotes {block[2]}, there is no such file; make it or drop the block.")
        tables = re.findall(r"(?:^\|.*\n)+", file.read_text() + "\n", re.MULTILINE)
        number = int(block[3] or 0)
        if not tables or number > len(tables):
            raise errors.UserError(f"README.md quotes table {number} of {block[2]}, which has {len(tables)}.")
        chosen = [tables[number - 1]] if number else tables
        return block[1] + "\n" + "\n".join(chosen) + "\n" + block[4]

    return BLOCK.sub(fill, readme)


def main(arguments: list[str]) -> None:
    """Fills or checks the blocks."""
    path = ROOT / "README.md"
    text = path.read_text()
    filled = quoted(text, ROOT)
    if "--check" not in arguments:
        path.write_text(filled)
    elif filled != text:
        raise errors.UserError("README.md differs from the tables in results/; run scripts/quote_results.py.")


if __name__ == "__main__":
    command_line.run(main)
