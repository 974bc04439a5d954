"""Distances between all pairs of two sets of vectors, for losses (differentiable, whole matrix at once).

Evaluation ranks large galleries with blocked code of its own; here both sets are batches. Products are taken at the
highest precision: with the short mantissa an accelerator uses by default, `|x|² + |y|² - 2xy` loses the small distances
on which hard mining depends.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from reid_jax.ops import taps


def normalize_rows(x: jax.Array, epsilon: float = 1e-12) -> jax.Array:
    """Scales each vector to unit Euclidean length.

    Args:
        x: [..., D] vectors.
        epsilon: shortest length divided by; a zero vector stays zero, with a finite gradient.

    Returns:
        [..., D] float32, each row of length one (or shorter than one where its length was below `epsilon`).
    """
    x = x.astype(jnp.float32)
    squared = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x / taps.tap("length", jnp.sqrt(jnp.maximum(squared, epsilon**2)))


def pairwise_squared_euclidean(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns the squared Euclidean distance of every row of `x` to every row of `y`.

    Args:
        x: [N, D] vectors.
        y: [M, D] vectors.

    Returns:
        [N, M] float32, never negative: what rounding pushes below zero is returned as zero.
    """
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    product = jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)  # [N, M]
    lengths = jnp.sum(jnp.square(x), axis=1)[:, None] + jnp.sum(jnp.square(y), axis=1)[None, :]
    return jnp.maximum(lengths - 2.0 * product, 0.0)


def pairwise_euclidean(x: jax.Array, y: jax.Array, epsilon: float = 1e-12) -> jax.Array:
    """Returns the Euclidean distance of every row of `x` to every row of `y`, `sqrt(max(d², epsilon))`.

    The floor keeps the gradient finite: it is zero, not infinite, for two equal vectors.

    Args:
        x: [N, D] vectors.
        y: [M, D] vectors.
        epsilon: floor of the *squared* distance.

    Returns:
        [N, M] float32, at least `sqrt(epsilon)`.
    """
    return jnp.sqrt(jnp.maximum(pairwise_squared_euclidean(x, y), epsilon))


def pairwise_cosine(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns the cosine distance, `1 - cos`, of every row of `x` to every row of `y`.

    Args:
        x: [N, D] vectors.
        y: [M, D] vectors.

    Returns:
        [N, M] float32 in [0, 2]; a zero vector is at distance one from everything.
    """
    return 1.0 - jnp.matmul(normalize_rows(x), normalize_rows(y).T, precision=jax.lax.Precision.HIGHEST)
