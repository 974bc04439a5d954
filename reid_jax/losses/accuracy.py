"""Share of images whose identity the classifier ranks first; a monitor, without gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def accuracy(logits: jax.Array, *, labels: jax.Array) -> jax.Array:
    """Returns the share of images whose largest logit is that of their label.

    Args:
        logits: [B, N].
        labels: [B] int32 classes in 0..N-1.

    Returns:
        float32 scalar in [0, 1].
    """
    return jnp.mean((jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32))
