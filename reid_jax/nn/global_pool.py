"""Pooling of a map into one vector per image, chosen by name."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from reid_jax import errors
from reid_jax.ops import pooling

KINDS = ("average", "max", "gem")


class GlobalPool(nn.Module):
    """Pools a map over its positions.

    Attributes:
        kind: "average", "max" or "gem" (power mean with a learned exponent).
        power: initial exponent of "gem"; 3 is the value of the retrieval literature.
        epsilon: smallest value that enters the power.
    """

    kind: str = "average"
    power: float = 3.0
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, C] to float32 [B, C]."""
        if self.kind == "average":
            return pooling.global_average(x)
        if self.kind == "max":
            return pooling.global_max(x)
        if self.kind == "gem":
            power = self.param("p", nn.initializers.constant(self.power), (1,), jnp.float32)
            return pooling.generalized_mean(x, power, self.epsilon)
        raise errors.unknown("pooling", self.kind, KINDS)
