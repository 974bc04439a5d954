"""Kills and resumes a run repeatedly and compares its end with an undisturbed run, bit for bit.

    python scripts/check_resume.py --config configs/mfv.py --workdir runs/check
    python scripts/check_resume.py --config configs/mfv.py --workdir runs/check --kills 3 \\
        --devices 2 --config.train.epochs=3

Trains twice: once undisturbed, once killed with SIGKILL at random moments, every second of them while a checkpoint is
being written. After each kill all checkpoints are read in full. Prints a table; exit code 0 means that every
array of the last checkpoint (parameters, statistics, optimizer, extras) has the same bits and `metrics.jsonl` the same
numbers, times aside. Other arguments are passed to scripts/main.py.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import random
import subprocess
import sys
import time
from typing import Any

import numpy as np

from reid_jax import errors
from reid_jax.cli import arguments, command_line
from reid_jax.data import records
from reid_jax.train import checkpoints, metrics

# Columns of metrics.jsonl that depend on the machine, not on the training.
TIMES = ("time", "images_per_second", "data_wait_percent")


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns the arguments of this command, and the others, which are those of a training run."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--workdir", required=True, help="new folder for the two run folders")
    parser.add_argument("--kills", type=arguments.whole(0, 1000), default=5, help="number of kills (default: 5)")
    parser.add_argument("--devices", type=arguments.whole(1, 64), default=1, help="simulated CPU devices (default: 1)")
    parser.add_argument(
        "--seed", type=arguments.whole(*arguments.SEED), help="of the random moments (default: the clock)"
    )
    return parser.parse_known_args(argv)


def start(workdir: pathlib.Path, devices: int, arguments: list[str]) -> subprocess.Popen[bytes]:
    """Starts training in a process of its own and returns the process."""
    workdir.parent.mkdir(parents=True, exist_ok=True)
    log = (workdir.parent / f"{workdir.name}.txt").open("ab")
    command = [sys.executable, "-m", "reid_jax.cli", "train", *arguments, f"--workdir={workdir}", "--mode=train"]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)}
    return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def newest(workdir: pathlib.Path) -> int:
    """Returns the step of the newest complete checkpoint, 0 before the first."""
    return max(checkpoints.steps(workdir / "checkpoints"), default=0)


def kill_once(process: subprocess.Popen[bytes], workdir: pathlib.Path, writing: bool, chance: random.Random) -> str:
    """Kills the process at a random moment and returns a note on unfinished files on the disk."""
    folder = workdir / "checkpoints"
    goal = newest(workdir) + chance.randint(1, 8)
    pause = chance.uniform(0, 0.5)
    while process.poll() is None and newest(workdir) < goal:
        time.sleep(0.002)
    if writing:
        while process.poll() is None and not any(folder.glob("*tmp*")):
            time.sleep(0.0005)
        time.sleep(chance.uniform(0, 0.02))
    else:
        time.sleep(pause)
    if process.poll() is not None:
        raise errors.UserError(
            f"expected a run long enough to be killed, it ended at step {newest(workdir)}; train longer."
        )
    process.kill()
    process.wait()
    torn = [path.name for path in folder.iterdir() if not path.name.isdigit()]
    return f"{len(torn)} unfinished" if torn else "-"


def metrics_without_times(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the lines of `metrics.jsonl` without times."""
    return [{key: value for key, value in line.items() if key not in TIMES} for line in metrics.read(workdir)]


def main(argv: list[str]) -> int:
    """Runs the check and returns exit code 0 when nothing differs, 1 otherwise."""
    args, given = parse(argv)
    base = arguments.new_folder("--workdir", args.workdir)
    if base.exists():
        raise errors.UserError(f"expected a new folder as --workdir, {base} exists; remove it or name another.")
    command_line.check_config_flags(["train", *given])
    given = [
        *given,
        "--config.checkpoint.every_steps=1",
        "--config.log.every_steps=1",
        "--config.evals.baselines=False",
    ]
    whole, torn = base / "undisturbed", base / "killed"
    chance = random.Random(args.seed if args.seed is not None else time.time_ns())
    process = start(whole, args.devices, given)
    if process.wait():
        raise errors.UserError(f"the undisturbed run failed; see {base / 'undisturbed.txt'}.")
    rows = []
    for number in range(args.kills):
        process = start(torn, args.devices, given)
        before = newest(torn)
        writing = bool(number % 2)
        left = kill_once(process, torn, writing, chance)
        steps = checkpoints.steps(torn / "checkpoints")
        readable = sum(bool(checkpoints.restore_arrays(torn / "checkpoints", step)) for step in steps)
        moment = "writing a checkpoint" if writing else "random"
        rows.append((str(number + 1), moment, str(before), str(newest(torn)), left, f"{readable} of {len(steps)}"))
        print(f"kill {number + 1}: {moment}, newest checkpoint {newest(torn)}", file=sys.stderr)
    if start(torn, args.devices, given).wait():
        raise errors.UserError(f"the last resume failed; see {base / 'killed.txt'}.")
    header = ("kill", "moment", "resumed at", "newest checkpoint", "temporary folders", "checkpoints readable")
    print(records.format_table(header, rows))
    expected, got = (checkpoints.restore_arrays(run / "checkpoints") for run in (whole, torn))
    different = [path for path in expected | got if not same(expected.get(path), got.get(path))]
    print(f"last step: {newest(whole)} undisturbed, {newest(torn)} killed {args.kills} times")
    print(f"arrays that differ in any bit: {len(different)} of {len(expected)} {' '.join(different[:3])}")
    lines = metrics_without_times(whole) == metrics_without_times(torn)
    print(
        f"metrics.jsonl, times aside: {'equal' if lines else 'DIFFERENT'} ({len(metrics_without_times(whole))} lines)"
    )
    return 0 if not different and lines else 1


def same(first: np.ndarray | None, second: np.ndarray | None) -> bool:
    """Returns whether two arrays are equal bit for bit."""
    if first is None or second is None:
        return False
    return first.dtype == second.dtype and first.shape == second.shape and first.tobytes() == second.tobytes()
