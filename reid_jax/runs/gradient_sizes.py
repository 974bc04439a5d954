"""How large the loss terms of a phase are beside each other: their values, and their gradients at the class token.

A term whose gradient is a hundredth of the others' is inert, whatever its value looks like.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from reid_jax import build, errors, trees
from reid_jax.config import phases
from reid_jax.data import samplers
from reid_jax.ops import taps
from reid_jax.runs import experiment
from reid_jax.runs import folder as folder_lib
from reid_jax.train import checkpoints, objective

TAP = "tokens"  # of the ViTs' tokens [B, 1 + P, D] after the last normalization; what follows reads no other
PLACES = ("start", "end")


def of_run(path: str, phase: str, place: str = "end", batches: int = 4, parameters: str = "") -> dict[str, Any]:
    """Returns the sizes of a phase's terms in a run, see `measure`.

    Args:
        path: run folder.
        phase: name of a phase of its config, whether it is in the run's order or not; "" for a run without phases.
        place: "end", the newest checkpoint, or "start", before the first step of the run.
        batches: see `measure`.
        parameters: see `measure`.

    Raises:
        UserError: no run, or an unknown phase or place.
    """
    if place not in PLACES:
        raise errors.unknown("place in a run", place, PLACES)
    folder = folder_lib.RunFolder(path)
    run = experiment.Experiment(folder.read_config())
    if place == "start":
        initial = run.initial_state()
        return measure(run, initial.variables, initial.extra, phase, batches, parameters)
    variables, _ = checkpoints.restore_variables(folder.checkpoints, extra=True)
    return measure(run, variables, variables.pop("extra"), phase, batches, parameters)


def measure(
    run: experiment.Experiment,
    variables: build.Variables,
    extra: Mapping[str, Any],
    phase: str,
    batches: int,
    parameters: str = "",
) -> dict[str, Any]:
    """Returns the sizes of a phase's terms, averaged over batches.

    Args:
        run: a run of a ViT.
        variables: of the trained network.
        extra: networks and arrays that the phase reads.
        phase: name of the phase.
        batches: number of training batches, from the phase's first on.
        parameters: pattern of names of parameters ("bfg/.*"), or "".

    Returns:
        "terms": for each term its "weight", its unweighted "value", and of its weighted gradient with respect to the
        class tokens of a batch, those of the pass that runs last, the "gradient" (length) and its "cosine" with the
        gradient of all terms together; with `parameters`, "at_parameters", the length of its gradient with respect to
        those that match. "monitors": their values. "batches".

    Raises:
        UserError: an unknown phase, a network without these tokens, or a pattern that no parameter matches.
    """
    chosen = tuple(name for name in trees.flatten(variables["params"]) if parameters and re.fullmatch(parameters, name))
    if parameters and not chosen:
        raise errors.UserError(f"expected a pattern that matches names of parameters, got {parameters[:80]!r}.")
    order = (phase,) if phase else ()
    _, settings = phases.resolve(dataclasses.replace(run.settings, phase_order=order))[0]
    goal = run.plan.objective_of(settings, settings.losses)
    seed = samplers.derived_seed(settings.seed, "phase", 0)
    # Arguments of the program, not constants in it: arrays of checkpoints are numpy's, which no tracer can index.
    sizes = jax.jit(functools.partial(_sizes, goal, chosen))
    found = []
    with run.plan.open_batches(dataclasses.replace(settings.data, workers=0), seed, 0) as stream:
        for number in range(batches):
            found.append(
                jax.device_get(sizes(variables, extra, next(stream), jax.random.fold_in(jax.random.key(seed), number)))
            )
    return {"batches": batches, **jax.tree.map(lambda *values: round(float(np.mean(values)), 6), *found)}


def _sizes(
    goal: objective.Objective,
    parameters: tuple[str, ...],
    variables: build.Variables,
    extra: Mapping[str, Any],
    batch: objective.Batch,
    key: jax.Array,
) -> dict[str, Any]:
    """Returns what `measure` averages, of one batch."""
    batch, keys = goal.prepare(batch, key)
    with taps.watching() as found:
        outputs, _ = goal.outputs(variables, extra, batch, keys)
    names = [name for name in found if name.partition("#")[0] == TAP]
    if not names:
        raise errors.UserError("expected a ViT, whose terms read tokens, got another network.")
    tokens = found[names[-1]].value
    weights = {name: term.get("weight", 1.0) for name, term in goal.terms.items() if term is not None}

    def terms(first: jax.Array) -> dict[str, jax.Array]:
        with taps.watching({names[-1]: tokens.at[:, 0].set(first)}):
            changed, _ = goal.outputs(variables, extra, batch, keys)
        metrics = goal.loss(changed, extra, batch)[1]
        return {name: weight * metrics[f"loss/{name}"] for name, weight in weights.items()}

    gradients = jax.jacrev(terms)(tokens[:, 0])
    total = sum(gradients.values(), start=jnp.zeros_like(tokens[:, 0]))
    metrics = goal.loss(outputs, extra, batch)[1]
    at_parameters: dict[str, dict[str, jax.Array]] = {name: {} for name in weights}
    if parameters:

        def of_parameters(params: Any) -> dict[str, jax.Array]:
            changed, _ = goal.outputs({**variables, "params": params}, extra, batch, keys)
            values = goal.loss(changed, extra, batch)[1]
            return {name: weight * values[f"loss/{name}"] for name, weight in weights.items()}

        for name, gradient in jax.jacrev(of_parameters)(variables["params"]).items():
            flat = trees.flatten(gradient)
            at_parameters[name]["at_parameters"] = trees.global_norm([flat[path] for path in parameters])
    return {
        "terms": {
            name: {
                "weight": weights[name],
                "value": metrics[f"loss/{name}"],
                "gradient": jnp.linalg.norm(gradient),
                "cosine": _cosine(gradient, total),
                **at_parameters[name],
            }
            for name, gradient in gradients.items()
        },
        "monitors": {name.removeprefix("monitor/"): metrics[name] for name in metrics if name.startswith("monitor/")},
    }


def _cosine(first: jax.Array, second: jax.Array) -> jax.Array:
    return jnp.vdot(first, second) / jnp.maximum(jnp.linalg.norm(first) * jnp.linalg.norm(second), 1e-12)


def table(sizes: Mapping[str, Any]) -> str:
    """Returns the sizes as lines of text."""
    beside = any("at_parameters" in term for term in sizes["terms"].values())
    lines = [f"{'term':<16}{'weight':>9}{'value':>10}{'gradient':>11}{'cosine':>9}" + "  at parameters" * beside]
    for name, term in sizes["terms"].items():
        lines.append(
            f"{name:<16}{term['weight']:>9.3g}{term['value']:>10.4f}{term['gradient']:>11.5f}{term['cosine']:>9.2f}"
            + (f"{term['at_parameters']:>15.5f}" if beside else "")
        )
    return "\n".join([*lines, *(f"{name}: {value:.4f}" for name, value in sizes["monitors"].items())])
