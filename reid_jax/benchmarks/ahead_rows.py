"""The table of programs compiled for accelerators that are not there: which rows it has, and how each is made.

A process of its own compiles the programs of one config for one target, so that a compilation that takes too long, or
a compiler that crashes, costs one row. The table goes on where it ended.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import queue
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reid_jax.benchmarks import campaign, targets
from reid_jax.runtime import provenance

Row = dict[str, Any]

LIMIT = 1_200.0  # wall seconds of a row
START = 300.0  # and of the start of a process, before its first row
MEMORIES = (16, 80, 141)  # GB of a v5e, an H100 and an H200
KINDS = ("train", "infer")
BATCHES = (64, 256)  # images on each chip


@dataclasses.dataclass(frozen=True)
class Task:
    """Programs of one config for one target, as (kind, images on each chip) in order."""

    target: str
    config: str
    options: Mapping[str, Any]
    programs: tuple[tuple[str, int], ...]
    quick: bool = False

    def what(self, kind: str) -> str:
        """The label of a program in the table; a config is the same by its name and by its file."""
        file, _, preset = self.config.partition(":")
        config = ":".join(filter(None, (pathlib.PurePath(file).stem, preset)))
        return " ".join([kind, config, *(f"{key}={value}" for key, value in self.options.items())])

    def key(self, program: tuple[str, int]) -> tuple[str, str, int]:
        """What tells the row of a program from others."""
        return (self.target, self.what(program[0]), program[1])


def plan(
    names: Sequence[str],
    configs: Sequence[str],
    options: Mapping[str, Any],
    batches: Sequence[int],
    *,
    quick: bool = False,
) -> list[Task]:
    """Returns the tasks of a table.

    All programs and batches are compiled for the first target of each kind of device. Another number of the same
    devices runs the same program but for its collectives, so that of those the train step is compiled, with the first
    batch.
    """
    tasks, seen = [], set()
    for name in names:
        target = targets.parse(name)
        first = target.kind not in seen
        seen.add(target.kind)
        programs = [(kind, batch) for kind in KINDS for batch in batches]
        if not first:
            programs = [(KINDS[0], batches[0])]
        tasks += [Task(target.name, config, options, tuple(programs), quick) for config in configs]
    return tasks


def measure(
    tasks: Sequence[Task], known: Sequence[Row], report: Callable[[list[Row]], None], limit: float
) -> list[Row]:
    """Returns the rows of the tasks, and other known ones; a program that does not compile has its reason.

    Args:
        tasks: the table.
        known: rows of an earlier measurement, which are not made again.
        report: is called with all rows after each.
        limit: wall seconds of a row.
    """
    rows = list(known)
    for task in tasks:
        left = _missing(task, rows)
        while left:
            before = len(left)
            for row in _rows(dataclasses.replace(task, programs=left), limit):
                rows.append(row)
                _add_largest(rows)
                report(rows)
            left = _missing(task, rows)
            assert len(left) < before
    _add_largest(rows)
    return rows


def ordered(rows: Sequence[Row], tasks: Sequence[Task]) -> list[Row]:
    """Returns rows in the order of a table, those of no task after them."""
    places = {task.key(program): place for place, task in enumerate(tasks) for program in task.programs}
    return sorted(rows, key=lambda row: places.get((row["target"], row["what"], row["batch_per_chip"]), len(tasks)))


def _missing(task: Task, rows: Sequence[Row]) -> tuple[tuple[str, int], ...]:
    known = {(row["target"], row["what"], row["batch_per_chip"]) for row in rows}
    return tuple(program for program in task.programs if task.key(program) not in known)


def _rows(task: Task, limit: float) -> Any:
    """Yields rows of a task as they are made; the last may say why the process ended, and then there are fewer."""
    asked = {
        "target": task.target,
        "config": task.config,
        "options": dict(task.options),
        "programs": task.programs,
        "quick": task.quick,
    }
    with tempfile.TemporaryDirectory(prefix="reid-jax-ahead-") as folder:
        log = pathlib.Path(folder) / "log.txt"
        worker = campaign.Worker(
            [sys.executable, "-m", "reid_jax.benchmarks.ahead_worker", json.dumps(asked)], log, _environment()
        )
        try:
            for index, program in enumerate(task.programs):
                head = dict(zip(("target", "what", "batch_per_chip"), task.key(program), strict=True))
                seconds = limit + (0 if index else START)
                try:
                    line = worker.next_line(seconds)
                except queue.Empty:
                    yield {**head, "note": f"not compiled within {limit:,.0f} s", "commit": provenance.commit()}
                    return
                if line is None:
                    last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:] or ["no output"]
                    reason = f"the compiler's process ended with code {worker.process.wait()}: {last[0][:300]}"
                    yield {**head, "note": reason, "commit": provenance.commit()}
                    return
                yield {**head, **json.loads(line), "commit": provenance.commit()}
        finally:
            worker.end()


def _environment() -> dict[str, str]:
    """Returns the environment of a process that compiles: nothing runs on this machine's devices, nothing is kept."""
    hidden = ("JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE", "JAX_ENABLE_COMPILATION_CACHE")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(hidden)}
    # A process that has libtpu locks it for others, though none of them has a TPU.
    return {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1", **kept, "JAX_PLATFORMS": "cpu"}


def _add_largest(rows: Sequence[Row]) -> None:
    """Adds the largest batches that fit to the last row of each program, by a line through all of its rows."""
    programs: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        programs.setdefault((row["target"], row["what"]), []).append(row)
    for same in programs.values():
        for row in same:
            for name in [key for key in row if key.startswith("fits_")]:
                del row[name]
        same[-1] |= largest_batches(same)


def largest_batches(rows: Sequence[Row]) -> Row:
    """Returns, for each memory of `MEMORIES`, the largest batch on a chip by a line through the compiled ones.

    A single one gives the line through it and the state alone, which is steeper: the batches are safe, and too small.

    Args:
        rows: rows of one program, with `batch_per_chip`, `GB_per_chip` and `state_GB`.
    """
    known = [(row["batch_per_chip"], row["GB_per_chip"]) for row in rows if "GB_per_chip" in row]
    if len(known) == 1:
        known += [(0, row["state_GB"]) for row in rows if "state_GB" in row][:1]
    if len(known) < 2:
        return {}
    (first, low), (last, high) = min(known), max(known)
    slope = (high - low) / (last - first)
    if slope <= 0:
        return {}
    return {f"fits_{limit}_GB": max(0, int((limit - low) / slope + first)) for limit in MEMORIES}
