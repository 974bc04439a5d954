"""What a run carries from one step to the next."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from reid_jax.train import extras as extras_lib


class TrainState(flax.struct.PyTreeNode):
    """Arrays only; functions and optimisers live outside.

    Attributes:
        step: int32 [], updates made so far.
        params: parameters of the model, float32.
        batch_stats: running statistics of its normalisation layers.
        opt_state: state of the optax transformation of the current phase.
        extra: by name, what a method owns beside its model: class centres, an averaged or frozen teacher.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    extra: dict[str, Any]

    @property
    def variables(self) -> dict[str, Any]:
        """The model's variables as `model.apply` takes them."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def create(variables: dict[str, Any]) -> TrainState:
    """The state before the first phase: no optimiser state, no extras yet."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state=(),
        extra={},
    )


def begin_phase(
    state: TrainState,
    optimizer: optax.GradientTransformation,
    extras: dict[str, extras_lib.Extra],
    key: jax.Array,
) -> TrainState:
    """Starts a phase: a fresh optimiser, and the extras this phase adds; earlier extras stay for it to read."""
    made = {
        name: extra.init(jax.random.fold_in(key, index), state.variables)
        for index, (name, extra) in enumerate(sorted(extras.items()))
        if name not in state.extra or extra.restart
    }
    return state.replace(opt_state=optimizer.init(state.params), extra={**state.extra, **made})
