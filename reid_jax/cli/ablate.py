"""Runs rows of an ablation table and writes `results/<name>.csv` and a markdown table with mean ± std.

    python scripts/ablate.py --config configs/mfv.py --rows mfv_base,mfv_sdfa,mfv --seeds 0,1,2
    python scripts/ablate.py --config configs/cfat.py --rows cfat_clean,cil:full,cfat --metrics mAP,corrupted/mAP \\
        --override evals.corruption_rounds=3

After an interruption the same command continues; `--table` only makes the table from the runs that are finished.
"""

from __future__ import annotations

import argparse
import pathlib

from reid_jax import errors, file_io
from reid_jax.cli import command_line
from reid_jax.config import files
from reid_jax.runs import ablation, ablation_table


def _parser() -> argparse.ArgumentParser:
    parser = command_line.parser(__doc__)
    parser.add_argument("--config", required=True, help="config file, without preset or variants")
    parser.add_argument("--preset", default="demo", help="preset of every row (default: demo)")
    parser.add_argument(
        "--rows",
        required=True,
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
    parser.add_argument("--name", default="", help="name of the table (default: the config's name)")
    parser.add_argument("--workdir", default="", help="folder of the runs (default: runs/ablate/<name>)")
    parser.add_argument("--results", default="results", help="folder of the table (default: results)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each on its share of the cores")
    parser.add_argument("--override", action="append", default=[], help="e.g. train.epochs=10; may be repeated")
    parser.add_argument("--table", action="store_true", help="run nothing, make the table of what is finished")
    return parser


def main(arguments: list[str]) -> int:
    """Runs the rows and writes the table; returns the exit code."""
    given = _parser().parse_args(arguments)
    name = given.name or pathlib.Path(given.config).stem
    plan = ablation.Plan(
        config=given.config,
        preset=given.preset,
        rows=tuple(given.rows.split(",")),
        seeds=_seeds(given.seeds),
        workdir=pathlib.Path(given.workdir or f"runs/ablate/{name}"),
        overrides=tuple(f"--config.{pair}" for pair in given.override),
        pairs=tuple(_pair(pair) for pair in given.compare.split(",") if pair),
    )
    if not given.table:
        for row in plan.rows:  # a misspelled row stops the table before its first run
            files.load_config(plan.argument(row))
        ablation.run(plan, jobs=given.jobs)
    metrics = tuple(given.metrics.split(","))
    records = ablation_table.collect(plan, metrics)
    results = pathlib.Path(given.results)
    ablation_table.write_csv(results / f"{name}.csv", records)
    file_io.write_text(results / f"{name}.md", ablation_table.document(plan, records, metrics), "the table")
    print(ablation_table.markdown(records, metrics))
    if plan.pairs:
        print(ablation_table.comparison(records, plan.pairs, metrics))
    return 0


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(seed) for seed in text.split(","))
    except ValueError:
        raise errors.UserError(f"expected --seeds as whole numbers separated by commas, got {text!r}.") from None


def _pair(text: str) -> tuple[str, str]:
    row, equals, against = text.partition("=")
    if not equals:
        raise errors.UserError(f"expected --compare ROW=BASELINE, got {text!r}; for example cfat=cfat_student.")
    return row, against
