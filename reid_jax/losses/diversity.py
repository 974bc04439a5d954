"""Diversity of body-part features: a penalty on similar features of different parts."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from reid_jax.ops import distances

# Parts of the same kind, as indices into: head, left arm, right arm, torso, left leg, right leg, left foot, right foot.
SAME_KIND = ((1, 2), (4, 5), (6, 7))


def part_diversity(parts: jax.Array, *, same_kind: Sequence[Sequence[int]] = SAME_KIND) -> jax.Array:
    """Returns the mean positive cosine between different parts of an image, summed over the sets of parts.

    Args:
        parts: [B, K, P, D], K sets of P part features.
        same_kind: pairs of parts that may look alike.

    Returns:
        float32 scalar in [0, K]; 0 where all parts are orthogonal or opposed.
    """
    compared = ~np.eye(parts.shape[2], dtype=bool)
    for first, second in same_kind:
        compared[first, second] = compared[second, first] = False
    unit = distances.normalize_rows(parts)
    cosine = jnp.einsum("bkpd,bkqd->bkpq", unit, unit, precision=jax.lax.Precision.HIGHEST)
    return parts.shape[1] * jnp.mean(jax.nn.relu(cosine), where=compared[None, None])
