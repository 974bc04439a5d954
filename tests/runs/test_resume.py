"""Killed at any moment and started again, a run ends as if nothing had happened, bit for bit."""

from __future__ import annotations

import pathlib
import random
import signal
import time

from reid_jax.data import prepare
from reid_jax.train import checkpoints, metrics
from tests.helpers import tiny

STEPS = 12
TIMES = ("time", "images_per_second", "data_wait_percent")


def told(workdir: pathlib.Path) -> list[dict[str, float]]:
    return [{key: value for key, value in line.items() if key not in TIMES} for line in metrics.read(workdir)]


def wait_until(process, condition, seconds: float = 240.0) -> None:
    """Looks every millisecond; the process must still be at work."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.001)


def newest(workdir: pathlib.Path) -> int:
    """Step of the newest checkpoint; not lines of metrics, which a resumed process first takes back."""
    return max(checkpoints.steps(workdir / "checkpoints"), default=0)


def test_killed_and_stopped_runs_end_like_an_undisturbed_one(tmp_path):
    """Kill -9 anywhere, kill -9 while a checkpoint is written, SIGTERM; each time the same command goes on."""
    prepare.prepare("synthped", tmp_path / "data", size="tiny")
    config = tiny.config(tmp_path / "data", checkpoint__every_steps=1)
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    command = [tiny.write(config, tmp_path / "tiny.py"), f"--workdir={torn}", "--mode=train"]
    folder = torn / "checkpoints"
    chance = random.Random(time.time_ns())
    resumed_at = []

    # How often is saved is no part of what is trained.
    rarely = "--config.checkpoint.every_steps=0"
    undisturbed = tiny.start([command[0], f"--workdir={whole}", "--mode=train", rarely], devices=1)

    # It compiles; the others then find the program in the cache.
    wait_until(undisturbed, lambda: metrics.read(whole))

    # 1. At a random moment after the first steps.
    process = tiny.start(command, devices=1)
    try:
        wait_until(process, lambda: newest(torn) >= 2)
        time.sleep(chance.uniform(0, 0.2))
        process.kill()
        assert tiny.finish(process)[0] == -signal.SIGKILL
        resumed_at.append(newest(torn))

        # 2. While a checkpoint is being written: its folder still bears the temporary name.
        process = tiny.start(command, devices=1)
        wait_until(process, lambda: newest(torn) >= resumed_at[0] + 1 and any(folder.glob("*tmp*")))
        process.kill()
        _, _, err = tiny.finish(process)
        assert f"resumed at step {resumed_at[0]} of {STEPS}" in err
        left = [path.name for path in folder.iterdir() if not path.name.isdigit()]
        resumed_at.append(newest(torn))

        # 3. Asked to stop: saves, says so in a sentence, and goes.
        process = tiny.start(command, devices=1)
        wait_until(process, lambda: newest(torn) >= resumed_at[1] + 1)
        process.terminate()
        code, _, err = tiny.finish(process)
    finally:
        process.kill()
        process.wait()
    assert f"resumed at step {resumed_at[1]} of {STEPS}" in err
    stopped_at = newest(torn)
    assert code == 2
    assert f"error: asked to stop at step {stopped_at}; saved there, the same command continues from it." in err
    assert "Traceback" not in err
    assert 2 <= resumed_at[0] < resumed_at[1] < stopped_at < STEPS

    # 4. To the end.
    for last in (tiny.start([*command, rarely], devices=1), undisturbed):
        code, _, err = tiny.finish(last)
        assert code == 0, err
    assert [path.name for path in folder.iterdir()] == [str(STEPS)], left
    expected, got = (checkpoints.restore_arrays(one / "checkpoints") for one in (whole, torn))
    assert expected.keys() == got.keys()
    assert {path.split("/")[0] for path in expected} == {"step", "params", "batch_stats", "opt_state", "extra"}
    different = [path for path in expected if expected[path].tobytes() != got[path].tobytes()]
    assert not different
    assert int(got["step"]) == STEPS
    assert told(whole) == told(torn)
    assert [line["step"] for line in told(torn)] == list(range(1, STEPS + 1))
