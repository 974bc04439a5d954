"""Arrays of one value each, such as the first moments of an optimizer, made without compiling a program.

Outside of `jax.jit` every operation compiles a program of its own for each shape: 30 ms for each of the dozens of
shapes of a network, at every start.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend import core


def evaluated(function: Callable[..., Any], *arguments: Any) -> Any:
    """Returns a function's results; filled on the host where every one of them is an array of one value.

    A function with other results, and one called while a program is traced, is called as it is.

    Args:
        function: a pure function of arrays.
        arguments: its arguments, trees of arrays.
    """
    leaves = jax.tree.leaves(arguments)
    if any(isinstance(leaf, jax.core.Tracer) or not hasattr(leaf, "dtype") for leaf in leaves):
        return function(*arguments)
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
    values = _filled(closed)
    if values is None:
        return function(*arguments)
    return jax.tree.unflatten(jax.tree.structure(shapes), jax.device_put(values))


def _filled(closed: Any) -> list[np.ndarray] | None:
    """Returns the outputs of a program of constants, each with memory of its own; None for another program."""
    known: dict[Any, Any] = {}
    for equation in closed.jaxpr.eqns:
        # A scalar next to arrays that lie on a mesh is put there first.
        passes = equation.primitive.name in ("broadcast_in_dim", "reshard")
        first = equation.invars[0] if passes else None
        if isinstance(first, core.Literal) and np.ndim(first.val) == 0:
            known[equation.outvars[0]] = first.val
        elif isinstance(first, core.Var) and first in known:
            known[equation.outvars[0]] = known[first]
    filled = []
    for variable in closed.jaxpr.outvars:
        constant = isinstance(variable, core.Literal)
        if variable.aval.weak_type or not (constant or variable in known):
            return None
        value = variable.val if constant else known[variable]
        filled.append(np.full(variable.aval.shape, value, variable.aval.dtype))
    return filled
