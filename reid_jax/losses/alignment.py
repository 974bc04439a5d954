"""Alignment of two masked views of the same images, the "structure-invariant" loss of HAP."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from reid_jax.ops import distances


def align(first: jax.Array, second: jax.Array, *, temperature: float = 0.2) -> jax.Array:
    """Returns the symmetric contrast of two views, each image against all images of the batch.

    Rows become unit vectors; in each direction the other view carries no gradient. One direction is the cross-entropy
    of `q k / temperature` against the own row, times `2 temperature`; equal features give `4 temperature ln B` in all.

    Args:
        first: [B, D], features of one view.
        second: [B, D], features of the other view of the same images, in the same order.
        temperature: divisor of the cosines, above 0.

    Returns:
        float32 scalar, the sum of both directions.

    References:
        Yuan et al., HAP, NeurIPS 2023; the form is that of Chen et al., MoCo v3, ICCV 2021.
    """
    return _align(first, second, None, temperature)


def align_tracks(first: jax.Array, second: jax.Array, *, labels: jax.Array, temperature: float = 0.2) -> jax.Array:
    """Returns `align` without other images of the same track among the negatives, which are near-duplicates.

    Args:
        first, second, temperature: see `align`.
        labels: int [B], the track of each image; a pool with tracks has them as labels.
    """
    return _align(first, second, labels, temperature)


def _align(first: jax.Array, second: jax.Array, tracks: jax.Array | None, temperature: float) -> jax.Array:
    views = [distances.normalize_rows(view) for view in (first, second)]
    total = jnp.zeros((), jnp.float32)
    for query, key in (views, views[::-1]):
        logits = jnp.matmul(query, jax.lax.stop_gradient(key).T, precision=jax.lax.Precision.HIGHEST) / temperature
        if tracks is not None:
            same = (tracks[:, None] == tracks[None, :]) & ~jnp.eye(len(tracks), dtype=bool)
            logits = jnp.where(same, -jnp.inf, logits)
        own = jnp.diagonal(logits)
        total = total + 2 * temperature * jnp.mean(jax.nn.logsumexp(logits, axis=1) - own)
    return total
