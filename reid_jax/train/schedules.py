"""Learning-rate schedules: pure functions of the step, given as data.

    config.schedule = dict(name="warmup_multistep", warmup_epochs=10, milestones_epochs=(50, 70), factor=0.4)

Any duration may be given in epochs (`warmup_epochs=10`) or in steps (`warmup_steps=500`); `duration` converts both to
steps. `granularity` says when the rate changes: once per epoch (`"epoch"`, as in the published recipes) or at every
step (`"step"`). Published code counts its epochs from 0 or from 1; `first_epoch` is the number of the first.

Each formula is written once, over an array module: in float64 numpy it gives the exact values for logs and for the
table of the per-epoch schedules, in jax.numpy the value inside the compiled step.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from reid_jax import errors
from reid_jax.errors import UserError
from reid_jax.plugins import names


def steps(value: float, unit: str, steps_per_epoch: int) -> int:
    """Returns a duration as a whole number of steps.

    Args:
        value: the duration, at least 0.
        unit: `"epochs"` or `"steps"`.
        steps_per_epoch: steps in one epoch.

    Raises:
        UserError: unknown unit, or a negative duration.
    """
    if unit not in ("epochs", "steps"):
        raise errors.unknown("unit of time", unit, ("epochs", "steps"))
    if value < 0:
        raise UserError(f"a duration must be at least 0 {unit}, but {value} was given.")
    return round(value * steps_per_epoch) if unit == "epochs" else round(value)


def duration(config: Mapping[str, Any], name: str, steps_per_epoch: int, default: int | None = None) -> Any:
    """Returns a duration in steps, read from `<name>_epochs` or `<name>_steps` of a mapping.

    Args:
        config: any mapping; a key whose value is `None` counts as absent.
        name: beginning of the key ("warmup", "total", "log_every").
        steps_per_epoch: steps in one epoch.
        default: returned if neither key is present.

    Returns:
        A whole number of steps, or a tuple of them where the value is a sequence.

    Raises:
        UserError: both keys are present, or neither and no default.
    """
    found = {unit: config.get(f"{name}_{unit}") for unit in ("epochs", "steps")}
    given = {unit: value for unit, value in found.items() if value is not None}
    if len(given) > 1:
        raise UserError(f"give {name}_epochs or {name}_steps, not both ({found['epochs']} and {found['steps']} came).")
    if not given:
        if default is None:
            raise UserError(f"{name}_epochs or {name}_steps is missing; give one of them.")
        return default
    ((unit, value),) = given.items()
    if isinstance(value, Sequence):
        return tuple(steps(each, unit, steps_per_epoch) for each in value)
    return steps(value, unit, steps_per_epoch)


# ---- formulas -------------------------------------------------------------------------------------------------------
# Each takes the array module `xp`, the position and all durations in steps, the base rate `base` and the group's own
# rate `rate` = base * multiplier.


def _warmed_up(xp: Any, position: Any, after: Any, rate: float, warmup: int, first: float) -> Any:
    """Returns a warm-up, linear from `first` at position 0 to `rate` at `warmup`, followed by `after`."""
    if warmup == 0:
        return after
    part = position / warmup
    return xp.where(position < warmup, first * (1 - part) + rate * part, after)


def constant(
    xp: Any, position: Any, base: float, rate: float, *, total: int, warmup: int = 0, warmup_start: float = 0.01
) -> Any:
    """Returns a constant rate, after an optional linear warm-up from `warmup_start` times the group's rate."""
    del base, total
    return _warmed_up(xp, position, rate + 0 * position, rate, warmup, warmup_start * rate)


def multistep(
    xp: Any,
    position: Any,
    base: float,
    rate: float,
    *,
    total: int,
    milestones: Sequence[int] = (),
    factor: float | Sequence[float] = 0.1,
    warmup: int = 0,
    warmup_start: float = 0.01,
) -> Any:
    """Returns a piecewise constant rate, multiplied by `factor` (a number, or one per milestone) at each milestone.

    Warm-up: from `warmup_start` times the group's rate, linear, as in the BoT family:
    `rate * (warmup_start * (1 - e / warmup) + e / warmup)`.
    """
    del base, total
    factors = (factor,) * len(milestones) if isinstance(factor, (int, float)) else tuple(factor)
    if len(factors) != len(milestones):
        raise UserError(f"schedule.factor has {len(factors)} values for {len(milestones)} milestones; give as many.")
    if list(milestones) != sorted(milestones):
        raise UserError(
            "expected schedule.milestones_epochs (or milestones_steps) in ascending order, got "
            f"{milestones} (in steps); sort them."
        )
    # Running products rather than products of `where`: 0.4 ** 6 is rounded once, on the host.
    value = rate + 0 * position
    for milestone, scale in zip(milestones, np.cumprod(factors), strict=True):
        value = xp.where(position >= milestone, rate * float(scale), value)
    return _warmed_up(xp, position, value, rate, warmup, warmup_start * rate)


def cosine(
    xp: Any,
    position: Any,
    base: float,
    rate: float,
    *,
    total: int,
    warmup: int = 0,
    warmup_start: float = 0.01,
    floor: float = 0.002,
    decay_from_warmup: bool = False,
) -> Any:
    """Returns half a cosine from the group's rate to the floor.

    As in TransReID and its descendants the warm-up starts from, and the decay ends at, fractions of the *base* rate
    in every group, whatever its multiplier; and the cosine is counted from the start of training, so the rate at the
    end of the warm-up lies slightly below its maximum. `decay_from_warmup=True` counts from the end of the warm-up (the
    textbook form).
    """
    begin = warmup if decay_from_warmup else 0
    part = (position - begin) / (total - begin)
    low = floor * base
    value = xp.where(part < 1, low + 0.5 * (rate - low) * (1 + xp.cos(math.pi * part)), low)
    return _warmed_up(xp, position, value, rate, warmup, warmup_start * base)


def linear(
    xp: Any,
    position: Any,
    base: float,
    rate: float,
    *,
    total: int,
    warmup: int = 0,
    warmup_start: float = 0.01,
    floor: float = 0.0,
) -> Any:
    """Returns a linear decay from the group's rate at the end of the warm-up to `floor` times the base rate."""
    part = (position - warmup) / (total - warmup)
    low = floor * base
    value = xp.where(part < 1, rate + (low - rate) * part, low)
    return _warmed_up(xp, position, value, rate, warmup, warmup_start * base)


SCHEDULES: dict[str, Callable[..., Any]] = {
    "constant": constant,
    "multistep": multistep,
    "warmup_multistep": multistep,  # the same with a warm-up, by the name the recipes use
    "cosine": cosine,
    "warmup_cosine": cosine,
    "linear": linear,
}
# Options of the formulas that are durations, and their defaults.
_DURATIONS: dict[str, Any] = {"warmup": 0, "milestones": (), "total": None}
_WARMUP = {"warmup_multistep": "warmup_epochs=10", "warmup_cosine": "warmup_epochs=5"}


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The rate of one parameter group as a function of the step; call it inside jit, `exact` on the host.

    Attributes:
        formula: `(xp, position in steps) -> rate`.
        steps_per_epoch: steps in one epoch.
        per_epoch: the rate moves once per epoch.
        first_epoch: number of the first epoch in the formula (per-epoch schedules only).
        table: per-epoch schedules: the rate of each epoch, float64, the last one standing for all later ones.
    """

    formula: Callable[[Any, Any], Any]
    steps_per_epoch: int
    per_epoch: bool
    first_epoch: int
    table: np.ndarray | None

    def __call__(self, step: Any) -> Any:
        """Returns the rate at a step (0 = first update), float32 []."""
        step = jnp.asarray(step)
        if self.table is None:
            return jnp.asarray(self.formula(jnp, step.astype(jnp.float32)), jnp.float32)
        epoch = jnp.minimum(step // self.steps_per_epoch, len(self.table) - 1)
        return jnp.asarray(self.table.astype(np.float32))[epoch]

    def exact(self, step: int) -> float:
        """Returns the rate at a step in double precision, computed on the host."""
        if self.table is None:
            return float(self.formula(np, np.float64(step)))
        return float(self.table[min(int(step) // self.steps_per_epoch, len(self.table) - 1)])


def fitted(config: Mapping[str, Any], total_steps: int, steps_per_epoch: int) -> tuple[dict[str, Any], str]:
    """Returns the schedule of a config for a run, with a shorter warm-up where the run is no longer than it.

    A formula that decays over the whole run (`cosine`, `linear`) has no meaning there, and a trial run of an epoch or
    two is common: its warm-up becomes half the run. Schedules of their own length (`total_epochs`) stay as they are.

    Args:
        config: see `build`.
        total_steps: steps of the run (or phase).
        steps_per_epoch: steps in one epoch.

    Returns:
        The config, and a sentence about the change for the log, "" without one.
    """
    given = dict(config)
    given |= dict(given.pop("options", None) or {})
    known = SCHEDULES.get(str(given.get("name")))
    whole = all(given.get(f"total_{unit}") is None for unit in ("epochs", "steps"))
    warmup = duration(given, "warmup", steps_per_epoch, 0)
    if known not in (cosine, linear) or not whole or not isinstance(warmup, int) or warmup < max(total_steps, 1):
        return given, ""
    key = "warmup_steps" if given.get("warmup_epochs") is None else "warmup_epochs"
    asked = given.pop(key)
    given["warmup_steps"] = total_steps // 2
    epochs = total_steps / steps_per_epoch
    return given, (
        f"schedule.{key}={asked:g} is no shorter than the run ({epochs:g} epochs, {total_steps} steps): the warm-up is "
        f"shortened to half of it, {total_steps // 2} steps."
    )


def build(
    config: Mapping[str, Any], base_lr: float, multiplier: float, total_steps: int, steps_per_epoch: int
) -> Schedule:
    """Returns the schedule of one parameter group.

    Args:
        config: `name` (a key of `SCHEDULES`, or `package.module:Name` of a formula of the same form), `granularity`
            ("epoch" or "step", default "epoch"), `first_epoch` (default 0), and the formula's options, durations as
            `<option>_epochs` or `<option>_steps`. `total` defaults to the run. The options may also stand in a mapping
            of their own, `options`.
        base_lr: the base learning rate.
        multiplier: the group's factor.
        total_steps: steps of the run (or phase).
        steps_per_epoch: steps in one epoch.

    Returns:
        A `Schedule`, callable under jit.

    Raises:
        UserError: unknown name, unknown or contradictory options, durations that do not fit.
    """
    given = dict(config)
    given |= dict(given.pop("options", None) or {})
    given = {key: value for key, value in given.items() if value is not None}
    name = given.pop("name", None)
    function = names.find("schedule", str(name), SCHEDULES)
    granularity = given.pop("granularity", "epoch")
    if granularity not in ("epoch", "step"):
        raise errors.unknown("schedule granularity", str(granularity), ("epoch", "step"))
    first_epoch = int(given.pop("first_epoch", 0))
    if total_steps < 1 or steps_per_epoch < 1:
        raise UserError(
            f"a run needs steps, but {total_steps} of them and {steps_per_epoch} to the epoch were asked for."
        )
    options = _options(str(name), function, given, total_steps, steps_per_epoch)
    rate = base_lr * multiplier

    def formula(xp: Any, position: Any) -> Any:
        return function(xp, position, base_lr, rate, **options)

    formula(np, np.float64(0))  # wrong options show here, not at the first step
    table = None
    if granularity == "epoch":
        # Two epochs past the end, so that the floor of a schedule that ends with the run is in the table.
        epochs = max(total_steps, options.get("total", 0)) // steps_per_epoch + 2
        table = np.asarray(formula(np, (np.arange(epochs, dtype=np.float64) + first_epoch) * steps_per_epoch))
    return Schedule(formula, steps_per_epoch, granularity == "epoch", first_epoch, table)


def _options(
    name: str, function: Callable[..., Any], given: dict[str, Any], total_steps: int, steps_per_epoch: int
) -> dict[str, Any]:
    """Returns the checked options of a formula, with its durations in steps."""
    parameters = inspect.signature(function).parameters.values()
    accepted = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    lasting = [option for option in accepted if option in _DURATIONS]
    keys = [option for option in accepted if option not in _DURATIONS]
    keys += [f"{option}_{unit}" for option in lasting for unit in ("epochs", "steps")]
    for key in given:
        if key not in keys:
            raise errors.unknown(f"option of schedule {name!r}", key, [*keys, "granularity", "first_epoch"])
    options = {key: given[key] for key in accepted if key in given}
    for option in lasting:
        default = total_steps if option == "total" else _DURATIONS[option]
        options[option] = duration(given, option, steps_per_epoch, default)
    if function in (cosine, linear) and options["warmup"] >= options["total"]:
        warmup, total = (options[key] / steps_per_epoch for key in ("warmup", "total"))
        raise UserError(
            f"schedule.warmup_epochs (or warmup_steps) must be shorter than the schedule, but is {warmup:g} of "
            f"{total:g} epochs; lower it, or raise schedule.total_epochs or train.epochs."
        )
    # An explicit warm-up of 0 (an ablation) is fine, a missing one is not.
    if name in _WARMUP and not any(f"warmup_{unit}" in given for unit in ("epochs", "steps")):
        raise UserError(f"schedule {name!r} needs a warm-up, for example {_WARMUP[name]}.")
    return options
