"""The effective settings of a config: every key, and every default that the code adds to it.

A recipe is only partly in its config file. The margin of a triplet loss without `margin`, Adam's second beta and the
slots of a memory are defaults of functions and classes. Here all of them are filled in by the package's own tables and
signatures, so that a changed default shows in the recipe tables like a changed config.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from reid_jax import config as config_lib
from reid_jax import models
from reid_jax.config import phases
from reid_jax.data import samplers, transforms
from reid_jax.losses import terms
from reid_jax.models import masked_autoencoder
from reid_jax.models.backbones import osnet, resnet, vit
from reid_jax.models.mfv import mfv
from reid_jax.ops import images
from reid_jax.train import extras, objective, optimizer, schedules
from tests.recipes import gradients

# A label ("data.height", "losses.ce_b") and its value: a number, text, tuple, or a dictionary of options.
Rows = dict[str, Any]

# Fields of a model that the trainer fills in from the data.
_FROM_DATA = ("num_classes", "num_cameras", "dtype", "image_size", "parent", "name")
_LISTED = ("losses", "monitors", "passes", "extras")  # sections with one row for each entry
_BUILT: dict[str, tuple[Any, ...]] = {}  # chains of transforms, which many rows share
_NAMES = {constructor: name for name, constructor in transforms.TRANSFORMS.items()}


def settings(config: ConfigDict | Mapping[str, Any]) -> config_lib.Settings:
    """Returns the typed settings of a config."""
    return config_lib.Settings.of(config_lib.to_dict(config))


def rows(config: ConfigDict | Mapping[str, Any]) -> Rows:
    """Returns all effective settings of a config by label, those of phases as far as they differ."""
    main = settings(config)
    every_phase = dataclasses.replace(main, phase_order=tuple(main.phases))
    of_run = _of_settings(main)
    found = {**of_run, "phase_order": main.phase_order}
    if main.phases:
        for name, phase in phases.resolve(every_phase):
            found[f"phases.{name}"] = {
                "start_from": phase.start_from,
                "epochs": phase.train.epochs,
                **{section: tuple(getattr(phase, section)) for section in ("passes", "losses", "extras")},
            }
            found |= {f"phases.{name}.{label}": value for label, value in _of_phase(phase, of_run).items()}
    return found


def _of_phase(phase: config_lib.Settings, main: Rows) -> Rows:
    """Returns the effective settings of a phase that differ from those of the run."""
    own = _of_settings(phase)
    changed = {label: value for label, value in own.items() if label not in main or main[label] != value}
    # An optimizer of another kind brings options of its own; only losses, passes and the like can be missing.
    return changed | {label: "none" for label in main if label not in own and not label.startswith(_LISTED)}


def _of_settings(main: config_lib.Settings) -> Rows:
    """Returns the effective settings without phases."""
    found: Rows = {"seed": main.seed, "dtype": main.dtype, "start_from": main.start_from}
    found |= _data(main) | {f"preprocess.{key}": value for key, value in main.preprocess.as_dict().items()}
    if isinstance(main.preprocess.erase_fill, str) and main.preprocess.erase_fill in images.FILLS:
        found["preprocess.erase_fill"] = f"{main.preprocess.erase_fill} {images.FILLS[main.preprocess.erase_fill]}"
    found |= {f"model.{key}": value for key, value in model_options(main.model).items()}
    for section in _LISTED:
        for name, options in getattr(main, section).items():
            found[f"{section}.{name}"] = _listed(section, options)
    for name in main.losses:
        found[f"losses.{name}"]["no_gradient"] = _stopped(found[f"losses.{name}"], main.passes)
    found |= {f"optimizer.{key}": value for key, value in _optimizer(main.optimizer).items()}
    found["schedule"] = _schedule(main.schedule)
    for section in ("init", "train", "evals", "checkpoint", "log"):
        found |= {f"{section}.{key}": value for key, value in getattr(main, section).as_dict().items()}
    found["evals.compared"] = compared(main.model["name"])
    for section in ("fed", "corruption"):
        found |= {f"{section}.{key}": value for key, value in getattr(main, section).items()}
    return found


@functools.cache
def defaults_of(function: Callable[..., Any], skip: tuple[str, ...] = ()) -> dict[str, Any]:
    """Returns the default of every parameter that has one."""
    parameters = inspect.signature(function).parameters.values()
    return {one.name: one.default for one in parameters if one.default is not one.empty and one.name not in skip}


def _data(main: config_lib.Settings) -> Rows:
    data = main.data
    found: Rows = {f"data.{key}": value for key, value in data.as_dict().items() if key not in ("augment", "views")}
    found["data.test_interpolation"] = data.test_interpolation or data.interpolation
    sampler = samplers.SAMPLERS[data.sampler.get("name", "identity_groups")]
    found["data.sampler"] = {"name": "", **defaults_of(sampler), **data.sampler}
    found |= _chain("data.augment", data.augment, data)
    for name, view in data.views.items():
        own = {key: value for key, value in view.items() if key != "augment"}
        found[f"data.views.{name}"] = own or "own view"
        found |= _chain(f"data.views.{name}.augment", view.get("augment") or {}, data)
    return found


def _chain(label: str, augment: Mapping[str, Any], data: Any) -> Rows:
    """Returns the transforms in the order in which they are applied, and the options of each."""
    key = repr((augment, data.height, data.width, data.interpolation))
    if key not in _BUILT:
        _BUILT[key] = transforms.build_chain(augment, data.height, data.width, data.interpolation).transforms
    named = [(_NAMES[type(one)], one) for one in _BUILT[key]]
    found: Rows = {label: tuple(name for name, _ in named)}
    for name, one in named:
        if name != "resize":
            found[f"{label}.{name}"] = {each.name: getattr(one, each.name) for each in dataclasses.fields(one)}
    return found


def model_options(model: Mapping[str, Any]) -> dict[str, Any]:
    """Returns all fields of a model; in place of None, the value of the published size or layout."""
    constructor = models.MODELS[model["name"]]
    options = {**defaults_of(constructor, _FROM_DATA), **model}
    stands_for: dict[str, Any] = {}
    if model["name"] == "mim":
        published = masked_autoencoder.SIZES[options["size"]]
        stands_for = {key: options.get(key) or value for key, value in published.items()}
    elif "layout" in options:
        stands_for = mfv.READINGS[options["layout"]]
    elif options.get("size") in vit.SIZES:
        published = vit.SIZES[options["size"]]
        stands_for = {"mlp_ratio": defaults_of(vit.ViT)["mlp_ratio"], **published}
        options |= {key: value for key, value in published.items() if key not in options}
    elif options.get("size") in resnet.SIZES:
        options["block"], depths = resnet.SIZES[options["size"]]
        stands_for = {"depths": depths}
    elif options.get("size") in osnet.SIZES:
        options["channels"] = osnet.SIZES[options["size"]]
    return {key: stands_for.get(key) if value is None else value for key, value in options.items()}


def compared(model: str) -> str:
    """Returns what a model gives to the evaluation, by the first sentence of its method `describe`."""
    about = inspect.getdoc(models.MODELS[model].describe) or ""
    return " ".join(about.split("\n\n")[0].split()).removeprefix("Returns ").removesuffix(".").replace("`", "")


def _listed(section: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a loss term, monitor, pass or extra with all options."""
    if section == "passes":
        return dataclasses.asdict(objective.Pass(**options))
    if section == "extras":
        return {"kind": "", **defaults_of(extras.EXTRAS[options["kind"]], ("load",)), **options}
    return {"loss": "", "on": "", "weight": 1.0, **defaults_of(terms.LOSSES[options["loss"]]), **options}


def _stopped(term: Mapping[str, Any], passes: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the inputs of a term without a gradient: those that its loss stops, and those of a fixed network."""
    fixed = [each["prefix"] for each in passes.values() if each.get("network", "params") != "params"]
    inputs = (term["on"],) if isinstance(term["on"], str) else tuple(term["on"])
    outside = [name for name in inputs if name.startswith("batch/") or any(name.startswith(each) for each in fixed)]
    return tuple(dict.fromkeys([*gradients.stopped_by_loss(term), *outside]))


def _optimizer(section: Any) -> dict[str, Any]:
    """Returns the settings of the optimizer with the defaults of its kind, and how its decay acts."""
    given = section.as_dict()
    kind = optimizer.OPTIMIZERS[section.name]
    accepted = defaults_of(kind)
    common = ("name", "learning_rate", "learning_rate_multipliers", "weight_decays", "frozen", "clip_norm")
    options = {key: given[key] for key in given if key in common}
    options |= {key: default if given.get(key) is None else given[key] for key, default in accepted.items()}
    left = {key: value for key, value in given.items() if key not in options and value is not None}
    how = "decoupled (times the rate)" if section.name in optimizer.DECOUPLED else "coupled (added to the gradient)"
    return {**options, **left, "decay_is": how}


def _schedule(schedule: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a schedule with the defaults of its formula and of the function that builds it."""
    formula = schedules.SCHEDULES[schedule["name"]]
    given = {"name": "", "granularity": "epoch", "first_epoch": 0, **defaults_of(formula), **schedule}
    return {key: value for key, value in given.items() if key not in ("warmup", "milestones")}
