"""What a run starts from: weights files of the config, found or fetched before any data is read."""

from __future__ import annotations

import pathlib

from reid_jax import config as config_lib
from reid_jax.config import sections
from reid_jax.runs import folder as folder_lib
from reid_jax.runs import start_files
from reid_jax.runtime import processes
from reid_jax.train import checkpoints
from reid_jax.weights import hub


def file(text: str, *, key: str = "", otherwise: str = "") -> pathlib.Path:
    """Returns the file that a value of the config names; the main process fetches it first if necessary. A collective.

    Args:
        text: a file, or a name of `reid_jax.weights.hub`.
        key: the config's key, for the sentence.
        otherwise: what else the user can do, see `hub.get`.

    Raises:
        UserError: there is no such file or name, or it cannot be fetched.
    """
    if processes.is_main():
        hub.resolve(text, key=key, otherwise=otherwise)
    processes.barrier("weights fetched")
    return hub.resolve(text, key=key, otherwise=otherwise)


def fetch(settings: config_lib.Settings) -> None:
    """Finds or fetches the files that a run starts from, so that a missing one stops it before the data is prepared.

    Raises:
        UserError: one cannot be had, the sentence says which file belongs where, and how to start from scratch; or the
            run to start from is none.
    """
    start_files.look(settings)
    for key, text, otherwise in start_files.named(settings):
        file(text, key=key, otherwise=otherwise)


def description(settings: config_lib.Settings) -> str:
    """Returns what a run starts from, for its log and `result.json`: name, file and hash, or random weights."""
    init = settings.init
    if start_files.is_run(init.weights):
        start = _run(init.weights)
    elif hub.is_scratch(init.weights):
        start = f"random weights (seed {settings.seed})"
    else:
        start = hub.label(init.weights, hub.resolve(init.weights))
    if init.trained:
        start = f"{_run(init.trained)}, before it {start}"
    if init.text_weights:
        start += f"; text transformer: {hub.label(init.text_weights, hub.resolve(init.text_weights))}"
    return start


# What the runs before a run took, keys of its checkpoints' meta data and of `result.json`.
COST = ("steps_before", "train_seconds_before")


def cost(init: sections.Init) -> dict[str, float]:
    """Returns steps and seconds of training in all runs that a run starts from, by `COST`; {} for none."""
    spent = []
    for run in start_files.runs(init):
        folder = folder_lib.RunFolder(run).checkpoints
        meta = checkpoints.newest_meta(folder)
        own = (checkpoints.newest_step(folder) or 0, meta["train_seconds"])
        spent.append([value + meta.get(key, 0) for key, value in zip(COST, own, strict=True)])
    return {key: sum(values) for key, *values in zip(COST, *spent, strict=True)} if spent else {}


def _run(path: str) -> str:
    """Returns a run as a start: its folder, its newest step, and the hash of its config."""
    config = folder_lib.RunFolder(path).read_config()
    step = checkpoints.newest_step(folder_lib.RunFolder(path).checkpoints)
    return f"the run {path} (step {step}, config {config_lib.config_hash(config)})"


def scratch_advice(settings: config_lib.Settings) -> str:
    """Returns what a recipe made for pretrained weights keeps when it starts from scratch, and what helped there.

    "" for runs that start from weights, and for those that never meant to (`init.weights` is empty).
    """
    if settings.init.weights != hub.SCRATCH or settings.init.trained:
        return ""
    flags = [
        f"--config.losses.{name}.normalize=True"
        for name, term in settings.losses.items()
        if term.get("loss") == "triplet" and not term.get("normalize")
    ]
    frozen = [name for name, changes in settings.phases.items() if changes.get("optimizer", {}).get("frozen")]
    sentences = ["all settings of the recipe are kept, which its authors chose for pretrained weights"]
    if flags:
        sentences.append(
            "from scratch, triplet losses of features that are not normalized dominate the identity losses, consider "
            f"{' '.join(flags)}"
        )
    if frozen:
        sentences.append(f"layers that the phase {frozen[0]!r} freezes stay random in it")
    return f"{'; '.join(sentences)}; the demos also train at a higher learning rate after a warm-up of one epoch."
