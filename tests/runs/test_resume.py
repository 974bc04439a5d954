"""Resuming: a run that was killed, stopped or extended ends like an uninterrupted run, bit for bit."""

from __future__ import annotations

import os
import pathlib
import random
import signal
import time

import pytest

from reid_jax.train import checkpoints, metrics
from tests.helpers import tiny

pytestmark = pytest.mark.slow

STEPS = 12
TIMES = ("time", "images_per_second", "data_wait_percent")


def logged(workdir: pathlib.Path) -> list[dict[str, float]]:
    """Returns the logged metrics without times."""
    return [{key: value for key, value in line.items() if key not in TIMES} for line in metrics.read(workdir)]


def wait_until(process, condition, seconds: float = 240.0) -> None:
    """Waits for a condition, checked every millisecond; fails if the process ends first."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.001)


def newest(workdir: pathlib.Path) -> int:
    """Returns the step of the newest checkpoint; lines of metrics would not do, a resumed run first removes some."""
    return max(checkpoints.steps(workdir / "checkpoints"), default=0)


def test_killed_stopped_and_extended_runs_end_like_an_uninterrupted_run(tmp_path):
    """SIGKILL at a random moment, SIGKILL while a checkpoint is written, and SIGTERM; the same command resumes.

    The first two commands ask for three epochs, the third one extends the run to the four of the uninterrupted one.
    The interrupted run keeps the programs of its starts, so that its second one traces nothing.
    """
    config = tiny.config(tmp_path / "data", checkpoint__every_steps=1)
    whole, interrupted = tmp_path / "whole", tmp_path / "interrupted"
    command = [tiny.write(config, tmp_path / "tiny.py"), f"--workdir={interrupted}", "--mode=train"]
    tiny.draw(tmp_path / "data")
    shorter = [*command, "--config.train.epochs=3"]
    folder = interrupted / "checkpoints"
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    del environment["JAX_COMPILATION_CACHE_DIR"]
    chance = random.Random(time.time_ns())
    resumed_at = []

    # The interval of checkpoints does not affect the training.
    rarely = "--config.checkpoint.every_steps=0"
    uninterrupted = tiny.start([command[0], f"--workdir={whole}", "--mode=train", rarely], devices=1)

    # A config file that is as young as the process counts as edited while it runs.
    time.sleep(0.2)

    # 1. At a random moment after the first steps.
    process = tiny.start(shorter, env=environment)
    try:
        # The train step gets the name of its origin while the first steps are done.
        kept = tmp_path / "cache"
        wait_until(process, lambda: newest(interrupted) >= 2 and any(kept.rglob("*-step0.start")))
        time.sleep(chance.uniform(0, 0.2))
        process.kill()
        assert tiny.finish(process)[0] == -signal.SIGKILL
        resumed_at.append(newest(interrupted))

        # 2. While a checkpoint is being written: its folder still has a temporary name.
        process = tiny.start(shorter, env=environment)
        wait_until(process, lambda: newest(interrupted) >= resumed_at[0] + 1 and any(folder.glob("*tmp*")))
        process.kill()
        _, _, err = tiny.finish(process)
        assert f"resumed at step {resumed_at[0]} of 9" in err
        assert "has kept its programs: nothing is traced" in err
        left = [path.name for path in folder.iterdir() if not path.name.isdigit()]
        resumed_at.append(newest(interrupted))

        # 3. SIGTERM: the run saves a checkpoint, reports it in one sentence, and exits.
        process = tiny.start([*command, "--extend"], env=environment)
        wait_until(process, lambda: newest(interrupted) >= resumed_at[1] + 1)
        process.terminate()
        code, _, err = tiny.finish(process)
    finally:
        process.kill()
        process.wait()
    assert f"resumed at step {resumed_at[1]} of {STEPS}" in err
    assert f"extended at step {resumed_at[1]}: the longer schedule has the same learning rates up to there" in err
    stopped_at = newest(interrupted)
    assert code == 143
    assert f"error: asked to stop at step {stopped_at}; saved there, the same command continues from it." in err
    assert "Traceback" not in err
    assert 2 <= resumed_at[0] < resumed_at[1] < stopped_at < STEPS

    # 4. To the end.
    for last in (tiny.start([*command, rarely], env=environment), uninterrupted):
        code, _, err = tiny.finish(last)
        assert code == 0, err
    assert all(path.name.isdigit() for path in folder.iterdir()), left
    assert newest(interrupted) == STEPS
    expected, got = (checkpoints.restore_arrays(run / "checkpoints") for run in (whole, interrupted))
    assert expected.keys() == got.keys()
    assert {path.split("/")[0] for path in expected} == {"step", "params", "batch_stats", "opt_state", "extra"}
    different = [path for path in expected if expected[path].tobytes() != got[path].tobytes()]
    assert not different
    assert int(got["step"]) == STEPS
    assert logged(whole) == logged(interrupted)
    assert [line["step"] for line in logged(interrupted)] == list(range(1, STEPS + 1))
