"""Sigmoid focal loss for binary decisions, most of which are easy."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def focal(logits: jax.Array, targets: jax.Array, *, alpha: float = 0.25, gamma: float = 2.0) -> jax.Array:
    """Returns the mean of `-alpha_t (1 - p_t)^gamma log(p_t)`, with p_t the predicted probability of the target.

    Args:
        logits: [...], of a decision each.
        targets: [...] 0 or 1.
        alpha: weight of positives; negatives weigh 1 - alpha.
        gamma: exponent that reduces the weight of easy decisions.

    Returns:
        float32 scalar.

    References:
        Lin et al., "Focal loss for dense object detection", ICCV 2017, equation 5.
    """
    sign = 2.0 * targets.astype(jnp.float32) - 1.0
    log_correct = jax.nn.log_sigmoid(sign * logits.astype(jnp.float32))
    weight = 0.5 + sign * (alpha - 0.5)
    return -jnp.mean(weight * (1.0 - jnp.exp(log_correct)) ** gamma * log_correct)
