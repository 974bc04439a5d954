"""Runs the evidence plan on one machine, in the background: table by table, resumable, each within its minutes.

The tables come in the order of the plan, and each goes seed by seed over all its rows, so that whatever ends the
command leaves tables that say something. A run begins only where it fits into what is left of its table's minutes, by
the time that its row took before. After every run the files of its table are written.

Results outlive the run folders: a run whose record stands in the table's CSV file, with the same preset and settings,
is not made again, so that a table goes on where only the repository has come along.

The minutes of a table are those of two cores that do nothing else: what counts is the processor time of its runs, so
that a busy machine takes longer and leaves out nothing.
"""

from __future__ import annotations

import dataclasses
import pathlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from reid_jax import errors, file_io
from reid_jax.runs import ablation, ablation_table, evidence

CORES = 2  # of the machine that the minutes of a table are those of


@dataclasses.dataclass(frozen=True)
class Places:
    """Folders of the plan's runs and of its tables, and settings of every run.

    Attributes:
        workdir: a folder for each table, and `pretrained/`, which they share.
        results: folder of `evidence-<table>.csv` and `.md`.
        overrides: further settings of every run, `key=value`.
        command: the command line, for the pages of the tables; `{table}` stands for a table's name.
    """

    workdir: pathlib.Path
    results: pathlib.Path
    overrides: tuple[str, ...] = ()
    command: str = ""


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a table is.

    Attributes:
        done: finished runs.
        runs: all runs, without pretraining.
        minutes: minutes of two cores that its finished runs have taken.
        rows_done: rows with a finished run of every seed.
    """

    done: int
    runs: int
    minutes: float
    rows_done: int


class Budget:
    """The time of one invocation and its tables; a `Watch` for each table comes from `watch`.

    Args:
        hours: wall hours of this invocation; None for no limit.
        runs: runs of this invocation; None for no limit.
    """

    def __init__(self, hours: float | None = None, runs: int | None = None) -> None:
        self.deadline = None if hours is None else time.monotonic() + 3600 * hours
        self.runs = runs
        self.cut = False  # whether a run was refused for the limits of this invocation
        self.lock = threading.RLock()

    def allows(self, seconds: float) -> bool:
        """Returns whether a run of that length may begin, and counts it."""
        if self.runs is not None and self.runs <= 0:
            self.cut = True
            return False
        if self.deadline is not None and time.monotonic() + seconds > self.deadline:
            self.cut = True
            return False
        if self.runs is not None:
            self.runs -= 1
        return True


class TableClock:
    """Decides whether a run of a table begins, keeps the time of its rows, and writes its files after each run.

    Args:
        table: the table.
        places: folders.
        budget: limits of the invocation.
        say: is called with a line for each run that ends.
    """

    def __init__(
        self, table: evidence.Table, places: Places, budget: Budget, say: Callable[[str], object] = print
    ) -> None:
        self.table, self.places, self.budget, self.say = table, places, budget, say
        self.plan = table.plan(places.workdir, places.overrides)
        self.record = read_record(places, table)
        self.promised: dict[tuple[str, int], float] = {}  # seconds that runs in progress are expected to take
        self.refused = False  # whether a run was refused for the minutes of the table

    def may_start(self, row: str, seed: int) -> bool:
        """Returns whether a run fits into what is left of the table's minutes and of the invocation."""
        with self.budget.lock:
            known = self.record["rows"]
            expected = known.get(row, max(known.values(), default=0.0))
            if self.record["seconds"] + sum(self.promised.values()) + expected > 60 * CORES * self.table.minutes:
                self.refused = True
                return False
            if not self.budget.allows(expected):
                return False
            self.promised[row, seed] = expected
            return True

    def ended(self, row: str, seed: int, seconds: float) -> None:
        """Notes the processor time of a run and writes the table."""
        with self.budget.lock:
            self.promised.pop((row, seed), None)
            self.record["seconds"] = round(self.record["seconds"] + seconds, 1)
            self.record["rows"][row] = round(max(seconds, self.record["rows"].get(row, 0.0)), 1)
            file_io.write_json(_record_path(self.places, self.table), self.record, "the time of a table's runs")
            write_table(self.table, self.plan, self.places)
            found = summary(self.table, self.places)
            self.say(f"{self.table.name}: {row} seed {seed} took {seconds:.0f} processor seconds; {found}")
            self._doubt(row)

    def _doubt(self, row: str) -> None:
        """Says so where a row has learned nothing, before hours go into its other seeds."""
        records, metric = kept_records(self.table, self.places), self.table.metrics[0]
        if row in ablation_table.no_better_than_untrained(records, metric):
            self.say(
                f"{self.table.name}: {row} is no better in {metric} than what needs no training; expected rows that "
                "have learned, since no others show what a part does: stop, and give the table more epochs."
            )


def run(
    tables: Sequence[evidence.Table],
    places: Places,
    budget: Budget,
    jobs: int = 1,
    say: Callable[[str], object] = print,
) -> list[str]:
    """Runs what is left of the tables, in their order.

    Args:
        tables: the tables of a plan.
        places: folders.
        budget: limits of this invocation.
        jobs: runs at a time, each on its share of the cores.
        say: is called with lines for the reader.

    Returns:
        A sentence for each table that stopped at a run that failed; the others went on.
    """
    for table in tables:
        say(f"{table.name}: {summary(table, places)}. {table.question}")
    failures = []
    for table in tables:
        if budget.cut:
            break
        if _open_runs(table, places) == 0:
            continue
        file_io.make_folder(places.workdir / table.name, "the folder of the runs")
        clock = TableClock(table, places, budget, say)
        try:
            ablation.run(clock.plan, jobs, clock, kept=kept_cells(table, places))
        except errors.UserError as error:
            failures.append(f"{table.name}: {error}")
            say(failures[-1])
        if clock.refused:
            say(f"{table.name}: its {table.minutes:.0f} minutes are used; {summary(table, places)}")
    return failures


def write_table(table: evidence.Table, plan: ablation.Plan, places: Places) -> bool:
    """Writes the CSV file and the markdown page of a table from its finished runs; returns whether there are any."""
    found = ablation_table.collect(plan, table.metrics, table.scored)
    made = {(record["row"], record["seed"]) for record in found}
    kept = [record for record in kept_records(table, places) if (record["row"], record["seed"]) not in made]
    order = {row: position for position, row in enumerate(table.rows)}
    # References first, which are no rows of the table; then seed by seed, as the runs are made.
    records = sorted(
        kept + [{**record, **_conditions(table)} for record in found],
        key=lambda record: (record["row"] in order, record["seed"], order.get(record["row"], -1)),
    )
    if not records:
        return False
    name = table.file
    ablation_table.write_csv(places.results / f"{name}.csv", records)
    command = places.command.replace("{table}", table.name)
    page = ablation_table.document(
        plan, records, table.metrics, table.scored, command=command, compared=table.metrics[:1]
    )
    file_io.write_text(places.results / f"{name}.md", f"{page}\n{table.question} {table.why}\n", "the table")
    return True


def _conditions(table: evidence.Table) -> dict[str, str]:
    """Returns what every record of a table says of its settings."""
    before = [f"pretraining {setting}" for setting in table.pretraining_overrides]
    return {"preset": table.preset, "settings": "; ".join([*table.overrides, *before])}


def kept_records(table: evidence.Table, places: Places) -> list[dict[str, Any]]:
    """Returns the records in a table's CSV file that were made with the table's preset and settings.

    Raises:
        UserError: the file is damaged.
    """
    conditions = _conditions(table)
    records = ablation_table.read_csv(places.results / f"{table.file}.csv")
    return [record for record in records if {key: record.get(key) for key in conditions} == conditions]


def kept_cells(table: evidence.Table, places: Places) -> set[tuple[str, int]]:
    """Returns (row, seed) of the runs whose records are kept, see `kept_records`."""
    cells = {(row, seed) for row in table.rows for seed in table.seeds}
    return cells & {(record["row"], record["seed"]) for record in kept_records(table, places)}


def progress(table: evidence.Table, places: Places) -> Progress:
    """Returns how far a table is."""
    plan = table.plan(places.workdir, places.overrides)
    kept = kept_cells(table, places)
    finished = [
        (row, seed) for row, seed, folder in plan.cells() if (row, seed) in kept or (folder / "result.json").is_file()
    ]
    complete = [row for row in plan.rows if all((row, seed) in finished for seed in plan.seeds)]
    minutes = read_record(places, table)["seconds"] / (60 * CORES)
    return Progress(len(finished), len(plan.rows) * len(plan.seeds), minutes, len(complete))


def summary(table: evidence.Table, places: Places) -> str:
    """Returns how far a table is in words."""
    found = progress(table, places)
    return (
        f"{found.done} of {found.runs} runs done, {found.rows_done} of {len(table.rows)} rows complete, "
        f"{found.minutes:.0f} of {table.minutes:.0f} minutes used"
    )


def read_record(places: Places, table: evidence.Table) -> dict[str, Any]:
    """Returns the processor seconds of a table's runs and the most of each row; a new record where there is none."""
    path = _record_path(places, table)
    fresh: dict[str, Any] = {"seconds": 0.0, "rows": {}}
    if not path.is_file():
        return fresh
    try:
        return fresh | file_io.read_json(path, "the time of a table's runs", "remove it")
    except errors.UserError:
        return fresh  # damaged: counted anew


def _open_runs(table: evidence.Table, places: Places) -> int:
    found = progress(table, places)
    return found.runs - found.done


def _record_path(places: Places, table: evidence.Table) -> pathlib.Path:
    return places.workdir / table.name / "time.json"
