"""Checks of a config before any data is prepared: names, options and values of everything that it names.

Constructors check the same later, when they have data, devices and shapes. Here a misspelled loss is found within a
second instead of after the preparation of a data set; `initial_weights` does the same for weights files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reid_jax import config as config_lib
from reid_jax import errors, losses, models
from reid_jax.config import option_values, phases, rules
from reid_jax.data import options as options_lib
from reid_jax.data import samplers, transforms
from reid_jax.federated import federation_options
from reid_jax.plugins import names
from reid_jax.train import extras, objective, optimizer, schedules

_STEPS = 100  # assumed steps of an epoch


def check(settings: config_lib.Settings) -> None:
    """Checks everything of a config that needs no data.

    Raises:
        UserError: an unknown name or option, or a value that cannot be meant.
    """
    _check_model("model", settings.model, settings.model)
    for name, options in settings.evals.descriptors.items():
        _check_model(f"evals.descriptors.{name}", settings.model, {"name": "", **(options or {})})
    _check_networks(settings)
    for name, phase in phases.resolve(settings):
        prefix = f"phases.{name}." if name else ""
        for section in ("losses", "monitors"):
            for term, given in getattr(phase, section).items():
                if given is not None:
                    _check_term(f"{prefix}{section}.{term}", term, given)
        for turn in phase.train.turns:
            losses.of_turn(phase.losses, turn, phase.train.turns)
        _check_passes(phase)
        _check_extras(f"{prefix}extras", phase.extras)
        _check_data(f"{prefix}data", phase.data)
        _check_optimizer(f"{prefix}schedule", phase)
    if settings.fed and settings.train.mode == "federated":
        option_values.check("fed", federation_options.Options, settings.fed)
        federation_options.Options.of(settings.fed)


def _check_networks(settings: config_lib.Settings) -> None:
    owners = (settings.extras, *(phase.get("extras") or {} for phase in settings.phases.values()))
    known = {*settings.init.extras, *(name for owner in owners for name in owner)}
    for name in settings.evals.networks:
        if name not in known:
            raise errors.unknown("extra that is a network (evals.networks)", name, known)


def _check_model(owner: str, model: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    name = model.get("name")
    if not isinstance(name, str) or not name:
        raise errors.UserError("expected model.name to name a model, it is empty; set it in the config.")
    given = {key: value for key, value in options.items() if key != "name"}
    models.check_options(name, list(given))
    option_values.check(owner, models.constructor(name), given)


def _check_term(owner: str, name: str, term: Mapping[str, Any]) -> None:
    function = losses.check_term(name, term)
    rules.number(-1e6).check(f"{owner}.weight", term.get("weight", 1.0))
    options = {key: value for key, value in term.items() if key not in losses.RESERVED}
    option_values.check(owner, function, options)


def _check_passes(settings: config_lib.Settings) -> None:
    passes = {}
    for name, fields in settings.passes.items():
        options_lib.check(f"pass {name!r}", objective.Pass, fields or {})
        passes[name] = objective.Pass(**(fields or {}))
    objective.in_order(passes)


def _check_extras(owner: str, given: Mapping[str, Any]) -> None:
    extras.build(given, num_classes=2)
    for name, options in given.items():
        constructor = names.find(f"kind of extra {name!r}", options["kind"], extras.EXTRAS)
        option_values.check(f"{owner}.{name}", constructor, {k: v for k, v in options.items() if k != "kind"})


def _check_data(owner: str, data: Any) -> None:
    sampler = dict(data.sampler)
    factory = names.find("sampler", str(sampler.pop("name", "identity_groups")), samplers.SAMPLERS)
    options_lib.check("sampler", factory, sampler, positional=2, also=("name",))
    option_values.check(f"{owner}.sampler", factory, sampler)
    for augment in (data.augment, *(view.get("augment") or {} for view in data.views.values())):
        transforms.build_chain(augment, data.height, data.width, data.interpolation)


def _check_optimizer(owner: str, settings: config_lib.Settings) -> None:
    optimizer.check_options(settings.optimizer.as_dict())
    schedule = dict(settings.schedule)
    formula = names.find("schedule", str(schedule.get("name")), schedules.SCHEDULES)
    option_values.check(owner, formula, {key: value for key, value in schedule.items() if key != "name"})
    # Durations in steps fit or not, depending on the data.
    if not any(str(key).endswith("_steps") for key in schedule):
        steps = max(1, round(settings.train.epochs * _STEPS))
        schedule, _ = schedules.fitted(schedule, steps, _STEPS)
        schedules.build(schedule, settings.optimizer.learning_rate, 1.0, steps, _STEPS)
