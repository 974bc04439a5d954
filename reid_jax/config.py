"""Shared defaults of every experiment, and the language of presets and variants.

A config file states one system: `recipe()` returns the published recipe on top of `defaults()`, `PRESETS` and
`VARIANTS` name dictionaries of dotted overrides, and `get_config(argument)` hands all three to `compose`. The argument
is what stands behind the colon of `--config configs/mfv.py:market1501,mfv_sdfa`: one preset, then any number of
variants, applied in that order; the command line (`--config.train.epochs=3`) comes last.

Values are data (numbers, strings, tuples, small dictionaries), so that a config can be printed, saved and compared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from reid_jax import errors

Overrides = Mapping[str, Any]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# What a data set needs to be opened under a preset's name; every system offers all of them.
DATASETS: dict[str, Overrides] = {
    "market1501": {"data.name": "market1501"},
    # The same with body-part labels, see datasets/README.md.
    "market1501_part_labels": {"data.name": "market1501", "data.options": {"part_labels": True}},
    "dukemtmc_reid": {"data.name": "dukemtmc_reid"},
    "cuhk03_np_labeled": {"data.name": "cuhk03_np_labeled"},
    "cuhk03_np_detected": {"data.name": "cuhk03_np_detected"},
    "msmt17": {"data.name": "msmt17", "data.options": {"version": "v1"}},
    "msmt17_v2": {"data.name": "msmt17", "data.options": {"version": "v2"}},
    "occluded_duke": {"data.name": "occluded_duke"},
    # It has no training images; published numbers come from models trained on Market-1501.
    "occluded_reid": {"data.name": "occluded_reid", "data.sources": ("market1501",)},
    "p_dukemtmc_reid": {"data.name": "p_dukemtmc_reid"},
    "reid_folder": {"data.name": "reid_folder"},
    "synthped": {"data.name": "synthped", "data.options": {"size": "demo", "seed": 0}},
    "synthped_large": {"data.name": "synthped", "data.options": {"size": "large", "seed": 0}},
    "synthped_occluded": {"data.name": "synthped_occluded", "data.options": {"size": "demo", "seed": 0}},
}

# What the demos of all systems share: SynthPed at its own size, from scratch, minutes on two CPU cores. Without
# pretrained weights a higher rate is needed, warmed up within an epoch.
DEMO: Overrides = {
    **DATASETS["synthped"],
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

# Sections of systems that can also be trained as a federation (`train.mode="federated"`); a round is then an epoch, and
# `data.sampler` each client's own. See `reid_jax.train.federated.Options`.
FEDERATED: Overrides = {
    "train.mode": "joint",
    "fed": {
        "clients": "camera",
        "client": "",  # of a federation over a network: the one that this machine is, such as camera3
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
        "execution": "auto",
        "side_by_side": 1,
    },
}

# Keys that change where or how often something is written, not what is computed: a run may be resumed with others.
PRESENTATION = (
    *("data.root", "data.workers", "data.threads", "data.cache", "log.", "checkpoint.", "notes"),
    *("evals.every_epochs", "evals.batch_size", "evals.baselines", "evals.ranked_lists", "evals.rerank"),
    *("evals.verification", "evals.datasets", "evals.corruption_rounds"),
)


class HelpRequested(Exception):
    """`--config FILE:help`: the message is the text to print."""


def defaults() -> ConfigDict:
    """The settings that every experiment starts from; a config file states only what differs."""
    config = ConfigDict()
    config.system = ""
    config.preset = "demo"
    config.variants = ()
    config.notes = ""
    config.seed = 0
    config.data = {
        "name": "synthped",
        "root": "data",
        "options": {},
        # Presets of `DATASETS` to train on in place of the data set's own training images.
        "sources": (),
        "height": 256,
        "width": 128,
        "interpolation": "bilinear",
        # Of the test images where it is another one.
        "test_interpolation": None,
        "maps": (),
        # "auto" keeps decoded images in memory where they fit.
        "cache": "auto",
        "workers": 0,
        "threads": 2,
        "sampler": {"name": "identity_groups", "identities": 16, "images": 4},
        # Each further view is {"augment": {...}}: the same image through a chain of its own, emitted as `image_<view>`.
        "views": {},
        "augment": {
            "flip": {"probability": 0.5},
            "pad_crop": {"pad": 10},
            "erase": {"probability": 0.5, "area": (0.02, 0.4), "aspect": (0.3, 1 / 0.3), "tries": 100},
        },
    }
    config.preprocess = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "erase_fill": "mean_raw"}
    # "auto": bfloat16 on GPU and TPU, float32 on CPU. Parameters, statistics and losses are float32 everywhere.
    config.dtype = "auto"
    config.model = {"name": ""}
    # Paths of ours that the file may lack: classifiers know the identities of another data set.
    config.init = {"weights": "", "allow_missing": ("classifier",)}
    # One forward pass by default; see reid_jax.train.objective for several views and networks.
    config.passes = {"main": {"view": "", "network": "params", "train": True, "prefix": ""}}
    config.losses = {}
    config.monitors = {}
    config.extras = {}
    config.optimizer = {
        "name": "adam",
        "learning_rate": 3.5e-4,
        "learning_rate_multipliers": ((".*", 1.0),),
        "weight_decays": ((".*", 5e-4),),
        "frozen": (),
        "clip_norm": None,
        # Options of single optimizers; None leaves the optimizer's own default.
        "b1": None,
        "b2": None,
        "epsilon": None,
        "momentum": None,
        "nesterov": None,
        "decay": None,
    }
    config.schedule = {"name": "constant"}
    config.train = {"epochs": 120.0, "accumulate": 1, "ema_decay": 0.0}
    # Named phases in order, each a set of sections that replace or refine the ones above while it lasts.
    config.phase_order = ()
    config.phases = {}
    config.evals = {
        "every_epochs": 0.0,
        "metric": "euclidean",
        "ap": "step",
        # At the end of a run also k-reciprocal re-ranking, and ROC, AUC, EER with thresholds.
        "rerank": False,
        "verification": True,
        "flip": False,
        "batch_size": 64,
        "same_camera_filter": True,
        "baselines": False,
        "ranked_lists": 40,
        # At the end of a run also clean and corrupted images on either side or both, this many times drawn anew.
        "corruption_rounds": 0,
        # Presets of `DATASETS` to be scored on as well.
        "datasets": (),
    }
    config.checkpoint = {"every_steps": 0, "every_epochs": 5.0, "keep_best": 1}
    config.log = {"every_steps": 50}
    return config


def compose(
    argument: str,
    *,
    recipe: Callable[[], ConfigDict],
    presets: Mapping[str, Overrides],
    variants: Mapping[str, Overrides],
) -> ConfigDict:
    """Builds the config that `<preset>[,<variant>...]` names.

    Args:
        argument: text behind the colon of `--config`; empty means the preset `demo`.
        recipe: the published recipe.
        presets: by name, dotted overrides; data sets and the small `demo`.
        variants: by name, dotted overrides; the rows of an ablation table.

    Returns:
        The config, with `preset` and `variants` filled in.

    Raises:
        UserError: for an unknown preset or variant, or an override of a key that does not exist.
        HelpRequested: for the argument `help`.
    """
    names = [name.strip() for name in (argument or "demo").split(",") if name.strip()]
    config = recipe()
    if names == ["help"]:
        raise HelpRequested(_help_text(config.system, presets, variants))
    if names[0] not in presets and names[0] in variants:
        names.insert(0, "demo")
    preset, *chosen = names
    if preset not in presets:
        raise errors.unknown("preset", preset, [*presets, *variants])
    override(config, presets[preset])
    for name in chosen:
        if name not in variants:
            raise errors.unknown("variant", name, variants)
        override(config, variants[name])
    config.preset, config.variants = preset, tuple(chosen)
    return config


def _help_text(system: str, presets: Mapping[str, Overrides], variants: Mapping[str, Overrides]) -> str:
    lines = [f"{system}: --config configs/{system}.py[:<preset>[,<variant>...]]", "presets:"]
    lines += [f"  {name}" for name in presets]
    lines += ["variants:"]
    lines += [
        f"  {name:<24} {', '.join(f'{key}={value}' for key, value in variants[name].items())}" for name in variants
    ]
    return "\n".join(lines)


def override(config: ConfigDict, overrides: Overrides) -> None:
    """Applies dotted overrides in place; a value of None removes the key.

    Raises:
        UserError: where a key's section does not exist; with what was probably meant.
    """
    for key, value in overrides.items():
        *path, leaf = key.split(".")
        section = config
        for name in path:
            if not isinstance(section.get(name), ConfigDict):
                raise errors.unknown("config key", key, flatten(config))
            section = section[name]
        if value is None:
            if leaf in section:
                del section[leaf]
            continue
        if isinstance(value, Mapping):
            section[leaf] = ConfigDict(value)
            continue
        # A variant may change a type: a margin of 0.3 becomes "soft".
        with section.unlocked(), section.ignore_type():
            section[leaf] = value


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The config as one level of dotted keys; an empty section stands as `{}`."""
    return dict(_walk(config, prefix))


def _walk(config: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key in config:
        value, path = config[key], f"{prefix}{key}"
        if isinstance(value, Mapping | ConfigDict) and value:
            yield from _walk(value, f"{path}.")
        else:
            yield path, {} if isinstance(value, Mapping | ConfigDict) else value


def to_dict(config: Any) -> Any:
    """Plain nested dictionaries, lists as tuples: what constructors take as keyword arguments."""
    if isinstance(config, Mapping | ConfigDict):
        return {key: to_dict(config[key]) for key in config}
    if isinstance(config, list | tuple):
        return tuple(to_dict(value) for value in config)
    return config


def to_json(config: ConfigDict) -> str:
    """The resolved config as JSON text, in a fixed order: the same config gives the same bytes."""
    return json.dumps(to_dict(config), indent=2, sort_keys=True)


def config_hash(config: ConfigDict | Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits over everything that can change a number (not over `PRESENTATION`)."""
    items = {key: to_dict(value) for key, value in flatten(config).items() if not key.startswith(PRESENTATION)}
    return hashlib.sha256(json.dumps(items, sort_keys=True).encode()).hexdigest()[:12]


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """The keys, presentation aside, in which two configs differ, as `key: theirs -> ours`."""
    mine, other = (json.loads(json.dumps(flatten(to_dict(one)))) for one in (ours, theirs))
    return [
        f"{key}: {other.get(key)} -> {mine.get(key)}"
        for key in sorted(mine.keys() | other.keys())
        if not key.startswith(PRESENTATION) and mine.get(key) != other.get(key)
    ]
