"""A distance and a score."""

import jax
import jax.numpy as jnp

from reid_jax.data.feature_set import FeatureSet
from reid_jax.evaluation.ranking import RankingResult


def angular(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns the angles [n, m], in radians, between the rows of two blocks of features [n, D] and [m, D]."""
    x, y = (block / jnp.linalg.norm(block, axis=1, keepdims=True) for block in (x, y))
    return jnp.arccos(jnp.clip(x @ y.T, -1, 1))


def hit_at_3(features: FeatureSet, result: RankingResult) -> dict[str, float]:
    """Returns the share of queries with a match among the first three, of those that have one."""
    scored = result.num_relevant > 0
    return {"hit_at_3": float((result.first_hit[scored] < 3).mean())}
