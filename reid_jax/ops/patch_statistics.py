"""Mean and scale of patches, and what those of visible patches say of hidden ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

SCALE_OFFSET = 0.01  # keeps the logarithm of a flat patch's scale finite
REACH = 1.0  # standard deviation of the weights of `from_visible`, in patches


def statistics_of(patches: jax.Array) -> jax.Array:
    """Returns mean and `log(standard deviation + 0.01)` over all values of each patch: [B, N, P] to [B, N, 2]."""
    scale = jnp.log(jnp.std(patches, axis=-1) + SCALE_OFFSET)
    return jnp.stack((jnp.mean(patches, axis=-1), scale), axis=-1)


def from_visible(statistics: jax.Array, mask: jax.Array, rows: int, columns: int) -> jax.Array:
    """Returns for every place the mean of the visible patches' statistics, weighted by a Gaussian of the distance.

    Args:
        statistics: [B, N, 2], of all patches of a grid; those of hidden ones are not read.
        mask: bool [B, N], True where a patch is hidden; some patch of every image is visible.
        rows: rows of the grid.
        columns: columns of the grid.

    Returns:
        [B, N, 2]; where nothing visible is near, that of the nearest patches.
    """
    places = np.mgrid[:rows, :columns].reshape(2, -1)
    squared = np.square(places[:, :, None] - places[:, None, :]).sum(axis=0)
    # Far weights stay above the rounding of a sum of near ones, and count only where there is nothing near.
    weights = jnp.asarray(np.exp(-np.minimum(squared / (2 * REACH**2), 30.0)) + 1e-12 / (1 + squared), jnp.float32)
    visible = (~mask)[..., None].astype(jnp.float32)
    seen = jnp.where(mask[..., None], 0.0, statistics.astype(jnp.float32))
    total = jnp.einsum("mn,bnk->bmk", weights, jnp.concatenate((seen, visible), axis=-1))
    return total[..., :2] / total[..., 2:]
