"""The lists of deliberate mistakes stay alive: each still applies to its file and names tests that exist."""

import ast
import collections
import pathlib

import pytest

from tests.mutants import entries, run

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
MUTANTS = run.lists()


@pytest.mark.parametrize("file", sorted({mutant.file for mutant in MUTANTS}))
def test_every_mistake_applies_once_and_leaves_valid_code(file):
    text = (ROOT / file).read_text()
    ours = [mutant for mutant in MUTANTS if mutant.file == file]
    for mutant in ours:
        changed = mutant.apply(text)
        assert changed != text
        if file.endswith(".py"):
            ast.parse(changed)


def test_entries_are_complete_and_distinct():
    missing = {test for mutant in MUTANTS for test in mutant.tests if not (ROOT / test.split("::")[0]).exists()}
    assert not missing
    assert all(mutant.tests and mutant.what and mutant.level in entries.LEVELS for mutant in MUTANTS)
    twice = [
        key for key, count in collections.Counter((m.file, m.find, m.replace) for m in MUTANTS).items() if count > 1
    ]
    assert not twice
    assert len(MUTANTS) >= 150


def test_a_text_that_does_not_occur_once_is_refused():
    mutant = entries.group("mfv", "a.py", "tests")("x", "y", "x is y")
    assert mutant.apply("x = 1") == "y = 1"
    with pytest.raises(ValueError, match="once in"):
        mutant.apply("x = x")


def test_counts_are_by_system_and_level():
    record = {"system": "mfv", "level": "method", "result": "noticed"}
    rows = [record, {**record, "result": "survived"}, {**record, "level": "config", "result": "survived"}]
    assert run.summary(rows) == {"mfv": {"mutants": 3, "survivors": 2, "method": 2, "method_survivors": 1}}
