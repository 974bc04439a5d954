"""Normalization layers with PyTorch's constants and float32 statistics.

Batch statistics are those of the global batch, also where it is split over devices: each device computes the moments of
its part, all moments are gathered at once, and Chan's formula combines them (the sums of squares of a single reduction
would lose digits). The devices of one process on a CPU leave that to the compiler. On GPU and TPU, where reading the
batch is what a step waits for, it is read once for both moments.
`train.batch_statistics="device"` normalizes each part by its own.

References:
    Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from reid_jax.ops import batch_parts, outlined, platforms, tracing


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
        parts = _parts(x.shape[0]) if train else None
        per_device = parts is not None and parts.statistics == "device"
        if parts is not None:
            x = parts.divide(x)
        if train:
            count = x.size // x.shape[-1] // (x.shape[0] if per_device else 1)
            if parts is None:
                mean, variance = map(outlined.keep, _batch_moments(x))
            else:
                mean, variance, means, variances = map(outlined.keep, _moments_of_parts(x, parts))
            if not self.is_initializing():
                unbiased = variance * (count / max(count - 1, 1))
                running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
                running_variance.value = self.momentum * running_variance.value + (1 - self.momentum) * unbiased
        else:
            mean, variance = running_mean.value, running_variance.value
        scale = self.param("scale", self.scale_init, shape, jnp.float32) if self.use_scale else None
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32) if self.use_bias else None
        if parts is None:
            return _normalize(x, mean, variance, scale, bias, self.epsilon, self.dtype)
        if per_device:
            mean, variance = means, variances
        return _normalize_parts(x, mean, variance, scale, bias, self.epsilon, self.dtype, parts)


def _parts(images: int) -> batch_parts.Parts | None:
    """Returns the parts of a batch whose moments are computed one by one; None where the batch is normalized as one.

    Where devices share their memory the compiler's sums cost nothing, and part by part the whole step of a ResNet takes
    a fifth more time.
    """
    parts = batch_parts.of(images)
    return None if parts is not None and parts.statistics == "global" and _share_memory() else parts


def _share_memory() -> bool:
    """Returns whether all devices are those of one process on a CPU."""
    return platforms.target() == "cpu" and jax.process_count() == 1


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
    gain, shift = _gain_and_shift(mean, variance, scale, bias, epsilon)
    return (x * _vector(gain, x.ndim) + _vector(shift, x.ndim)).astype(dtype)


@tracing.once(static=(1, 2))
def _moments(x: jax.Array, axes: tuple[int, ...], keepdims: bool) -> tuple[jax.Array, jax.Array]:
    """Returns mean and biased variance in float32, in two passes (E[x²] - E[x]² loses digits)."""
    x = x.astype(jnp.float32)
    mean = outlined.keep(x.mean(axes, keepdims=True))
    variance = jnp.square(x - mean).mean(axes, keepdims=keepdims)
    return (mean if keepdims else mean.reshape(-1)), variance


def _batch_moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns mean and biased variance [C] of a batch [B, ..., C] in float32, in the formulation of the platform."""
    if platforms.target() == "cpu":
        return _moments(x, tuple(range(x.ndim - 1)), False)
    return _shifted_moments(x)


@tracing.once()
def _shifted_moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns mean and biased variance in float32, both in one pass over the batch.

    The squares are those of differences to the mean of the first image. That is no farther from the batch's mean than
    sqrt(B) standard deviations, so that float32 keeps its digits, also far from zero. The gradient takes one pass less
    too: it does not sum the differences to the mean, whose sum is zero.
    """
    axes = tuple(range(x.ndim - 1))
    x = x.astype(jnp.float32)
    near = jax.lax.stop_gradient(x[:1].mean(axes, keepdims=True))
    differences = x - near
    first, second = differences.mean(axes), jnp.square(differences).mean(axes)
    return near.reshape(-1) + first, second - jnp.square(first)


def _gain_and_shift(
    mean: jax.Array, variance: jax.Array, scale: jax.Array | None, bias: jax.Array | None, epsilon: float
) -> tuple[jax.Array, jax.Array]:
    """Returns the factor and the summand of the normalization, from moments [C] or [parts, C]."""
    gain = jax.lax.rsqrt(variance + epsilon)
    if scale is not None:
        gain = gain * (scale if gain.ndim == 1 else scale[None])
    shift = -mean * gain
    if bias is not None:
        shift = shift + (bias if shift.ndim == 1 else bias[None])
    return gain, shift


@tracing.once(static=(1,))
def _moments_of_parts(x: jax.Array, parts: batch_parts.Parts) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Returns mean and biased variance of a divided batch [parts, B, ..., C], and those of each part.

    With statistics of each part the first two are the means over the parts, for the running values alone.
    """
    means, variances = jax.vmap(_batch_moments)(x)
    pair = parts.placed(jnp.stack((means, variances), axis=1))  # [parts, 2, C]
    if parts.statistics == "device":
        mean, variance = parts.everywhere(jax.lax.stop_gradient(pair)).mean(0)
        return mean, variance, pair[:, 0], pair[:, 1]
    gathered = parts.everywhere(pair)
    mean = gathered[:, 0].mean(0)
    variance = (gathered[:, 1] + jnp.square(gathered[:, 0] - mean[None])).mean(0)
    return mean, variance, means, variances


@tracing.once(static=(5, 6, 7))
def _normalize_parts(
    x: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    scale: jax.Array | None,
    bias: jax.Array | None,
    epsilon: float,
    dtype: Any,
    parts: batch_parts.Parts,
) -> jax.Array:
    """Normalizes a divided batch [parts, B, ..., C] by moments [C] or [parts, C], and joins it to [parts B, ..., C].

    Factor and summand are given to each part as one array, so that their gradients are summed over devices at once.
    """
    pair = jnp.stack(_gain_and_shift(mean, variance, scale, bias, epsilon), axis=-2)  # [2, C] or [parts, 2, C]
    each = parts.placed(jnp.broadcast_to(pair, (parts.count, 2, x.shape[-1])))
    gain, shift = (each[:, row].reshape(parts.count, *(1,) * (x.ndim - 2), -1) for row in range(2))
    return (x * gain + shift).astype(dtype).reshape(-1, *x.shape[2:])


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
