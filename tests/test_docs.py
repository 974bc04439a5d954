"""The documentation: its commands and links exist, its tables come from results/, every public name has a docstring."""

import ast
import importlib.util
import json
import pathlib
import re
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PACKAGE = ROOT / "reid_jax"
PAGES = sorted((ROOT / "docs").rglob("*.md"))
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]


def load(name):
    """A module of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tables():
    return load("tables")


# ---- README ----------------------------------------------------------------------------------------------------------


def test_first_screen_has_the_two_commands():
    first_screen = "\n".join(README.splitlines()[:20])
    for command in ("make demo", "make test", ". .venv/bin/activate"):
        assert command in first_screen
    assert len(README.splitlines()) <= 150


def test_the_table_of_systems_is_the_generated_one(tables):
    assert tables.BLOCK.search(README)
    assert tables.main(["--check"]) == 0


def test_figures_are_those_that_the_module_draws():
    figures = load("figures")
    assert figures.main(["--check"]) == 0


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_script_file_and_link_exists(path):
    text = path.read_text()
    mentioned = set(re.findall(r"\b((?:scripts|configs|datasets|docs)/[\w/]+\.(?:py|json))\b", text))
    missing = [name for name in mentioned if not (ROOT / name).exists()]
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        made = ("datasets/", "api/", "contributing.md", "changelog.md")
        target = (path.parent / link).resolve()
        inside = str(target.relative_to(ROOT / "docs")) if target.is_relative_to(ROOT / "docs") else ""
        # The site's build makes these pages (docs/hooks.py); `mkdocs build --strict` checks links to them.
        if not link.startswith("http") and not inside.startswith(made) and not target.exists():
            missing.append(link)
    assert not missing


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_name_configs_presets_and_rows_that_exist(path, tables):
    unknown = []
    for system, argument in re.findall(r"configs/(\w+)\.py(?::([\w,]+))?", path.read_text()):
        config = tables.config_module(system)
        known = {*config.PRESETS, *config.VARIANTS, "help"}
        unknown += [f"{system}:{name}" for name in filter(None, argument.split(",")) if name not in known]
    assert not unknown


# ---- tables ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT / "docs")))
def test_tables_of_a_page_can_be_made(tables, path):
    text = path.read_text()
    rendered = tables.render(text)
    assert "<!-- table:" not in rendered
    assert (rendered != text) == bool(tables.DIRECTIVE.search(text))


def test_a_directive_that_cannot_be_filled_is_named(tables):
    for request, message in (
        ("nothing x", "nothing"),
        ("scores absent", "absent.csv"),
        ("gains mgaf absent=mgaf_base", "absent"),
        ("scores mgaf metrics=absent", "absent"),
        ("speed train.json columns=absent", "absent"),
    ):
        with pytest.raises(ValueError, match=message):
            tables.table(request)


def test_differences_are_taken_seed_by_seed(tables):
    scores = {("a", "0"): 0.50, ("a", "1"): 0.60, ("b", "0"): 0.40, ("b", "1"): 0.48, ("b", "2"): 0.9}
    records = [{"row": row, "seed": seed, "mAP": str(score)} for (row, seed), score in scores.items()]
    assert tables.paired(records, "a", "b", "mAP") == pytest.approx([10.0, 12.0])
    records[1]["mAP"] = ""
    assert tables.paired(records, "a", "b", "mAP") == []


def test_statements_hold_only_what_the_runs_decide(tables, monkeypatch):
    drawn = {"base": (40, 41, 40, 42, 40), "up": (45, 47, 45, 48, 44), "same": (41, 40, 41, 41, 40), "few": (60, 61)}
    records = [
        {"row": row, "seed": str(seed), "mAP": str(score / 100)}
        for row, scores in drawn.items()
        for seed, score in enumerate(scores)
    ]
    monkeypatch.setattr(tables, "_records", lambda name: records)
    words = ("metrics=mAP", "up=base", "same=base", "few=base", "base=up")
    decided, undecided = tables.statements("drawn", *words).split("- Not decided:")
    assert "`up` is above that of `base` by 5.2 points (95 % interval +" in decided
    assert "`base` is below that of `up` by 5.2 points" in decided
    assert "`same` against `base` (mAP: no effect seen); `few` against `base` (mAP: fewer than 5 runs)" in undecided
    shown = tables.gains("drawn", *words)
    assert "| `few` | `base` | 2 | +20.0 | mAP: fewer than 5 runs |" in shown
    assert shown.count("mAP: gain |") == shown.count("mAP: loss |") == 1


def test_verdicts_of_parts_follow_from_the_runs(tables, monkeypatch):
    evidence = tables.evidence_tables
    drawn = {"base": (40, 41, 40, 42, 40), "up": (45, 47, 45, 48, 44), "same": (41, 40, 41, 41, 40), "few": (60, 61)}
    about = {"steps": "9", "dataset": "d", "device": "c", "commit": "e", "preset": "demo", "settings": "s"}
    records = [
        {"row": row, "seed": str(seed), "mAP": str(score / 100), **about}
        for row, scores in drawn.items()
        for seed, score in enumerate(scores)
    ]
    records.append({"row": "hsv", "seed": "0", "mAP": "0.08", **about, "steps": "0"})
    compare = [
        {"row": "up", "against": "base", "part": "rise", "claim": "It rises.", "published": 2.0, "where": "there"},
        {"row": "base", "against": "up", "part": "fall"},
        {"row": "same", "against": "base", "part": "rest"},
        {"row": "few", "against": "base", "part": "two"},
        {"row": "new", "against": "base", "part": "none"},
    ]
    table = {"config": "x", "preset": "demo", "metrics": ["mAP"], "question": "Which?", "compare": compare}
    monkeypatch.setattr(evidence, "tables", lambda: {"drawn": table})
    monkeypatch.setattr(evidence, "_records", lambda name: records)
    verdicts = [part.verdict for part in evidence.parts("drawn", table)]
    assert verdicts == ["helps", "hurts", "no effect seen", "not tested", "not tested"]
    shown = evidence.evidence("x")
    assert "| **rise**<br>`up` against `base` | It rises. | +2\u00a0(there) | +5.2" in shown
    assert "| 2 | not tested | - |" in shown
    assert "`hsv` 8.0" in shown
    assert "- Not tested: two (+20.0); none." in evidence.evidence_statements("x")
    assert evidence.evidence_bars("x").count("<circle") == 4
    # Differences of rows that a color histogram beats are no verdicts; one row above it is enough.
    histogram = records[-1]
    monkeypatch.setattr(evidence, "_records", lambda name: [*records[:-1], {**histogram, "mAP": "0.5"}])
    verdicts = [part.verdict for part in evidence.parts("drawn", table)]
    assert verdicts == [evidence.UNLEARNED] * 3 + ["not tested"] * 2
    assert "- Not tested: nothing learned: rise (+5.2" in evidence.evidence_statements("x")
    monkeypatch.setattr(evidence, "_records", lambda name: [*records[:-1], {**histogram, "mAP": "0.44"}])
    assert evidence.parts("drawn", table)[0].verdict == "helps"
    assert evidence.evidence("y").startswith("No table")
    # Twice the spread needs more runs; none differ with no spread.
    few, more = (evidence.runs_needed([0, scale, 2 * scale, scale], 1.0, 0.05) for scale in (1.0, 2.0))
    assert few < more
    assert evidence.runs_needed([1.0, 1.0, 1.0], 1.0, 0.05) == 2
    assert evidence.runs_needed([0.0, 900.0, 1.0], 1.0, 0.05) is None


def test_rows_that_saw_the_tests_corruptions_stand_apart(tables):
    fair, unfair = tables.table("scores cfat metrics=mAP").split("so they do not compare")
    assert "`hsv_histogram`" in fair
    assert "`cfat_student+" not in fair
    assert "`cfat_student+" in unfair


def test_published_figures_name_their_source():
    published = json.loads((ROOT / "docs" / "published.json").read_text())
    systems = {path.stem for path in (ROOT / "configs").glob("*.py")} - {"__init__"}
    assert set(published) == systems
    for name, entry in published.items():
        assert all(score["source"] for score in entry["scores"])
        assert (ROOT / "docs" / "systems" / f"{name}.md").is_file()
        assert (ROOT / "docs" / "images" / f"{name}.svg").is_file()


# ---- docstrings ------------------------------------------------------------------------------------------------------

# Called by Flax and by PyTorch, and described by their class.
FIXED = ("setup", "forward")


def modules():
    """Path and syntax tree of every public module of the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        where = path.relative_to(ROOT)
        if not any(part.startswith("_") and part != "__init__.py" for part in where.parts):
            yield where, ast.parse(path.read_text())


def public(body):
    """The public functions and classes of a body."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [node for node in body if isinstance(node, kinds) and not node.name.startswith("_")]


def test_every_public_name_has_a_docstring():
    trees = dict(modules())
    classes = {node.name: node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}

    def described(name, bases):
        """Whether a base class in this package describes the method."""
        for base in (classes.get(ast.unparse(one).split("[")[0].split(".")[-1]) for one in bases):
            own = [node for node in base.body if getattr(node, "name", "") == name] if base else []
            if any(ast.get_docstring(node) for node in own) or (base and described(name, base.bases)):
                return True
        return name in FIXED

    missing = []
    for where, tree in trees.items():
        missing += [] if ast.get_docstring(tree) else [str(where)]
        for node in public(tree.body):
            missing += [] if ast.get_docstring(node) else [f"{where}: {node.name}"]
            for method in public(node.body) if isinstance(node, ast.ClassDef) else ():
                if not ast.get_docstring(method) and not described(method.name, node.bases):
                    missing.append(f"{where}: {node.name}.{method.name}")
    assert not missing, "without a docstring:\n" + "\n".join(missing)
