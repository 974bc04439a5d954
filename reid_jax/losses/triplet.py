"""Triplet loss with the hardest positive and the hardest negative of the global batch.

Under `jit` with the batch sharded over devices the distance matrix spans the whole batch, so mining is the same on any
number of devices.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from reid_jax import errors
from reid_jax.ops import distances


def triplet(
    features: jax.Array, *, labels: jax.Array, margin: float | str = 0.3, normalize: bool = False, parts: bool = False
) -> jax.Array:
    """Returns the batch-hard triplet loss on Euclidean distances.

    Args:
        features: [B, ...] one vector per image; maps are flattened to a vector.
        labels: [B] int32 identities.
        margin: required difference between the distances, or "soft" for `log(1 + exp(d_ap - d_an))`.
        normalize: scale each vector to unit length first (the recipes this package follows do not).
        parts: features are [B, S, D]; distances are averaged over the S parts before mining.

    Returns:
        float32 scalar, see `batch_hard`.

    Raises:
        UserError: `parts` with features that are not [B, S, D], or a margin that is neither a number nor "soft".

    References:
        Hermans et al., In Defense of the Triplet Loss for Person Re-Identification (2017), equation 5.
    """
    if parts and features.ndim != 3:
        raise errors.UserError(f"parts=True expects features [B, S, D], got shape {features.shape}; remove `parts`.")
    vectors = features.astype(jnp.float32).reshape(features.shape[0], features.shape[1] if parts else 1, -1)
    if normalize:
        vectors = distances.normalize_rows(vectors)
    between = jax.vmap(lambda x: distances.pairwise_euclidean(x, x), in_axes=1)(vectors)  # [S, B, B]
    # The distance of an image to itself is zero; rounding in the product above leaves up to 1e-3.
    between = jnp.where(jnp.eye(len(features), dtype=bool), 0.0, jnp.mean(between, axis=0))
    return batch_hard(between, labels=labels, margin=margin)


def batch_hard(distance: jax.Array, *, labels: jax.Array, margin: float | str = 0.3) -> jax.Array:
    """Returns the mean over anchors of `max(0, d_ap - d_an + margin)`, or of its soft form.

    `d_ap` is the largest distance within the anchor's identity (the anchor itself, at distance zero, is never larger
    than another image), `d_an` the smallest distance to any other identity. An anchor without a negative is excluded
    from the mean; a batch of a single identity has loss zero and gradient zero.

    Args:
        distance: [B, B] distances between the images of the batch.
        labels: [B] int32 identities.
        margin: a number >= 0 or "soft".

    Returns:
        float32 scalar.

    Raises:
        UserError: the margin is neither a number nor "soft".
    """
    same = labels[:, None] == labels[None, :]
    positive = jnp.max(distance, axis=1, where=same, initial=0.0)  # [B]
    has_negative = jnp.any(~same, axis=1)
    negative = jnp.min(distance, axis=1, where=~same, initial=jnp.inf)
    gap = positive - jnp.where(has_negative, negative, 0.0)
    if margin == "soft":
        loss = jax.nn.softplus(gap)
    elif isinstance(margin, str):
        raise errors.UserError(f"the margin of a triplet loss is a number or 'soft', got {margin!r}.")
    else:
        loss = jnp.maximum(gap + margin, 0.0)
    return jnp.sum(jnp.where(has_negative, loss, 0.0)) / jnp.maximum(jnp.sum(has_negative), 1)
