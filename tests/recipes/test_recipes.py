"""Every number of every recipe is the one in its table; a change shows as a difference of that table."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from reid_jax import config as config_lib
from tests.recipes import effective, page

HOW = (
    "\n\nA published number changed, or a row did. If that was not meant, repair it. If it was: run\n\n"
    "    python -m tests.recipes.write {system}\n\n"
    "read the change of tests/recipes/{system}.md against its source, and commit it with the reason (CHANGELOG.md)."
)


@pytest.mark.parametrize("system", page.SYSTEMS)
def test_recipe_is_the_one_in_its_table(system):
    committed = (page.FOLDER / f"{system}.md").read_text(encoding="utf-8").splitlines()
    now = page.text(system).splitlines()
    change = difflib.unified_diff(committed, now, f"tests/recipes/{system}.md", "the code", lineterm="", n=1)
    if now != committed:
        pytest.fail("\n".join(change) + HOW.format(system=system), pytrace=False)


def _leaves(values: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(values, Mapping) and values:
        for key in values:
            yield from _leaves(values[key], (*path, key))
    else:
        yield path


def _changed(value: Any) -> Any:
    """Returns another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, tuple):
        return (*value[:-1], _changed(value[-1])) if value and not isinstance(value[-1], str) else (*value, "more")
    return "other" if value is None or isinstance(value, str) else {"more": 1}


def _with_change(values: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """Returns the config with one leaf changed."""
    first, *rest = path
    return {**values, first: _with_change(values[first], tuple(rest)) if rest else _changed(values[first])}


@pytest.mark.parametrize("system", page.SYSTEMS)
def test_no_leaf_of_a_config_can_change_unseen(system):
    """Changes each key of the resolved config in turn; its table must differ, or the change must be refused."""
    config = config_lib.to_dict(page.module(system).get_config(page.BASE))
    before = effective.rows(config)
    unseen = []
    for path in _leaves(config):
        # Presentation, and names that every other key depends on.
        if path[0] in ("notes", "preset", "variants", "system"):
            continue
        mutated = _with_change(config, path)
        try:
            seen = effective.rows(mutated) != before
        except Exception:
            seen = True  # refused by the config, a constructor or a name table
        if not seen:
            unseen.append(".".join(map(str, path)))
    assert not unseen


def test_different_values_have_different_texts():
    values = [1, 1.0, True, "1", (1,), [1.0], None, "None", "", {}, (), 0.1, 0.1 + 1e-16, "a b", ("a", "b"), "a, b"]
    texts = [page.shown(value) for value in values]
    assert len(set(texts)) == len(texts) - 2  # a list is shown like a tuple, "1" like 1
