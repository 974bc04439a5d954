"""Center loss: pulls each feature to a learned center of its identity."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def center(features: jax.Array, centers: jax.Array, *, labels: jax.Array) -> jax.Array:
    """Returns the mean squared distance of each feature to the center of its identity, without the factor one half.

    The centers are part of the train state's `extra`, not of the parameters. The gradient of this term updates the
    centers of the identities in the batch only; `extras.Centers.scale` can cancel the term's weight.

    Args:
        features: [B, D] vectors.
        centers: [N, D] one center per class.
        labels: [B] int32 classes in 0..N-1; another value gives NaN.

    Returns:
        float32 scalar; each squared distance is kept within 1e-12..1e12 before the mean.

    References:
        Wen et al., A Discriminative Feature Learning Approach for Deep Face Recognition (ECCV 2016), equation 2.
    """
    own = centers.astype(jnp.float32).at[labels].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
    squared = jnp.sum(jnp.square(features.astype(jnp.float32) - own), axis=1)
    return jnp.mean(jnp.clip(squared, 1e-12, 1e12))
