"""Distance functions of the user's own code, named by path in a config or on the command line.

`evals.metric = "my_project.distances:angular"` names a function that takes two blocks of features and returns the
distance of every row of the first to every row of the second:

    def angular(x, y):  # x: [n, D] queries, y: [m, D] gallery images, float32 jax arrays
        x, y = (one / jnp.linalg.norm(one, axis=1, keepdims=True) for one in (x, y))
        return jnp.arccos(jnp.clip(x @ y.T, -1, 1))  # [n, m], small for the same person

The function is traced by `jax.jit` and called on blocks, so it must consist of jax operations, and the distance of two
rows must not depend on the other rows of the blocks (some of which are padding). Features arrive as they were
extracted, not normalized. A descriptor of S slots is compared slot by slot. Compiled programs are cached by the
identity of the function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from reid_jax import errors
from reid_jax.plugins import names

Array = Any  # numpy on the host, jax inside programs
Measure = Callable[[Array, Array], Array]


def find(metric: str) -> Measure:
    """Returns the function that `package.module:Name` stands for.

    Raises:
        UserError: the path leads nowhere, or to something that cannot be called.
    """
    function = names.load("metric", metric)
    if not callable(function) or isinstance(function, type):
        raise errors.UserError(
            f"expected the metric {metric!r} to be a function of two blocks of features, it is a "
            f"{type(function).__name__}; name a function."
        )
    return function  # type: ignore[no-any-return]  # a callable of unknown signature, checked by `apply`


def apply(measure: Measure, query: Array, gallery: Array) -> Array:
    """Returns the distances [n, m] of queries [n, D] to gallery images [m, D]; called inside compiled programs.

    Raises:
        UserError: the function fails on two blocks of features, or what it returns is no [n, m] array of real numbers.
    """
    try:
        values = jnp.asarray(measure(query, gallery))
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise errors.UserError(
            f"the metric {_name(measure)} failed on blocks of {query.shape} and {gallery.shape} with "
            f"{type(error).__name__}: {reason}; it must consist of jax operations on arrays."
        ) from error
    expected = (query.shape[0], gallery.shape[0])
    if values.shape != expected or not jnp.issubdtype(values.dtype, jnp.floating):
        raise errors.UserError(
            f"expected the metric {_name(measure)} to return real numbers of shape {expected} for blocks of "
            f"{query.shape} and {gallery.shape}, got {values.dtype} of shape {values.shape}; repair that function."
        )
    return values.astype(jnp.float32)


def refuse_not_finite(measure: Measure | None, *values: np.ndarray) -> None:
    """Raises a `UserError` where distances of an own metric are NaN or infinite; the package's metrics never are."""
    if measure is not None and not all(np.isfinite(array).all() for array in values):
        raise not_finite(measure)


def not_finite(measure: Measure) -> errors.UserError:
    """Builds the error for a metric that gave NaN or infinity for finite features."""
    return errors.UserError(
        f"expected finite distances from the metric {_name(measure)}, some are NaN or infinite; look for a square "
        "root or arc cosine outside its domain and clip its argument."
    )


def _name(measure: Measure) -> str:
    name = getattr(measure, "__qualname__", type(measure).__name__)
    return f"'{getattr(measure, '__module__', '?')}:{name}'"
