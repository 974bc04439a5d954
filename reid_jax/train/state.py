"""What a run carries from one step to the next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from reid_jax import errors
from reid_jax.train import extras as extras_lib


class TrainState(flax.struct.PyTreeNode):
    """Arrays only; functions and optimizers live outside.

    Attributes:
        step: int32 [], updates made so far.
        params: parameters of the model, float32.
        batch_stats: running statistics of its normalization layers.
        constants: the model's other variables, such as a bank of text features: saved and used in every forward pass,
            changed by no step, replaced between phases at most (`start_from`); {} for most models.
        opt_state: state of the optax transformation of the current phase.
        extra: by name, what a method owns beside its model: class centers, an averaged or frozen teacher.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    extra: dict[str, Any]
    constants: Any = flax.struct.field(default_factory=dict)

    @property
    def variables(self) -> dict[str, Any]:
        """The model's variables as `model.apply` takes them."""
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
    """The state before the first phase: no optimizer state, no extras yet."""
    empty = TrainState(step=jnp.zeros((), jnp.int32), params={}, batch_stats={}, opt_state=(), extra={})
    return empty.with_variables(variables)


def begin_phase(
    state: TrainState,
    optimizer: optax.GradientTransformation,
    extras: dict[str, extras_lib.Extra],
    key: jax.Array,
    start_from: str = "",
    model: Any = None,
) -> TrainState:
    """Starts a phase: a fresh optimizer, and the extras this phase adds; earlier extras stay for it to read.

    Args:
        state: at the end of the phase before.
        optimizer: of this phase.
        extras: by name, of this phase; they are made from the variables the phase before left.
        key: of their random parts.
        start_from: "" goes on with those variables; "extra/<name>" takes those that the extra holds instead;
            "model/<method>" takes what that method of the model, `(variables) -> variables`, makes of them, and so do
            the extras.
        model: asked for that method.

    Raises:
        UserError: there is no such extra, or it holds no variables of the model; or the model has no such method.
    """
    if start_from.startswith("model/"):
        state = state.with_variables(_prepared_variables(state, start_from, model))
    made = {
        name: extra.init(jax.random.fold_in(key, index), state.variables)
        for index, (name, extra) in enumerate(sorted(extras.items()))
        if name not in state.extra or extra.restart
    }
    state = state.replace(extra={**state.extra, **made})
    if start_from and not start_from.startswith("model/"):
        state = state.with_variables(_held_variables(state, start_from))
    return state.replace(opt_state=optimizer.init(state.params))


def _held_variables(state: TrainState, name: str) -> dict[str, Any]:
    holders = [f"extra/{one}" for one, value in state.extra.items() if isinstance(value, dict) and "params" in value]
    if name not in holders:
        raise errors.unknown("variables to start a phase from (start_from)", name, holders)
    held = state.extra[name.removeprefix("extra/")]
    # Copies: the state is donated to the step, so two of its entries must never share a buffer.
    return jax.tree.map(jnp.copy, dict(held))


def _prepared_variables(state: TrainState, name: str, model: Any) -> dict[str, Any]:
    prepare = getattr(model, name.removeprefix("model/"), None)
    if not callable(prepare):
        raise errors.UserError(
            f"expected start_from={name!r} to name a method of the model that prepares its variables, "
            f"{type(model).__name__} has none of that name; take start_from out of the phase."
        )
    return dict(prepare(state.variables))
