"""The optimizer: one optax chain whose groups are chosen by parameter name.

    config.optimizer = dict(
        name="adam", learning_rate=4e-4,
        learning_rate_multipliers=((".*/transformer/.*", 0.5), (".*", 1.0)),
        weight_decays=((".*/bias", 5e-4), (".*", 1e-3)),
        frozen=("backbone/.*",),
    )

Each list holds regular expressions over paths ("a/b/c"); the first that matches the whole path wins. A list must cover
every trained parameter, so none has a default by accident. Frozen parameters have no moments and never change.

The arithmetic follows PyTorch where the published recipes come from it: for `adam`, `amsgrad`, `sgd` and `rmsprop`
weight decay is *coupled* (added to the gradient as an L2 term), for `adamw` decoupled (multiplied by the group's
rate); the learning rate multiplies the momentum buffer and is not accumulated in it; clipping comes before the decay.

An optimizer by path (`name="my_project.optimizers:sign"`, `name="optax:scale_by_lion"`) is a function of its options
that returns an `optax.GradientTransformation` without a learning rate. The decay of `weight_decays` is coupled for it;
a decoupled one is part of the function (`optax.add_decayed_weights`).
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from reid_jax import errors, trees
from reid_jax.errors import UserError
from reid_jax.ops import fusion
from reid_jax.plugins import names
from reid_jax.train import schedules

logger = logging.getLogger(__name__)

# ---- from gradients to update directions --------------------------------------------------------------------------


def _once(scalars: Any) -> Any:
    """Returns scalars that a program computes once, not again in each of the hundreds of kernels that read them."""
    return jax.tree.map(fusion.materialize, scalars)


def _moments(b1: float, b2: float, mean: Any, square: Any, grads: Any) -> tuple[Any, Any]:
    """Returns the running means of gradients and of their squares after a step."""
    mean = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, mean, grads)
    return mean, jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, square, grads)


def _normalized(b1: float, b2: float, epsilon: float, step: jax.Array, mean: Any, square: Any) -> Any:
    """Returns first over root of second moments, both with bias correction; epsilon is added outside the root."""
    mean_bias, square_bias = _once((1 - b1**step, 1 - b2**step))
    return jax.tree.map(lambda m, v: (m / mean_bias) / (jnp.sqrt(v / square_bias) + epsilon), mean, square)


def adam(*, b1: float = 0.9, b2: float = 0.999, epsilon: float = 1e-8) -> optax.GradientTransformation:
    """Returns Adam (Kingma and Ba, 2015) with bias correction; epsilon is added outside the root.

    State and numbers are those of `optax.scale_by_adam`, in a shorter program: see `_once`.
    """

    def update(grads: Any, state: optax.ScaleByAdamState, params: Any = None) -> tuple[Any, optax.ScaleByAdamState]:
        del params
        step = optax.safe_increment(state.count)
        mean, square = _moments(b1, b2, state.mu, state.nu, grads)
        return _normalized(b1, b2, epsilon, step, mean, square), optax.ScaleByAdamState(step, mean, square)

    return optax.GradientTransformation(optax.scale_by_adam().init, update)


class AmsgradState(NamedTuple):
    """Moments of `amsgrad`. `largest` is the running maximum of the second moment before bias correction."""

    step: jax.Array  # int32 []
    mean: Any
    square: Any
    largest: Any


def amsgrad(*, b1: float = 0.9, b2: float = 0.999, epsilon: float = 1e-8) -> optax.GradientTransformation:
    """Returns AMSGrad in PyTorch's form.

    PyTorch takes the maximum of the raw second moments and corrects the bias of that maximum; optax takes the maximum
    of corrected moments, which in the first steps is much larger. The recipes of MGN and OSNet are PyTorch's.

    References:
        Reddi et al., "On the convergence of Adam and beyond", ICLR 2018.
    """

    def init(params: Any) -> AmsgradState:
        mean, square, largest = (jax.tree.map(jnp.zeros_like, params) for _ in range(3))
        return AmsgradState(jnp.zeros((), jnp.int32), mean, square, largest)

    def update(grads: Any, state: AmsgradState, params: Any = None) -> tuple[Any, AmsgradState]:
        del params
        step = optax.safe_increment(state.step)
        mean, square = _moments(b1, b2, state.mean, state.square, grads)
        largest = jax.tree.map(jnp.maximum, state.largest, square)
        return _normalized(b1, b2, epsilon, step, mean, largest), AmsgradState(step, mean, square, largest)

    return optax.GradientTransformation(init, update)


def sgd(*, momentum: float = 0.0, nesterov: bool = False) -> optax.GradientTransformation:
    """Returns stochastic gradient descent; the momentum buffer starts as the first gradient, undamped."""
    if not momentum:
        return optax.identity()
    return optax.trace(decay=momentum, nesterov=nesterov)


def rmsprop(*, decay: float = 0.99, epsilon: float = 1e-8, momentum: float = 0.0) -> optax.GradientTransformation:
    """Returns RMSProp, epsilon outside the root, no centering."""
    scale = optax.scale_by_rms(decay=decay, eps=epsilon, eps_in_sqrt=False)
    return optax.chain(scale, optax.trace(decay=momentum)) if momentum else scale


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": adam,
    "adamw": adam,
    "amsgrad": amsgrad,
    "rmsprop": rmsprop,
    "sgd": sgd,
}
DECOUPLED = ("adamw",)

# ---- groups --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class GroupReport:
    """The parameters that each pattern matched, and the learning rates, for the log.

    Attributes:
        trainable: paths of the trained parameters.
        frozen: paths of the other parameters.
        multipliers: learning-rate factor of each trainable path.
        decays: weight decay of each trainable path.
        rows: `(list, pattern, value, parameter arrays, parameters)` in the order of the config.
        unused: `(list, pattern)` of patterns without a match.
    """

    trainable: tuple[str, ...]
    frozen: tuple[str, ...]
    multipliers: Mapping[str, float]
    decays: Mapping[str, float]
    rows: tuple[tuple[str, str, float | None, int, int], ...]
    unused: tuple[tuple[str, str], ...]
    _schedules: Mapping[float, schedules.Schedule]

    def learning_rates(self, step: int) -> dict[str, float]:
        """Returns the rate of each group at a step, by name: `learning_rate` (factor 1), `learning_rate/x0.5`, ...

        It is computed on the host in double precision, without a device transfer.
        """
        named = {"learning_rate" if m == 1 else f"learning_rate/x{m:g}": s for m, s in self._schedules.items()}
        return {name: schedule.exact(step) for name, schedule in named.items()}

    def describe(self) -> str:
        """Returns a table of the patterns and the parameters that they match."""
        width = max([len("pattern"), *(len(pattern) for _, pattern, *_ in self.rows)])
        lines = [f"{'optimizer group':<26}  {'pattern':<{width}}  {'value':>8}  {'arrays':>6}  {'parameters':>12}"]
        lines.append("-" * len(lines[0]))
        for name, pattern, value, arrays, count in self.rows:
            shown = "" if value is None else f"{value:g}"
            note = "" if arrays else "   (matches nothing)"
            lines.append(f"{name:<26}  {pattern:<{width}}  {shown:>8}  {arrays:>6}  {count:>12,}{note}")
        return "\n".join(lines)


class RateState(NamedTuple):
    """Number of updates so far."""

    step: jax.Array  # int32 []


def build(
    config: Mapping[str, Any],
    schedule_config: Mapping[str, Any],
    params: Any,
    total_steps: int,
    steps_per_epoch: int,
) -> tuple[optax.GradientTransformation, GroupReport]:
    """Returns the optimizer of a run or of one of its phases, and the report of its groups.

    Args:
        config: `name` (a key of `OPTIMIZERS`, or `package.module:Name`), `learning_rate`, the pattern lists
            `learning_rate_multipliers`, `weight_decays` and `frozen`, `clip_norm` (largest global gradient norm, 0 or
            `None` for no clipping), and the options of the named optimizer (`b1`, `b2`, `epsilon`, `momentum`,
            `nesterov`, `decay`), here or in a mapping `options`. Without a list all factors are 1, all decays 0,
            nothing is frozen.
        schedule_config: see `schedules.build`.
        params: the parameter tree (nested dicts); leaves need only `shape`.
        total_steps: steps of the run or phase.
        steps_per_epoch: steps in one epoch.

    Returns:
        The transformation (`init(params)`, `update(grads, state, params)`; updates of frozen parameters are zero, their
        gradients are never read) and the report of its groups.

    Raises:
        UserError: unknown names or options, a parameter that no pattern matches, or nothing left to train.
    """
    given = dict(config)
    given |= dict(given.pop("options", None) or {})
    name = given.pop("name", None)
    function = names.find("optimizer", str(name), OPTIMIZERS)
    base_lr = given.pop("learning_rate", None)
    if not isinstance(base_lr, (int, float)) or base_lr < 0:
        raise UserError(f"optimizer.learning_rate must be a number of at least 0, but is {base_lr!r}.")
    multipliers = _pairs("learning_rate_multipliers", given.pop("learning_rate_multipliers", None), ((".*", 1.0),))
    decays = _pairs("weight_decays", given.pop("weight_decays", None), ((".*", 0.0),))
    frozen = tuple(given.pop("frozen", None) or ())
    clip_norm = given.pop("clip_norm", None)
    direction = function(**_options(str(name), function, given))

    groups = _assign(params, multipliers, decays, frozen)
    schedule_config, note = schedules.fitted(schedule_config, total_steps, steps_per_epoch)
    if note:
        logger.warning("%s", note)
    by_factor = {
        factor: schedules.build(schedule_config, base_lr, factor, total_steps, steps_per_epoch)
        for factor in sorted({1.0, *groups["multipliers"].values()}, key=lambda factor: (factor != 1, factor))
    }
    report = GroupReport(**groups, _schedules=by_factor)
    for where, pattern in report.unused:
        logger.warning("the pattern %r in optimizer.%s matches no parameter", pattern, where)

    decay = _add_decay(report.decays)
    parts = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    parts += [direction, decay] if name in DECOUPLED else [decay, direction]
    transformation = optax.chain(*parts, _scale_by_rates(report.multipliers, by_factor))
    if report.frozen:
        still = frozenset(report.frozen)
        transformation = optax.selective_transform(transformation, freeze_mask=_select(params, still.__contains__))
    return transformation, report


def check_options(config: Mapping[str, Any]) -> None:
    """Checks the name of an optimizer, its options and pattern lists, without parameters.

    Raises:
        UserError: an unknown name or option, or a list of another form.
    """
    given = dict(config)
    name = str(given.pop("name", None))
    for lists in ("learning_rate_multipliers", "weight_decays"):
        _pairs(lists, given.pop(lists, None), ())
    for key in ("learning_rate", "frozen", "clip_norm"):
        given.pop(key, None)
    _options(name, names.find("optimizer", name, OPTIMIZERS), given)


def _pairs(name: str, value: Any, default: Sequence[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
    """Returns a checked list of (pattern, number)."""
    pairs = tuple(default if value is None else value)
    for pair in pairs:
        fits = isinstance(pair, Sequence) and not isinstance(pair, str) and len(pair) == 2
        if not fits or not isinstance(pair[0], str) or not isinstance(pair[1], (int, float)):
            raise UserError(f"optimizer.{name} must be a list of (pattern, number) pairs, but holds {pair!r}.")
    return tuple((pattern, float(number)) for pattern, number in pairs)


def _options(name: str, function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of an optimizer after checking their names; `None` means "not set"."""
    accepted = list(inspect.signature(function).parameters)
    for key, value in given.items():
        if key not in accepted and value is not None:
            common = ["learning_rate", "learning_rate_multipliers", "weight_decays", "frozen", "clip_norm"]
            raise errors.unknown(f"option of optimizer {name!r}", key, [*accepted, *common])
    return {key: value for key, value in given.items() if value is not None}


def _assign(
    params: Any,
    multipliers: Sequence[tuple[str, float]],
    decays: Sequence[tuple[str, float]],
    frozen: Sequence[str],
) -> dict[str, Any]:
    """Returns the fields of `GroupReport`: factor and decay of each parameter."""
    sizes = {path: trees.count_parameters(leaf) for path, leaf in trees.flatten(params).items()}
    rows: list[tuple[str, str, float | None, int, int]] = []
    unused: list[tuple[str, str]] = []

    def match(name: str, paths: Sequence[str], pairs: Sequence[tuple[str, float | None]]) -> trees.PatternMatch:
        found = trees.match_patterns(paths, [pattern for pattern, _ in pairs])
        for position, (pattern, value) in enumerate(pairs):
            matched = [path for path, at in found.assignment.items() if at == position]
            rows.append((name, pattern, value, len(matched), sum(sizes[path] for path in matched)))
            # A final catch-all without a match is no mistake.
            if not matched and pattern != ".*":
                unused.append((name, pattern))
        return found

    still = match("frozen", list(sizes), [(pattern, None) for pattern in frozen])
    trainable = tuple(still.leftovers)
    if not trainable:
        raise UserError("optimizer.frozen matches every parameter, so nothing is left to train; narrow its patterns.")
    values: dict[str, dict[str, float]] = {}
    for name, pairs in (("learning_rate_multipliers", multipliers), ("weight_decays", decays)):
        found = match(name, trainable, pairs)
        if found.leftovers:
            few = ", ".join(found.leftovers[:3]) + (", ..." if len(found.leftovers) > 3 else "")
            raise UserError(
                f"optimizer.{name} leaves {len(found.leftovers)} of {len(trainable)} parameters without a value "
                f"({few}); add a pattern for them, for example ('.*', {1.0 if 'rate' in name else 0.0}) at the end."
            )
        values[name] = {path: pairs[position][1] for path, position in found.assignment.items()}
    return {
        "trainable": trainable,
        "frozen": tuple(still.assignment),
        "multipliers": values["learning_rate_multipliers"],
        "decays": values["weight_decays"],
        "rows": tuple(rows),
        "unused": tuple(unused),
    }


# ---- transformations -----------------------------------------------------------------------------------------------


def _select(params: Any, chosen: Callable[[str], bool]) -> Any:
    """Returns a tree of booleans: whether `chosen` accepts the path of each leaf."""
    path_of = functools.partial(jax.tree_util.keystr, simple=True, separator=trees.SEPARATOR)
    return jax.tree_util.tree_map_with_path(lambda keys, _: chosen(path_of(keys)), params)


def _add_decay(decays: Mapping[str, float]) -> optax.GradientTransformation:
    """Adds each parameter times its decay to the gradient (or to the direction)."""

    def mask(params: Any, *, decay: float) -> Any:
        return _select(params, lambda path: decays[path] == decay)

    values = sorted({decay for decay in decays.values() if decay})
    masked = [optax.add_decayed_weights(value, mask=functools.partial(mask, decay=value)) for value in values]
    return optax.chain(*masked) if masked else optax.identity()


def _scale_by_rates(
    multipliers: Mapping[str, float], by_factor: Mapping[float, schedules.Schedule]
) -> optax.GradientTransformation:
    """Multiplies by minus the learning rate of each parameter's group.

    `optax.partition` over `optax.scale_by_learning_rate` would give the same numbers, but with a step counter and a
    schedule for each group; here one counter serves all groups, and a federation sets it (`RateState`).
    """

    def update(updates: Any, state: RateState, params: Any = None) -> tuple[Any, RateState]:
        del params
        rates = _once({factor: -schedule(state.step) for factor, schedule in by_factor.items()})

        def scaled(keys: Any, update: jax.Array) -> jax.Array:
            path = jax.tree_util.keystr(keys, simple=True, separator=trees.SEPARATOR)
            return jnp.multiply(update, rates[multipliers[path]].astype(update.dtype))

        return jax.tree_util.tree_map_with_path(scaled, updates), RateState(optax.safe_increment(state.step))

    return optax.GradientTransformation(lambda params: RateState(jnp.zeros((), jnp.int32)), update)
