"""Tables of the site and of the README, made from the files in `results/` when they are shown.

A page asks for a table by a comment on a line of its own, and the site's build puts the table in its place:

    <!-- table: scores mspf -->
    <!-- table: gains mspf osfa=mspf_osnet mspf=mspf_p0 -->
    <!-- table: speed train.json columns=what,step_ms,images_per_s -->

`TABLES` lists the kinds. The README cannot be built, so its one table is written into it:

    python docs/tables.py            # writes the block between `<!-- systems -->` and `<!-- end -->` of README.md
    python docs/tables.py --check    # exit code 1 where README.md differs

Only the standard library is needed, except by `rows`, `gains`, `statements` and `evidence`, which import the package.
"""

from __future__ import annotations

import csv
import importlib.util
import math
import pathlib
import re
import shlex
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

sys.path.append(str(pathlib.Path(__file__).resolve().parent))  # this folder is no package

import alignment_tables
import evidence_tables
import export_tables
import gallery_tables
import part_tables
import pretraining_tables
import published_tables
import trial_tables
from table_parts import RESULTS, ROOT, SPACE, grid, read

DIRECTIVE = re.compile(r"^<!-- table: (.+?) -->$", re.MULTILINE)
BLOCK = re.compile(r"(<!-- systems -->\n).*?(<!-- end -->)", re.DOTALL)

# Training policies that the corruption benchmark allows.
RULE_ABIDING = ("none", "augmix", "unknown", "-", "")
METRICS = ("mAP", "rank1", "mINP")


def render(markdown: str) -> str:
    """The page with every directive replaced by its table.

    Raises:
        ValueError: for a kind, a file, a row or a column that does not exist; the message names it.
    """
    return DIRECTIVE.sub(lambda match: table(match[1]), markdown)


def table(request: str) -> str:
    """The table that one directive asks for, such as "scores mspf metrics=mAP,rank1"."""
    kind, *words = shlex.split(request)
    if kind not in TABLES:
        raise ValueError(f"expected one of the tables {', '.join(TABLES)}, got {kind!r} in {request!r}.")
    return TABLES[kind](*words).rstrip("\n") + "\n"


# ---- scores of training runs ----------------------------------------------------------------------------------------


def scores(name: str, *options: str) -> str:
    """Rows of `results/<name>.csv`: mean ± standard deviation over seeds.

    Rows whose training saw the corruptions of the test stand in a table of their own.
    """
    given = _options(options)
    records = _records(name)
    metrics = given.get("metrics", ",".join(METRICS)).split(",")
    groups = [
        [record for record in records if (_policy(record) in RULE_ABIDING) is abiding] for abiding in (True, False)
    ]
    policies = any(_policy(record) not in ("none", "unknown", "-", "") for record in records)
    parts = []
    for group, note in zip(
        groups,
        ("", "Training of these rows saw the corruptions of the test, so they do not compare with the rows above:\n\n"),
    ):
        if group:
            parts.append(note + _score_table(group, metrics, policies))
    return "\n".join([*parts, _about(records)])


def _score_table(records: Sequence[Mapping[str, str]], metrics: Sequence[str], policies: bool) -> str:
    titles = ["row", "seeds", *(["corruptions in training"] if policies else [])]
    titles += [*(_title(metric, "%") for metric in metrics), "parameters"]
    lines = []
    for row in dict.fromkeys(record["row"] for record in records):
        runs = [record for record in records if record["row"] == row]
        cells = [f"`{row}`", str(len(runs)), *([_policy(runs[0])] if policies else [])]
        cells += [_spread([_number(run, metric) for run in runs], _factor(metric)) for metric in metrics]
        size = int(float(runs[0].get("parameters") or 0))
        lines.append([*cells, f"{size:,}" if size else "-"])
    return grid(titles, lines)


def gains(name: str, *words: str) -> str:
    """Differences of rows over runs of the same seed with their intervals, and what follows from them.

    Each word is a pair `row=baseline`; `metrics=mAP,rank1` chooses the columns, the first decides the verdict.
    """
    metrics, pairs = _pairs(words)
    found = _differences(name, metrics, pairs)
    titles = ["row", "compared with", "runs", *(f"{_title(metric, 'points')}" for metric in metrics), "reads"]
    lines = []
    for row, against in pairs:
        first = found[row, against, metrics[0]]
        cells = [_interval(found[row, against, metric]) for metric in metrics]
        lines.append([f"`{row}`", f"`{against}`", str(first.runs), *cells, f"{_title(metrics[0])}: {first.verdict}"])
    about = (
        "Differences of runs of the same seed with 95 % intervals (Student's distribution, widened by Holm's procedure "
        "over all intervals of the table). A gain or a loss is an interval without zero; fewer than "
        f"{_significance().RUNS} runs decide nothing.\n"
    )
    return grid(titles, lines) + "\n" + about


def statements(name: str, *words: str) -> str:
    """The differences of `gains` that the runs decide, as sentences; and the names of those that they do not."""
    metrics, pairs = _pairs(words)
    decided, open_ = [], []
    for (row, against, metric), found in _differences(name, metrics, pairs).items():
        if found.low is None or found.low <= 0 <= found.high:
            open_.append(f"`{row}` against `{against}` ({_title(metric)}: {found.verdict})")
            continue
        word = "above" if found.mean > 0 else "below"
        decided.append(
            f"- {_title(metric)} of `{row}` is {word} that of `{against}` by {abs(found.mean):.1f} points "
            f"(95 % interval {found.low:+.1f} to {found.high:+.1f}, {found.runs} runs)."
        )
    text = "\n".join(decided) if decided else "- No difference in the table is decided by its runs."
    if open_:
        text += "\n- Not decided: " + "; ".join(open_) + "."
    return text + "\n"


def _significance() -> ModuleType:
    """The module that also words the tables of `ablate.py`; it needs the standard library only."""
    from reid_jax.runs import significance

    return significance


def _differences(name: str, metrics: Sequence[str], pairs: Sequence[tuple[str, str]]) -> dict[Any, Any]:
    """The `significance.Difference` of each (row, baseline, metric), in points, where both rows measured the metric."""
    records = _records(name)
    return _significance().differences(
        {(*pair, metric): paired(records, *pair, metric) for pair in pairs for metric in metrics}
    )


def paired(records: Sequence[Mapping[str, str]], row: str, against: str, metric: str) -> list[float]:
    """Differences in points over the seeds that both rows have; none where a run did not measure the metric."""
    runs = {(record["row"], record["seed"]): record for record in records}
    names = {record["row"] for record in records}
    for one in (row, against):
        if one not in names:
            raise ValueError(f"expected a row of the table, got {one!r}; it has {', '.join(sorted(names))}.")
    seeds = [seed for name, seed in runs if name == row and (against, seed) in runs]
    values = [(_number(runs[row, seed], metric), _number(runs[against, seed], metric)) for seed in seeds]
    if any(None in pair for pair in values):
        return []
    return [(one - other) * _factor(metric) for one, other in values]


def communication(name: str) -> str:
    """What the federated rows of `results/<name>.csv` sent."""
    lines, seen = [], set()
    for record in _records(name):
        if not record.get("clients") or record["row"] in seen:
            continue
        seen.add(record["row"])
        down, up = (float(record[f"bytes_{way}_per_round"]) / 1e6 for way in ("down", "up"))
        rounds = int(float(record["steps"]))
        counts = [record[key] for key in ("clients", "clients_per_round", "steps", "local_steps_per_round")]
        sizes = [f"{size:,.1f}" for size in (down, up, (down + up) * rounds)]
        lines.append([f"`{record['row']}`", *(str(int(float(count))) for count in counts), *sizes])
    titles = ("row", "clients", "in a round", "rounds", "local steps", "MB down", "MB up", "MB in all")
    return grid(titles, lines)


# ---- speed ----------------------------------------------------------------------------------------------------------

UNITS = {
    "what": "program",
    "compile_s": "compilation (s)",
    "cold_cpu_s": "cold start (processor s)",
    "second_cpu_s": "second start (processor s)",
    "programs": "programs kept",
    "program_lines": "lines of the step",
    "step_ms": "step, median (ms)",
    "fastest_ms": "step, fastest (ms)",
    "cpu_ms": "processor time (ms)",
    "images_per_s": "images/s",
    "images_per_second": "images/s",
    "gflop": "GFLOP",
    "gflop_per_s": "GFLOP/s",
    "program_MB": "memory (MB)",
    "extra_MB": "extra memory (MB)",
    "process_MB": "process (MB)",
    "page_MB": "page (MB)",
    "speed_of_torch": "speed, PyTorch = 1",
    "fastest_of_torch": "fastest step, PyTorch = 1",
    "times_first": "time, first row = 1",
    "core_seconds": "core seconds",
    "compile_seconds": "compilation (s)",
    "warm_up_seconds": "warm-up (s)",
    "mAP_difference": "mAP difference",
    "ap_rule": "AP rule",
    "rank1": "Rank-1",
    "auc": "AUC",
    "eer": "EER",
    "milliseconds": "ms per image",
}


def speed(file: str, *options: str) -> str:
    """The tables of a file that `benchmark.py --output` wrote, or its `table=`.

    `columns=` chooses among columns, `only=` rows by the first word of `what`.
    """
    given = _options(options)
    document = read(file)
    parts = []
    tables = document["tables"]
    for records in [tables[given["table"]]] if "table" in given else tables.values():
        if "only" in given:
            records = [record for record in records if record["what"].split()[0] == given["only"]]
        known = list(dict.fromkeys(key for record in records for key in record))
        shown = given["columns"].split(",") if "columns" in given else known
        if missing := [column for column in shown if column not in known]:
            raise ValueError(f"expected columns of results/{file}, got {missing}; it has {known}.")
        shown = [column for column in shown if any(record.get(column) is not None for record in records)]
        lines = [[_cell(record.get(column)) for column in shown] for record in records]
        parts.append(grid([UNITS.get(column, column.replace("_", " ")) for column in shown], lines))
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    about = (
        f"{document['device']}, {document['cores']} cores, load {document['load']} at the start; {versions}; "
        f"commit {document['commit']}, {document['date']}; `{document['command']}`."
    )
    return "\n".join([*parts, f"<small>{about}</small>\n"])


# ---- evaluation -----------------------------------------------------------------------------------------------------


def robustness(file: str) -> str:
    """A run's scores by the corruption benchmark's protocol."""
    document = read(file)
    dataset = next(key for key in document if key.endswith("/clean/mAP")).split("/")[0]
    names = ("mINP", "mAP", "rank1", "rank5", "rank10")
    lines = []
    for side in ("clean", "corrupted", "corrupted_query", "corrupted_gallery"):
        prefix = f"{dataset}/{side}/"
        if f"{prefix}mAP" not in document:
            continue
        cells = []
        for metric in names:
            spread = document.get(f"{prefix}{metric}_std")
            cells.append(
                f"{100 * document[prefix + metric]:.1f}" + (f"{SPACE}±{SPACE}{100 * spread:.1f}" if spread else "")
            )
        lines.append([side.replace("_", " "), *cells])
    about = f"{dataset}; {document['num_query']} queries, {document['num_gallery']} gallery images; AP rule "
    about += (
        f"{document['ap_rule']}; frost textures {document['frost_textures']}. Mean ± standard deviation of the rounds."
    )
    return grid(["images", *(_title(name, "%") for name in names)], lines) + f"\n<small>{about}</small>\n"


def result(file: str) -> str:
    """The scores of one `result.json`."""
    document = read(file)
    dataset = next(key for key in document if key.endswith("/mAP")).split("/")[0]
    names = ("mAP", "rank1", "rank5", "rank10", "mINP")
    cells = [f"{100 * document[f'{dataset}/{name}']:.1f}" for name in names]
    return grid([_title(name, "%") for name in names], [cells])


# ---- configs --------------------------------------------------------------------------------------------------------


def config_module(system: str) -> ModuleType:
    """The module `configs/<system>.py`, with its `PRESETS` and `VARIANTS`."""
    spec = importlib.util.spec_from_file_location(f"docs_config_{system}", ROOT / "configs" / f"{system}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(system: str) -> str:
    """Presets and rows of a config, with the sentence that describes each row and the settings it changes."""
    module = config_module(system)
    presets = ", ".join(f"`{name}`" for name in module.PRESETS)
    lines = [
        [f"`{name}`", overrides.get("notes", ""), _settings(overrides)] for name, overrides in module.VARIANTS.items()
    ]
    return f"Presets: {presets}.\n\n" + grid(["row", "description", "changed settings"], lines)


def _settings(overrides: Mapping[str, Any]) -> str:
    changed = {key: value for key, value in overrides.items() if key != "notes"}
    shown = []
    for key, value in changed.items():
        text = f"{value:.4g}" if isinstance(value, float) else "…" if isinstance(value, Mapping) else str(value)
        shown.append(f"`{key}` removed" if value is None else f"`{key}={text if len(text) < 50 else '…'}`")
    more = f" and {len(shown) - 4} more" if len(shown) > 4 else ""
    return ", ".join(shown[:4]) + more or "none"


def systems(folder: str = "") -> str:
    """All systems with the paper's scores, parameters and command.

    Args:
        folder: where their pages stand, from the page that shows the table.
    """
    sizes = read("sizes.json") if (RESULTS / "sizes.json").is_file() else {"systems": {}}
    lines = []
    for name, entry in published_tables.document().items():
        size = sizes["systems"].get(name, {}).get("parameters")
        parameters = f"{size / 1e6:.1f} M" if size else "-"
        lines.append(
            [
                f"[{entry['title']}]({folder}{name}.md)",
                entry["summary"],
                entry["headline"],
                parameters,
                f"`{entry['config']}`",
            ]
        )
    return grid(["system", "what it is", "paper's mAP / Rank-1", "parameters", "`--config`"], lines)


def sizes() -> str:
    """Parameters, operations and embedding size of every system's published recipe."""
    document = read("sizes.json")
    lines = [
        [f"`{name}`", f"{entry['parameters']:,}", f"{entry['macs'] / 1e9:.2f}", entry["image"], str(entry["embedding"])]
        for name, entry in document["systems"].items()
    ]
    titles = ["config", f"parameters ({document['identities']} identities)", "GMAC per image", "image", "embedding"]
    return grid(titles, lines) + f"\n<small>Counted from shapes by `{document['command']}`.</small>\n"


TABLES: dict[str, Callable[..., str]] = {
    "mutants": trial_tables.mutants,
    "survivors": trial_tables.survivors,
    "scores": scores,
    "gains": gains,
    "statements": statements,
    "communication": communication,
    "speed": speed,
    "robustness": robustness,
    "result": result,
    "evidence": evidence_tables.evidence,
    "evidence_bars": evidence_tables.evidence_bars,
    "evidence_statements": evidence_tables.evidence_statements,
    "published": published_tables.published,
    "published_rows": published_tables.published_rows,
    "references": published_tables.references,
    "rows": rows,
    "systems": systems,
    "sizes": sizes,
    "fuzz": trial_tables.fuzz,
    "faults": trial_tables.faults,
    "wrong_turns": trial_tables.wrong_turns,
    "first_hour": trial_tables.first_hour,
    "trackers": export_tables.trackers,
    "tracker_parity": export_tables.tracker_parity,
    "gallery_engines": gallery_tables.engines,
    "gallery_kills": gallery_tables.kills,
    "gallery_scores": gallery_tables.scores,
    "gallery_open_set": gallery_tables.open_set,
    "calibration": trial_tables.calibration,
    "explain_sums": trial_tables.explain_sums,
    "explain_check": trial_tables.explain_check,
    "pretraining": pretraining_tables.pretraining,
    "parts": part_tables.parts,
    "curve": alignment_tables.curve,
    "terms": alignment_tables.terms,
    "generator": alignment_tables.generator,
}


# ---- parts ----------------------------------------------------------------------------------------------------------


def _options(words: Sequence[str]) -> dict[str, str]:
    return dict(word.split("=", 1) for word in words if "=" in word)


def _pairs(words: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    options = [word.split("=", 1) for word in words]
    metrics = next((value.split(",") for key, value in options if key == "metrics"), list(METRICS))
    return metrics, [(row, against) for row, against in options if row != "metrics"]


def _records(name: str) -> list[dict[str, str]]:
    path = RESULTS / f"{name}.csv"
    if not path.is_file():
        raise ValueError(f"expected the table results/{name}.csv, there is none; make it or drop the directive.")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _about(records: Sequence[Mapping[str, str]]) -> str:
    values = lambda key: ", ".join(dict.fromkeys(record[key] for record in records if record.get(key)))
    return (
        f"<small>{values('dataset')}; seeds {values('seed')}; device {values('device')}; commit {values('commit')}. "
        "Mean ± standard deviation over seeds.</small>\n"
    )


def _policy(record: Mapping[str, str]) -> str:
    return record.get("train_corruption") or ""


def _title(metric: str, unit: str = "") -> str:
    names = {"rank1": "Rank-1", "rank5": "Rank-5", "rank10": "Rank-10"}
    *path, leaf = metric.split("/")
    if leaf.endswith("psnr"):
        leaf, unit = "PSNR of the mean color" if "mean_fill" in leaf else "PSNR", "dB" if unit else ""
        path = []
    name = " ".join([*path, names.get(leaf, leaf)])
    return f"{name} ({unit})" if unit else name


def _factor(metric: str) -> float:
    return 1.0 if metric.endswith("psnr") else 100.0


def _number(record: Mapping[str, str], metric: str) -> float | None:
    if metric not in record:
        raise ValueError(f"expected a column of the table, got {metric!r}; it has {', '.join(record)}.")
    return float(record[metric]) if record[metric] not in ("", None) else None


def _spread(values: Sequence[float | None], factor: float) -> str:
    shown = [factor * value for value in values if value is not None]
    if len(shown) < len(values) or not shown:
        return "-"
    mean = f"{statistics.mean(shown):.1f}"
    return mean if len(shown) == 1 else f"{mean}{SPACE}±{SPACE}{statistics.stdev(shown):.1f}"


def _interval(found: Any) -> str:
    """A mean with its interval; the mean alone for too few runs, "-" without a run."""
    if math.isnan(found.mean):
        return "-"
    mean = f"{found.mean:+.1f}"
    return mean if found.low is None else f"{mean}{SPACE}[{found.low:+.1f},{SPACE}{found.high:+.1f}]"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def main(arguments: list[str]) -> int:
    """Writes or checks the README's table; the exit code."""
    path = ROOT / "README.md"
    text = path.read_text()
    filled = BLOCK.sub(lambda match: match[1] + "\n" + systems("docs/systems/") + "\n" + match[2], text)
    if "--check" not in arguments:
        path.write_text(filled)
    elif filled != text:
        print("README.md differs from its table; run python docs/tables.py.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
