"""What the papers claim for each part of a system and what was measured, from `configs/evidence.toml` and `results/`.

A table of the plan without a file in `results/` is listed as not tested. Verdicts are computed here and nowhere typed:
a part helps if the interval of its difference is above zero, Holm-corrected over the comparisons of its table.
"""

from __future__ import annotations

import csv
import html
import math
import pathlib
import statistics
import sys
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

sys.path.append(str(pathlib.Path(__file__).resolve().parent))  # this folder is no package

from table_parts import RESULTS, ROOT, SPACE, grid

HELPS, OPEN, HURTS, UNTESTED = "helps", "no effect seen", "hurts", "not tested"
UNLEARNED = "not tested: nothing learned"
# The gain that a paper without a figure is held to, in points of mAP.
WORTH = 1.0
# More runs than anybody makes.
MOST = 400


class Part(NamedTuple):
    """A comparison of the plan with what was measured.

    Attributes:
        table: name of its table.
        entry: the comparison of the plan.
        samples: differences in points, paired by seed.
        found: their `significance.Difference`, None without a run.
        learned: whether one of the two rows is better than what needs no training.
    """

    table: str
    entry: Mapping[str, Any]
    samples: list[float]
    found: Any
    learned: bool = True

    @property
    def verdict(self) -> str:
        """What may be said of it."""
        if self.found is None or self.found.low is None:
            return UNTESTED
        if not self.learned:
            return UNLEARNED
        return HELPS if self.found.low > 0 else HURTS if self.found.high < 0 else OPEN


def evidence(system: str = "") -> str:
    """The parts of a system (of all systems, without one): claim, measured difference, verdict, and runs needed."""
    sections = [_section(name, table) for name, table in tables().items() if system in ("", page(table))]
    if not sections:
        return "No table of the evidence plan (`configs/evidence.toml`) is about this system yet: nothing is tested.\n"
    return "\n".join([*sections, _about()])


def evidence_bars(system: str = "") -> str:
    """A picture of the measured differences with their intervals, inline; "" where nothing is measured."""
    measured = [
        part
        for name, table in tables().items()
        if system in ("", page(table))
        for part in parts(name, table)
        if part.found is not None and part.found.low is not None
    ]
    return _picture(measured) if measured else ""


def evidence_statements(system: str) -> str:
    """The verdicts of a system in sentences: what helps, what hurts, what shows nothing, and what was not tested."""
    by_verdict: dict[str, list[str]] = {HELPS: [], HURTS: [], OPEN: [], UNLEARNED: [], UNTESTED: []}
    for name, table in tables().items():
        if page(table) == system:
            for part in parts(name, table):
                by_verdict[part.verdict].append(
                    f"{part.entry['part']} ({_interval(part)})" if part.samples else part.entry["part"]
                )
    lines = [f"- {verdict.capitalize()}: {'; '.join(names)}." for verdict, names in by_verdict.items() if names]
    return "\n".join(lines) + "\n" if lines else "- Nothing is tested.\n"


def tables() -> dict[str, dict[str, Any]]:
    """The tables of the plan by name; keys of `[all]` are filled in."""
    plan = tomllib.loads((ROOT / "configs" / "evidence.toml").read_text())
    return {name: {**plan["all"], **table} for name, table in plan["tables"].items()}


def page(table: Mapping[str, Any]) -> str:
    """The system's page that shows a table."""
    return str(table.get("page") or table["config"])


def parts(name: str, table: Mapping[str, Any]) -> list[Part]:
    """The comparisons of a table with their differences on its first metric."""
    from reid_jax.runs import ablation_table, significance

    records, metric = _records(name), table["metrics"][0]
    unlearned = ablation_table.no_better_than_untrained(records, metric)
    runs = {(record["row"], record["seed"]): record for record in records}
    samples: dict[int, list[float]] = {}
    for number, entry in enumerate(table.get("compare", [])):
        seeds = [seed for row, seed in runs if row == entry["row"] and (entry["against"], seed) in runs]
        pairs = [(runs[entry["row"], seed][metric], runs[entry["against"], seed][metric]) for seed in seeds]
        samples[number] = [100 * (float(one) - float(other)) for one, other in pairs if one and other]
    # A pair that stands for two parts is one difference.
    distinct = {
        (entry["row"], entry["against"]): samples[number] for number, entry in enumerate(table.get("compare", []))
    }
    found = significance.differences({pair: values for pair, values in distinct.items() if values})
    return [
        Part(
            name,
            {"part": "", "claim": "", **entry},
            samples[number],
            found.get((entry["row"], entry["against"])),
            learned=not {entry["row"], entry["against"]} <= unlearned,
        )
        for number, entry in enumerate(table.get("compare", []))
    ]


def runs_needed(samples: Sequence[float], gain: float, level: float) -> int | None:
    """The least number of runs whose interval excludes zero if the mean is `gain`, at the spread of the samples.

    Args:
        samples: differences of paired runs, in points.
        gain: the mean difference, in points.
        level: error probability of the interval.

    Returns:
        At least 2; None for fewer than three samples, or for more than `MOST` runs.
    """
    from reid_jax.runs import significance

    if len(samples) < 3:
        return None
    spread = statistics.stdev(samples)
    for runs in range(2, MOST + 1):
        if abs(gain) > significance.student_quantile(level, runs - 1) * spread / math.sqrt(runs):
            return runs
    return None


def _section(name: str, table: Mapping[str, Any]) -> str:
    """A table of the plan: its question, its parts, and the conditions."""
    found = parts(name, table)
    lines = []
    for part in found:
        gain = part.entry.get("published")
        paper = "-" if gain is None else f"+{gain:g}{SPACE}({part.entry.get('where', 'paper')})"
        pair = f"`{part.entry['row']}` against `{part.entry['against']}`"
        claim = part.entry["claim"] or "-"
        cells = [f"**{part.entry['part'] or pair}**<br>{pair}", claim, paper, _interval(part), str(len(part.samples))]
        lines.append([*cells, part.verdict, _needed(part, max(len(found), 1))])
    titles = [
        "part",
        "the paper's claim",
        "its gain (mAP)",
        "measured (mAP, points)",
        "runs",
        "verdict",
        "runs to know",
    ]
    return f"**{table['question']}**\n\n{grid(titles, lines)}\n{_conditions(name, table)}\n"


def _needed(part: Part, comparisons: int) -> str:
    """Runs that would show the published gain, or one point, at the strictest level of the table."""
    gain = part.entry.get("published") or WORTH
    count = runs_needed(part.samples, gain, 0.05 / comparisons)
    if count is None:
        return "-" if len(part.samples) < 3 else f"over {MOST}"
    return f"{count} for {gain:g}"


def _conditions(name: str, table: Mapping[str, Any]) -> str:
    """The settings of the runs, why they are what they are, and what was scored; those of the plan before any run."""
    records = _records(name)
    values = lambda key: ", ".join(dict.fromkeys(record[key] for record in records if record.get(key)))
    why = " ".join(str(table.get("why", "")).split())
    if not records:
        settings = "; ".join(table.get("overrides", [])) or "the demo's settings"
        return f"<small>`{table['preset']}`, {settings}. {why} Not run yet.</small>\n"
    steps = sorted({int(float(record["steps"])) for record in records} - {0})
    counts = " to ".join(map(str, dict.fromkeys((steps[0], steps[-1])))) if steps else "0"
    references: dict[str, list[float]] = {}
    for record in records:
        if record["steps"] == "0":
            references.setdefault(record["row"], []).append(100 * float(record["mAP"]))
    without = ", ".join(f"`{row}` {statistics.mean(scores):.1f}" for row, scores in references.items())
    return (
        f"<small>`{values('preset')}`, {values('settings')}. {why} Scored on {values('dataset')}; {counts} steps; "
        f"{values('device')}, commit {values('commit')}. Without training (mAP): {without or '-'}.</small>\n"
    )


def _about() -> str:
    return (
        "Differences are means over runs that share their seed of network, order and data, with 95 % intervals "
        "(Student's distribution, widened by Holm's procedure over the comparisons of the table). A part *helps* if "
        f"its interval is above zero and *hurts* if it is below; *{UNTESTED}* is what fewer than five runs are, and "
        "a pair of rows of which neither beats raw pixels, color histogram and untrained network. *Runs "
        "to know*: as many as would exclude zero at the spread seen here if the mean were the paper's gain, or "
        f"{WORTH:g} point where it prints none.\n"
    )


def _interval(part: Part) -> str:
    if part.found is None or math.isnan(part.found.mean):
        return "-"
    mean = f"{part.found.mean:+.1f}"
    return mean if part.found.low is None else f"{mean}{SPACE}[{part.found.low:+.1f},{SPACE}{part.found.high:+.1f}]"


def _picture(measured: Sequence[Part]) -> str:
    """A line of SVG for each part: its interval, its mean, and the paper's gain as an open mark."""
    ends = [0.0, *(end for part in measured for end in (part.found.low, part.found.high))]
    ends += [part.entry["published"] for part in measured if part.entry.get("published") is not None]
    low, high = min(ends), max(ends)
    left = 20 + 6.3 * max(len(part.entry["part"]) for part in measured)  # room for the names
    place = lambda value: f"{left + 330 * (value - low) / max(high - low, 1e-9):.1f}"
    bottom = 24 * len(measured) + 8
    zero = place(0.0)
    drawn = [f'<line x1="{zero}" x2="{zero}" y1="4" y2="{bottom}" stroke="#888" stroke-dasharray="3 3"/>']
    colors = {HELPS: "#2e7d32", HURTS: "#c62828", OPEN: "#607d8b", UNLEARNED: "#607d8b"}
    for number, part in enumerate(measured):
        y, color = 18 + 24 * number, colors[part.verdict]
        start, middle, end = (place(value) for value in (part.found.low, part.found.mean, part.found.high))
        drawn.append(
            f'<text x="{left - 10:.0f}" y="{y + 4}" text-anchor="end">{html.escape(part.entry["part"])}</text>'
        )
        drawn.append(f'<line x1="{start}" x2="{end}" y1="{y}" y2="{y}" stroke="{color}" stroke-width="3"/>')
        drawn.append(f'<circle cx="{middle}" cy="{y}" r="4.5" fill="{color}"/>')
        if part.entry.get("published") is not None:
            at = place(part.entry["published"])
            drawn.append(f'<circle cx="{at}" cy="{y}" r="4.5" fill="none" stroke="currentColor"/>')
    for value in sorted({low, 0.0, high}):
        drawn.append(f'<text x="{place(value)}" y="{bottom + 18}" text-anchor="middle">{value:+.1f}</text>')
    label = "Differences in points of the first metric, with 95 % intervals; open circles: the papers' gains."
    style = f'viewBox="0 0 {left + 360:.0f} {bottom + 26}" font-size="12" fill="currentColor" font-family="sans-serif"'
    picture = f'<svg role="img" aria-label="{label}" width="100%" {style}>{"".join(drawn)}</svg>'
    return f"<figure>{picture}<figcaption>{label}</figcaption></figure>\n"


def _records(name: str) -> list[dict[str, str]]:
    path = RESULTS / f"evidence-{name}.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
