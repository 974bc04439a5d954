"""Quantities of training that are logged and not minimized, for `config.monitors`."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from reid_jax.ops import distances


def effective_rank(feature: jax.Array) -> jax.Array:
    """Returns the effective rank of a batch of features: the exponential of the entropy of their spectrum.

    Args:
        feature: [B, D].

    Returns:
        float32 scalar in [1, min(B - 1, D)]: how many directions carry the variance; 1 for features on a line.

    References:
        Roy and Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007.
    """
    centered = feature.astype(jnp.float32)
    centered = centered - jnp.mean(centered, axis=0, keepdims=True)
    if centered.shape[0] < centered.shape[1]:
        centered = centered.T
    products = jnp.matmul(centered.T, centered, precision=jax.lax.Precision.HIGHEST)
    spectrum = jnp.maximum(jnp.linalg.eigvalsh(products), 0.0)
    share = spectrum / jnp.maximum(jnp.sum(spectrum), 1e-12)
    return jnp.exp(-jnp.sum(jnp.where(share > 0, share * jnp.log(jnp.maximum(share, 1e-30)), 0.0)))


def cosine(first: jax.Array, second: jax.Array) -> jax.Array:
    """Returns the mean cosine between the rows of two batches.

    Args:
        first: [B, D].
        second: [B, D].

    Returns:
        float32 scalar in [-1, 1].
    """
    return jnp.mean(jnp.sum(distances.normalize_rows(first) * distances.normalize_rows(second), axis=-1))
