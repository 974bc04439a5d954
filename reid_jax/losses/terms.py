"""Loss terms of a config: which function, on which outputs, with which weight.

    losses = dict(
        ce_b=dict(loss="cross_entropy", on="logits/b", weight=1.0, label_smoothing=0.1),
        tri_b=dict(loss="triplet", on="feature/b", margin=0.3),
        cen_b=dict(loss="center", on=("feature/b", "extra/centers"), weight=5e-4),
    )

A loss is `fn(*arrays, labels, **options) -> float32 scalar`; its positional arguments are the outputs the term names,
its keyword-only arguments are the options of the term. A loss without a `labels` argument gets none.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from reid_jax import errors
from reid_jax.losses import (
    accuracy,
    bridge,
    center,
    consistency,
    contrastive,
    cross_entropy,
    distillation,
    diversity,
    focal,
    masked_patches,
    parsing,
    supcon,
    triplet,
)

LOSSES: dict[str, Callable[..., jax.Array]] = {
    "accuracy": accuracy.accuracy,
    "center": center.center,
    "consistency": consistency.consistency,
    "contrastive": contrastive.contrastive,
    "cosine_distillation": distillation.cosine_distillation,
    "cross_entropy": cross_entropy.cross_entropy,
    "focal": focal.focal,
    "gaussian_divergence": bridge.gaussian_divergence,
    "generative_distillation": distillation.generative_distillation,
    "masked_patches": masked_patches.masked_patches,
    "mean_squared": bridge.mean_squared,
    "parsing": parsing.parsing,
    "part_diversity": diversity.part_diversity,
    "supcon": supcon.supcon,
    "triplet": triplet.triplet,
}

RESERVED = ("loss", "on", "weight", "labels", "turn")
"""Keys of a term that are not options of its loss."""


def of_turn(
    terms: Mapping[str, Mapping[str, Any] | None], turn: str, turns: Sequence[str]
) -> dict[str, Mapping[str, Any]]:
    """The terms of one of several updates that a step makes: those of its `turn`, and those that name none.

    Args:
        terms: as in `evaluate_terms`.
        turn: the update's name; "" takes all terms.
        turns: all names.

    Raises:
        UserError: a term of a turn that does not exist.
    """
    named = {name: term for name, term in terms.items() if term is not None}
    for name, term in named.items():
        if turns and term.get("turn", turn) not in turns:
            raise _of_term(name, errors.unknown("turn", str(term["turn"]), turns))
    return {name: term for name, term in named.items() if not turn or term.get("turn", turn) == turn}


def evaluate_terms(
    terms: Mapping[str, Mapping[str, Any] | None], values: Mapping[str, jax.Array]
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Adds up the weighted terms.

    Args:
        terms: name -> `dict(loss=..., on=..., weight=1.0, labels="batch/label", **options)`; None switches a term off.
        values: everything a term may read: the model's outputs, "batch/..." and "extra/..." arrays.

    Returns:
        total: float32 scalar, the sum of `weight * value`. A term of weight zero is reported but neither added nor
            differentiated.
        values: {"loss/<term>": unweighted float32 scalar}.

    Raises:
        UserError: an unknown loss, output or option, or too few or too many outputs; raised while tracing.
    """
    total = jnp.zeros((), jnp.float32)
    reported = {}
    for name, term in terms.items():
        if term is None:
            continue
        weight = term.get("weight", 1.0)
        value = _evaluate(name, term, values).astype(jnp.float32)
        if isinstance(weight, (int, float)) and weight == 0:
            value = jax.lax.stop_gradient(value)
        else:
            total = total + weight * value
        reported[f"loss/{name}"] = value
    return total, reported


def _evaluate(name: str, term: Mapping[str, Any], values: Mapping[str, jax.Array]) -> jax.Array:
    """Looks up one term's loss, inputs and options, and calls it."""
    for key in ("loss", "on"):
        if key not in term:
            raise errors.UserError(f"loss term {name!r} needs {key!r}; it has {', '.join(sorted(term)) or 'nothing'}.")
    if term["loss"] not in LOSSES:
        raise _of_term(name, errors.unknown("loss", term["loss"], LOSSES))
    function = LOSSES[term["loss"]]
    parameters = inspect.signature(function).parameters.values()
    inputs = [one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
    options = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]

    given = {key: value for key, value in term.items() if key not in RESERVED}
    for key in given:
        if key not in options:
            known = [*RESERVED, *(one for one in options if one != "labels")]
            raise _of_term(name, errors.unknown(f"setting of the {term['loss']!r} loss", key, known))
    names = (term["on"],) if isinstance(term["on"], str) else tuple(term["on"])
    if len(names) != len(inputs):
        wanted = f"{len(inputs)} output{'s' * (len(inputs) > 1)} ({', '.join(inputs)})"
        raise errors.UserError(
            f"loss term {name!r}: {term['loss']!r} reads {wanted}, `on` names {len(names)}: {names}."
        )
    if "labels" in options:
        given["labels"] = _pick(name, term.get("labels", "batch/label"), values)
    return function(*(_pick(name, one, values) for one in names), **given)


def _pick(term: str, name: str, values: Mapping[str, jax.Array]) -> jax.Array:
    """The named array, or an error that lists those there are."""
    if name not in values:
        raise _of_term(term, errors.unknown("output", name, values))
    return values[name]


def _of_term(name: str, error: errors.UserError) -> errors.UserError:
    """The same error, saying whose it is."""
    return errors.UserError(f"loss term {name!r}: {error}")
