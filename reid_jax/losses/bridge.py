"""Losses between generated features and their target, the bridge: squared error, and divergence of the codes."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from reid_jax import errors
from reid_jax.ops import distances

KL_MODES = ("mean", "reference")


def mean_squared(values: jax.Array, target: jax.Array) -> jax.Array:
    """Returns the squared difference, averaged over all elements.

    Args:
        values: [B, D].
        target: [B, D].

    Returns:
        float32 scalar.
    """
    return jnp.mean(jnp.square(values.astype(jnp.float32) - target.astype(jnp.float32)))


def gaussian_divergence(
    mean: jax.Array, sigma: jax.Array, target_mean: jax.Array, target_sigma: jax.Array, *, mode: str = "mean"
) -> jax.Array:
    """Returns the Kullback-Leibler divergence between two diagonal Gaussians, in closed form.

    `sum_d log(t_d / s_d) + (s_d^2 + (m_d - n_d)^2) / (2 t_d^2) - 1/2` for N(m, s) against N(n, t).

    Args:
        mean: [B, K] of the generated code.
        sigma: [B, K] standard deviations, positive.
        target_mean: [B, K] of the bridge's code.
        target_sigma: [B, K], positive.
        mode: "mean" sums over dimensions and averages over the batch, so the value is independent of the batch size;
            "reference" follows the released code: rows of all four are scaled to unit length, everything is summed.

    Returns:
        float32 scalar.

    Raises:
        UserError: unknown mode.

    References:
        Zhang et al., Corruption-invariant Person Re-identification via Coarse-to-Fine Feature Alignment (2024), the
        divergence in the bridge loss.
    """
    if mode not in KL_MODES:
        raise errors.unknown("mode of the divergence", mode, KL_MODES)
    given = (mean, sigma, target_mean, target_sigma)
    prepare = distances.normalize_rows if mode == "reference" else lambda x: x.astype(jnp.float32)
    m, s, n, t = (prepare(values) for values in given)
    divergence = jnp.log(t / s) + (jnp.square(s) + jnp.square(m - n)) / (2.0 * jnp.square(t)) - 0.5
    per_image = jnp.sum(divergence, axis=-1)
    return jnp.sum(per_image) if mode == "reference" else jnp.mean(per_image)
