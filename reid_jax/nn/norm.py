"""Normalization layers with PyTorch's constants and float32 statistics.

Batch statistics are those of the global batch: under `jit` with a batch split over devices a mean is already global.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from reid_jax.ops import tracing


def _vector(values: jax.Array, ndim: int) -> jax.Array:
    return values.reshape((1,) * (ndim - 1) + (-1,))


class BatchNorm(nn.Module):
    """Batch normalization over every axis but the last: [B, C], [B, N, C] or [B, H, W, C].

    Training normalizes by the biased batch variance; the running variance collects the unbiased one, as in PyTorch
    (Flax collects the biased variance: at 8 values per channel that is 14 % off).

    Attributes:
        momentum: share of the old running value that is kept; 0.9 is PyTorch's 0.1.
        epsilon: added to the variance.
        use_scale: learns a gain per channel, initially 1.
        use_bias: learns a shift per channel, initially 0; off in the BNNeck.
        scale_init: initial gain.
        dtype: dtype of the result; statistics and parameters are float32.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    use_scale: bool = True
    use_bias: bool = True
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Normalizes by the batch's statistics in training, which update the running ones; else by the running ones."""
        shape = (x.shape[-1],)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_variance = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        if train:
            mean, variance = _moments(x, tuple(range(x.ndim - 1)), False)
            if not self.is_initializing():
                count = x.size // x.shape[-1]
                unbiased = variance * (count / max(count - 1, 1))
                running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
                running_variance.value = self.momentum * running_variance.value + (1 - self.momentum) * unbiased
        else:
            mean, variance = running_mean.value, running_variance.value
        scale = self.param("scale", self.scale_init, shape, jnp.float32) if self.use_scale else None
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32) if self.use_bias else None
        return _normalize(x, mean, variance, scale, bias, self.epsilon, self.dtype)


@tracing.once(static=(5, 6))
def _normalize(
    x: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    scale: jax.Array | None,
    bias: jax.Array | None,
    epsilon: float,
    dtype: Any,
) -> jax.Array:
    gain = jax.lax.rsqrt(variance + epsilon)
    if scale is not None:
        gain = gain * scale
    shift = -mean * gain
    if bias is not None:
        shift = shift + bias
    return (x * _vector(gain, x.ndim) + _vector(shift, x.ndim)).astype(dtype)


@tracing.once(static=(1, 2))
def _moments(x: jax.Array, axes: tuple[int, ...], keepdims: bool) -> tuple[jax.Array, jax.Array]:
    """Returns mean and biased variance in float32, in two passes (E[x²] - E[x]² loses digits)."""
    x = x.astype(jnp.float32)
    mean = x.mean(axes, keepdims=True)
    variance = jnp.square(x - mean).mean(axes, keepdims=keepdims)
    return (mean if keepdims else mean.reshape(-1)), variance


class InstanceNorm(nn.Module):
    """Normalizes each channel of each image over its positions; learned scale and bias, no running statistics.

    Attributes:
        epsilon: added to the variance.
        dtype: dtype of the result; statistics and parameters are float32.
    """

    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, C] to [B, H, W, C]."""
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        mean, variance = _moments(x, (1, 2), True)
        gain = jax.lax.rsqrt(variance + self.epsilon) * _vector(scale, 4)
        return ((x.astype(jnp.float32) - mean) * gain + _vector(bias, 4)).astype(self.dtype)


class InstanceBatchNorm(nn.Module):
    """IBN-a: instance normalization on the first half of the channels, batch normalization on the rest.

    Attributes:
        dtype: dtype of the result; statistics and parameters are float32.

    References:
        Pan et al., "Two at once: enhancing learning and generalization capacities via IBN-Net", ECCV 2018, figure 3.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [B, H, W, C] to [B, H, W, C]."""
        half = x.shape[-1] // 2
        first = InstanceNorm(dtype=self.dtype, name="IN")(x[..., :half])
        second = BatchNorm(dtype=self.dtype, name="BN")(x[..., half:], train=train)
        return jnp.concatenate((first, second), axis=-1)
