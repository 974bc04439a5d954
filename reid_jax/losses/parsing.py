"""Classification of patch tokens by body part."""

from __future__ import annotations

import jax

from reid_jax.losses import cross_entropy


def parsing(logits: jax.Array, targets: jax.Array, *, label_smoothing: float = 0.1) -> jax.Array:
    """Returns the cross-entropy, averaged over all tokens of the batch.

    Args:
        logits: [B, N, P].
        targets: [B, N] int labels in 0..P-1.
        label_smoothing: see `cross_entropy.cross_entropy`.

    Returns:
        float32 scalar.
    """
    rows = logits.reshape(-1, logits.shape[-1])
    return cross_entropy.cross_entropy(rows, labels=targets.reshape(-1), label_smoothing=label_smoothing)
