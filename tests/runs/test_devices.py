"""One device, eight devices and two processes train the same network.

All statistics and losses are computed over the global batch, so that only the order of float32 sums may differ. MFV has
every part that could break this (batch normalization and hard mining, dropout, boxes filled with noise, attention,
per-group rates, the averaged model) and trains on eight devices; two processes train BoT, which starts sooner.

Tolerance: the first step has no history, so every number of it (losses, norm of the gradient) agrees to 1e-5 of its
size: float32 rounding of sums over a batch, measured 1e-6. A batch statistic or a hardest pair taken over a part of the
batch changes the second digit there. Later, one of the millions of ReLUs, maxima and hardest pairs may lie so near its
switch that rounding decides: the loss does not notice, the gradient of a network this small does (measured 5e-3 of its
norm), and at a usual rate the runs then drift apart, as two runs on one device do after a change of the last bit. The
rate is therefore small, so that such an error stays where it is. The limits leave a factor of five.
"""

from __future__ import annotations

import pathlib
import socket

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from reid_jax import trees
from reid_jax.runs import launch
from reid_jax.runtime import mesh
from reid_jax.train import checkpoints, metrics
from tests.helpers import tiny

pytestmark = pytest.mark.slow

FIRST, LOSSES, NORMS, VARIABLES = 1e-5, 1e-4, 2e-2, 2e-5
# Three steps an epoch.
SLOWLY = {"optimizer__name": "sgd", "optimizer__epsilon": None, "optimizer__learning_rate": 1e-5, "train__epochs": 1.0}
STEPS = 3
TIMES = ("time", "images_per_second", "data_wait_percent")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def outcome(workdir: pathlib.Path) -> tuple[list[dict[str, float]], dict[str, np.ndarray]]:
    """Metrics without times, and every variable of the last checkpoint, the average included."""
    lines = [{key: value for key, value in line.items() if key not in TIMES} for line in metrics.read(workdir)]
    variables, _ = checkpoints.restore_variables(workdir / "checkpoints", extra=True)
    return lines, {path: np.asarray(leaf) for path, leaf in trees.flatten(variables).items()}


def distance(left: np.ndarray, right: np.ndarray) -> float:
    """The largest difference, relative where values are above 1 (running variances)."""
    return float((np.abs(left - right) / np.maximum(np.abs(left), 1.0)).max())


def assert_same(one: pathlib.Path, other: pathlib.Path) -> None:
    """Compares metrics of every step and the last variables of two runs."""
    (lines, variables), (other_lines, other_variables) = outcome(one), outcome(other)
    assert [line["step"] for line in lines] == [line["step"] for line in other_lines] == list(range(1, STEPS + 1))
    assert abs(lines[-1]["loss"] - lines[0]["loss"]) > 0.001 * lines[0]["loss"]
    assert lines[0] == pytest.approx(other_lines[0], rel=FIRST, abs=1e-6)
    worst: dict[str, float] = {}
    for line, other_line in zip(lines, other_lines, strict=True):
        assert line.keys() == other_line.keys()
        for key, value in line.items():
            worst[key] = max(worst.get(key, 0.0), abs(value - other_line[key]) / max(abs(value), 1.0))
    assert variables.keys() == other_variables.keys()
    apart = {path: distance(variables[path], other_variables[path]) for path in variables}
    path = max(apart, key=apart.__getitem__)
    print({key: f"{value:.0e}" for key, value in worst.items() if value}, path, f"{apart[path]:.1e}")
    for key, value in worst.items():
        assert value <= (NORMS if key.endswith("_norm") else LOSSES), (key, value)
    assert apart[path] <= VARIABLES, path


def train_on_one_device(config: ConfigDict, workdir: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    single = mesh.create_mesh(jax.devices()[:1])
    with monkeypatch.context() as patch:
        patch.setattr(mesh, "create_mesh", lambda: single)
        assert launch.run(config, workdir=str(workdir), mode="train") == 0


def test_eight_devices_train_mfv_as_one_does(tmp_path, monkeypatch):
    assert jax.device_count() == 8
    tiny.draw(tmp_path / "data")
    config = tiny.config(tmp_path / "data", "mfv:synthped,mfv_noaux", tiny.MFV, **SLOWLY)
    train_on_one_device(config, tmp_path / "one", monkeypatch)
    assert launch.run(config, workdir=str(tmp_path / "eight"), mode="train") == 0
    assert_same(tmp_path / "one", tmp_path / "eight")


def test_two_processes_train_as_one_does(tmp_path, monkeypatch):
    tiny.draw(tmp_path / "data")
    config = tiny.config(tmp_path / "data", **SLOWLY)
    command = [tiny.write(config, tmp_path / "tiny.py"), f"--workdir={tmp_path / 'two'}", "--mode=train"]
    together = [f"--coordinator=localhost:{free_port()}", "--num_processes=2"]
    started = [tiny.start([*command, *together, f"--process_id={index}"], devices=1) for index in range(2)]
    train_on_one_device(config, tmp_path / "one", monkeypatch)
    ended = [tiny.finish(process) for process in started]
    for code, _, err in ended:
        assert code == 0, err
    assert "(2 x cpu, 2 process(es)" in ended[0][2]
    # Only the first process logs.
    assert "synthped" not in ended[1][2]
    assert_same(tmp_path / "one", tmp_path / "two")
