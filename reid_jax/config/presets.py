"""Presets and variants of configs, and the settings that the presets of all systems share.

A config file describes one system: `recipe()` returns the published recipe on top of `defaults()`, `PRESETS` and
`VARIANTS` map names to dotted overrides, and `get_config(argument)` passes all three to `compose`. The argument is the
text after the colon of `--config configs/mfv.py:market1501,mfv_sdfa`: a preset, then any number of variants, applied
in that order; the command line (`--config.train.epochs=3`) is applied last. Each entry describes itself in one sentence
under the key `notes`, which `:help` lists and the config of a run records.

Values are plain data (numbers, strings, tuples, small dictionaries), so that a config can be printed, saved and
compared.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from reid_jax import errors
from reid_jax.config import sections, values
from reid_jax.data import catalog

Overrides = Mapping[str, Any]

# Presets of the data sets by name, from the builders' `dataset.toml` files; they are available in every system.
DATASETS: dict[str, Overrides] = {**catalog.presets()}

# Settings shared by the demos of all systems: SynthPed at its native resolution, trained from scratch in minutes on two
# CPU cores. Without pretrained weights a higher learning rate is needed, with a warm-up of one epoch.
DEMO: Overrides = {
    **DATASETS["synthped"],
    "notes": "A small network from scratch on SynthPed, minutes on two CPU cores.",
    "dtype": "auto",
    "init.weights": "",
    "data.height": 128,
    "data.width": 64,
    "data.augment.pad_crop.pad": 4,
    "optimizer.learning_rate": 2e-3,
    "optimizer.weight_decays": ((".*", 5e-4),),
    "schedule": {"name": "warmup_cosine", "warmup_epochs": 1, "granularity": "step"},
    "train.epochs": 16.0,
    "evals.every_epochs": 0.0,
    "evals.baselines": True,
    "checkpoint.every_epochs": 1.0,
    "log.every_steps": 20,
}

# The encoder of masked pretraining's demo (configs/mim.py), which fills networks of this size (`init.weights`).
MIM128: Overrides = {
    "notes": "The size of masked pretraining's demo (configs/mim.py): patches of 8 without overlap.",
    "model.patch": 8,
    "model.stride": 8,
    "model.width": 128,
    "model.depth": 4,
    "model.heads": 4,
}

# Sections of systems that support federated training (`train.mode="federated"`). A round then counts as an epoch, and
# every client has its own `data.sampler`. See `reid_jax.federated.federation_options.Options`.
FEDERATED: Overrides = {
    "train.mode": "joint",
    "fed": {
        "clients": "camera",
        "client": "",  # in a federation over a network: the client of this machine, such as camera3
        "num_clients": 8,
        "fraction": 1.0,
        "rounds": 300,
        "local_epochs": 1,
        "personal": "classifiers",
        "weights": "samples",
        "bn": "average",
        "optimizer_state": "fresh",
        "lr_drops": (0.8, 0.925),
        "prox_mu": 0.0,
        "side_by_side": 1,
    },
}

# A variant with this setting needs weights that it cannot name.
WITH_WEIGHTS: Overrides = {"model.text_source": "clip"}


class HelpRequested(Exception):
    """Raised for `--config FILE:help`; the message is the text to print."""


def compose(
    argument: str,
    *,
    recipe: Callable[[], ConfigDict],
    presets: Mapping[str, Overrides],
    variants: Mapping[str, Overrides],
) -> ConfigDict:
    """Returns the config that `<preset>[,<variant>...]` names.

    Args:
        argument: text after the colon of `--config`; empty means the preset `demo`, behind which a data set may stand:
            `demo,reid_folder` is the small network on one's own images.
        recipe: returns the published recipe.
        presets: dotted overrides by name; data sets and the small `demo`.
        variants: dotted overrides by name; the rows of an ablation table.

    Returns:
        The config, with `preset` and `variants` filled in and the sentences of all of them as `notes`.

    Raises:
        UserError: unknown preset or variant, or an override of a key that does not exist.
        HelpRequested: for the argument `help`.
    """
    names = [name.strip() for name in (argument or "demo").split(",") if name.strip()]
    config = recipe()
    if names == ["help"]:
        raise HelpRequested(_help_text(recipe, presets, variants))
    if names[0] not in presets and names[0] in variants:
        names.insert(0, "demo")
    if "demo" in names[1:]:  # reid_folder,demo is demo,reid_folder
        names = ["demo", *(name for name in names if name != "demo")]
    preset, *chosen = names
    if preset not in presets:
        raise errors.unknown("preset", preset, [*presets, *variants])
    # The small network on another data set: demo,reid_folder.
    others = {name: {"data.options": {}, **presets[name]} for name in DATASETS if name in presets and preset == "demo"}
    known = {**others, **variants}
    for name in chosen:
        if name not in known:
            raise errors.unknown("variant", name, known)
    applied = [presets[preset], *(known[name] for name in chosen)]
    sentences = [config.notes, *(overrides.get("notes", "") for overrides in applied)]
    for overrides in applied:
        override(config, overrides)
    config.notes = " ".join(sentence for sentence in sentences if sentence)
    config.preset, config.variants = preset, tuple(chosen)
    return config


def _help_text(
    recipe: Callable[[], ConfigDict], presets: Mapping[str, Overrides], variants: Mapping[str, Overrides]
) -> str:
    """Returns names, needs and sentences of presets and variants, wrapped to the width of the terminal."""
    system = recipe().system
    datasets = {name: overrides for name, overrides in presets.items() if name in DATASETS}
    small = {name: overrides for name, overrides in presets.items() if name not in DATASETS}
    groups = (
        ("presets, small:", small),
        ("presets, the published recipe by data set:", datasets),
        ("variants, the rows of ablation tables:", variants),
    )
    width = shutil.get_terminal_size().columns
    names = {name: f"{name} (default)" if name == "demo" else name for _, entries in groups for name in entries}
    column = max(map(len, names.values())) + 4
    lines = [f"{system}: --config configs/{system}.py[:<preset>[,<variant>...]]"]
    for title, entries in groups:
        lines += ["", title] if entries else []
        for name, overrides in entries.items():
            needs = _needs(recipe, overrides) if name in presets else _mark(recipe, overrides)
            lines += _aligned(names[name], needs, overrides, column, width)
    legend = (
        "d  needs the images of the data set: scripts/prepare_dataset.py, once",
        "w  starts from published weights, fetched by name, or from those that its sentence names; "
        "--config.init.weights=scratch does without",
        *(["=  what a preset is without a variant"] if any(" =  " in line for line in lines) else []),
    )
    legend = tuple(textwrap.fill(line, width, subsequent_indent="   ") for line in legend)
    last = textwrap.wrap("--print_config shows the resolved values of a choice.", width)
    return "\n".join([*lines, "", *legend, "", *last])


def _needs(recipe: Callable[[], ConfigDict], overrides: Overrides) -> str:
    """Returns the marks of a preset: "d" where its images are not generated, "w" where it starts from weights."""
    config = recipe()
    override(config, overrides)
    entry = catalog.entries().get(config.data.name)
    generated = entry is not None and entry.about["needs"].startswith("nothing")
    return ("" if generated else "d") + ("w" if config.init.weights else "")


def _mark(recipe: Callable[[], ConfigDict], overrides: Overrides) -> str:
    """Returns the mark of a variant: "=" for the row of the full system, "w" for one with weights of its own."""
    if _changes_nothing(recipe, overrides):
        return "="
    starts = any(value for key, value in overrides.items() if key.startswith("init."))
    return "w" * (starts or WITH_WEIGHTS.items() <= overrides.items())


def _changes_nothing(recipe: Callable[[], ConfigDict], overrides: Overrides) -> bool:
    """Returns whether a variant leaves the recipe as it is: the row of the full system."""
    config = recipe()
    override(config, {key: value for key, value in overrides.items() if key != "notes"})
    return bool(config == recipe())


def _aligned(name: str, needs: str, overrides: Overrides, column: int, width: int) -> Iterator[str]:
    """Yields lines of a name, its needs and, from a column on, its sentence, or its settings where it has none."""
    sentence = overrides.get("notes") or ", ".join(f"{key}={value}" for key, value in overrides.items())
    wrapped = textwrap.wrap(sentence, max(width - column - 4, 20), break_on_hyphens=False) or [""]
    yield (f"  {name}".ljust(column) + needs.ljust(4) + wrapped[0]).rstrip()
    yield from (" " * (column + 4) + line for line in wrapped[1:])


def override(config: ConfigDict, overrides: Overrides) -> None:
    """Applies dotted overrides to a config in place.

    A value of None removes an entry, such as a loss term; a key of a typed section is set to None.

    Raises:
        UserError: the section of a key does not exist; the message suggests the nearest key.
    """
    for key, value in overrides.items():
        *path, leaf = key.split(".")
        section = config
        for name in path:
            if not isinstance(section.get(name), ConfigDict):
                raise errors.unknown("config key", key, values.flatten(config))
            section = section[name]
        if value is None and not (len(path) == 1 and path[0] in sections.SECTIONS):
            if leaf in section:
                del section[leaf]
            continue
        if isinstance(value, Mapping):
            section[leaf] = ConfigDict(value)
            continue
        # A variant may change a type: a margin of 0.3 becomes "soft".
        with section.unlocked(), section.ignore_type():
            section[leaf] = value
