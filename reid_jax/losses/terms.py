"""Weighted sum of the loss terms that a config lists.

    losses = dict(
        ce_b=dict(loss="cross_entropy", on="logits/b", weight=1.0, label_smoothing=0.1),
        tri_b=dict(loss="triplet", on="feature/b", margin=0.3),
        cen_b=dict(loss="center", on=("feature/b", "extra/centers"), weight=5e-4),
        circle=dict(loss="my_project.losses:circle", on="feature/b", scale=64.0),
    )

`reid_jax.losses` says what a loss function looks like.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp

from reid_jax import errors
from reid_jax.losses import (
    accuracy,
    alignment,
    bridge,
    center,
    consistency,
    contrastive,
    cross_entropy,
    distillation,
    diversity,
    focal,
    masked_patches,
    monitors,
    parsing,
    supcon,
    triplet,
)
from reid_jax.plugins import names

LOSSES: dict[str, Callable[..., Any]] = {
    "accuracy": accuracy.accuracy,
    "align": alignment.align,
    "align_tracks": alignment.align_tracks,
    "center": center.center,
    "cosine": monitors.cosine,
    "consistency": consistency.consistency,
    "contrastive": contrastive.contrastive,
    "cosine_distillation": distillation.cosine_distillation,
    "cross_entropy": cross_entropy.cross_entropy,
    "effective_rank": monitors.effective_rank,
    "focal": focal.focal,
    "gaussian_divergence": bridge.gaussian_divergence,
    "generative_distillation": distillation.generative_distillation,
    "masked_patches": masked_patches.masked_patches,
    "mean_squared": bridge.mean_squared,
    "parsing": parsing.parsing,
    "patch_statistics": masked_patches.patch_statistics,
    "part_diversity": diversity.part_diversity,
    "supcon": supcon.supcon,
    "triplet": triplet.triplet,
}

RESERVED = ("loss", "on", "weight", "labels", "turn")
"""Keys of a term that are not options of its loss."""


def of_turn(
    terms: Mapping[str, Mapping[str, Any] | None], turn: str, turns: Sequence[str]
) -> dict[str, Mapping[str, Any]]:
    """Returns the loss terms of an update: those of its `turn`, and those without a turn.

    Args:
        terms: as in `evaluate_terms`.
        turn: name of the update; "" selects all terms.
        turns: names of all updates of a step.

    Raises:
        UserError: a term of an unknown turn.
    """
    active = {name: term for name, term in terms.items() if term is not None}
    for name, term in active.items():
        if turns and term.get("turn", turn) not in turns:
            raise _in_term(name, errors.unknown("turn", str(term["turn"]), turns))
    return {name: term for name, term in active.items() if not turn or term.get("turn", turn) == turn}


def evaluate_terms(
    terms: Mapping[str, Mapping[str, Any] | None], values: Mapping[str, jax.Array]
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the weighted sum of the terms, and each term's value.

    Args:
        terms: name -> `dict(loss=..., on=..., weight=1.0, labels="batch/label", **options)`; None switches a term off.
        values: everything a term may read: the model's outputs, "batch/..." and "extra/..." arrays.

    Returns:
        total: float32 scalar, the sum of `weight * value`. A term of weight zero is reported but neither added nor
            differentiated.
        metrics: {"loss/<term>": unweighted float32 scalar}, and "loss/<term>/<metric>" for each metric that the loss
            function returns in addition to its value.

    Raises:
        UserError: an unknown loss, output or option, or too few or too many outputs; raised while tracing.
    """
    total = jnp.zeros((), jnp.float32)
    metrics: dict[str, jax.Array] = {}
    for name, term in terms.items():
        if term is None:
            continue
        weight = term.get("weight", 1.0)
        with jax.named_scope(f"loss_{name}"):
            value, details = _evaluate(name, term, values)
        if isinstance(weight, (int, float)) and weight == 0:
            value = jax.lax.stop_gradient(value)
        else:
            total = total + weight * value
        metrics[f"loss/{name}"] = value
        metrics |= {f"loss/{name}/{key}": jnp.asarray(detail, jnp.float32) for key, detail in details.items()}
    return total, metrics


def check_term(name: str, term: Mapping[str, Any]) -> Callable[..., Any]:
    """Returns the loss function of a term after checking its name, its options and the number of its inputs.

    Args:
        name: the term's name, for messages.
        term: see `evaluate_terms`.

    Raises:
        UserError: an unknown loss or option, a missing key, or too few or too many inputs.
    """
    for key in ("loss", "on"):
        if key not in term:
            raise errors.UserError(f"loss term {name!r} needs {key!r}; it has {', '.join(sorted(term)) or 'nothing'}.")
    function = _function(name, term["loss"])
    _options(name, term, function, _inputs(name, term))
    return function


def _inputs(name: str, term: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names of a term's inputs."""
    inputs = (term["on"],) if isinstance(term["on"], str) else term["on"]
    if not isinstance(inputs, tuple | list) or not all(isinstance(each, str) for each in inputs):
        raise errors.UserError(f"loss term {name!r}: expected names of outputs as `on`, got {type(inputs).__name__}.")
    return tuple(inputs)


def _evaluate(
    name: str, term: Mapping[str, Any], values: Mapping[str, jax.Array]
) -> tuple[jax.Array, Mapping[str, jax.Array]]:
    """Returns a term's float32 value and its metrics."""
    function = check_term(name, term)
    outputs = _inputs(name, term)
    options = _options(name, term, function, outputs)
    if _takes_labels(function):
        options["labels"] = _pick(name, term.get("labels", "batch/label"), values)
    returned = function(*(_pick(name, output, values) for output in outputs), **options)
    value, details = returned if isinstance(returned, tuple) else (returned, {})
    if jnp.shape(value):
        raise errors.UserError(
            f"loss term {name!r}: expected {term['loss']!r} to return a scalar, got shape {jnp.shape(value)}; average "
            "over the batch in the loss function."
        )
    return jnp.asarray(value).astype(jnp.float32), details


def _function(name: str, loss: str) -> Callable[..., Any]:
    """Returns the loss function of a term."""
    try:
        function = names.find("loss", str(loss), LOSSES)
    except errors.UserError as error:
        raise _in_term(name, error) from error
    if not callable(function):
        raise errors.UserError(
            f"loss term {name!r}: expected {loss!r} to be a function, got {type(function).__name__}; name a function."
        )
    return cast(Callable[..., Any], function)


def _options(
    name: str, term: Mapping[str, Any], function: Callable[..., Any], outputs: Sequence[str]
) -> dict[str, Any]:
    """Returns a term's options after checking them, and the number of outputs, against the function's signature."""
    parameters = inspect.signature(function).parameters.values()
    inputs = [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    accepted = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    given = {key: value for key, value in term.items() if key not in RESERVED}
    for key in given:
        if key not in accepted:
            known = [*RESERVED, *(option for option in accepted if option != "labels")]
            raise _in_term(name, errors.unknown(f"setting of the {term['loss']!r} loss", key, known))
    if len(outputs) != len(inputs):
        wanted = f"{len(inputs)} output{'s' * (len(inputs) > 1)} ({', '.join(inputs)})"
        raise errors.UserError(
            f"loss term {name!r}: {term['loss']!r} reads {wanted}, `on` names {len(outputs)}: {tuple(outputs)}."
        )
    return given


def read_labels(terms: Mapping[str, Mapping[str, Any] | None]) -> bool:
    """Returns whether one of the loss terms compares images by their classes."""
    return any(term is not None and _takes_labels(_function(name, term["loss"])) for name, term in terms.items())


def read_arrays(terms: Mapping[str, Mapping[str, Any] | None]) -> set[str]:
    """Returns the names of all arrays that the loss terms read, those for `labels` included."""
    active = {name: term for name, term in terms.items() if term is not None}
    labels = {str(term.get("labels") or "batch/label") for term in active.values()}
    return labels | {output for name, term in active.items() for output in _inputs(name, term)}


def _takes_labels(function: Callable[..., Any]) -> bool:
    """Returns whether a loss function has the keyword-only argument `labels`."""
    labels = inspect.signature(function).parameters.get("labels")
    return labels is not None and labels.kind is labels.KEYWORD_ONLY


def _pick(term: str, name: str, values: Mapping[str, jax.Array]) -> jax.Array:
    """Returns the named array, or raises an error that lists those there are."""
    if name not in values:
        raise _in_term(term, errors.unknown("output", name, values))
    return values[name]


def _in_term(name: str, error: errors.UserError) -> errors.UserError:
    """Returns the same error with the name of the term."""
    return errors.UserError(f"loss term {name!r}: {error}")
