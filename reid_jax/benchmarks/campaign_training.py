"""The last part of a campaign: a training run on SynthPed `large` in the time that is left.

The run is an ordinary one, in `training/` of the campaign's folder: at the end of the time it is asked to stop, saves,
and the same campaign continues it.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

from reid_jax import config as config_lib
from reid_jax import errors, file_io
from reid_jax.benchmarks import campaign
from reid_jax.config import files
from reid_jax.data.synthped import dataset as synthped
from reid_jax.train import metrics

Row = dict[str, Any]

PART = campaign.Part("training", float("inf"), "training")
MODEL = "mfv"  # the system that is trained, and the row of the campaign that says how fast
# Seconds that a run needs to save, and to load, compile and evaluate: so much of its time is not training.
SAVING, AROUND = 20.0, 120.0
EPOCHS = (4, 120)


def data_options(quick: bool) -> dict[str, Any]:
    """Returns the options of SynthPed."""
    return {"size": "tiny" if quick else "large", "seed": 0}


def prepare_command(folder: campaign.Folder, quick: bool) -> list[str]:
    """Returns the command that prepares the data set in the campaign's folder."""
    options = [f"--option={key}={value}" for key, value in data_options(quick).items()]
    root = f"--root={folder.path / 'data'}"
    return [sys.executable, "-m", "reid_jax.cli", "prepare-dataset", "synthped", root, *options]


def epochs_for(seconds: float, images_per_second: float | None) -> int:
    """Returns the epochs that fit a time, within `EPOCHS`.

    Args:
        seconds: wall seconds that are left.
        images_per_second: speed of a train step, None where it is not known.
    """
    low, high = EPOCHS
    size = synthped.SIZES["large"]
    images = size.train_identities * size.cameras_per_identity * size.train_images
    if not images_per_second:
        return low
    return int(min(max((seconds - AROUND) * 0.8 * images_per_second / images, low), high))


def write_config(folder: campaign.Folder, quick: bool, seconds: float) -> pathlib.Path:
    """Returns the config file of the run; an earlier one is kept, so that its run continues."""
    path = folder.path / "training_config.py"
    if path.is_file():
        return path
    common = {
        "data.options": data_options(quick),
        "data.root": str(folder.path.absolute() / "data"),
        "init.weights": "scratch",
        "dtype": "auto",
        "schedule": {"name": "warmup_cosine", "warmup_epochs": 1, "granularity": "step"},
        "log.every_steps": 10,
        "checkpoint.every_epochs": 1.0,
    }
    if quick:
        config = files.load_config("bot:demo")
        small = {"model.width": 8, "data.height": 64, "data.width": 32, "evals.baselines": False}
        sampler = {"name": "identity_groups", "identities": 4, "images": 2}
        own = {**small, "data.sampler": sampler, "train.epochs": 4.0, "evals.every_epochs": 2.0}
    else:
        config = files.load_config(f"{MODEL}:synthped_large")
        speeds = folder.read(f"speed-{MODEL}-64").get("rows") or [{}]
        epochs = epochs_for(seconds, speeds[0].get("images_per_s"))
        own = {"train.epochs": float(epochs), "evals.every_epochs": max(1.0, epochs // 5), "data.threads": 8}
    config_lib.override(config, {**common, **own})
    body = f'def get_config(argument=""):\n    return ConfigDict({config_lib.to_dict(config)!r})\n'
    file_io.write_text(path, f"from ml_collections import ConfigDict\n\n\n{body}", "the config of the training run")
    return path


def train(folder: campaign.Folder, quick: bool, deadline: float) -> None:
    """Runs the training until its end or the deadline (by `time.monotonic`), and writes the record of the part."""
    if deadline - time.monotonic() < campaign.LEAST + SAVING:
        return
    began = time.monotonic()
    config = write_config(folder, quick, deadline - began)
    workdir = folder.path / "training"
    folder.write(PART.name, campaign.RUNNING, rows(workdir))
    command = [sys.executable, "-m", "reid_jax.cli", "train", f"--config={config}", f"--workdir={workdir}"]
    with (folder.path / "log.txt").open("ab") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            env=campaign.environment(folder),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        code = _wait(process, deadline)
    error = "" if code == 0 else "the time was over" if code is None else f"it ended with code {code}, see log.txt"
    status = campaign.FAILED if error else campaign.DONE
    more = {"error": f"{error}; the same command continues"} if error else {}
    folder.write(PART.name, status, rows(workdir), seconds=round(time.monotonic() - began, 1), **more)


def _wait(process: subprocess.Popen[bytes], deadline: float) -> int | None:
    """Returns the exit code of a run, None for one that was stopped at the deadline: asked first, so that it saves."""
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(max(deadline - time.monotonic() - SAVING, 0.0))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(SAVING)
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def rows(workdir: pathlib.Path) -> list[Row]:
    """Returns a row for each evaluation of the run so far, and one for its newest step."""
    found: list[Row] = []
    newest: Row = {}
    try:
        records = metrics.read(workdir)
    except (errors.UserError, OSError):
        return []
    began = records[0]["time"] if records else 0.0
    for record in records:
        about = {"step": record["step"], "seconds": round(record["time"] - began, 1)}
        scores = {key.partition("/")[2]: value for key, value in record.items() if key.startswith("synthped")}
        if scores:
            found.append({**about, **{key: scores[key] for key in ("mAP", "rank1") if key in scores}})
        elif "loss" in record:
            named = ("epoch", "loss", "images_per_second", "data_wait_percent")
            newest = {**about, **{key: record[key] for key in named if key in record}}
    return [*found, *([newest] if newest else [])]
