"""Initial values of the PyTorch recipes, under their PyTorch names."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from reid_jax.ops import tracing


def traced_once(initializer: nn.initializers.Initializer) -> nn.initializers.Initializer:
    """Returns the initializer, traced once per shape: a network asks for the same few shapes hundreds of times."""

    def draw(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return jnp.asarray(initializer(key, shape, dtype))

    traced = tracing.once(static=(1, 2))(draw)

    def initialize(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return traced(key, tuple(shape), dtype)

    return initialize


# He et al. 2015, counted over the outputs: normal with variance 2 / (kh kw D). Convolutions of the ResNet family.
kaiming_fan_out = traced_once(nn.initializers.variance_scaling(2.0, "fan_out", "normal"))

# He et al. 2015, counted over the inputs: normal with variance 2 / (kh kw C).
kaiming_fan_in = traced_once(nn.initializers.variance_scaling(2.0, "fan_in", "normal"))

# PyTorch's default for Linear and Conv2d: uniform in ±1 / sqrt(fan_in).
torch_default = traced_once(nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"))

# Identity classifiers of the BNNeck recipe: normal with standard deviation 0.001.
classifier = traced_once(nn.initializers.normal(0.001))


@traced_once
def xavier_matrix(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Draws a kernel as Glorot & Bengio 2010 do, read as one matrix [all inputs, outputs]: uniform, ±sqrt(6 / (I + O)).

    For a convolution that cuts patches this is the linear layer of a flattened patch, as masked autoencoders have it.
    """
    bound = math.sqrt(6.0 / (math.prod(shape[:-1]) + shape[-1]))
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def torch_default_bias(fan_in: int) -> nn.initializers.Initializer:
    """Returns the bias initializer that goes with `torch_default`: uniform in ±1 / sqrt(fan_in) of the kernel."""
    bound = 1.0 / math.sqrt(fan_in)

    def initialize(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return initialize
