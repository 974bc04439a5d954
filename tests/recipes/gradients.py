"""Which inputs of a loss term receive no gradient, found by tracing the loss function and without running it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from reid_jax.losses import terms

_ROWS = jax.ShapeDtypeStruct((4, 6), jnp.float32)
_PARTS = jax.ShapeDtypeStruct((4, 8, 6), jnp.float32)
_LABELS = jax.ShapeDtypeStruct((4,), jnp.int32)
# Inputs that are no [B, D]; by loss, in the order of its inputs.
_SLOTS = {"part": 8, "group": 5, "body": 1}
_SHAPES: dict[str, tuple[Any, ...]] = {
    "cosine_distillation": (_PARTS, _PARTS),
    "part_diversity": (jax.ShapeDtypeStruct((4, 2, 8, 6), jnp.float32),),
    "parsing": (_PARTS, jax.ShapeDtypeStruct((4, 8), jnp.int32)),
    "masked_patches": (
        jax.ShapeDtypeStruct((4, 2, 12), jnp.float32),
        jax.ShapeDtypeStruct((4, 4, 2, 3), jnp.float32),
        jax.ShapeDtypeStruct((4, 2), jnp.float32),
    ),
    "patch_statistics": (
        jax.ShapeDtypeStruct((4, 2, 2), jnp.float32),
        jax.ShapeDtypeStruct((4, 4, 2, 3), jnp.float32),
        jax.ShapeDtypeStruct((4, 2), jnp.float32),
    ),
}


def stopped_by_loss(term: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names of the inputs through which a term's own loss function passes no gradient."""
    names = (term["on"],) if isinstance(term["on"], str) else tuple(term["on"])
    options = {key: value for key, value in term.items() if key not in terms.RESERVED}
    stopped = _stopped(term["loss"], bool(options.get("parts")), tuple(options.items()))
    return tuple(name for name, still in zip(names, stopped, strict=True) if still)


@functools.cache
def _stopped(loss: str, parts: bool, options: tuple[tuple[str, Any], ...]) -> tuple[bool, ...]:
    """Returns for each input of a loss whether it receives no gradient."""
    function = terms.LOSSES[loss]
    parameters = inspect.signature(function).parameters.values()
    inputs = [one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
    shapes = _SHAPES.get(loss, (_PARTS if parts else _ROWS,) * len(inputs))
    if "granularities" in dict(options):
        slots = sum(_SLOTS[level] for level in dict(options)["granularities"])
        shapes = (jax.ShapeDtypeStruct((4, slots, 6), jnp.float32), _PARTS)
    labels = {"labels": _LABELS} if "labels" in inspect.signature(function).parameters else {}
    real = [at for at, one in enumerate(shapes) if jnp.issubdtype(one.dtype, jnp.floating)]

    def value(floats: list[jax.Array], whole: dict[int, jax.Array], labels: dict[str, jax.Array]) -> jax.Array:
        given = dict(zip(real, floats, strict=True)) | whole
        returned = function(*(given[at] for at in range(len(inputs))), **labels, **dict(options))
        return returned[0] if isinstance(returned, tuple) else returned

    whole = {at: one for at, one in enumerate(shapes) if at not in real}
    traced = jax.make_jaxpr(jax.grad(value))([shapes[at] for at in real], whole, labels).jaxpr
    reached = set(traced.invars)
    for equation in traced.eqns:
        if any(one in reached for one in equation.invars if not hasattr(one, "val")):
            reached |= set(equation.outvars)
    flowing = {at for at, out in zip(real, traced.outvars, strict=True) if not hasattr(out, "val") and out in reached}
    return tuple(at not in flowing for at in range(len(inputs)))
