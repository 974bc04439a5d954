"""Contrastive loss between two views of the same images, with pairs weighted by their distance."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from reid_jax.ops import distances


def contrastive(
    first: jax.Array,
    second: jax.Array,
    *,
    labels: jax.Array,
    temperature: float = 0.5,
    weighted: bool = True,
    stop_weight: bool = False,
    mask_same_identity: bool = False,
) -> jax.Array:
    """Returns the weighted contrastive loss: the classification of each image's other view among all images.

    With s the cosines of the 2B stacked vectors and p(a) the other view of image a,
    `1/2B sum_a w_a (-s_{a,p(a)} / tau + log sum_{b != a} exp(s_ab / tau))`, `w_a = 1 - s_{a,p(a)}`: equal views
    have weight 0, distant views the largest. The article prints `1 - w` inside the logarithm, which rewards distant
    pairs; its text and its code agree on the form used here.

    Args:
        first: [B, D] features of one view, of any length.
        second: [B, D] features of the other view, row by row of the same images.
        labels: [B] int32 identities.
        temperature: tau.
        weighted: False is the plain contrastive loss, `w = 1`.
        stop_weight: treat the weights as constants; in the published code the gradient flows through them.
        mask_same_identity: exclude other images of the anchor's identity from the sum; the published code keeps them.

    Returns:
        float32 scalar.

    References:
        Zhang et al., Corruption-invariant Person Re-identification via Coarse-to-Fine Feature Alignment (2024), coarse
        alignment; the fourth variant of the released code.
    """
    count = first.shape[0]
    vectors = distances.normalize_rows(jnp.concatenate((first, second)))  # [2B, D]
    cosine = jnp.matmul(vectors, vectors.T, precision=jax.lax.Precision.HIGHEST)
    partner = jnp.roll(jnp.eye(2 * count, dtype=bool), count, axis=1)
    agreement = jnp.sum(jnp.where(partner, cosine, 0.0), axis=1)  # [2B] s_{a,p(a)}

    excluded = jnp.eye(2 * count, dtype=bool)
    if mask_same_identity:
        both = jnp.concatenate((labels, labels))
        excluded |= (both[:, None] == both[None]) & ~partner
    # The difference is taken inside the sum to avoid the cancellation of two large numbers.
    lead = (cosine - agreement[:, None]) / temperature
    loss = jax.nn.logsumexp(jnp.where(excluded, -jnp.inf, lead), axis=1)
    if weighted:
        weight = 1.0 - agreement
        loss = loss * (jax.lax.stop_gradient(weight) if stop_weight else weight)
    return jnp.mean(loss)
