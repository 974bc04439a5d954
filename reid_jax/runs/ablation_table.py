"""Tables of ablation runs: a CSV record for each finished run, and markdown with mean and standard deviation.

A table can be written at any time: it contains the runs that are finished.
"""

from __future__ import annotations

import csv
import io
import math
import pathlib
import statistics
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

from reid_jax import errors, file_io
from reid_jax.runs import significance
from reid_jax.runs.ablation import Plan
from reid_jax.runs.folder import RunFolder

# Scores in every record, and those in the columns of a table by default.
METRICS = ("mAP", "rank1", "rank5", "rank10", "mINP")
SHOWN = ("mAP", "rank1", "mINP")
# Training policies that the corruption benchmark allows; rows with any other policy are listed in a separate table.
RULE_ABIDING = ("none", "augmix", "unknown", "-")
INTERVALS = (
    f"Mean of the paired differences with its 95 % interval (Student's distribution, widened by Holm's procedure over "
    f"all intervals of this table), from {significance.RUNS} runs on. A gain or a loss is an interval without zero."
)
# Keys of `result.json` that are copied into a record.
ABOUT = ("parameters", "steps", "train_seconds", "config_hash", "device", "commit")
# Further keys of a run that goes on from another one: what that one, and those before it, took.
BEFORE = ("steps_before", "train_seconds_before")
# Further keys of a federated run; its steps are rounds.
COMMUNICATION = ("clients", "clients_per_round", "local_steps_per_round", "bytes_down_per_round", "bytes_up_per_round")
# Columns of a file of records that are no scores.
TEXTS = ("row", "dataset", "train_corruption", "config_hash", "device", "commit", "preset", "settings")
COUNTS = ("seed", "parameters", "steps", "steps_before", *COMMUNICATION)
LIMIT = 1 << 24  # bytes of such a file
BELOW = "neither beats what needs no training"  # in place of a verdict


def collect(plan: Plan, metrics: Sequence[str] = SHOWN, tested: str = "") -> list[dict[str, Any]]:
    """Returns a record for each finished run: row, seed, scores in [0, 1], parameters, steps, training seconds.

    Baselines that the runs of the first row measured (raw pixels, color histogram, untrained network) come first, as
    rows with 0 parameters and 0 steps.

    Args:
        plan: rows, seeds and folders.
        metrics: scores in addition to `METRICS`, as keys of `result.json` without the data set's name
            ("corrupted/mAP").
        tested: the data set of the scores, one of `evals.datasets`; "" is that of the training images.

    Raises:
        UserError: a finished run was not evaluated on that data set.
    """
    trained: list[dict[str, Any]] = []
    untrained: list[dict[str, Any]] = []
    for row, seed, folder in plan.cells():
        result = RunFolder(folder).read_result()
        if result is None:
            continue
        dataset = tested or result["dataset"]
        if f"{dataset}/mAP" not in result:
            known = [key.removesuffix("/mAP") for key in result if key.endswith("/mAP") and key.count("/") == 1]
            raise errors.unknown(f"data set of the scores in {folder}:", dataset, known)
        cell = {"seed": seed, "dataset": dataset}
        policy = {"train_corruption": result.get("train_corruption", "unknown")}
        scores = _scores(result, dataset, metrics)
        about = {key: result[key] for key in ABOUT}
        more = {key: result[key] for key in (*BEFORE, *COMMUNICATION) if key in result}
        trained.append({"row": row, **cell, **policy, **scores, **about, **more})
        if row == plan.rows[0]:
            untrained_about = {**about, "parameters": 0, "steps": 0, "train_seconds": 0.0}
            prefix = f"{dataset}/baseline/"
            names = dict.fromkeys(key.removeprefix(prefix).split("/")[0] for key in result if key.startswith(prefix))
            untrained += [
                {
                    "row": name,
                    **cell,
                    "train_corruption": "-",
                    **_scores(result, prefix + name, metrics),
                    **untrained_about,
                }
                for name in names
            ]
    return untrained + trained


def _scores(result: Mapping[str, Any], prefix: str, metrics: Sequence[str]) -> dict[str, float | None]:
    """Returns `METRICS` and further scores; a further score that the run did not measure is None."""
    standard = {metric: result[f"{prefix}/{metric}"] for metric in METRICS}
    return standard | {metric: result.get(f"{prefix}/{metric}") for metric in metrics if metric not in METRICS}


def write_csv(path: pathlib.Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Writes a CSV file with a line for each finished run.

    Raises:
        UserError: there is no finished run.
    """
    if not records:
        raise errors.UserError("expected at least one finished run for the table, found none; run without --table.")
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(dict.fromkeys(key for record in records for key in record)))
    writer.writeheader()
    writer.writerows(records)
    file_io.make_folder(path.parent, "the folder of the table")
    file_io.write_text(path, text.getvalue(), "the table")


def read_csv(path: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the records of a file of `write_csv`, scores and counts as numbers; none where there is no file.

    Raises:
        UserError: the file is not such a table.
    """
    if not path.is_file():
        return []
    text = file_io.read_text(path, "a table of runs", "remove it, or bring back the file that was written", limit=LIMIT)
    try:
        lines = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
        records = [{key: _value(key, value) for key, value in line.items()} for line in lines]
        if not all(record.get("row") and record.get("seed") is not None for record in records):
            raise ValueError("a line without row or seed")
        return records
    except (csv.Error, ValueError, TypeError) as error:
        raise errors.UserError(
            f"expected a table of runs in {path}, got {errors.reason(error, 200)}; bring back the file that was "
            "written, or remove it."
        ) from error


def _value(key: str, text: str) -> str | int | float | None:
    """Returns the value of a field of a record."""
    if key in TEXTS:
        return text
    if not text:
        return None
    return int(text) if key in COUNTS else float(text)


def markdown(records: Sequence[Mapping[str, Any]], metrics: Sequence[str] = SHOWN) -> str:
    """Returns the table in markdown: rows in the plan's order, mean ± sample standard deviation in per cent.

    If any row was trained on corruptions, a column names them. Rows that were trained on the corruptions of the
    benchmark's test set are listed in a second table, because they are not comparable with the others.
    """
    abiding = [record for record in records if record["train_corruption"] in RULE_ABIDING]
    others = [record for record in records if record["train_corruption"] not in RULE_ABIDING]
    policies = any(record["train_corruption"] not in ("none", "unknown", "-") for record in records)
    tables = [_table(abiding, metrics, policies)] if abiding else []
    if others:
        tables.append("Trained on corruptions of the test set; not comparable with the rows above:\n")
        tables.append(_table(others, metrics, policies))
    return "\n".join(tables)


def _table(records: Sequence[Mapping[str, Any]], metrics: Sequence[str], policies: bool) -> str:
    """Returns one markdown table; `policies` adds the column of training corruptions."""
    rows = list(dict.fromkeys(record["row"] for record in records))
    titles = ["row", "seeds", *(["corruptions in training"] if policies else [])]
    titles += [*(f"{metric} ({_unit(metric).score})" for metric in metrics), "parameters", "train seconds"]
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for row in rows:
        runs = [record for record in records if record["row"] == row]
        cells = [f"`{row}`", str(len(runs)), *([runs[0]["train_corruption"]] if policies else [])]
        cells += [_spread([run[metric] for run in runs], _unit(metric).factor) for metric in metrics]
        cells += [f"{runs[0]['parameters']:,}", _seconds(runs)] if runs[0]["steps"] else ["-", "-"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _seconds(runs: Sequence[Mapping[str, Any]]) -> str:
    """Returns the mean training seconds of a row, and those of the runs that it goes on from."""
    own, before = (statistics.mean(run.get(key) or 0 for run in runs) for key in ("train_seconds", BEFORE[1]))
    return f"{own:.0f} after {before:.0f}" if before else f"{own:.0f}"


def comparison(
    records: Sequence[Mapping[str, Any]], pairs: Sequence[tuple[str, str]], metrics: Sequence[str] = SHOWN
) -> str:
    """Returns a markdown table of differences in points, paired by seed, with 95 % intervals corrected by Holm.

    Args:
        records: see `collect`.
        pairs: (row, baseline); a pair without a common seed is left out.
        metrics: columns; the last column says what the interval of the first metric allows to say.
    """
    runs = {(record["row"], record["seed"]): record for record in records}
    titles = ["row", "against", "seeds", *(f"{metric} ({_unit(metric).gain})" for metric in metrics)]
    titles += ["reads"]
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    samples: dict[Hashable, list[float]] = {}
    counts = {}
    for row, against in pairs:
        seeds = [seed for name, seed in runs if name == row and (against, seed) in runs]
        counts[row, against] = len(seeds)
        for metric in metrics if seeds else ():
            both = [(runs[row, seed][metric], runs[against, seed][metric]) for seed in seeds]
            known = [_unit(metric).factor * (one - other) for one, other in both if None not in (one, other)]
            samples[row, against, metric] = known if len(known) == len(both) else []
    found = significance.differences(samples)
    unlearned = no_better_than_untrained(records, metrics[0])
    for row, against in (pair for pair in pairs if counts[pair]):
        cells = [f"`{row}`", f"`{against}`", str(counts[row, against])]
        cells += [_interval(found[row, against, metric]) for metric in metrics]
        first = found[row, against, metrics[0]]
        told = BELOW if first.low is not None and {row, against} <= unlearned else first.verdict
        lines.append(f"| {' | '.join([*cells, told])} |")
    return "\n".join(lines) + f"\n\n{INTERVALS}\n"


def no_better_than_untrained(records: Sequence[Mapping[str, Any]], metric: str) -> set[str]:
    """Returns the rows of a table whose mean is not above that of every reference without training.

    Such rows say nothing about the parts in which they differ: a part cannot help a network that has learned nothing.

    Args:
        records: of a table's CSV file; those of references have no steps.
        metric: a column of them.
    """
    scores: dict[bool, dict[str, list[float]]] = {True: {}, False: {}}
    for record in records:
        if record.get(metric) not in (None, ""):
            untrained = not float(record.get("steps") or 0)
            scores[untrained].setdefault(record["row"], []).append(float(record[metric]))
    best = max((statistics.mean(values) for values in scores[True].values()), default=-math.inf)
    return {row for row, values in scores[False].items() if statistics.mean(values) <= best}


def communication(records: Sequence[Mapping[str, Any]]) -> str:
    """Returns a markdown table of the traffic of federated rows, over all clients of a round; "" without such rows."""
    rows = {record["row"]: record for record in records if "clients" in record}
    if not rows:
        return ""
    titles = ("row", "clients", "in a round", "rounds", "local steps", "MB down", "MB up", "MB in all")
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for row, record in rows.items():
        down, up = (record[f"bytes_{way}_per_round"] / 1e6 for way in ("down", "up"))
        counts = [record[key] for key in ("clients", "clients_per_round", "steps", "local_steps_per_round")]
        cells = [f"`{row}`", *map(str, counts), *(f"{size:,.1f}" for size in (down, up, (down + up) * record["steps"]))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def document(
    plan: Plan,
    records: Sequence[Mapping[str, Any]],
    metrics: Sequence[str] = SHOWN,
    tested: str = "",
    command: str = "",
    compared: Sequence[str] = (),
) -> str:
    """Returns the markdown document of a table: title, provenance, the command that reproduces it, and the tables.

    Args:
        plan: rows and seeds.
        records: see `collect`.
        metrics: columns.
        tested: data set of the scores, "" for that of the training images.
        command: the command line; by default one of `ablate.py` with the rows of the plan.
        compared: columns of the differences; by default all. Each more widens the intervals of the others.
    """
    name = pathlib.Path(plan.config).stem
    parts = [
        f"# {name}: rows of its ablation table on {_values(records, 'dataset')}, preset `{plan.preset}`",
        "",
        f"Device {_values(records, 'device')}; commit {_values(records, 'commit')}. Mean ± standard deviation over",
        "seeds. Seconds are wall-clock time, possibly on a shared machine. The CSV file of the same name lists every",
        "run with its config hash.",
        "",
        f"    {command or _command(plan, metrics, tested)}",
        "",
        markdown(records, metrics),
    ]
    if plan.pairs:
        parts += ["Paired by seed:\n", comparison(records, plan.pairs, compared or metrics)]
    if traffic := communication(records):
        heading = "Traffic of each round, over all its clients; local steps are those of the largest client:"
        parts.append(f"{heading}\n\n{traffic}")
    return "\n".join(parts)


def _values(records: Sequence[Mapping[str, Any]], key: str) -> str:
    """Returns the different values of a key in all records, as text."""
    return ", ".join(dict.fromkeys(str(record[key]) for record in records))


def _command(plan: Plan, metrics: Sequence[str], tested: str) -> str:
    """Returns the command of `ablate.py` that makes a table."""
    command = [f"python scripts/ablate.py --config {plan.config} --preset {plan.preset} --rows {','.join(plan.rows)}"]
    command += [f"--seeds {','.join(map(str, plan.seeds))}"]
    command += [f"--metrics {','.join(metrics)}"] if tuple(metrics) != SHOWN else []
    command += [f"--compare {','.join('='.join(pair) for pair in plan.pairs)}"] if plan.pairs else []
    command += [f"--dataset {tested}"] if tested else []
    command += ["--data-seeds"] if plan.data_seeds else []
    command += [f"--override {override.removeprefix('--config.')}" for override in plan.overrides]
    return " ".join(command)


def _interval(difference: significance.Difference) -> str:
    """Returns a mean with its interval; the mean alone for too few runs, "-" without one."""
    if math.isnan(difference.mean):
        return "-"
    mean = f"{difference.mean:+.1f}"
    return mean if difference.low is None else f"{mean} [{difference.low:+.1f}, {difference.high:+.1f}]"


class _Unit(NamedTuple):
    """Unit of a score in a table, unit of a difference of two scores, and the factor applied to the stored value."""

    score: str
    gain: str
    factor: float


def _unit(metric: str) -> _Unit:
    """Returns decibels for a PSNR, per cent for everything else."""
    return _Unit("dB", "dB", 1.0) if metric.endswith("psnr") else _Unit("%", "points", 100.0)


def _spread(values: Sequence[float | None], factor: float) -> str:
    """Returns mean ± sample standard deviation as text; "-" if a run lacks the value.

    Args:
        values: stored values of the runs.
        factor: applied to them.
    """
    shown = [factor * value for value in values if value is not None]
    if len(shown) < len(values) or not shown:
        return "-"
    mean = f"{statistics.mean(shown):.1f}"
    return mean if len(shown) == 1 else f"{mean} ± {statistics.stdev(shown):.1f}"
