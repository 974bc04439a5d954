"""Runs rows of an ablation table and writes `results/<name>.csv` and a markdown table with mean ± std.

    python scripts/ablate.py --config configs/mfv.py --list
    python scripts/ablate.py --config configs/mfv.py --rows mfv_base,mfv_sdfa,mfv --seeds 0,1,2
    python scripts/ablate.py --config configs/mfv.py --preset demo,synthped_street --rows mfv_base,mfv \\
        --seeds 0,1,2,3,4 --data-seeds --override "evals.datasets=('synthped_street_large',)" \\
        --dataset synthped_street_large --compare mfv=mfv_base
    python scripts/ablate.py --config configs/cfat.py --rows cfat_clean,cil:full,cfat \\
        --metrics mAP,corrupted/mAP --override evals.corruption_rounds=3

A row behind "@" is pretrained first, once for each seed: baseline+mim128@mim:random75 starts from the encoder that
configs/mim.py:demo,random75 has drawn with; runs of it lie beside the table's, in pretrained/, and serve other tables.

    python scripts/ablate.py --config configs/transreid.py --rows baseline+mim128,baseline+mim128@mim:random75

    python scripts/ablate.py --config configs/cfat.py --rows cfat_start,cfat_coarse+started@cfat_start

Without a colon behind "@", a row goes on from the run of another row of its own config: teacher and student of
cfat_start are trained once for each seed.

A plan is many tables in one file: configs/evidence.toml says which questions they answer, at which size,
and in how many minutes each. They run in the background, by priority and seed by seed, and every finished
run updates its table:

    python scripts/ablate.py --plan evidence --jobs 2             # about fourteen hours on two cores
    python scripts/ablate.py --plan evidence --only mfv --hours 1
    python scripts/ablate.py --plan evidence --runs 1             # one run; exit code 3 if others are left

After an interruption the same command continues; `--table` only makes the table from the runs that are finished.
A plan goes on from its tables in --results as well, where the folders of their runs are gone.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Sequence

from reid_jax import config as config_lib
from reid_jax import errors, file_io
from reid_jax.cli import arguments, command_line
from reid_jax.config import files, rules
from reid_jax.runs import ablation, ablation_table, evidence, evidence_runs


def _parser() -> argparse.ArgumentParser:
    parser = command_line.parser(__doc__)
    parser.add_argument("--config", help="config file, without preset or variants")
    parser.add_argument("--plan", help="all tables of a plan: its file, or the name of a packaged one (evidence)")
    parser.add_argument("--only", default="", help="tables of the plan, separated by commas (default: all)")
    parser.add_argument(
        "--hours", type=arguments.number(0.001, 24 * 365), help="wall time of this command, with --plan"
    )
    parser.add_argument("--runs", type=arguments.whole(1, 10_000), help="number of runs of this command, with --plan")
    parser.add_argument("--preset", default="demo", help="preset of every row (default: demo)")
    parser.add_argument(
        "--list", action="store_true", help="print the rows of the config with a sentence each, and exit"
    )
    parser.add_argument(
        "--rows",
        help="variants separated by commas; join several by +; 'full' for none; cil:full is a row of configs/cil.py",
    )
    parser.add_argument("--seeds", default="0,1,2", help="seeds separated by commas (default: 0,1,2)")
    parser.add_argument(
        "--metrics",
        default=",".join(ablation_table.SHOWN),
        help="columns, separated by commas, such as mAP,rank1,corrupted/mAP (with evals.corruption_rounds)",
    )
    parser.add_argument(
        "--compare", default="", help="what rows gain over others, such as cfat=cfat_student,cfat_coarse=cfat_student"
    )
    parser.add_argument(
        "--dataset", default="", help="scores on one of evals.datasets (default: on the data set that is trained on)"
    )
    parser.add_argument("--name", default="", help="name of the table (default: the config's name)")
    parser.add_argument(
        "--workdir", default="", help="folder of the runs (default: runs/ablate/<name>; of a plan runs/<plan>)"
    )
    parser.add_argument("--results", default="results", help="folder of the table (default: results)")
    parser.add_argument(
        "--jobs", type=arguments.whole(1, 256), default=1, help="runs at a time, each on its share of the cores"
    )
    parser.add_argument(
        "--data-seeds",
        action="store_true",
        help="draw the generated data set (SynthPed) of a run from the seed of the run as well",
    )
    parser.add_argument("--override", action="append", default=[], help="e.g. train.epochs=10; may be repeated")
    parser.add_argument("--table", action="store_true", help="run nothing, make the table of what is finished")
    return parser


def main(argv: list[str]) -> int:
    """Runs the rows and writes the table; returns the exit code."""
    parser = _parser()
    given = parser.parse_args(argv)
    _check_kind(parser, given)
    if given.plan is not None:
        return _run_plan(given)
    if given.list:
        try:
            files.load_config(f"{given.config}:help")
        except config_lib.HelpRequested as rows:
            print(command_line.for_caller(str(rows)))
        return 0
    if given.rows is None:
        raise errors.UserError("expected --rows NAME,...; --list prints the rows of the config.")
    name = given.name or pathlib.Path(given.config).stem
    if not name or pathlib.Path(name).name != name:
        raise errors.UserError(f"expected --name as the name of a file without a folder, got {rules.plain(name)!r}.")
    arguments.new_folder("--results", given.results)
    arguments.new_file("--results", str(pathlib.Path(given.results) / f"{name}.csv"))
    plan = ablation.Plan(
        config=given.config,
        preset=given.preset,
        rows=tuple(arguments.names("--rows", given.rows)),
        seeds=tuple(arguments.wholes("--seeds", given.seeds, *arguments.SEED)),
        workdir=arguments.new_folder("--workdir", given.workdir or f"runs/ablate/{name}"),
        overrides=tuple(f"--config.{pair}" for pair in given.override),
        pairs=tuple(_pair(pair) for pair in given.compare.split(",") if pair),
        data_seeds=given.data_seeds,
    )
    metrics = tuple(arguments.names("--metrics", given.metrics))
    _check(plan, [*given.override, *(["data.options.seed=0"] if given.data_seeds else [])])
    if not given.table:
        ablation.run(plan, jobs=given.jobs)
    records = ablation_table.collect(plan, metrics, given.dataset)
    results = pathlib.Path(given.results)
    ablation_table.write_csv(results / f"{name}.csv", records)
    file_io.write_text(
        results / f"{name}.md", ablation_table.document(plan, records, metrics, given.dataset), "the table"
    )
    print(ablation_table.markdown(records, metrics))
    if plan.pairs:
        print(ablation_table.comparison(records, plan.pairs, metrics))
    return 0


# Exit code of a plan whose runs are not all done, because of --hours or --runs.
LEFT = 3

# Arguments of one table, which a plan has in its file, and those of a plan.
_OF_A_TABLE = ("config", "preset", "rows", "seeds", "metrics", "compare", "dataset", "name", "data_seeds", "list")
_OF_A_PLAN = ("only", "hours", "runs")


def _check_kind(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """Raises a `UserError` for neither --config nor --plan, or for arguments of the other of them."""
    if given.config is None and given.plan is None:
        raise errors.UserError(
            "expected --config FILE for one table or --plan NAME for the tables of a plan, got none."
        )
    kind, others = ("--config", _OF_A_PLAN) if given.plan is None else ("--plan", _OF_A_TABLE)
    for name in others:
        if getattr(given, name) != parser.get_default(name):
            flag = f"--{name.replace('_', '-')}"
            raise errors.UserError(f"expected {kind} without {flag}, got both; leave one of them out.")


def _run_plan(given: argparse.Namespace) -> int:
    """Runs the tables of a plan; returns `LEFT` if --hours or --runs left runs for another time."""
    path = evidence.path_of(given.plan)
    tables = evidence.read(path)
    if given.only:
        chosen = arguments.names("--only", given.only, [table.name for table in tables])
        tables = [table for table in tables if table.name in chosen]
    places = evidence_runs.Places(
        workdir=arguments.new_folder("--workdir", given.workdir or f"runs/{path.stem}"),
        results=arguments.new_folder("--results", given.results),
        overrides=tuple(given.override),
        command=f"python scripts/ablate.py --plan {given.plan} --only {{table}}",
    )
    for table in tables:
        _check(table.plan(places.workdir, places.overrides), [*table.overrides, *places.overrides])
    if given.table:
        for table in tables:
            written = evidence_runs.write_table(table, table.plan(places.workdir, places.overrides), places)
            print(f"{table.name}: {evidence_runs.summary(table, places)}{'' if written else '; no table yet'}")
        return 0
    budget = evidence_runs.Budget(given.hours, given.runs)
    failures = evidence_runs.run(tables, places, budget, given.jobs)
    if failures:
        raise errors.UserError(
            f"expected every run of the plan to finish, {len(failures)} tables did not: {failures[0]}"
        )
    return LEFT if budget.cut else 0


def _check(plan: ablation.Plan, overrides: Sequence[str]) -> None:
    """Raises a `UserError` for a misspelled row or key, which would stop the table at its first run."""
    keys = [pair.partition("=")[0] for pair in overrides if "=" in pair]
    if len(keys) < len(overrides):
        raise errors.UserError("expected --override KEY=VALUE, got no '='; for example --override train.epochs=10.")
    for row in plan.rows:
        command_line.check_keys(files.load_config(plan.argument(row)), keys)
    for start in dict.fromkeys(start for start, *_ in plan.pretraining()):
        files.load_config(plan.pretraining_argument(start))
    for start in dict.fromkeys(start for start, *_ in plan.starts()):
        files.load_config(plan.argument(start))
    if len(set(plan.rows)) < len(plan.rows):
        raise errors.UserError("expected each row of --rows once; leave one out.")


def _pair(text: str) -> tuple[str, str]:
    row, equals, against = text.partition("=")
    if not equals:
        raise errors.UserError(f"expected --compare ROW=BASELINE, got {text!r}; for example cfat=cfat_student.")
    return row, against
