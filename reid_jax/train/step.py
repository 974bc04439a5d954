"""The train step: forward pass, losses, gradients, optimizer and extras as a pure function, compiled once.

Usually a step is one update. With several objectives (`config.train.turns`) a step makes an update for each of them,
one after another, on the same batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import numpy as np
import optax

from reid_jax import trees
from reid_jax.runtime import background, kept_starts, program_parts
from reid_jax.runtime import mesh as mesh_lib
from reid_jax.train import extras as extras_lib
from reid_jax.train import micro_batches
from reid_jax.train import objective as objective_lib
from reid_jax.train import state as state_lib

Metrics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Halves:
    """A train step as two functions, one after the other, which may be two programs: see `TrainStep`.

    Attributes:
        gradients: `(state, batch, seed) -> found`, forward and backward pass; a tree of arrays.
        update: `(state, found) -> (state, metrics)`.
    """

    gradients: Callable[[state_lib.TrainState, Any, jax.Array], Any]
    update: Callable[[state_lib.TrainState, Any], tuple[state_lib.TrainState, Metrics]]

    def __call__(
        self, state: state_lib.TrainState, batch: Any, seed: jax.Array
    ) -> tuple[state_lib.TrainState, Metrics]:
        """Makes a step; see `TrainStep.pure`."""
        return self.update(state, self.gradients(state, batch, seed))


class TrainStep:
    """A compiled train step, called with state and batch.

    It is traced and compiled at the first call, or before, beside what else a start has to do: see `begin`. For CPUs
    `Halves` are two programs, compiled and read side by side: the time of both grows faster than a program's length,
    and gradients are written to memory between them anyway. On one CPU, long gradients are several programs themselves
    (`runtime.program_parts`).

    Args:
        pure: the function of state, batch and seed that is compiled.
        mesh: devices; the state is placed on them by `mesh.placement` and donated.
        seed: seed of the run.

    Attributes:
        pure: see there; for compiling it for other devices.
    """

    def __init__(
        self,
        pure: Callable[[state_lib.TrainState, Any, jax.Array], tuple[state_lib.TrainState, Metrics]],
        mesh: jax.sharding.Mesh,
        seed: int,
    ) -> None:
        self.pure = pure
        self._mesh = mesh
        self._programs: Sequence[Callable[..., Any]] = ()
        self._wiring: program_parts.Wiring | None = None  # of the programs before the last one
        self._begun: kept_starts.Begun | None = None
        # An argument, not a constant: runs that differ in their seed alone share a compiled program.
        self._seed = mesh_lib.replicate(np.uint32(seed % 2**32), mesh)

    def __call__(
        self, state: state_lib.TrainState, batch: Mapping[str, jax.Array]
    ) -> tuple[state_lib.TrainState, Metrics]:
        """Makes a step and returns the new state and the metrics."""
        if self._begun is not None:
            begun, self._begun = self._begun, None
            kept = begun.result()
            if kept is not None and _fits(kept, (state, batch, self._seed)):
                self._programs, self._wiring = kept.programs, kept.about
        if not self._programs:
            parts, self._wiring = self._parts(state, batch)
            self._programs = [part.function for part in parts]
        result: tuple[state_lib.TrainState, Metrics]
        *gradients, update = self._programs
        if not gradients:
            result = update(state, batch, self._seed)
        elif self._wiring is None:
            result = update(state, gradients[0](state, batch, self._seed))
        else:
            result = update(state, self._wiring.run(gradients, state, batch, self._seed))
        return result

    def begin(self, state: state_lib.TrainState, batch: Mapping[str, Any]) -> kept_starts.Begun:
        """Traces the step for shapes and compiles it in the background; the first call waits for it.

        Args:
            state: shapes of the state, with the shardings of `mesh.placement`.
            batch: shapes of a batch, with shardings.

        Returns:
            The programs to be.
        """
        parts, wiring = self._parts(state, batch)
        lowered = [part.lower() for part in parts]
        return self.adopt(lambda: kept_starts.compiled(lowered, list(self._mesh.devices.flat), wiring))

    def adopt(self, make: Callable[[], kept_starts.Kept | None]) -> kept_starts.Begun:
        """Takes what a function returns as the programs, run in the background; None if there are none after all."""
        self._begun = background.run(make)
        return self._begun

    def _parts(self, state: Any, batch: Any) -> tuple[list[program_parts.Part], program_parts.Wiring | None]:
        """Returns the step's programs for a state and a batch (or their shapes), and how the gradients' follow."""
        halves, arguments = self.pure, (state, batch, self._seed)
        if not isinstance(halves, Halves) or self._mesh.devices.flat[0].platform != "cpu":
            return [program_parts.Part(compiled(self.pure, state, self._mesh), arguments)], None

        def gradients(*arguments: Any) -> Any:
            found = halves.gradients(*arguments)
            return jax.lax.with_sharding_constraint(found, mesh_lib.placement(found, self._mesh))

        whole: Any = jax.jit(gradients)
        traced = whole.trace(*arguments)
        place = mesh_lib.replicated(self._mesh)
        divided = program_parts.divide(traced, arguments, place) if self._mesh.size == 1 else None
        parts, wiring = divided or ([program_parts.Part(whole, arguments)], None)
        found = mesh_lib.abstract(traced.out_info, self._mesh)
        return [*parts, program_parts.Part(compiled(halves.update, state, self._mesh), (state, found))], wiring


def _fits(kept: kept_starts.Kept, arguments: tuple[Any, ...]) -> bool:
    """Returns whether programs that were compiled for shapes take these arguments as they are."""
    if kept.about is not None:
        fits: bool = kept.about.fits(*arguments)
        return fits
    program = kept.programs[0]
    leaves: list[Any]
    tree: Any
    leaves, tree = jax.tree.flatten((arguments, {}))
    if tree != program.in_tree:
        return False
    wanted = (tree.flatten_up_to(each) for each in (program.in_avals, program.input_shardings))
    return all(
        (leaf.shape, leaf.dtype) == (aval.shape, aval.dtype)
        and (sharding is None or leaf.sharding.is_equivalent_to(sharding, leaf.ndim))
        for leaf, aval, sharding in zip(leaves, *wanted, strict=True)
    )


def compiled(pure: Callable[..., Any], state: Any, mesh: jax.sharding.Mesh) -> Any:
    """Returns a step's function for a state (or its shapes) as a jitted one, which keeps the state where it is."""
    shardings = (mesh_lib.placement(state, mesh), mesh_lib.replicated(mesh))
    return jax.jit(pure, donate_argnums=0, out_shardings=shardings)


def step_key(seed: int | jax.Array, step: jax.Array) -> jax.Array:
    """Returns the random key of a step, derived from seed and step, so a resumed run draws the same numbers."""
    return jax.random.fold_in(jax.random.key(seed), step)


def make_train_step(
    objective: Callable[..., Any] | Sequence[Callable[..., Any]],
    optimizer: optax.GradientTransformation,
    extras: Mapping[str, extras_lib.Extra],
    *,
    seed: int,
    mesh: jax.sharding.Mesh,
    accumulate: int = 1,
) -> TrainStep:
    """Returns the compiled `train_step(state, batch) -> (state, metrics)`.

    The state is placed by `mesh.placement` and donated; the batch is split on its first axis. Everything is computed
    over the global batch: batch statistics and hard mining mean the same on one device and on many.

    Args:
        objective: see `reid_jax.train.objective.Objective`; with several, a step makes an update for each in order.
        optimizer: optax chain of the phase.
        extras: by name, the arrays that the step updates in addition to the model.
        seed: seed of the run.
        mesh: devices, one axis `data`.
        accumulate: number of micro-batches that the network runs one after another, see `micro_batches`; above 1 an
            objective must be an `Objective`.
    """
    objectives = tuple(objective) if isinstance(objective, Sequence) else (objective,)

    def keyed(function: Callable[..., Any]) -> Callable[..., Any]:
        def train_step(state: state_lib.TrainState, batch: Any, seed: jax.Array) -> Any:
            return function(state, batch, step_key(seed, state.step))

        return train_step

    if len(objectives) > 1:
        return TrainStep(
            keyed(make_update(objectives, optimizer, extras, accumulate=accumulate, mesh=mesh)), mesh, seed
        )
    gradients, updated = _halves(objectives[0], optimizer, extras, accumulate=accumulate, mesh=mesh)

    def train_step_update(state: state_lib.TrainState, found: Any) -> tuple[state_lib.TrainState, Metrics]:
        state, metrics = updated(state, found)
        return _counted(state), metrics

    return TrainStep(Halves(keyed(gradients), train_step_update), mesh, seed)


def make_update(
    objective: Callable[..., Any] | Sequence[Callable[..., Any]],
    optimizer: optax.GradientTransformation,
    extras: Mapping[str, extras_lib.Extra],
    *,
    accumulate: int = 1,
    mesh: jax.sharding.Mesh | None = None,
) -> Callable[[state_lib.TrainState, Any, jax.Array], tuple[state_lib.TrainState, Metrics]]:
    """Returns the pure `update(state, batch, key) -> (state, metrics)` of a train step; arguments as there."""
    objectives = tuple(objective) if isinstance(objective, Sequence) else (objective,)
    turns = [_halves(each, optimizer, extras, accumulate=accumulate, mesh=mesh) for each in objectives]

    def update(state: state_lib.TrainState, batch: Any, key: jax.Array) -> tuple[state_lib.TrainState, Metrics]:
        metrics: Metrics = {}
        for turn, (gradients, updated) in enumerate(turns):
            state, more = updated(state, gradients(state, batch, jax.random.fold_in(key, turn) if turn else key))
            metrics = {**metrics, **more, "loss": metrics["loss"] + more["loss"] if turn else more["loss"]}
        return _counted(state), metrics

    return update


def _counted(state: state_lib.TrainState) -> state_lib.TrainState:
    counted: state_lib.TrainState = state.replace(step=state.step + 1)
    return counted


def _halves(
    objective: Callable[..., Any],
    optimizer: optax.GradientTransformation,
    extras: Mapping[str, extras_lib.Extra],
    *,
    accumulate: int,
    mesh: jax.sharding.Mesh | None,
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Returns `gradients(state, batch, key) -> found` and `updated(state, found) -> (state, metrics)` of an update."""
    learned = sorted(name for name, extra in extras.items() if extra.differentiable)

    def of_batch(state: state_lib.TrainState, batch: Any, key: jax.Array) -> Any:
        def loss(trained: tuple[Any, dict[str, Any]]) -> Any:
            params, learned_extra = trained
            variables = {**state.variables, "params": params}
            return objective(variables, {**state.extra, **learned_extra}, batch, key)

        trained = (state.params, {name: state.extra[name] for name in learned})
        return jax.value_and_grad(loss, has_aux=True)(trained)

    def gradients(state: state_lib.TrainState, batch: Any, key: jax.Array) -> Any:
        if accumulate == 1:
            return of_batch(state, batch, key)
        divided = cast(objective_lib.Objective, objective)
        parts = micro_batches.Parts(accumulate, mesh)
        return micro_batches.gradients(divided, state, learned, batch, key, parts)

    def updated(state: state_lib.TrainState, found: Any) -> tuple[state_lib.TrainState, Metrics]:
        (loss, (batch_stats, metrics)), (param_grads, extra_grads) = found
        with jax.named_scope("optimizer"):
            updates, opt_state = optimizer.update(param_grads, state.opt_state, state.params)
            state = state.replace(
                params=optax.apply_updates(state.params, updates), batch_stats=batch_stats, opt_state=opt_state
            )
        extra = {
            name: extras[name].update(value, extra_grads.get(name), state.variables) if name in extras else value
            for name, value in state.extra.items()
        }
        norms = {"gradient_norm": trees.global_norm(param_grads), "update_norm": trees.global_norm(updates)}
        return state.replace(extra=extra), {"loss": loss, **metrics, **norms}

    return gradients, updated
