"""Federated training: rounds in which clients train copies of the model on their own data, and a server averages them.

    round t: for each chosen client k: theta_k = LocalTrain(theta_t, phi_k)
             theta_{t+1} = sum_k w_k theta_k

theta travels between server and clients, phi stays where it is: the classifiers, each over its client's own identities
(`personal="classifiers"`, FedPav), and the batch normalization (`bn="local"`, FedBN). A round is one step of the
training loop, so logs, checkpoints, evaluation and resuming are those of joint training. Evaluation reads theta alone;
with local batch normalization it reads the weighted average of the clients' own.

The host walks over the clients and their local steps. One compiled step advances one client, or a *wave* of clients
(`side_by_side`): vectorized, and distributed over the devices of the mesh. A loop on the device would save the host's
work, but XLA on CPU runs convolutions inside a loop more than ten times slower than outside.

References:
    McMahan et al., "Communication-efficient learning of deep networks from decentralized data", AISTATS 2017 (FedAvg).
    Zhuang et al., "Performance optimization for federated person re-identification via benchmark analysis", ACM MM
    2020 (FedPav, cosine distance weight).
    Li et al., "Federated optimization in heterogeneous networks", MLSys 2020 (FedProx).
    Li et al., "FedBN: Federated learning on non-IID features via local batch normalization", ICLR 2021.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from reid_jax import trees
from reid_jax.federated import clients as clients_lib
from reid_jax.federated.federation_options import PERSONAL, Options
from reid_jax.runtime import mesh as mesh_lib
from reid_jax.train import objective as objective_lib
from reid_jax.train import optimizer as optimizer_lib
from reid_jax.train import state as state_lib
from reid_jax.train import step as step_lib

Flat = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


def normalized(weights: Any) -> np.ndarray:
    """Returns weights [n] of at least 0 scaled to the sum 1, float32; weights that are all zero stay zero."""
    shares: np.ndarray = np.asarray(weights, np.float32)
    total = shares.sum()
    return np.divide(shares, total) if total > 0 else shares


def personal_paths(variables: Mapping[str, Any], options: Options) -> frozenset[str]:
    """Returns the paths ("params/...", "batch_stats/...") of the variables that never leave a client."""
    flat = trees.flatten(dict(variables))
    pattern = re.compile(PERSONAL[options.personal])
    personal = {path for path in flat if path.startswith("params/") and pattern.search(path.removeprefix("params/"))}
    if options.bn == "local":
        # Layers that keep statistics are batch normalization; their gains and shifts stand under the same path.
        layers = {path.split("/", 1)[1].rsplit("/", 1)[0] for path in flat if path.startswith("batch_stats/")}
        personal |= {path for path in flat if path.split("/", 1)[1].rsplit("/", 1)[0] in layers}
    return frozenset(personal)


def own_classes(apply: Callable[..., Any], classes: jax.Array) -> Callable[..., Any]:
    """Returns a model's `apply` whose identity classifiers know some classes only: other logits are minus infinity.

    Args:
        apply: `model.apply`.
        classes: bool [N].
    """

    def masked(outputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        # The classes are the last axis of logits of any number of axes.
        return {
            name: jnp.where(jnp.expand_dims(classes, tuple(range(x.ndim - 1))), x, -jnp.inf)
            if name.startswith("logits")
            else x
            for name, x in outputs.items()
        }

    def applied(*arguments: Any, **options: Any) -> Any:
        result = apply(*arguments, **options)
        return (masked(result[0]), *result[1:]) if isinstance(result, tuple) else masked(result)

    return applied


@dataclasses.dataclass(frozen=True)
class Wave:
    """Clients that are trained together.

    Attributes:
        clients: number of the client, int []; or of several, int [w], `NOBODY` where a place is empty.
        rows: first row of each client's local batch in a global batch, int [] or [w].
        size: images of a local batch.
    """

    clients: Any
    rows: Any
    size: int


class Rounds:
    """A federation's round `(state, batch) -> (state, metrics)`, and the state before the first.

    The state's `params` and `batch_stats` hold theta; where variables are personal, beside it the initial classifiers
    and the average of the clients' batch normalization. `extra["clients"]` holds what stays on the clients, each array
    with the clients as first axis. Constants of the model travel with theta and are not averaged.

    Args:
        federation: clients and plan.
        objective: local loss; its classifiers are narrowed to a client's own identities where they are personal.
        optimizer: optimizer of one client.
        variables: variables of the model by collection; shapes suffice.
        options: the config's section.
        features: `(variables, batch) -> [B, D]` in eval mode, for the weights "cdw".
        mesh: devices.
    """

    def __init__(
        self,
        federation: clients_lib.Federation,
        objective: objective_lib.Objective,
        optimizer: optax.GradientTransformation,
        variables: Mapping[str, Any],
        options: Options,
        *,
        features: Callable[[Any, Any], jax.Array],
        mesh: jax.sharding.Mesh,
    ) -> None:
        self.federation, self.options, self.mesh = federation, options, mesh
        self._objective, self._optimizer, self._features_of = objective, optimizer, features
        flat = trees.flatten(dict(variables))
        self.personal = personal_paths(variables, options)
        # What is averaged; local batch normalization too, for evaluation.
        trained = frozenset(path for path in flat if not path.startswith("constants/"))
        self.averaged = trained - personal_paths(variables, dataclasses.replace(options, bn="average"))
        clients = federation.clients
        sizes = [client.images if options.weights == "samples" else 1 for client in clients]
        self._about = {
            "seed": np.array([client.seed % 2**32 for client in clients], np.uint32),
            "steps": np.array([client.steps for client in clients], np.int32),
            "classes": np.stack([client.classes for client in clients]),
            "weight": np.array(sizes, np.float32),
        }
        one_way = sum(leaf.size * leaf.dtype.itemsize for path, leaf in flat.items() if path not in self.personal)
        self.bytes_per_round = dict.fromkeys(("down", "up"), one_way * federation.per_round)
        # The compiled parts of a round.
        self._start = jax.jit(self._start_wave)
        self._advance = jax.jit(self._advance_wave, static_argnames="size", donate_argnums=0)
        self._features = jax.jit(self._features_of_wave, static_argnames="size")
        self._add = jax.jit(functools.partial(jax.tree.map, jnp.add), donate_argnums=0)
        self._contribute = jax.jit(self._contribution)
        self._store = jax.jit(self._stored, donate_argnums=0)
        self._average = jax.jit(self._averaged)

    # ---- the algorithm ----------------------------------------------------------------------------------------------

    def begin(self, state: state_lib.TrainState) -> state_lib.TrainState:
        """Returns the state before the first round: every client has a copy of what is personal."""
        copies = functools.partial(_copies, len(self.federation.clients))
        flat = trees.flatten(state.variables)
        own: dict[str, Any] = {"own": trees.unflatten(copies({path: flat[path] for path in sorted(self.personal)}))}
        if self.options.optimizer_state == "kept":
            own["opt_state"] = copies(self._optimizer.init(state.params))
        return state.replace(opt_state=(), extra={**state.extra, "clients": own})

    def __call__(self, state: state_lib.TrainState, batch: Any) -> tuple[state_lib.TrainState, dict[str, Any]]:
        """Runs one round.

        On shapes (`jax.eval_shape`) it is the first round, cut to the first local step of each wave: that traces every
        compiled part, so mistakes show before training.

        Args:
            state: `step` counts rounds.
            batch: batch of `reid_jax.federated.clients.RoundBatches`, [rows, steps, ...].

        Returns:
            The state after it; the metrics of a train step, averaged over all local updates, and "fed/clients",
            "fed/bytes_down" (sent to the clients) and "fed/bytes_up" (sent by them).
        """
        traced = isinstance(state.step, jax.core.Tracer)
        number = 0 if traced else int(jax.device_get(state.step))
        flat = trees.flatten(state.variables)
        theta = {path: leaf for path, leaf in flat.items() if path not in self.personal}
        weights = self._weights(number)
        own, total = state.extra["clients"], None
        for wave in self._waves(number):
            clients = self._clients(wave, weights)
            local, metrics, weight = self._train(wave, clients, theta, own, batch, number, traced)
            own = self._store(own, self._own(local), self._places(wave))
            count = np.sum(clients["steps"], dtype=np.float32)
            sums = {**self._contribute(local, weight), "metrics": metrics, "count": count}
            total = sums if total is None else self._add(total, sums)
        assert total is not None
        means: dict[str, Any] = {name: value / total["count"] for name, value in total["metrics"].items()}
        sent = {f"fed/bytes_{direction}": float(count) for direction, count in self.bytes_per_round.items()}
        return self._average(state, total, own), {**means, "fed/clients": float(self.federation.per_round), **sent}

    def _train(
        self, wave: Wave, clients: Any, theta: Flat, own: Any, batch: Any, number: int, traced: bool
    ) -> tuple[state_lib.TrainState, Metrics, Any]:
        """Trains a wave on its own data: returns the local states, sums of metrics, and weights in the average."""
        local = self._start(theta, clients, jax.tree.map(lambda x: x[wave.clients], own), number)
        before = self._features(local, clients, batch, wave.rows, size=wave.size) if self._by_features else None
        total: Metrics | None = None
        for place in range(1 if traced else int(np.max(clients["steps"]))):
            local, metrics = self._advance(local, theta, clients, batch, wave.rows, place, size=wave.size)
            total = metrics if total is None else self._add(total, metrics)
        assert total is not None
        if before is None:
            return local, total, clients["weight"]
        after = self._features(local, clients, batch, wave.rows, size=wave.size)
        return local, total, _moved(before, after) * (clients["weight"] > 0)

    @property
    def _by_features(self) -> bool:
        return self.options.weights == "cdw"

    def _weights(self, number: int) -> np.ndarray:
        """Each client's weight in a round, 0 for a client that does not take part: float32 [clients]."""
        weights = self._about["weight"]
        if self._by_features:
            return weights  # the training decides
        chosen = np.isin(np.arange(len(weights)), self.federation.participants(number))
        return normalized(np.where(chosen, weights, 0.0))

    def _averaged(self, state: state_lib.TrainState, total: Mapping[str, Any], own: Any) -> state_lib.TrainState:
        """Returns the server's part: theta from the weighted sum over the clients."""
        flat = trees.flatten(state.variables)
        new = dict(total["average"])
        if self._by_features:
            share = jnp.where(total["weight"] > 0, total["weight"], 1.0)
            new = {path: jnp.where(total["weight"] > 0, leaf / share, flat[path]) for path, leaf in new.items()}
        averaged = state.with_variables(trees.unflatten({**flat, **new}))
        return averaged.replace(step=state.step + 1, extra={**state.extra, "clients": own})

    # ---- one client -------------------------------------------------------------------------------------------------

    def _start_client(
        self, theta: Flat, number: jax.Array, client: Mapping[str, Any], own: Mapping[str, Any]
    ) -> state_lib.TrainState:
        """Returns a client's state at the start of a round: theta, its personal variables, and its optimizer."""
        variables = trees.unflatten({**theta, **trees.flatten(own["own"])})
        opt_state = own.get("opt_state")
        if opt_state is None:
            opt_state = self._optimizer.init(variables["params"])
        return state_lib.create(variables).replace(
            step=number * client["steps"],
            # The rate follows the rounds, whether the moments are kept or fresh.
            opt_state=_at_position(opt_state, number * self.federation.steps),
        )

    def _update_client(
        self, theta: Flat, local: state_lib.TrainState, client: Mapping[str, Any], batch: Any
    ) -> tuple[state_lib.TrainState, Metrics]:
        """One local step."""
        objective: Any = self._objective
        if self.options.personal == "classifiers":
            objective = dataclasses.replace(objective, apply=own_classes(objective.apply, client["classes"]))
        if self.options.prox_mu:
            objective = functools.partial(self._with_proximity, objective, theta)
        update = step_lib.make_update(objective, self._optimizer, {})
        return update(local, batch, step_lib.step_key(client["seed"], local.step))

    def _with_proximity(
        self, objective: Callable[..., Any], theta: Flat, variables: Mapping[str, Any], *rest: Any
    ) -> Any:
        """Returns the objective plus FedProx's term."""
        total, (batch_stats, metrics) = objective(variables, *rest)
        flat = trees.flatten({"params": variables["params"]})
        squares = [jnp.sum(jnp.square(leaf - theta[path])) for path, leaf in flat.items() if path in theta]
        distance = sum(squares, start=jnp.zeros((), jnp.float32))
        return total + 0.5 * self.options.prox_mu * distance, (batch_stats, {**metrics, "fed/proximity": distance})

    def _own(self, local: state_lib.TrainState) -> dict[str, Any]:
        """What stays on a client after its training."""
        flat = trees.flatten(local.variables)
        own: dict[str, Any] = {"own": trees.unflatten({path: flat[path] for path in sorted(self.personal)})}
        return {**own, "opt_state": local.opt_state} if self.options.optimizer_state == "kept" else own

    # ---- a wave of clients: one, or several stacked on a first axis -------------------------------------------------

    def _waves(self, number: int) -> Iterator[Wave]:
        """Returns the clients of a round (0-based), as many together as `side_by_side` and the devices allow."""
        for group, slots in zip(self.federation.groups, self.federation.slots(number), strict=True):
            width, present = self._width(group.slots), slots[slots != clients_lib.NOBODY]
            rows = group.first_row + group.size * np.arange(len(present))
            for first in range(0, len(present), width):
                together = slice(first, first + width)
                if width == 1:
                    yield Wave(present[first], int(rows[first]), group.size)
                    continue
                clients, starts = np.full(width, clients_lib.NOBODY), np.full(width, group.first_row)
                clients[: len(present[together])] = present[together]
                starts[: len(rows[together])] = rows[together]
                yield Wave(clients, starts, group.size)

    def _width(self, slots: int) -> int:
        """Clients of one wave: `side_by_side` of them, or fewer that fill the waves evenly."""
        waves = -(-slots // self.options.side_by_side)
        width = -(-slots // waves)
        devices = self.mesh.size
        return -(-width // devices) * devices if self.options.side_by_side >= devices else width

    def _clients(self, wave: Wave, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Inputs of a compiled step that describe its clients; an empty place has no steps and no weight."""
        present = wave.clients != clients_lib.NOBODY
        about = {name: values[wave.clients] for name, values in {**self._about, "weight": weights}.items()}
        return about | {name: np.where(present, about[name], 0) for name in ("steps", "weight")}

    def _places(self, wave: Wave) -> np.ndarray:
        """Where a wave's personal variables are stored; an empty place lies after the last client and is dropped."""
        return np.where(wave.clients == clients_lib.NOBODY, len(self.federation.clients), wave.clients)

    def _over_clients(self, function: Callable[..., Any], width: int | None) -> Callable[..., Any]:
        """`function(shared, of one client)`, vectorized over a wave and distributed over the devices."""
        if width is None:
            return function
        vectorized = jax.vmap(function, in_axes=(None, 0))
        if not self._dealt(width):
            return vectorized
        whole, split = PartitionSpec(), PartitionSpec(mesh_lib.AXIS)
        return jax.shard_map(vectorized, mesh=self.mesh, in_specs=(whole, split), out_specs=split, check_vma=False)

    def _dealt(self, width: int | None) -> bool:
        return width is not None and self.mesh.size > 1 and width % self.mesh.size == 0

    def _placed(self, local: state_lib.TrainState, width: int | None) -> state_lib.TrainState:
        """Returns the state in the same arrangement after every step, so that a step is compiled once."""
        if self.mesh.size == 1:
            return local
        arrangement = mesh_lib.sharded(self.mesh) if self._dealt(width) else mesh_lib.replicated(self.mesh)
        placed: state_lib.TrainState = jax.lax.with_sharding_constraint(local, arrangement)
        return placed

    def _start_wave(self, theta: Flat, clients: Any, own: Any, number: jax.Array) -> state_lib.TrainState:
        start = lambda shared, client: self._start_client(*shared, *client)
        width = _width_of(clients)
        return self._placed(self._over_clients(start, width)((theta, number), (clients, own)), width)

    def _advance_wave(
        self, local: state_lib.TrainState, theta: Flat, clients: Any, batch: Any, rows: Any, place: Any, *, size: int
    ) -> tuple[state_lib.TrainState, Metrics]:
        """Local step `place` of a wave; who has finished rests."""
        images, width = self._local_batches(batch, rows, place, size), _width_of(clients)
        update = lambda theta, client: self._update_client(theta, *client)
        trained, metrics = self._over_clients(update, width)(theta, (local, clients, images))
        if width is not None:
            active = place < clients["steps"]
            trained = jax.tree.map(lambda new, old: jnp.where(_along(active, new), new, old), trained, local)
            metrics = {name: jnp.sum(jnp.where(active, value, 0.0)) for name, value in metrics.items()}
        return self._placed(trained, width), metrics

    def _local_batches(self, batch: Any, rows: Any, place: Any, size: int) -> Any:
        """Rows [row, row + size) of local step `place` of a round's batch, for each client of a wave."""

        def cut(x: jax.Array) -> Any:
            step = jax.lax.dynamic_index_in_dim(x, place, 1, keepdims=False)
            rows_of: Callable[..., Any] = functools.partial(jax.lax.dynamic_slice_in_dim, step, slice_size=size)
            return jax.vmap(rows_of)(rows) if jnp.ndim(rows) else rows_of(rows)

        images = jax.tree.map(cut, batch)
        # Over the devices: the clients of a wave, else the images of each client, where they divide.
        axes = (len(rows), size) if jnp.ndim(rows) else (size,)
        axis = next((axis for axis, length in enumerate(axes) if length % self.mesh.size == 0), None)
        if axis is None:
            return images
        split = PartitionSpec(*[None] * axis, mesh_lib.AXIS)
        return jax.lax.with_sharding_constraint(images, NamedSharding(self.mesh, split))

    def _features_of_wave(self, local: state_lib.TrainState, clients: Any, batch: Any, rows: Any, *, size: int) -> Any:
        """Features of the first local batch, [B, D] for each client."""
        images = self._local_batches(batch, rows, 0, size)
        features = lambda _, client: self._features_of(client[0].variables, client[1])
        return self._over_clients(features, _width_of(clients))(None, (local, images))

    def _contribution(self, local: state_lib.TrainState, weight: Any) -> dict[str, Any]:
        """Returns a wave's part of the weighted sum over the clients."""
        flat = trees.flatten(local.variables)
        scaled = {path: _along(weight, flat[path]) * flat[path] for path in sorted(self.averaged)}
        if not jnp.ndim(weight):
            return {"weight": weight, "average": scaled}
        return {"weight": jnp.sum(weight), "average": {path: jnp.sum(x, axis=0) for path, x in scaled.items()}}

    def _stored(self, own: Any, new: Any, places: Any) -> Any:
        return jax.tree.map(lambda old, new: old.at[places].set(new, mode="drop"), own, new)


def _copies(count: int, tree: Any) -> Any:
    """Each array [...] repeated on a new first axis, [count, ...]."""
    return jax.tree.map(lambda x: jnp.tile(x[None], (count,) + (1,) * x.ndim), tree)


def _along(values: jax.Array, x: jax.Array) -> jax.Array:
    """Values [w] of a wave shaped to broadcast over the first axis of x [w, ...]; a scalar stays as it is."""
    return values.reshape((-1,) + (1,) * (x.ndim - 1)) if jnp.ndim(values) else values


def _width_of(clients: Mapping[str, Any]) -> int | None:
    """Number of stacked clients; None for one client without a first axis."""
    shape = jnp.shape(clients["seed"])
    return shape[0] if shape else None


def _moved(before: jax.Array, after: jax.Array) -> jax.Array:
    """How far features [..., B, D] moved: mean of 1 - cosine over the images, [...]."""
    norms = jnp.linalg.norm(before, axis=-1) * jnp.linalg.norm(after, axis=-1)
    distance = 1.0 - jnp.sum(before * after, axis=-1) / jnp.maximum(norms, 1e-12)
    return jnp.maximum(jnp.mean(distance, axis=-1), 0.0)


def _at_position(opt_state: Any, position: jax.Array) -> Any:
    """Returns an optimizer's state whose learning rate is that of an update number."""

    def is_rate(node: Any) -> bool:
        return isinstance(node, optimizer_lib.RateState)

    rate = optimizer_lib.RateState(jnp.asarray(position, jnp.int32))
    return jax.tree.map(lambda node: rate if is_rate(node) else node, opt_state, is_leaf=is_rate)
