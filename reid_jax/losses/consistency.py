"""Consistency of the class distributions of three views of the same images."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def consistency(clean: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
    """Returns the mean divergence of the views from their mixture (Jensen-Shannon).

    Each view's KL(view || mixture) is summed over classes and averaged over images; the mixture, the mean of the three
    distributions, is kept within [1e-7, 1] before its logarithm.

    Args:
        clean: [B, N] logits of the clean view.
        first: [B, N] logits of an augmented view.
        second: [B, N] logits of another augmented view.

    Returns:
        float32 scalar, zero where the views agree; the usual weight is 12.

    References:
        Hendrycks et al., AugMix, ICLR 2020, section 3.2; Chen et al., Benchmarks for Corruption Invariant Person
        Re-identification, NeurIPS 2021 (CIL).
    """
    logs = [jax.nn.log_softmax(view.astype(jnp.float32), axis=-1) for view in (clean, first, second)]
    mixture = jnp.log(jnp.clip(sum(jnp.exp(view) for view in logs) / len(logs), 1e-7, 1.0))
    divergences = [jnp.mean(jnp.sum(jnp.exp(view) * (view - mixture), axis=-1)) for view in logs]
    return sum(divergences, start=jnp.zeros((), jnp.float32)) / len(logs)
