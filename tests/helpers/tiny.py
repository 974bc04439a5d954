"""Runs of seconds on the smallest SynthPed, in this process or in one of its own.

`CHANCE` serves most whole-run tests: BoT, because it traces and compiles in a third of MFV's time, with what makes a
step depend on the whole batch and on chance: batch normalization, mining, boxes filled with noise, an averaged model.
`MFV` (a row `mfv_noaux`) has every part of MFV in place, dropout and attention among them, with one stage.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from reid_jax import config as config_lib
from reid_jax.config import files
from reid_jax.data import prepare

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent

SMALL = {
    "data.height": 64,
    "data.width": 32,
    "data.sampler": {"name": "identity_groups", "identities": 4, "images": 2},
    "evals.ranked_lists": 4,
    "evals.baselines": False,  # the demos have them; a test that reads them asks for them
    "log.every_steps": 1,
}
# Rounding should stay rounding, for runs on different devices are compared. So Adam's quotient g / (sqrt(v) + epsilon)
# has an epsilon above the noise of small gradients (with 1e-8 a gradient of 1e-9 that is all rounding moves its
# parameter a full step), and the last maps have 128 positions a batch: over 16, some channel is all but constant,
# normalization blows its rounding up, and the ReLU behind it opens by chance.
MFV: dict[str, Any] = {
    **SMALL,
    "data.options": {"size": "tiny", "seed": 0},
    "data.sampler": {"name": "identity_groups", "identities": 8, "images": 2},
    "data.augment.erase": {"probability": 0.5, "area": (0.02, 0.4), "aspect": (0.3, 3.3), "tries": 100},
    "preprocess.erase_fill": "noise",
    "model.width": 4,
    "model.depths": (0, 0, 1, 1),
    "model.stages": (3,),
    "model.last_stride": 1,
    "model.level_depth": 1,
    "model.tfe_width": 16,
    "model.tfe_depths": (1, 1, 1),
    "model.ffn_width": 16,
    "model.slots": 8,
    "model.dropout": 0.1,
    "optimizer.learning_rate": 2e-4,
    "optimizer.epsilon": 1e-2,
    "schedule": {"name": "constant"},
    "train.epochs": 4.0,  # 12 steps
    "train.ema_decay": 0.9,
    "evals.every_epochs": 0.0,
    "evals.flip": True,
    "checkpoint.every_epochs": 1.0,
}
# Two residual blocks: tracing is what starting a run costs.
BOT: dict[str, Any] = {
    **SMALL,
    "model.size": "resnet18",
    "model.width": 4,
    "model.depths": (1, 0, 0, 1),
    "train.epochs": 2.0,
    "schedule.warmup_epochs": 1,
    "schedule.milestones_epochs": (1, 2),
    "evals.every_epochs": 0.0,
    "checkpoint.every_epochs": 1.0,
}
# 12 steps; the network, the optimizer and the augmentation see to it that every image and every draw matters.
CHANCE: dict[str, Any] = {
    **{key: value for key, value in BOT.items() if not key.startswith("schedule.")},
    **{key: value for key, value in MFV.items() if not key.startswith("model.")},
}


_prepared: dict[str, bytes] = {}


def draw(root: pathlib.Path) -> None:
    """Prepares the smallest SynthPed in a folder, drawn once in a process."""
    if not _prepared:
        prepare.prepare("synthped", root, size="tiny")
        _prepared.update({str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()})
    for name, content in _prepared.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def config(
    root: pathlib.Path, name: str = "bot:synthped", base: Mapping[str, Any] = CHANCE, **overrides: Any
) -> ConfigDict:
    """Returns the config from scratch: preset, `base`, and `overrides` (keys have `__` in place of the dot)."""
    run_config = files.load_config(str(ROOT / "configs" / name.replace(":", ".py:", 1)))
    config_lib.override(run_config, {"init.weights": "", **base, "data.root": str(root)})
    config_lib.override(run_config, {key.replace("__", "."): value for key, value in overrides.items()})
    return run_config


def write(run_config: ConfigDict, path: pathlib.Path) -> str:
    """Writes a config as a config file, for runs in another process; returns the argument that names it."""
    body = f'def get_config(argument=""):\n    return ConfigDict({config_lib.to_dict(run_config)!r})\n'
    path.write_text(f"from ml_collections import ConfigDict\n\n\n{body}")
    return f"--config={path}"


def start(arguments: list[str], devices: int = 8, script: str = "main.py", **popen: Any) -> subprocess.Popen[str]:
    """Starts a script in a process of its own; compiled programs come from the suite's cache."""
    return start_python([str(ROOT / "scripts" / script), *arguments], devices, **popen)


def start_python(arguments: list[str], devices: int = 1, **popen: Any) -> subprocess.Popen[str]:
    """Starts Python in a process of its own, as `start` does."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    return subprocess.Popen(
        [sys.executable, *arguments],
        **{"cwd": ROOT, "env": environment, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | popen,
    )


def finish(process: subprocess.Popen[str], timeout: float = 300) -> tuple[int, str, str]:
    """Exit code, standard output and standard error; the process never outlives the test."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, out, err
