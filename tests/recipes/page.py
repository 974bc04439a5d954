"""The recipe table of a system as Markdown: every effective setting, each with its source."""

from __future__ import annotations

import fractions
import functools
import importlib.util
import pathlib
import re
import types
from collections.abc import Iterator, Mapping
from typing import Any

from tests.recipes import effective, rates, sources

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = pathlib.Path(__file__).resolve().parent
SYSTEMS = tuple(sorted(path.stem for path in (ROOT / "configs").glob("*.py")))
BASE = "market1501"

HEAD = """# Recipe of {system}

Written by `python -m tests.recipes.write` from `configs/{system}.py` and the code; a test compares it. The tables hold
every setting of `{system}:{base}` with all defaults that the code adds, then what other presets and rows change.
Sources: `mfv.md §7` is a section of the specification of that system, with its mark of origin (paper, code, ...);
*[design]* and *[inferred]* are readings that the specification states; *ours* is this project's choice.
"""

# Title of a table and the labels that it holds; the first match takes a label.
TABLES = (
    ("Input and batches", r"data\.(?!cache|workers|threads|root).*|preprocess\..*|corruption\..*"),
    ("Network and start", r"model\..*|init\..*|dtype|seed|start_from"),
    ("Losses", r"(losses|monitors|passes|extras)\..*"),
    ("Optimization", r"optimizer\..*|schedule|train\..*|fed\..*"),
    ("Phases", r"phase_order|phases\..*"),
    ("Evaluation", r"evals\..*"),
    ("Files and speed (no effect on numbers)", r".*"),
)


@functools.cache
def module(system: str) -> types.ModuleType:
    """Returns the module of a config file."""
    spec = importlib.util.spec_from_file_location(f"recipe_{system}", ROOT / "configs" / f"{system}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def text(system: str) -> str:
    """Returns the page of a system."""
    configs = module(system)
    base = configs.get_config(BASE)
    main = effective.rows(base)
    base_rates = rates.by_epoch(effective.settings(base))
    lines = [HEAD.format(system=system, base=BASE)]
    lines += tables(system, main)
    lines += ["## Learning rates", "", "At the first step of an epoch; the first epoch is 1.", ""]
    lines += [*_rate_table(base_rates), ""]
    lines += _group_table(effective.settings(base))
    for title, names in (("Presets", configs.PRESETS), ("Rows", configs.VARIANTS)):
        lines += [f"## {title}", "", f"Each as its differences from `{BASE}`.", ""]
        for name in names:
            if name != BASE:
                config = configs.get_config(name if title == "Presets" else f"{BASE},{name}")
                own_rates = rates.by_epoch(effective.settings(config))
                changes = [*differences(main, effective.rows(config)), *_rate_changes(base_rates, own_rates)]
                source = sources.of_row(system, name, preset=title == "Presets")
                lines.append(f"- `{name}` ({source})" + (":" if changes else ": the same."))
                lines += [f"  - {change}" for change in changes]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def tables(system: str, main: effective.Rows) -> list[str]:
    """Returns the lines of the tables of all settings.

    Raises:
        KeyError: a setting has no source.
    """
    placed: dict[str, list[str]] = {title: [] for title, _ in TABLES}
    for label, value in main.items():
        title = next(title for title, pattern in TABLES if re.fullmatch(pattern, label))
        placed[title].append(f"| `{label}` | {cell(value)} | {sources.of_label(system, label)} |")
    lines = []
    for title, cells in placed.items():
        if cells:
            lines += [f"## {title}", "", "| setting | value | source |", "|---|---|---|", *cells, ""]
    return lines


def _rate_table(found: Mapping[str, Mapping[int, float]]) -> Iterator[str]:
    yield "| group | rates by epoch |"
    yield "|---|---|"
    for label, by_epoch in found.items():
        yield f"| {label} | {_rates(by_epoch)} |"


def _rates(by_epoch: Mapping[int, float]) -> str:
    return ", ".join(f"{epoch}: {rate:.5g}" for epoch, rate in by_epoch.items())


def _rate_changes(base: Mapping[str, Mapping[int, float]], own: Mapping[str, Mapping[int, float]]) -> Iterator[str]:
    for label, by_epoch in own.items():
        if base.get(label) != by_epoch:
            yield f"{label}: {_rates(by_epoch)}"


def _group_table(settings: Any) -> list[str]:
    found = rates.groups(settings)
    if not found:
        return ["All parameters are in one group, for rate and for decay.", ""]
    title = "| list | pattern | value | arrays | parameters (751 people, 6 cameras) | in |"
    rows = [
        f"| {name} | {cell(pattern)} | {value} | {arrays} | {count:,} | {parts} |"
        for name, pattern, value, arrays, count, parts in found
    ]
    return [title, "|---|---|---|---|---|---|", *rows, ""]


def differences(base: effective.Rows, own: effective.Rows) -> Iterator[str]:
    """Yields what is new, gone or changed, options of an entry one by one."""
    for label in [*base, *(label for label in own if label not in base)]:
        old, new = base.get(label), own.get(label)
        if label not in own:
            yield f"without `{label}`"
        elif label not in base:
            yield f"with `{label}`: `{shown(new)}`"
        elif isinstance(old, Mapping) and isinstance(new, Mapping):
            for key in dict.fromkeys([*old, *new]):
                if old.get(key) != new.get(key) or (key in old) != (key in new):
                    yield f"`{label}.{key}`: {_side(old, key)} → {_side(new, key)}"
        elif old != new or type(old) is not type(new):
            yield f"`{label}`: `{shown(old)}` → `{shown(new)}`"


def _side(options: Mapping[str, Any], key: str) -> str:
    return f"`{shown(options[key])}`" if key in options else "not set"


def cell(value: Any) -> str:
    """Returns a value for the cell of a table."""
    return f"`{shown(value)}`".replace("|", r"\|")


def shown(value: Any) -> str:
    """Returns a value as text; different values have different texts."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={shown(each)}" for key, each in value.items()) or "{}"
    if isinstance(value, list | tuple):
        return f"({', '.join(map(shown, value))}{',' * (len(value) == 1)})"
    if isinstance(value, float) and len(repr(value)) > 10:
        ratio = fractions.Fraction(value).limit_denominator(1000)
        return f"{ratio}" if float(ratio) == value else repr(value)
    if isinstance(value, str):
        return value if re.fullmatch(r"[^\s,()=]+", value) else f'"{value}"'
    return repr(value)
