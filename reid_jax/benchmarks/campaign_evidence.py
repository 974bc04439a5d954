"""The tables of the evidence plan as a campaign: every run a part, the seeds side by side on one device.

    python scripts/benchmark.py campaign --evidence --output evidence        # twelve minutes of a GPU
    python scripts/benchmark.py campaign --evidence --quick                  # two minutes of a CPU, tiny

Small networks leave most of a GPU idle, so each seed has a worker process of its own; all workers go through the tables
in the order of the plan, so that a table has all its seeds before the next one begins. A worker trains in its process
and keeps compiled programs in the folder of the campaign, where the others find them. The tables are those of
`ablate.py --plan`, in the folder of the campaign; the same command continues.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import pathlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

from reid_jax import config as config_lib
from reid_jax import errors
from reid_jax.benchmarks import campaign
from reid_jax.config import files
from reid_jax.runs import ablation, evidence, evidence_runs, launch
from reid_jax.runs.folder import RunFolder

# Seconds after which a run is given up: a hundred times what a small network's takes on a GPU.
LIMIT = 300.0
# The two rows of a table's first comparison, in two tables, with two seeds, for `--quick`.
QUICK_TABLES, QUICK_SEEDS = 2, (0, 1)
QUICK = (
    "data.options.size=tiny",
    "data.height=64",
    "data.width=32",
    "data.sampler.identities=4",
    "data.sampler.images=2",
    "evals.datasets=()",
    "train.epochs=2.0",
)


def read(plan: str, quick: bool) -> list[evidence.Table]:
    """Returns the tables of a plan as they run on a device, or tiny ones.

    Args:
        plan: its path or name.
        quick: whether the sizes are those for a CPU.
    """
    tables = [table.on_device() for table in evidence.read(evidence.path_of(plan))]
    return [_tiny(table) for table in tables[:QUICK_TABLES]] if quick else tables


def _tiny(table: evidence.Table) -> evidence.Table:
    first = table.compare[0]
    return dataclasses.replace(
        table,
        rows=(first.against, first.row),
        seeds=QUICK_SEEDS,
        compare=(first,),
        scored="",
        overrides=(*table.overrides, *QUICK),
    )


def parts(tables: Sequence[evidence.Table]) -> list[campaign.Part]:
    """Returns a part for each run, `TABLE-SEED-NUMBER` with the number of its row: by table, then seed, then row."""
    return [
        campaign.Part(f"{table.name}-{seed}-{number}", LIMIT)
        for table in tables
        for seed in table.seeds
        for number in range(len(table.rows))
    ]


def lanes(found: Sequence[campaign.Part], most: int) -> list[list[campaign.Part]]:
    """Returns the parts of each worker: those of a seed, or of several, so that a run's start is in the same lane."""
    seeds = list(dict.fromkeys(part.name.split("-")[1] for part in found))
    count = max(1, min(most, len(seeds)))
    return [[part for part in found if seeds.index(part.name.split("-")[1]) % count == lane] for lane in range(count)]


def measure(name: str, folder: campaign.Folder, tables: Sequence[evidence.Table]) -> list[campaign.Row]:
    """Trains the run of a part, after what it starts from, and returns its row; a finished one is not run again.

    Args:
        name: name of the part.
        folder: folder of the campaign.
        tables: see `read`.
    """
    which, seed, number = name.split("-")
    table = next(table for table in tables if table.name == which)
    plan = dataclasses.replace(_plan(table, folder), seeds=(int(seed),))
    row = table.rows[int(number)]
    behind = row.partition("@")[2].partition("/")[0]
    for start, _, workdir in plan.pretraining():
        if start == behind:
            _train(plan.pretraining_command(start, int(seed), workdir), workdir)
    for start, _, workdir in plan.starts():
        if start == behind:
            _train(plan.command(start, int(seed), workdir), workdir)
    workdir = next(workdir for each, _, workdir in plan.cells() if each == row)
    result = _train(plan.command(row, int(seed), workdir), workdir)
    scores = {key: result[f"{table.scored or result['dataset']}/{key}"] for key in ("mAP", "rank1")}
    about = {"steps": result["steps"], "train_seconds": result["train_seconds"]}
    return [{"row": row, "seed": int(seed), **scores, **about}]


def write_tables(folder: campaign.Folder, tables: Sequence[evidence.Table]) -> None:
    """Writes the CSV file and the page of every table that has a finished run into the campaign's folder."""
    places = evidence_runs.Places(
        folder.path / "runs", folder.path, _overrides(folder), "python scripts/benchmark.py campaign --evidence"
    )
    for table in tables:
        evidence_runs.write_table(table, _plan(table, folder), places)


def measure_side_by_side(
    folder: campaign.Folder,
    lanes_of_parts: Sequence[Sequence[campaign.Part]],
    deadline: float,
    start: campaign.Start,
    say: Callable[[str], object],
) -> None:
    """Measures lanes of parts at the same time, each by a worker of its own; see `campaign.measure`."""
    lock = threading.Lock()

    def say_alone(line: str) -> None:
        with lock:
            say(line)

    threads = [
        threading.Thread(target=campaign.measure, args=(folder, lane, deadline, start, say_alone))
        for lane in lanes_of_parts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _overrides(folder: campaign.Folder) -> tuple[str, ...]:
    return (f"data.root={folder.path.absolute() / 'data'}",)


def _plan(table: evidence.Table, folder: campaign.Folder) -> ablation.Plan:
    return table.plan(folder.path / "runs", _overrides(folder))


def _train(command: Sequence[str], workdir: pathlib.Path) -> dict[str, Any]:
    """Trains in this process what a command line of `ablation` names, and returns its result."""
    found = RunFolder(workdir).read_result()
    if found is not None:
        return found
    given = dict(argument.removeprefix("--").split("=", 1) for argument in command[len(ablation.COMMAND) :])
    config = files.load_config(given.pop("config"))
    given.pop("workdir")
    config_lib.override(config, {key.removeprefix("config."): _value(text) for key, text in given.items()})
    launch.run(config, workdir=str(workdir))
    found = RunFolder(workdir).read_result()
    if found is None:
        raise errors.UserError(f"expected a result in {workdir}, the run left none; see its log.txt.")
    return found


def _value(text: str) -> Any:
    with contextlib.suppress(ValueError, SyntaxError):
        return ast.literal_eval(text)
    return text


def device(folder: campaign.Folder, tables: Sequence[evidence.Table]) -> str:
    """Returns the device of the first finished run."""
    for table in tables:
        for _, _, workdir in _plan(table, folder).cells():
            found = RunFolder(workdir).read_result()
            if found is not None:
                return str(found["device"])
    return "unknown device"
