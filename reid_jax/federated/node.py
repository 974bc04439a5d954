"""A node of a federation over a network: the computation of a client or of the server, without the transport.

A node trains a round with the code of the simulated federation (`reid_jax.federated.rounds`). Nodes that exchange theta
therefore compute the simulation's theta, except for the random draws of augmentation. `reid_jax.federated.flower`
connects nodes.
"""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import numpy as np

from reid_jax import errors, trees
from reid_jax.config.sections import Settings
from reid_jax.federated import federation_options as options_lib
from reid_jax.federated import phase, updates
from reid_jax.federated import rounds as rounds_lib
from reid_jax.runtime import mesh as mesh_lib
from reid_jax.train import checkpoints, loop
from reid_jax.train import state as state_lib

Arrays = Mapping[str, np.ndarray]  # by path


class Experiment(Protocol):
    """The part of `reid_jax.runs.experiment.Experiment` that a node uses."""

    settings: Settings
    mesh: jax.sharding.Mesh

    def initial_state(self) -> state_lib.TrainState:
        """Returns the state before the first round."""

    def phases(self, variables: Mapping[str, Any]) -> list[loop.Phase]:
        """Returns the phases of the run; a federated config has one."""

    def scores(self, train_state: state_lib.TrainState, at_step: int) -> dict[str, float]:
        """Returns the scores of a state on the test data, by name."""

    def first_meta(self) -> dict[str, Any]:
        """Returns what a checkpoint stores in addition to the state."""


class Node:
    """A model, its data and its rounds, with theta as input and output.

    Args:
        experiment: with `train.mode="federated"`; `fed.client` names the client, "" stands for all clients (the
            server's initial theta and its evaluation need no client).

    Raises:
        UserError: a config that is not federated, or a federation that exchanges more than theta and weights.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        settings = self.experiment.settings
        if not phase.is_federated(settings):
            raise errors.UserError("expected train.mode='federated', got 'joint'; set it, or train with main.py.")
        self.options = options_lib.Options.of(settings.fed)
        if self.options.bn == "local" or self.options.weights == "cdw":
            raise errors.UserError(
                "over a network clients send theta and their number of images: expected fed.bn='average' and "
                f"fed.weights of 'samples' or 'uniform', got {self.options.bn!r} and {self.options.weights!r}."
            )
        initial = self.experiment.initial_state()
        (self._phase,) = self.experiment.phases(initial.variables)
        rounds = self._phase.step
        assert isinstance(rounds, rounds_lib.Rounds)
        self._rounds = rounds
        self.state = self._phase.begin(initial)

    @property
    def weight(self) -> float:
        """Weight in the average before normalization: number of training images, or of clients."""
        clients = self._rounds.federation.clients
        return float(sum(client.images for client in clients) if self.options.weights == "samples" else len(clients))

    def theta(self) -> dict[str, np.ndarray]:
        """Returns the arrays that are exchanged, by path ("params/...", "batch_stats/...")."""
        flat = trees.flatten(self.state.variables)
        return {path: np.asarray(leaf) for path, leaf in flat.items() if path not in self._rounds.personal}

    def kept(self) -> dict[str, np.ndarray]:
        """Returns the arrays that never leave this node: its own classifiers, and the optimizer where it is kept."""
        return {path: np.asarray(leaf) for path, leaf in trees.flatten(self.state.extra["clients"]).items()}

    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns shape and type of the arrays that are exchanged, by path."""
        flat = trees.flatten(self.state.variables)
        return {
            path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
            for path, leaf in flat.items()
            if path not in self._rounds.personal
        }

    def receive(self, theta: Arrays, number: int) -> None:
        """Sets theta to its value before round `number` (from 0).

        Raises:
            UserError: theta of another model, or numbers that are not finite.
        """
        updates.check_theta(theta, self.shapes())
        flat = trees.flatten(self.state.variables)
        received = self.state.with_variables(trees.unflatten({**flat, **theta}))
        self.state = received.replace(step=np.asarray(number, np.int32))

    def recall(self, kept: Arrays) -> None:
        """Restores the arrays that `kept` returned earlier, possibly in another process."""
        own = self.state.extra["clients"]
        paths = trees.flatten(own)
        updates.check_fit(kept, paths)
        own = jax.tree.unflatten(jax.tree.structure(own), [kept[path] for path in paths])
        self.state = self.state.replace(extra={**self.state.extra, "clients": own})

    def train(self, theta: Arrays, number: int) -> dict[str, float]:
        """Trains round `number` (from 0) on this node's data, starting from theta; `theta` and `kept` have the result.

        Returns:
            Metrics of a train step, averaged over the local updates.
        """
        self.receive(theta, number)
        mesh = self.experiment.mesh
        with contextlib.closing(self._phase.open_batches(number)) as batches:
            batch = mesh_lib.to_global(next(iter(batches)), mesh)
        self.state, metrics = self._rounds(mesh_lib.replicate(self.state, mesh), batch)
        return {name: float(value) for name, value in metrics.items()}

    def scores(self) -> dict[str, float]:
        """Returns the scores of theta on this node's test data."""
        state = mesh_lib.replicate(self.state, self.experiment.mesh)
        return self.experiment.scores(state, int(self.state.step))

    def save(self, folder: pathlib.Path) -> None:
        """Writes theta as a checkpoint of a run, for main.py --mode eval, evaluate.py and extract.py.

        Args:
            folder: `checkpoints/` of the run folder.
        """
        step = int(self.state.step)
        with checkpoints.Checkpoints(folder) as saved:
            saved.save(step, self.state, {**self.experiment.first_meta(), "step": step}, wait=True)
