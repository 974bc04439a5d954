"""Ablation tables: rows x seeds of one config, resumable, with mean and standard deviation.

Each cell is an ordinary run in a folder of its own (`<workdir>/<row>/seed<seed>`), made by `scripts/main.py`; a folder
with `result.json` is finished and kept. A table can be made at any time from what is there.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import os
import pathlib
import queue
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

from reid_jax import errors

# How a run is started, in a process of its own.
COMMAND = (sys.executable, "-m", "reid_jax.cli", "train")
METRICS = ("mAP", "rank1", "rank5", "rank10", "mINP")
SHOWN = ("mAP", "rank1", "mINP")
# Training policies that the corruption benchmark allows; of all others rows stand in a table of their own.
RULE_ABIDING = ("none", "augmix", "unknown", "-")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to run.

    Attributes:
        config: path of the config file.
        preset: preset every row starts from.
        rows: variants; several joined by "+" make one row; "full" is the preset alone. "cil:full" is a row of the
            config file cil.py beside this one.
        seeds: one run each.
        workdir: folder of the run folders.
        overrides: further `--config.key=value` arguments of every run.
        pairs: (row, baseline) of a second table, what the one gains over the other.

    Raises:
        UserError: a pair names a row that is not among the rows.
    """

    config: str
    preset: str
    rows: tuple[str, ...]
    seeds: tuple[int, ...]
    workdir: pathlib.Path
    overrides: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for row in (row for pair in self.pairs for row in pair if row not in self.rows):
            raise errors.unknown("row to compare", row, self.rows)

    def cells(self) -> Iterator[tuple[str, int, pathlib.Path]]:
        """`(row, seed, run folder)`, seed by seed: after the first seed every row has a number."""
        for seed in self.seeds:
            for row in self.rows:
                yield row, seed, self.workdir / row / f"seed{seed}"

    def command(self, row: str, seed: int, folder: pathlib.Path) -> list[str]:
        """The command line of one cell."""
        other, _, row = row.rpartition(":")
        config = pathlib.Path(self.config).with_stem(other) if other else self.config
        variants = [] if row == "full" else row.split("+")
        return [
            *COMMAND,
            f"--config={config}:{','.join([self.preset, *variants])}",
            f"--workdir={folder}",
            f"--config.seed={seed}",
            *self.overrides,
        ]


def run(plan: Plan, jobs: int = 1) -> None:
    """Makes the runs that are not finished.

    Args:
        plan: what to run.
        jobs: runs at a time. Each gets its own share of the processor's cores, and prints only to its `log.txt`: small
            models do not fill many cores, so two runs of one core each finish sooner than two of both in turn.

    Raises:
        UserError: when a run fails; the finished ones stay, those under way are ended in peace.
    """
    shares = _core_shares(jobs)
    free: queue.SimpleQueue[set[int] | None] = queue.SimpleQueue()
    for share in shares:
        free.put(share)
    failed: list[errors.UserError] = []

    def make(row: str, seed: int, folder: pathlib.Path) -> None:
        if failed:
            return
        print(f"{row} seed {seed}: running", flush=True)
        share = free.get()
        code = _start(plan.command(row, seed, folder), share)
        free.put(share)
        if code:
            failed.append(
                errors.UserError(
                    f"expected row {row!r} seed {seed} to finish, it ended with code {code} (see {folder}/log.txt); "
                    "mend it and run the same command again: finished runs are kept."
                )
            )

    pool = futures.ThreadPoolExecutor(len(shares))
    for row, seed, folder in plan.cells():
        if (folder / "result.json").is_file():
            print(f"{row} seed {seed}: finished, kept", flush=True)
        else:
            pool.submit(make, row, seed, folder)
    try:
        pool.shutdown()
    except KeyboardInterrupt:
        # The runs under way were interrupted too and save what they have; no further one is begun.
        pool.shutdown(cancel_futures=True)
        raise
    if failed:
        raise failed[0]


def _core_shares(jobs: int) -> list[set[int] | None]:
    """The processor's cores dealt out to so many runs; None leaves a single run all of them."""
    if jobs < 1:
        raise errors.UserError(f"expected at least one run at a time, got --jobs {jobs}.")
    if jobs == 1 or not hasattr(os, "sched_getaffinity"):
        return [None] * jobs
    cores = sorted(os.sched_getaffinity(0))
    if jobs > len(cores):
        raise errors.UserError(f"expected at most as many runs as cores ({len(cores)}), got --jobs {jobs}.")
    return [set(cores[index::jobs]) for index in range(jobs)]


def _start(command: Sequence[str], cores: set[int] | None) -> int:
    """Runs a command to its end and returns its exit code; on some cores, and silently, where they are named."""
    if cores is None:
        return subprocess.run(command, check=False).returncode
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    # In time for the child's libraries, which count the cores when they are imported. It may have ended already.
    with contextlib.suppress(ProcessLookupError):
        os.sched_setaffinity(child.pid, cores)
    return child.wait()


ABOUT = ("parameters", "steps", "train_seconds", "config_hash", "device", "commit")
# What a federated run says as well; its steps are rounds.
COMMUNICATION = ("clients", "clients_per_round", "local_steps_per_round", "bytes_down_per_round", "bytes_up_per_round")


def collect(plan: Plan, metrics: Sequence[str] = SHOWN) -> list[dict[str, Any]]:
    """One record per finished run: row, seed, scores in [0, 1], parameters, steps, wall seconds.

    Scores are the usual ones and `metrics`, what stands behind the data set's name in `result.json` ("corrupted/mAP").

    What the first row's runs measured without training (raw pixels, a color histogram, the untrained network) comes
    first, as rows of its own with nothing trained.
    """
    trained, untrained = [], []
    for row, seed, folder in plan.cells():
        file = folder / "result.json"
        if not file.is_file():
            continue
        result = json.loads(file.read_text())
        dataset = result["dataset"]
        cell = {"seed": seed, "dataset": dataset}
        policy = {"train_corruption": result.get("train_corruption", "unknown")}
        scores = _scores(result, dataset, metrics)
        sent = {key: result[key] for key in COMMUNICATION if key in result}
        trained.append({"row": row, **cell, **policy, **scores, **{key: result[key] for key in ABOUT}, **sent})
        if row == plan.rows[0]:
            nothing = {**{key: result[key] for key in ABOUT}, "parameters": 0, "steps": 0, "train_seconds": 0.0}
            prefix = f"{dataset}/baseline/"
            names = dict.fromkeys(key.removeprefix(prefix).split("/")[0] for key in result if key.startswith(prefix))
            untrained += [
                {"row": name, **cell, "train_corruption": "-", **_scores(result, prefix + name, metrics), **nothing}
                for name in names
            ]
    return untrained + trained


def _scores(result: Mapping[str, Any], prefix: str, metrics: Sequence[str]) -> dict[str, float | None]:
    """The usual scores, and further ones where the run measured them."""
    usual = {metric: result[f"{prefix}/{metric}"] for metric in METRICS}
    return usual | {metric: result.get(f"{prefix}/{metric}") for metric in metrics if metric not in METRICS}


def write_csv(path: pathlib.Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Writes every finished run as a line."""
    if not records:
        raise errors.UserError(
            "expected at least one finished run to make a table of, found none; run without --table."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(dict.fromkeys(key for record in records for key in record)))
        writer.writeheader()
        writer.writerows(records)


def markdown(records: Sequence[Mapping[str, Any]], metrics: Sequence[str] = SHOWN) -> str:
    """The table: rows in the order they were asked for, mean ± sample standard deviation in per cent.

    Where training saw corruptions, a column says which; rows that saw those of the benchmark's test come in a second
    table, for they do not compare with the others.
    """
    abiding = [record for record in records if record["train_corruption"] in RULE_ABIDING]
    others = [record for record in records if record["train_corruption"] not in RULE_ABIDING]
    policies = any(record["train_corruption"] not in ("none", "unknown", "-") for record in records)
    tables = [_table(abiding, metrics, policies)] if abiding else []
    if others:
        tables.append("Trained on corruptions of the test; not comparable with rows that were not:\n")
        tables.append(_table(others, metrics, policies))
    return "\n".join(tables)


def _table(records: Sequence[Mapping[str, Any]], metrics: Sequence[str], policies: bool) -> str:
    rows = list(dict.fromkeys(record["row"] for record in records))
    titles = ["row", "seeds", *(["corruptions in training"] if policies else [])]
    titles += [*(f"{metric} ({_unit(metric).score})" for metric in metrics), "parameters", "train seconds"]
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for row in rows:
        mine = [record for record in records if record["row"] == row]
        cells = [f"`{row}`", str(len(mine)), *([mine[0]["train_corruption"]] if policies else [])]
        cells += [_spread([record[metric] for record in mine], _unit(metric).factor) for metric in metrics]
        size, seconds = mine[0]["parameters"], statistics.mean(record["train_seconds"] for record in mine)
        cells += [f"{size:,}", f"{seconds:.0f}"] if mine[0]["steps"] else ["-", "-"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def comparison(
    records: Sequence[Mapping[str, Any]], pairs: Sequence[tuple[str, str]], metrics: Sequence[str] = SHOWN
) -> str:
    """What rows gain over others: differences of runs of the same seed, mean ± sample standard deviation, in points.

    The last column counts the seeds in which the first metric rose.
    """
    runs = {(record["row"], record["seed"]): record for record in records}
    titles = ["row", "against", "seeds", *(f"{metric} ({_unit(metric).gain})" for metric in metrics)]
    titles += [f"{metrics[0]} rose in"]
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for row, against in pairs:
        seeds = [seed for one, seed in runs if one == row and (against, seed) in runs]
        if not seeds:
            continue
        gains = {}
        for metric in metrics:
            both = [(runs[row, seed][metric], runs[against, seed][metric]) for seed in seeds]
            gains[metric] = [None if None in pair else pair[0] - pair[1] for pair in both]
        rose = sum(gain is not None and gain > 0 for gain in gains[metrics[0]])
        cells = [f"`{row}`", f"`{against}`", str(len(seeds))]
        cells += [_spread(gains[metric], _unit(metric).factor, "+") for metric in metrics]
        lines.append(f"| {' | '.join([*cells, f'{rose} of {len(seeds)}'])} |")
    return "\n".join(lines) + "\n"


def communication(records: Sequence[Mapping[str, Any]]) -> str:
    """What federated rows sent over all clients of a round; empty where there is none."""
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


def document(plan: Plan, records: Sequence[Mapping[str, Any]], metrics: Sequence[str] = SHOWN) -> str:
    """The table with what it takes to make it again."""
    name = pathlib.Path(plan.config).stem
    command = [f"python scripts/ablate.py --config {plan.config} --preset {plan.preset} --rows {','.join(plan.rows)}"]
    command += [f"--seeds {','.join(map(str, plan.seeds))}"]
    command += [f"--metrics {','.join(metrics)}"] if tuple(metrics) != SHOWN else []
    command += [f"--compare {','.join('='.join(pair) for pair in plan.pairs)}"] if plan.pairs else []
    command += [f"--override {one.removeprefix('--config.')}" for one in plan.overrides]

    def values(key: str) -> str:
        return ", ".join(dict.fromkeys(str(record[key]) for record in records))

    sent = communication(records)
    return "\n".join(
        [
            f"# {name}: rows of its ablation table on {values('dataset')}, preset `{plan.preset}`",
            "",
            f"Device {values('device')}; commit {values('commit')}. Mean ± standard deviation over seeds. Seconds are",
            "by the clock, on a machine that may have been shared. Every run and its config's hash: the CSV beside.",
            "",
            f"    {' '.join(command)}",
            "",
            markdown(records, metrics),
            *(["Paired by seed:\n", comparison(records, plan.pairs, metrics)] if plan.pairs else []),
            *(
                [f"Sent in each round, over all its clients; local steps are the largest client's:\n\n{sent}"]
                if sent
                else []
            ),
        ]
    )


class _Unit(NamedTuple):
    """What a score is shown in, what a difference of two is, and what the stored value is multiplied by."""

    score: str
    gain: str
    factor: float


def _unit(metric: str) -> _Unit:
    return _Unit("dB", "dB", 1.0) if metric.endswith("psnr") else _Unit("%", "points", 100.0)


def _spread(values: Sequence[float | None], factor: float, sign: str = "") -> str:
    """Mean and deviation, with `sign` "+" also in front of gains; "-" where a run did not measure."""
    shown = [factor * value for value in values if value is not None]
    if len(shown) < len(values) or not shown:
        return "-"
    mean = f"{statistics.mean(shown):{sign}.1f}"
    return mean if len(shown) == 1 else f"{mean} ± {statistics.stdev(shown):.1f}"
