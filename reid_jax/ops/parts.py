"""Groups of body parts, from single parts to the whole body."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from reid_jax import errors

# The groups of parts that each granularity averages, by index into: head, left arm, right arm, torso, left leg, right
# leg, left foot, right foot.
GRANULARITIES: dict[str, tuple[tuple[int, ...], ...]] = {
    "part": tuple((place,) for place in range(8)),
    "group": ((0,), (1, 2), (3,), (4, 5), (6, 7)),
    "body": (tuple(range(8)),),
}


def grouped(parts: jax.Array, granularity: str) -> jax.Array:
    """Returns the means of part features over the groups of a granularity.

    Args:
        parts: [B, 8, D].
        granularity: a key of `GRANULARITIES`.

    Returns:
        [B, groups, D].

    Raises:
        UserError: unknown granularity.
    """
    if granularity not in GRANULARITIES:
        raise errors.unknown("granularity", granularity, GRANULARITIES)
    if granularity == "part":
        return parts
    return jnp.stack([parts[:, list(group)].mean(axis=1) for group in GRANULARITIES[granularity]], axis=1)
