"""The README: its numbers are those of results/, its commands and links exist."""

import importlib.util
import pathlib
import re

import pytest

from reid_jax import errors

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("quote_results", ROOT / "scripts" / "quote_results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_numbers_are_those_of_the_results(script):
    assert script.quoted(README, ROOT) == README


def test_blocks_are_filled_with_the_tables_of_their_file(script, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "x.md").write_text("# X\n\n| a |\n|---|\n| 1 |\n\ntext\n\n| b |\n|---|\n| 2 |\n")
    one = "<!-- results/x.md 2 -->\nold\n<!-- end -->"
    assert script.quoted(one, tmp_path) == "<!-- results/x.md 2 -->\n\n| b |\n|---|\n| 2 |\n\n<!-- end -->"
    assert "| 1 |" in script.quoted("<!-- results/x.md -->\n<!-- end -->", tmp_path)
    with pytest.raises(errors.UserError, match="no such file"):
        script.quoted("<!-- results/y.md -->\n<!-- end -->", tmp_path)


def test_first_screen_has_the_two_commands():
    first_screen = "\n".join(README.splitlines()[:20])
    assert "make demo" in first_screen
    assert "make test" in first_screen


def test_every_script_file_and_link_exists():
    mentioned = set(re.findall(r"\b((?:scripts|configs|reid_jax)/[\w/]+\.py)\b", README))
    linked = {link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("http")}
    assert len(mentioned) > 5
    missing = [name for name in mentioned | linked if not (ROOT / name).exists()]
    assert not missing
