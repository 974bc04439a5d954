"""Sigmoid focal loss: binary decisions of which most are easy."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def focal(logits: jax.Array, targets: jax.Array, *, alpha: float = 0.25, gamma: float = 2.0) -> jax.Array:
    """Mean of `-alpha_t (1 - p_t)^gamma log(p_t)`, p_t being the probability given to the right answer.

    Args:
        logits: [...] one decision each.
        targets: [...] 0 or 1.
        alpha: weight of positives; negatives weigh 1 - alpha.
        gamma: how fast easy decisions lose weight.

    Returns:
        float32 scalar.

    References:
        Lin et al., "Focal loss for dense object detection", ICCV 2017, equation 5.
    """
    sign = 2.0 * targets.astype(jnp.float32) - 1.0
    log_right = jax.nn.log_sigmoid(sign * logits.astype(jnp.float32))
    weight = 0.5 + sign * (alpha - 0.5)
    return -jnp.mean(weight * (1.0 - jnp.exp(log_right)) ** gamma * log_right)
