"""The train state: the arrays that a run carries from one step to the next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from reid_jax import errors
from reid_jax.train import extras as extras_lib
from reid_jax.train import initial_arrays


class TrainState(flax.struct.PyTreeNode):  # type: ignore[no-untyped-call]  # flax.struct has no types
    """Arrays of a run at a step; functions and optimizers are kept elsewhere.

    Attributes:
        step: int32 [], number of steps so far.
        params: parameters of the model, float32.
        batch_stats: running statistics of its normalization layers.
        constants: the model's other variables, such as a bank of text features: saved and used in every forward pass,
            changed by no step, replaced between phases at most (`start_from`); {} for most models.
        opt_state: state of the optax transformation of the current phase.
        extra: by name, arrays that a method updates in addition to its model: class centers, an averaged or frozen
            teacher.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    extra: dict[str, Any]
    constants: Any = flax.struct.field(default_factory=dict)  # type: ignore[no-untyped-call]  # as above

    @property
    def variables(self) -> dict[str, Any]:
        """The model's variables by collection, the argument of `model.apply`."""
        constants = {"constants": self.constants} if self.constants else {}
        return {"params": self.params, "batch_stats": self.batch_stats, **constants}

    def with_variables(self, variables: Mapping[str, Any]) -> TrainState:
        """Returns the state with other variables of the model; a collection that is not there becomes empty."""
        return self.replace(
            params=variables["params"],
            batch_stats=variables.get("batch_stats", {}),
            constants=variables.get("constants", {}),
        )


def create(variables: Mapping[str, Any]) -> TrainState:
    """Returns the state before the first phase, without optimizer state and extras."""
    empty = TrainState(step=jnp.asarray(np.int32(0)), params={}, batch_stats={}, opt_state=(), extra={})
    return empty.with_variables(variables)


def begin_phase(
    state: TrainState,
    optimizer: optax.GradientTransformation,
    extras: dict[str, extras_lib.Extra],
    key: jax.Array | None,
    start_from: str = "",
    model: Any = None,
) -> TrainState:
    """Returns the state at the start of a phase, with new optimizer state and extras; earlier extras remain readable.

    Args:
        state: state at the end of the previous phase.
        optimizer: optimizer of this phase.
        extras: by name, of this phase; initialized from the variables at the end of the previous phase.
        key: random key of their initial values; None without extras.
        start_from: "" continues with those variables; "extra/<name>" uses the variables in that extra instead;
            "model/<method>" uses the result of that method of the model, `(variables) -> variables`, also for the
            extras.
        model: the model with that method.

    Raises:
        UserError: an unknown extra, an extra that is no copy of the model's variables, or an unknown method.
    """
    if start_from.startswith("model/"):
        state = state.with_variables(_prepared_variables(state, start_from, model))
    added = {
        name: extra.init(jax.random.fold_in(cast(jax.Array, key), index), state.variables)
        for index, (name, extra) in enumerate(sorted(extras.items()))
        if name not in state.extra or extra.restart
    }
    state = state.replace(extra={**state.extra, **added})
    if start_from and not start_from.startswith("model/"):
        state = state.with_variables(_variables_in_extra(state, start_from))
    return state.replace(opt_state=initial_arrays.evaluated(optimizer.init, state.params))


def _variables_in_extra(state: TrainState, name: str) -> dict[str, Any]:
    """Returns a copy of the variables in an extra."""
    known = [f"extra/{key}" for key, value in state.extra.items() if isinstance(value, dict) and "params" in value]
    if name not in known:
        raise errors.unknown("variables to start a phase from (start_from)", name, known)
    # Copies: the state is donated to the step, so two of its entries must never share a buffer.
    copied: dict[str, Any] = extras_lib.copied(state.extra[name.removeprefix("extra/")])
    return copied


def _prepared_variables(state: TrainState, name: str, model: Any) -> dict[str, Any]:
    """Returns the variables that a method of the model computes from those of the state."""
    prepare = getattr(model, name.removeprefix("model/"), None)
    if not callable(prepare):
        raise errors.UserError(
            f"expected start_from={name!r} to name a method of the model that prepares its variables, "
            f"{type(model).__name__} has none of that name; take start_from out of the phase."
        )
    return dict(prepare(state.variables))
