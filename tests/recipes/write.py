"""Writes the recipe tables: `python -m tests.recipes.write [SYSTEM ...]`, from the root of the checkout.

A changed number is accepted by running this and committing the changed table with the reason.
"""

from __future__ import annotations

import sys

from tests.recipes import page


def main(systems: list[str]) -> None:
    """Writes the tables of the named systems, of all without a name."""
    for system in systems or page.SYSTEMS:
        (page.FOLDER / f"{system}.md").write_text(page.text(system), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
