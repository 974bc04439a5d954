"""Initial values of the PyTorch recipes, under their PyTorch names."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

# He et al. 2015, counted over the outputs: normal with variance 2 / (kh kw D). Convolutions of the ResNet family.
kaiming_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")

# He et al. 2015, counted over the inputs: normal with variance 2 / (kh kw C).
kaiming_fan_in = nn.initializers.variance_scaling(2.0, "fan_in", "normal")

# PyTorch's default for Linear and Conv2d: uniform in ±1 / sqrt(fan_in).
torch_default = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

# Identity classifiers of the BNNeck recipe: normal with standard deviation 0.001.
classifier = nn.initializers.normal(0.001)


def torch_default_bias(fan_in: int) -> nn.initializers.Initializer:
    """Returns the bias initializer that goes with `torch_default`: uniform in ±1 / sqrt(fan_in) of the kernel."""
    bound = 1.0 / math.sqrt(fan_in)

    def initialize(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return initialize
