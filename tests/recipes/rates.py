"""Learning rates at named epochs and the parameters of each group, from the functions that the trainer uses."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax

from reid_jax import build, trees
from reid_jax import config as config_lib
from reid_jax.config import phases
from reid_jax.federated import federation_options
from reid_jax.federated import phase as federated_phase
from reid_jax.train import optimizer

_STEPS = 100  # of an epoch; rates at whole epochs do not depend on it
_ONE = {"parameter": jax.ShapeDtypeStruct((), "float32")}


def by_epoch(main: config_lib.Settings) -> dict[str, dict[int, float]]:
    """Returns `{"rate x0.5 in <phase>": {epoch: rate}}`, the rate at the first step of an epoch; the first epoch is 1.

    Epochs are those where something happens: the first two, around the end of the warm-up and each milestone, the
    middle, and the last. In a federated run they are rounds.
    """
    found = {}
    for name, settings in phases.resolve(dataclasses.replace(main, phase_order=main.phase_order or tuple(main.phases))):
        for factor in dict.fromkeys(value for _, value in settings.optimizer.learning_rate_multipliers):
            label = f"rate x{factor:g}" + (f" in {name}" if name else "")
            found[label] = _rates(settings, factor)
    return found


def _rates(settings: config_lib.Settings, factor: float) -> dict[int, float]:
    """Returns the rates of the group with a factor."""
    epochs, schedule = settings.train.epochs, settings.schedule
    if federated_phase.is_federated(settings):
        options = federation_options.Options.of(settings.fed)
        epochs, schedule = float(options.rounds), options.schedule(schedule)
    updates = max(1, len(settings.train.turns))
    return _of_schedule(settings.optimizer.learning_rate, factor, epochs, updates, tuple(schedule.items()))


@functools.cache
def _of_schedule(
    rate: float, factor: float, epochs: float, updates: int, schedule: tuple[tuple[str, Any], ...]
) -> dict[int, float]:
    group = {"name": "sgd", "learning_rate": rate, "learning_rate_multipliers": ((".*", factor),)}
    total = max(1, round(epochs * _STEPS)) * updates
    _, groups = optimizer.build(group, dict(schedule), _ONE, total, _STEPS * updates)
    key = "learning_rate" if factor == 1 else f"learning_rate/x{factor:g}"
    named = _named_epochs(epochs, dict(schedule))
    return {epoch: groups.learning_rates((epoch - 1) * _STEPS * updates)[key] for epoch in named}


def _named_epochs(epochs: float, schedule: Mapping[str, Any]) -> list[int]:
    last = max(1, math.ceil(epochs))
    turning = [schedule.get("warmup_epochs") or 0, *(schedule.get("milestones_epochs") or ())]
    named = {1, 2, math.ceil(last / 2), last, *(round(at) + after for at in turning for after in (0, 1))}
    return sorted(epoch for epoch in named if 1 <= epoch <= last)


def groups(main: config_lib.Settings) -> list[tuple[str, str, float | None, int, int, str]]:
    """Returns `(list, pattern, value, arrays, parameters, parts)` for each pattern of the optimizer.

    The parts are the submodules whose parameters a pattern takes. Without other patterns than ".*" there is nothing to
    match, and the result is empty.
    """
    lists = (main.optimizer.learning_rate_multipliers, main.optimizer.weight_decays)
    if all(pattern == ".*" for pairs in lists for pattern, _ in pairs):
        return []
    model = build.build_model(main, num_classes=751, num_cameras=6)
    image = jax.ShapeDtypeStruct((1, main.data.height, main.data.width, 3), "float32")
    batch = {"image": image, "camid": jax.ShapeDtypeStruct((1,), "int32")}
    params = jax.eval_shape(lambda batch: model.init(jax.random.key(0), batch, train=False), batch)["params"]
    _, report = optimizer.build(main.optimizer.as_dict(), {"name": "constant"}, params, 1, 1)
    values = {"learning_rate_multipliers": report.multipliers, "weight_decays": report.decays}
    table = []
    for name, pattern, value, arrays, count in report.rows:
        taken = [path for path in report.trainable if name in values and values[name][path] == value]
        taken = list(report.frozen) if name == "frozen" else taken
        table.append((name, pattern, value, arrays, count, ", ".join(_parts(taken))))
    return table


def _parts(paths: list[str]) -> list[str]:
    return list(dict.fromkeys(path.partition(trees.SEPARATOR)[0] for path in paths))
