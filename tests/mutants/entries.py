"""Form of the entries of the lists in this folder: deliberate mistakes that tests must notice.

A list is a module with a tuple `MUTANTS`. Each mistake replaces one text of one file:

    mistake = entries.group("mfv", "reid_jax/models/mfv/mfv.py", "tests/models/mfv")

    MUTANTS = (
        mistake("(level, carried), axis=-1", "(level, 0 * carried), axis=-1", "T(k-1) is not carried on"),
        mistake("tokens", "release", "another layout", level="config", tests=("tests/recipes",)),
    )

`find` must occur exactly once in its file, and the file must remain valid Python; `test_mutants` checks both, so that a
list follows the code. Where a line occurs twice, include a neighboring line. `python -m tests.mutants.run` applies the
lists.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

LEVELS = ("method", "config", "generic")


class Mutant(NamedTuple):
    """One deliberate mistake.

    Attributes:
        system: the system, or the part of the framework, that is wrong ("mfv", "losses").
        file: path below the repository.
        find: text to replace; occurs once in the file.
        replace: text in its place.
        what: the mistake in a few words.
        tests: files, folders or tests below the repository that should notice, the quickest first.
        level: "method" changes what is computed, "config" a number or choice of a recipe, "generic" the machinery.
    """

    system: str
    file: str
    find: str
    replace: str
    what: str
    tests: tuple[str, ...]
    level: str = "method"

    def apply(self, text: str) -> str:
        """Returns the file's text with the mistake.

        Raises:
            ValueError: the text to replace does not occur exactly once.
        """
        count = text.count(self.find)
        if count != 1:
            raise ValueError(f"expected the text of {self.what!r} once in {self.file}, found it {count} times.")
        return text.replace(self.find, self.replace)


def group(system: str, file: str, *tests: str, level: str = "method") -> Callable[..., Mutant]:
    """Returns a maker of the mutants of one file: `(find, replace, what, tests=None, level=None) -> Mutant`."""

    def mistake(find: str, replace: str, what: str, *, tests: tuple[str, ...] = tests, level: str = level) -> Mutant:
        return Mutant(system, file, find, replace, what, tests, level)

    return mistake
