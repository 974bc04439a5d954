"""Supervised contrastive loss between two kinds of features of the same identities, such as images and texts."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def supcon(anchors: jax.Array, others: jax.Array, *, labels: jax.Array, temperature: float = 1.0) -> jax.Array:
    """Returns the supervised contrastive loss from one set to another, on inner products.

    For each anchor it is the negative log-probability of the others of its identity, under a softmax over all others,
    averaged over them; then the mean over anchors. Features are not scaled to unit length, as in CLIP-ReID.

    Args:
        anchors: [B, D] features, such as those of images.
        others: [B, D] features with the same labels row by row, such as those of texts. An anchor's own row is one of
            its positives.
        labels: [B] int32 identities.
        temperature: divides the products.

    Returns:
        float32 scalar.

    References:
        Khosla et al., Supervised Contrastive Learning (NeurIPS 2020), equation 2; Li et al., CLIP-ReID (AAAI 2023),
        equations 3 and 4.
    """
    products = jnp.matmul(
        anchors.astype(jnp.float32), others.astype(jnp.float32).T, precision=jax.lax.Precision.HIGHEST
    )
    log_probabilities = jax.nn.log_softmax(products / temperature, axis=1)  # [B, B]
    same = labels[:, None] == labels[None, :]
    positive = jnp.sum(jnp.where(same, log_probabilities, 0.0), axis=1) / jnp.sum(same, axis=1)
    return -jnp.mean(positive)
