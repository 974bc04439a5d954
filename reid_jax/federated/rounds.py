"""Federated training: rounds in which clients train copies of the model on their own data, and a server averages them.

    round t: for each chosen client k: theta_k = LocalTrain(theta_t, phi_k)
             theta_{t+1} = sum_k w_k theta_k

theta travels between server and clients, phi stays where it is: the classifiers, each over its client's own identities
(`personal="classifiers"`, FedPav), and the batch normalization (`bn="local"`, FedBN). A round is one step of the
training loop, so logs, checkpoints, evaluation and resuming are those of joint training. Evaluation reads theta alone;
with local batch normalization it reads the weighted average of what the clients keep.

Two ways to run a round, equal to rounding. "program": one compiled program; clients are dealt out over the devices of
the mesh where their number divides, `side_by_side` of them vectorized on a device, the rest one after another.
"steps": the host walks through clients and local steps, each the same small compiled step. XLA on CPU runs
convolutions inside a loop more than ten times slower than outside, so "auto" is "steps" there and "program" elsewhere.

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
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

from reid_jax import errors, trees
from reid_jax.federated import clients as clients_lib
from reid_jax.runtime import mesh as mesh_lib
from reid_jax.train import objective as objective_lib
from reid_jax.train import optimizer as optimizer_lib
from reid_jax.train import state as state_lib
from reid_jax.train import step as step_lib

PERSONAL: dict[str, str] = {"classifiers": r"(^|/)classifier", "none": r"(?!)"}  # patterns of paths below "params"
WEIGHTS = ("samples", "uniform", "cdw")
BATCH_NORM = ("average", "local")
OPTIMIZER_STATE = ("fresh", "kept")
EXECUTION = ("auto", "program", "steps")

Flat = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Options:
    """The section `fed` of a config.

    Attributes:
        clients, client, num_clients, fraction, local_epochs: see `reid_jax.federated.clients.build`.
        rounds: communication rounds.
        personal: "classifiers" stay on the client; "none": everything is averaged (FedAvg).
        weights: of the average: "samples" n_k / sum n, "uniform", or "cdw": how far (1 - cosine) the client's training
            moved the features of its first local batch.
        bn: "average" treats batch normalization like the rest, running statistics included; "local" keeps its
            parameters and statistics on the client.
        optimizer_state: "fresh" at the start of each round, or "kept" on the client.
        lr_drops: fractions of the rounds after which the rate falls to a tenth; empty: the config's schedule, a round
            counting as an epoch.
        prox_mu: weight of FedProx's term, mu / 2 times the squared distance to the round's theta.
        execution: "program", "steps" or "auto".
        side_by_side: clients vectorized on one device in a program.
    """

    clients: str = "camera"
    client: str = ""
    num_clients: int = 8
    fraction: float = 1.0
    rounds: int = 300
    local_epochs: int = 1
    personal: str = "classifiers"
    weights: str = "samples"
    bn: str = "average"
    optimizer_state: str = "fresh"
    lr_drops: tuple[float, ...] = (0.8, 0.925)
    prox_mu: float = 0.0
    execution: str = "auto"
    side_by_side: int = 1

    def __post_init__(self) -> None:
        for name, known in {
            "clients": clients_lib.KINDS,
            "personal": tuple(PERSONAL),
            "weights": WEIGHTS,
            "bn": BATCH_NORM,
            "optimizer_state": OPTIMIZER_STATE,
            "execution": EXECUTION,
        }.items():
            if getattr(self, name) not in known:
                raise errors.unknown(f"value of fed.{name}", str(getattr(self, name)), known)
        for name in ("num_clients", "rounds", "local_epochs", "side_by_side"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise errors.UserError(f"fed.{name} must be a whole number above 0, but is {getattr(self, name)!r}.")
        if not 0 < self.fraction <= 1:
            raise errors.UserError(f"fed.fraction must be above 0 and at most 1, but is {self.fraction!r}.")
        if self.prox_mu < 0 or any(not 0 < drop < 1 for drop in self.lr_drops):
            raise errors.UserError("fed.prox_mu must be at least 0 and fed.lr_drops between 0 and 1; change them.")

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Options:
        """Reads the section, refusing misspelled keys."""
        known = [field.name for field in dataclasses.fields(cls)]
        for key in config:
            if key not in known:
                raise errors.unknown("key of the section fed", key, known)
        return cls(**config)

    def schedule(self, otherwise: Mapping[str, Any]) -> dict[str, Any]:
        """The learning-rate schedule, in epochs of one round each."""
        if not self.lr_drops:
            return dict(otherwise)
        drops = tuple(round(drop * self.rounds) for drop in self.lr_drops)
        return {"name": "multistep", "milestones_epochs": drops, "factor": 0.1}


def normalized(weights: Any) -> jax.Array:
    """Weights [n] of at least 0 that sum to one; all zero, they stay zero."""
    weights = jnp.asarray(weights, jnp.float32)
    total = jnp.sum(weights)
    return jnp.where(total > 0, weights / jnp.where(total > 0, total, 1.0), 0.0)


def personal_paths(variables: Mapping[str, Any], options: Options) -> frozenset[str]:
    """Paths ("params/...", "batch_stats/...") of the variables that never leave a client."""
    flat = trees.flatten(dict(variables))
    pattern = re.compile(PERSONAL[options.personal])
    kept = {path for path in flat if path.startswith("params/") and pattern.search(path.removeprefix("params/"))}
    if options.bn == "local":
        # Layers that keep statistics are batch normalization; their gains and shifts stand under the same path.
        layers = {path.split("/", 1)[1].rsplit("/", 1)[0] for path in flat if path.startswith("batch_stats/")}
        kept |= {path for path in flat if path.split("/", 1)[1].rsplit("/", 1)[0] in layers}
    return frozenset(kept)


def own_classes(apply: Callable[..., Any], classes: jax.Array) -> Callable[..., Any]:
    """A model's `apply` whose identity classifiers know only some classes: the other logits are minus infinity.

    Args:
        apply: `model.apply`.
        classes: bool [N].
    """

    def masked(outputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        blank = lambda x: jnp.where(classes.reshape((1,) * (x.ndim - 1) + (-1,)), x, -jnp.inf)
        return {name: blank(x) if name.startswith("logits") else x for name, x in outputs.items()}

    def applied(*arguments: Any, **options: Any) -> Any:
        result = apply(*arguments, **options)
        return (masked(result[0]), *result[1:]) if isinstance(result, tuple) else masked(result)

    return applied


class Rounds:
    """The `(state, batch) -> (state, metrics)` of one round, and the state before the first.

    The state's `params` and `batch_stats` hold theta (where something stays on the clients: beside it the initial
    classifiers, and the average of the clients' batch normalization); `extra["clients"]` what the clients keep, each
    array with the clients as first axis.

    Constants of the model travel with theta and are not averaged.

    Args:
        federation: clients and plan.
        objective: local loss; its classifiers are narrowed to a client's own identities where they are personal.
        optimizer: of one client.
        variables: `params` and `batch_stats` of the model; shapes will do.
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
        self._objective, self._optimizer, self._features = objective, optimizer, features
        flat = trees.flatten(dict(variables))
        self.personal = personal_paths(variables, options)
        # What is averaged; local batch normalization too, for evaluation.
        trained = frozenset(path for path in flat if not path.startswith("constants/"))
        self.averaged = trained - personal_paths(variables, dataclasses.replace(options, bn="average"))
        clients = federation.clients
        sizes = [client.images if options.weights == "samples" else 1 for client in clients]
        self._about = {
            "seed": np.array([client.seed for client in clients], np.int32),
            "steps": np.array([client.steps for client in clients], np.int32),
            "classes": np.stack([client.classes for client in clients]),
            "weight": np.array(sizes, np.float32),
        }
        one_way = sum(leaf.size * leaf.dtype.itemsize for path, leaf in flat.items() if path not in self.personal)
        self.bytes_per_round = dict.fromkeys(("down", "up"), one_way * federation.per_round)
        replicated = mesh_lib.replicated(mesh)
        self._program = jax.jit(self._round, donate_argnums=0, out_shardings=(replicated, replicated))
        self._start_alone = jax.jit(self._start)
        self._update_alone = jax.jit(self._update_rows, static_argnums=5, donate_argnums=0)
        self._features_alone = jax.jit(lambda local, batch: self._features(local.variables, batch))
        self._collect = jax.jit(self._collected, donate_argnums=(0, 1))
        self._average = jax.jit(self._averaged)
        by_steps = jax.default_backend() == "cpu" if options.execution == "auto" else options.execution == "steps"
        self._run = self._by_steps if by_steps else self._program

    # ---- the state --------------------------------------------------------------------------------------------------

    def begin(self, state: state_lib.TrainState) -> state_lib.TrainState:
        """Gives every client its copy of what it will keep."""
        count = len(self.federation.clients)
        copies = lambda tree: jax.tree.map(lambda x: jnp.tile(x[None], (count,) + (1,) * x.ndim), tree)
        flat = trees.flatten(state.variables)
        kept: dict[str, Any] = {"own": trees.unflatten(copies({path: flat[path] for path in sorted(self.personal)}))}
        if self.options.optimizer_state == "kept":
            kept["opt_state"] = copies(self._optimizer.init(state.params))
        return state.replace(opt_state=(), extra={**state.extra, "clients": kept})

    def __call__(self, state: state_lib.TrainState, batch: Any) -> tuple[state_lib.TrainState, dict[str, Any]]:
        """One round.

        Args:
            state: `step` counts rounds.
            batch: of `reid_jax.federated.clients.RoundBatches`, [rows, steps, ...].

        Returns:
            The state after it; means over all local updates of what a train step reports, and "fed/...": clients,
            bytes sent down to them and up by them.
        """
        traced = isinstance(state.step, jax.core.Tracer)
        state, metrics = (self._program if traced else self._run)(state, batch)
        sent = {f"fed/bytes_{direction}": float(count) for direction, count in self.bytes_per_round.items()}
        return state, {**metrics, "fed/clients": float(self.federation.per_round), **sent}

    # ---- one client -------------------------------------------------------------------------------------------------

    def _start(
        self, shared: Flat, client: Mapping[str, Any], kept: Mapping[str, Any], number: jax.Array
    ) -> state_lib.TrainState:
        """A client's state at the start of a round: theta, what it kept, and its optimizer."""
        variables = trees.unflatten({**shared, **trees.flatten(kept["own"])})
        opt_state = kept.get("opt_state")
        if opt_state is None:
            opt_state = self._optimizer.init(variables["params"])
        return state_lib.create(variables).replace(
            step=number * client["steps"],
            # The rate follows the rounds, whatever became of the moments.
            opt_state=_at_position(opt_state, number * self.federation.steps),
        )

    def _update(
        self, local: state_lib.TrainState, shared: Flat, client: Mapping[str, Any], batch: Any
    ) -> tuple[state_lib.TrainState, dict[str, jax.Array]]:
        """One local step."""
        objective: Any = self._objective
        if self.options.personal == "classifiers":
            objective = dataclasses.replace(objective, apply=own_classes(objective.apply, client["classes"]))
        if self.options.prox_mu:
            objective = functools.partial(self._with_proximity, objective, shared)
        update = step_lib.make_update(objective, self._optimizer, {})
        return update(local, batch, step_lib.step_key(client["seed"], local.step))

    def _with_proximity(
        self, objective: Callable[..., Any], shared: Flat, variables: Mapping[str, Any], *rest: Any
    ) -> Any:
        """The objective and FedProx's term."""
        total, (batch_stats, metrics) = objective(variables, *rest)
        flat = trees.flatten({"params": variables["params"]})
        away = [jnp.sum(jnp.square(leaf - shared[path])) for path, leaf in flat.items() if path in shared]
        distance = sum(away, start=jnp.zeros((), jnp.float32))
        return total + 0.5 * self.options.prox_mu * distance, (batch_stats, {**metrics, "fed/proximity": distance})

    def _weight(self, client: Mapping[str, Any], before: jax.Array | None, after: jax.Array | None) -> jax.Array:
        """A client's weight in the average: known beforehand, or how far its features moved."""
        if before is None or after is None:
            return client["weight"]
        norms = jnp.linalg.norm(before, axis=-1) * jnp.linalg.norm(after, axis=-1)
        moved = jnp.mean(1.0 - jnp.sum(before * after, axis=-1) / jnp.maximum(norms, 1e-12))
        return jnp.maximum(moved, 0.0) * (client["weight"] > 0)

    def _moved(self, state: state_lib.TrainState, batch: Any) -> jax.Array | None:
        return self._features(state.variables, batch) if self.options.weights == "cdw" else None

    def _shared(self, state: state_lib.TrainState) -> Flat:
        """theta by path."""
        return {path: leaf for path, leaf in trees.flatten(state.variables).items() if path not in self.personal}

    def _kept(self, local: state_lib.TrainState) -> dict[str, Any]:
        """What stays on a client after its training."""
        flat = trees.flatten(local.variables)
        kept: dict[str, Any] = {"own": trees.unflatten({path: flat[path] for path in sorted(self.personal)})}
        return {**kept, "opt_state": local.opt_state} if self.options.optimizer_state == "kept" else kept

    def _contribution(self, local: state_lib.TrainState, weight: jax.Array) -> dict[str, Any]:
        flat = trees.flatten(local.variables)
        return {"weight": weight, "average": {path: weight * flat[path] for path in sorted(self.averaged)}}

    def _averaged(
        self, state: state_lib.TrainState, total: Mapping[str, Any], kept: Mapping[str, Any]
    ) -> state_lib.TrainState:
        """The server's side: theta from the weighted sum."""
        flat = trees.flatten(state.variables)
        new = dict(total["average"])
        if self.options.weights == "cdw":
            share = jnp.where(total["weight"] > 0, total["weight"], 1.0)
            new = {path: jnp.where(total["weight"] > 0, leaf / share, flat[path]) for path, leaf in new.items()}
        averaged = state.with_variables(trees.unflatten({**flat, **new}))
        return averaged.replace(step=state.step + 1, extra={**state.extra, "clients": kept})

    # ---- a round as one program -------------------------------------------------------------------------------------

    def _round(self, state: state_lib.TrainState, batch: Any) -> tuple[state_lib.TrainState, dict[str, jax.Array]]:
        shared, kept = self._shared(state), state.extra["clients"]
        batch = dict(batch)
        column = batch.pop("client")
        parts = [self._slots(group, column, batch) for group in self.federation.groups]
        present = jnp.concatenate([ids for ids, _, _ in parts])
        weights = jnp.where(present >= 0, jnp.asarray(self._about["weight"])[present], 0.0)
        if self.options.weights != "cdw":
            weights = normalized(weights)
        total: Any = None
        for group, (ids, active, batches) in zip(self.federation.groups, parts, strict=True):
            mine, weights = weights[: group.slots], weights[group.slots :]
            about = {name: jnp.asarray(values)[ids] for name, values in self._about.items()} | {"weight": mine}
            own = jax.tree.map(lambda x, ids=ids: x[ids], kept)
            sums, trained = self._over_devices(group.slots)(shared, state.step, about, own, active, batches)
            total = sums if total is None else jax.tree.map(jnp.add, total, sums)
            # An empty slot writes behind the last client: dropped.
            places = jnp.where(ids >= 0, ids, len(self.federation.clients))
            kept = jax.tree.map(lambda old, new, at=places: old.at[at].set(new, mode="drop"), kept, trained)
        metrics = {name: value / jnp.maximum(total["count"], 1) for name, value in total["metrics"].items()}
        return self._averaged(state, total, kept), metrics

    def _slots(self, group: clients_lib.Group, column: jax.Array, batch: Any) -> tuple[jax.Array, jax.Array, Any]:
        """A group's clients [n] (-1: none), which local steps are real [n, S], and the batches [n, S, B, ...]."""
        cut = lambda x: x[group.rows].reshape(group.slots, group.size, *x.shape[1:])
        clients = cut(column)[:, 0]  # [n, S]
        batches = jax.tree.map(lambda x: jnp.moveaxis(cut(x), 2, 1), batch)
        return jnp.max(clients, axis=1), clients >= 0, batches

    def _over_devices(self, slots: int) -> Callable[..., Any]:
        """`_train_slots`, dealt out over the devices where the slots divide evenly."""
        if self.mesh.size == 1 or slots % self.mesh.size:
            return self._train_slots
        split, whole = PartitionSpec(mesh_lib.AXIS), PartitionSpec()

        def local(*arguments: Any) -> Any:
            sums, kept = self._train_slots(*arguments)
            return jax.tree.map(lambda x: jax.lax.psum(x, mesh_lib.AXIS), sums), kept

        in_specs = (whole, whole, split, split, split, split)
        return jax.shard_map(local, mesh=self.mesh, in_specs=in_specs, out_specs=(whole, split), check_vma=False)

    def _train_slots(
        self, shared: Flat, number: jax.Array, about: Any, own: Any, active: jax.Array, batches: Any
    ) -> tuple[dict[str, Any], Any]:
        """Trains the clients of some slots; the sums of their contributions, and what each keeps [n, ...]."""
        slots = active.shape[0]
        width = next(w for w in range(min(self.options.side_by_side, slots), 0, -1) if slots % w == 0)
        train = functools.partial(self._train_client, shared, number)
        chunks = jax.tree.map(lambda x: x.reshape(slots // width, width, *x.shape[1:]), (about, own, active, batches))

        def chunk(scanned: Any) -> tuple[Any, Any]:
            if width == 1:
                sums, kept = train(*jax.tree.map(lambda x: x[0], scanned))
                return sums, jax.tree.map(lambda x: x[None], kept)
            sums, kept = jax.vmap(train)(*scanned)
            return jax.tree.map(lambda x: jnp.sum(x, axis=0), sums), kept

        def body(total: Any, scanned: Any) -> tuple[Any, Any]:
            sums, kept = chunk(scanned)
            return jax.tree.map(jnp.add, total, sums), kept

        shapes = jax.eval_shape(chunk, jax.tree.map(lambda x: x[0], chunks))[0]
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        total, kept = jax.lax.scan(body, zeros, chunks)
        return total, jax.tree.map(lambda x: x.reshape(slots, *x.shape[2:]), kept)

    def _train_client(
        self, shared: Flat, number: jax.Array, client: Any, own: Any, active: jax.Array, batches: Any
    ) -> tuple[dict[str, Any], Any]:
        """All local steps of one client; those that are not real leave it as it is."""
        start = self._start(shared, client, own, number)
        first = jax.tree.map(lambda x: x[0], batches)
        update = lambda local, batch: self._update(local, shared, client, batch)
        shapes = jax.eval_shape(update, start, first)[1]
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

        def body(local: Any, scanned: Any) -> tuple[Any, Any]:
            batch, real = scanned
            return jax.lax.cond(real, lambda: update(local, batch), lambda: (local, zeros))

        end, metrics = jax.lax.scan(body, start, (batches, active))
        weight = self._weight(client, self._moved(start, first), self._moved(end, first))
        sums = {
            **self._contribution(end, weight),
            "metrics": jax.tree.map(lambda x: jnp.sum(x, axis=0), metrics),
            "count": jnp.sum(active, dtype=jnp.float32),
        }
        return sums, self._kept(end)

    # ---- a round step by step ---------------------------------------------------------------------------------------

    def _by_steps(self, state: state_lib.TrainState, batch: Any) -> tuple[state_lib.TrainState, dict[str, jax.Array]]:
        number = int(jax.device_get(state.step))
        shared, kept = self._shared(state), state.extra["clients"]
        batch = {name: value for name, value in batch.items() if name != "client"}
        weights = self._about["weight"]
        if self.options.weights != "cdw":
            chosen = np.isin(np.arange(len(weights)), self.federation.participants(number))
            weights = np.asarray(normalized(np.where(chosen, weights, 0.0)))
        total: Any = None
        for group, slots in zip(self.federation.groups, self.federation.slots(number), strict=True):
            for place, k in enumerate(slots):
                if k == clients_lib.NOBODY:
                    continue
                client = {**{name: values[k] for name, values in self._about.items()}, "weight": weights[k]}
                row = group.first_row + place * group.size
                own = jax.tree.map(lambda x, k=k: x[k], kept)
                sums, end = self._client_by_steps(shared, client, own, batch, number, row, group.size)
                total, kept = self._collect(total, kept, sums, self._kept(end), k)
        metrics = {name: value / total["count"] for name, value in total["metrics"].items()}
        return self._average(state, total, kept), metrics

    def _client_by_steps(
        self, shared: Flat, client: Any, own: Any, batch: Any, number: int, row: int, size: int
    ) -> tuple[dict[str, Any], state_lib.TrainState]:
        """The same as `_train_client`, a compiled step at a time."""
        local = self._start_alone(shared, client, own, number)
        first = jax.tree.map(lambda x: x[row : row + size, 0], batch)
        moved = self._features_alone if self.options.weights == "cdw" else lambda *_: None
        before, metrics = moved(local, first), None
        for place in range(int(client["steps"])):
            local, told = self._update_alone(local, shared, client, batch, (row, place), size)
            metrics = told if metrics is None else jax.tree.map(jnp.add, metrics, told)
        weight = self._weight(client, before, moved(local, first))
        count = jnp.float32(client["steps"])
        return {**self._contribution(local, weight), "metrics": metrics, "count": count}, local

    def _update_rows(
        self, local: state_lib.TrainState, shared: Flat, client: Any, batch: Any, place: Any, size: int
    ) -> tuple[state_lib.TrainState, dict[str, jax.Array]]:
        """A local step on rows [row, row + size) of local step `place` of a round's batch."""
        row, at = place
        cut = lambda x: jax.lax.dynamic_slice_in_dim(jax.lax.dynamic_index_in_dim(x, at, 1, False), row, size)
        mine = jax.tree.map(cut, batch)
        if size % self.mesh.size == 0:
            mine = jax.lax.with_sharding_constraint(mine, mesh_lib.sharded(self.mesh))
        return self._update(local, shared, client, mine)

    def _collected(self, total: Any, kept: Any, sums: Any, own: Any, k: jax.Array) -> tuple[Any, Any]:
        total = sums if total is None else jax.tree.map(jnp.add, total, sums)
        return total, jax.tree.map(lambda old, new: old.at[k].set(new), kept, own)


def _at_position(opt_state: Any, position: jax.Array) -> Any:
    """An optimizer's state whose learning rate is that of an update number."""
    is_rate = lambda node: isinstance(node, optimizer_lib.RateState)
    position = jnp.asarray(position, jnp.int32)
    return jax.tree.map(
        lambda node: optimizer_lib.RateState(position) if is_rate(node) else node, opt_state, is_leaf=is_rate
    )
