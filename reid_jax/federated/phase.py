"""The phase of a federated run: clients of the training split, their batches, and rounds as steps of the loop."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from reid_jax import errors
from reid_jax.config.sections import Data, Settings
from reid_jax.data import records
from reid_jax.federated import clients
from reid_jax.federated import federation_options as options_lib
from reid_jax.federated import rounds as rounds_lib
from reid_jax.train import loop, objective, optimizer

LOG = logging.getLogger(__name__)

# `(data section with a sampler, seed, first step) -> stream`, see `reid_jax.runs.experiment.Experiment`.
Opener = Callable[[Data, int, int], Any]


def is_federated(settings: Settings) -> bool:
    """Returns whether a config trains a federation of clients (`train.mode="federated"`).

    Raises:
        UserError: an unknown `train.mode`, or an option that federated training does not support.
    """
    mode = settings.train.mode
    if mode not in ("joint", "federated"):
        raise errors.unknown("way to train (train.mode)", str(mode), ("joint", "federated"))
    if mode == "joint":
        return False
    if not settings.fed:
        raise errors.UserError(
            f"expected a section fed for train.mode='federated', but the config of {settings.system!r} has none; "
            "add reid_jax.config.FEDERATED to it."
        )
    train = settings.train
    unfit = {
        "phase_order": bool(settings.phase_order),
        "extras": bool(settings.extras),
        "train.ema_decay": bool(train.ema_decay),
        "train.accumulate": train.accumulate != 1,
        "train.turns": bool(train.turns),
    }
    for key, given in unfit.items():
        if given:
            raise errors.UserError(f"federated training does not support {key}; remove it, or set train.mode='joint'.")
    return True


def phase(
    settings: Settings,
    split: records.Split,
    labels: np.ndarray,
    goal: objective.Objective,
    describe: Callable[[Any], Any],
    variables: Mapping[str, Any],
    mesh: jax.sharding.Mesh,
    open_batches: Opener,
    example: Callable[[Data, int], dict[str, np.ndarray]],
    margins: Mapping[str, float],
) -> loop.Phase:
    """Returns the only phase of a federated run; a step, and an epoch, is a round.

    Args:
        settings: resolved config.
        split: training split.
        labels: int [N], class of each of its images.
        goal: local objective.
        describe: method `describe` of the model.
        variables: variables of the model by collection; shapes suffice.
        mesh: devices.
        open_batches: opens a stream of training batches, `(data section, seed, first step) -> stream`.
        example: reads the first batch of such a stream, `(data section, seed) -> batch`.
        margins: see `loop.Phase`.

    Raises:
        UserError: options that contradict each other, the data or the devices.
    """
    options = options_lib.Options.of(settings.fed)
    seed, data = settings.seed, settings.data
    plan = _federation(settings, options, split, labels, mesh)
    transformation, groups = optimizer.build(
        settings.optimizer.as_dict(),
        options.schedule(settings.schedule),
        variables["params"],
        options.rounds * plan.steps,
        plan.steps,
    )
    features = _features(goal, describe)
    rounds = rounds_lib.Rounds(plan, goal, transformation, variables, options, features=features, mesh=mesh)
    sent = rounds.bytes_per_round
    LOG.info("parameter groups:\n%s", groups.describe())
    LOG.info(
        "federation of %d clients, %d in each round, %.1f MB down and up each round:\n%s",
        *(len(plan.clients), plan.per_round, sent["up"] / 1e6, plan.describe()),
    )
    stream = dataclasses.replace(data, sampler=clients.SlotSampler(plan))
    return loop.Phase(
        name="",
        first_step=0,
        last_step=options.rounds,
        steps_per_epoch=1,
        batch_size=plan.images_per_round,
        begin=rounds.begin,
        step=rounds,
        open_batches=functools.partial(_open_rounds, plan, functools.partial(open_batches, stream, seed)),
        learning_rates=lambda number: groups.learning_rates(number * plan.steps),
        margins=margins,
        about={
            "clients": len(plan.clients),
            "clients_per_round": plan.per_round,
            "local_steps_per_round": plan.steps,
            "bytes_down_per_round": sent["down"],
            "bytes_up_per_round": sent["up"],
        },
        example=lambda: _as_round(plan, example(stream, seed)),
    )


def _federation(
    settings: Settings, options: options_lib.Options, split: records.Split, labels: np.ndarray, mesh: jax.sharding.Mesh
) -> clients.Federation:
    """Returns the clients of a split and their batches, which the devices share evenly."""
    plan = clients.build(
        split,
        labels,
        clients=options.clients,
        client=options.client,
        num_clients=options.num_clients,
        fraction=options.fraction,
        local_epochs=options.local_epochs,
        sampler=settings.data.sampler,
        seed=settings.seed,
    )
    if plan.rows % mesh.size:
        raise errors.UserError(
            f"the {plan.rows} images of all clients' local batches do not divide evenly over {mesh.size} devices; "
            "change data.sampler, or use fewer devices."
        )
    return plan


def _features(goal: objective.Objective, describe: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    """Returns `(variables, batch) -> float32 [B, D]`, the descriptors by which clients are compared."""

    def features(variables: Any, batch: Any) -> Any:
        outputs = goal.apply(variables, goal.preprocess(batch, None), train=False)
        described = describe(outputs).features
        return described.reshape(described.shape[0], -1).astype(jnp.float32)

    return features


def _open_rounds(plan: clients.Federation, open_steps: Callable[[int], Any], first_round: int) -> clients.RoundBatches:
    return clients.RoundBatches(plan, open_steps(first_round * plan.steps))


def _as_round(plan: clients.Federation, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns a batch of a whole round from one local step, for its shapes."""
    return {
        name: np.broadcast_to(value[:, None], (len(value), plan.steps, *value.shape[1:]))
        for name, value in batch.items()
    }
