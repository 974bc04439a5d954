"""Attention on feature maps: gates per channel and per position (CBAM, SE), and between positions (non-local); and
attention of one set of vectors to another.

The gating modules return the attended map; adding the input to it is left to the caller.

References:
    Woo et al., "CBAM: Convolutional Block Attention Module", ECCV 2018.
    Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018.
    Wang et al., "Non-local Neural Networks", CVPR 2018.
    Vaswani et al., "Attention is all you need", NeurIPS 2017.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from reid_jax.nn import conv, initializers, norm
from reid_jax.ops import pooling, products, taps


class ChannelAttention(nn.Module):
    """A gate in (0, 1) per image and channel, from a small perceptron on the pooled map.

    With both pools this is CBAM's (section 3, "channel attention"): the perceptron runs on average and maximum and the
    results are added. With the average alone, and without biases, it is squeeze-and-excitation.

    Attributes:
        reduction: channels / hidden channels.
        use_max: also runs the perceptron on the maximum.
        use_bias: biases in both layers, initially 0.
        kernel_init: initial weights of both layers.
        dtype: compute dtype.
    """

    reduction: int = 16
    use_max: bool = True
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = initializers.kaiming_fan_in
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, C] to the gated map [B, H, W, C]."""
        channels = x.shape[-1]
        layer = functools.partial(nn.Dense, use_bias=self.use_bias, kernel_init=self.kernel_init, dtype=self.dtype)
        hidden, back = layer(channels // self.reduction, name="fc1"), layer(channels, name="fc2")
        gate = back(nn.relu(hidden(pooling.global_average(x).astype(self.dtype))))
        if self.use_max:
            gate = gate + back(nn.relu(hidden(pooling.global_max(x).astype(self.dtype))))
        return x * nn.sigmoid(gate)[:, None, None]


class SpatialAttention(nn.Module):
    """A gate in (0, 1) per image and position, from maximum and mean over channels (CBAM, "spatial attention").

    Attributes:
        kernel_size: side of the convolution over the two maps.
        kernel_init: its initial kernel.
        dtype: compute dtype.
    """

    kernel_size: int = 7
    kernel_init: nn.initializers.Initializer = initializers.kaiming_fan_in
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [B, H, W, C] to the gated map [B, H, W, C]."""
        pooled = jnp.stack((x.max(-1), x.mean(-1)), axis=-1)  # [B, H, W, 2]
        gate = conv.Conv(1, self.kernel_size, kernel_init=self.kernel_init, dtype=self.dtype, name="conv")(pooled)
        return x * nn.sigmoid(norm.BatchNorm(dtype=self.dtype, name="bn")(gate, train=train))


class CBAM(nn.Module):
    """Channel attention, then spatial attention.

    Attributes:
        reduction: see `ChannelAttention`.
        kernel_init: initial weights of both.
        dtype: compute dtype.
    """

    reduction: int = 16
    kernel_init: nn.initializers.Initializer = initializers.kaiming_fan_in
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [B, H, W, C] to the gated map [B, H, W, C]."""
        options: dict[str, Any] = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        x = ChannelAttention(self.reduction, name="channel", **options)(x)
        return SpatialAttention(name="spatial", **options)(x, train=train)


class NonLocal(nn.Module):
    """Each position adds a weighted sum over all positions (embedded Gaussian, equations 4 and 6).

    The last normalization's gain starts at 0, so that the block starts as the identity.

    Attributes:
        inner: channels of query, key and value.
        dtype: compute dtype; the softmax is float32.
    """

    inner: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [B, H, W, C] to [B, H, W, C]."""
        height = x.shape[1]
        query, key, value = (
            rearrange(conv.Conv(self.inner, use_bias=True, dtype=self.dtype, name=name)(x), "b h w c -> b (h w) c")
            for name in ("theta", "phi", "g")
        )
        logits = products.float32_product("bqc,bkc->bqk", query, key)
        weights = nn.softmax(logits, axis=-1).astype(self.dtype)
        gathered = rearrange(jnp.einsum("bqk,bkc->bqc", weights, value), "b (h w) c -> b h w c", h=height)
        out = conv.Conv(x.shape[-1], use_bias=True, dtype=self.dtype, name="out")(gathered)
        return x + norm.BatchNorm(scale_init=nn.initializers.zeros, dtype=self.dtype, name="bn")(out, train=train)


class MultiHead(nn.Module):
    """Multi-head attention of queries to keys, with a projection each for query, key, value and result.

    Attributes:
        heads: number of heads.
        kernel_init: initial weights of the projections; their biases start at 0.
        dtype: compute dtype; the softmax is float32.
    """

    heads: int = 8
    kernel_init: nn.initializers.Initializer = initializers.torch_default
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, query: jax.Array, key: jax.Array, value: jax.Array, allowed: jax.Array | None = None
    ) -> jax.Array:
        """Computes, for each query, the weighted sum of the values.

        Args:
            query: [B, Q, D].
            key: [B, K, D].
            value: [B, K, D]; each of the three may have a single row in place of B.
            allowed: bool [B, Q, K], which keys a query may attend to; a query without any attends to all equally.

        Returns:
            [B, Q, D].
        """
        width = query.shape[-1]
        project = functools.partial(nn.Dense, width, kernel_init=self.kernel_init, dtype=self.dtype)
        query, key, value = (
            rearrange(project(name=name)(x), "b n (h d) -> b h n d", h=self.heads)
            for name, x in (("query", query), ("key", key), ("value", value))
        )
        logits = products.float32_product("bhqd,bhkd->bhqk", query, key)
        logits = logits * (width // self.heads) ** -0.5
        if allowed is not None:
            logits = jnp.where(allowed[:, None], logits, -1e4)
        weights = nn.softmax(logits, axis=-1).astype(self.dtype)
        weights = taps.tap(f"attention/{'/'.join(self.path)}", weights)
        gathered = rearrange(jnp.einsum("bhqk,bhkd->bhqd", weights, value), "b h q d -> b q (h d)")
        return project(name="out")(gathered)
