"""The two kinds of attention in the trunk of OSFA and MSPF, in any order.

"cbam" is MSPF's (Woo et al., "CBAM", ECCV 2018), see `reid_jax.nn.attention`. "osfa" is that of OSFA's released code,
which comes from PLR-OSNet: its "spatial" is an attention between positions, its "channel" a squeeze-and-excitation gate
whose pooling is left out, so that every position has a gate of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from reid_jax import errors
from reid_jax.nn import attention, conv, initializers, norm
from reid_jax.ops import products

ORDERS: dict[str, tuple[str, ...]] = {
    "none": (),
    "channel": ("channel",),
    "spatial": ("spatial",),
    "spatial_channel": ("spatial", "channel"),
    "channel_spatial": ("channel", "spatial"),
}
KINDS = ("cbam", "osfa")


class PositionAttention(nn.Module):
    """Each position gathers the map, weighted by similarity to it: y = x + BN(gamma Σ_j softmax_j(q_i · k_j) x_j).

    Unlike DANet's it has no convolution for the values. Gamma starts at 0, which makes it the identity.

    Attributes:
        reduction: channels / channels of query and key.
        dtype: compute dtype; the softmax is float32.

    References:
        Fu et al., "Dual Attention Network for Scene Segmentation", CVPR 2019, section 3.2; without scaling, as there.
    """

    reduction: int = 8
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [B, H, W, C] to [B, H, W, C]."""
        query, key = (
            rearrange(
                conv.Conv(x.shape[-1] // self.reduction, use_bias=True, dtype=self.dtype, name=name)(x),
                "b h w c -> b (h w) c",
            )
            for name in ("query", "key")
        )
        weights = position_weights(query, key)
        gathered = jnp.einsum("bij,bjc->bic", weights.astype(self.dtype), rearrange(x, "b h w c -> b (h w) c"))
        gamma = self.param("gamma", nn.initializers.zeros, (), jnp.float32).astype(self.dtype)
        gathered = norm.BatchNorm(dtype=self.dtype, name="bn")(gamma * gathered.reshape(x.shape), train=train)
        return x + gathered


def position_weights(query: jax.Array, key: jax.Array) -> jax.Array:
    """Returns the attention [B, N, N] of each position (row, of sum 1) to all, from queries and keys [B, N, c]."""
    return nn.softmax(products.float32_product("bic,bjc->bij", query, key), axis=-1)


class PixelGate(nn.Module):
    """Squeeze-and-excitation without the squeeze: a gate in (0, 1) for every channel at every position.

    Attributes:
        reduction: channels / hidden channels.
        dtype: compute dtype.
    """

    reduction: int = 16
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, C] to the gated map [B, H, W, C]."""
        layer = functools.partial(conv.Conv, use_bias=True, dtype=self.dtype)
        hidden = nn.relu(layer(x.shape[-1] // self.reduction, name="fc1")(x))
        return x * nn.sigmoid(layer(x.shape[-1], name="fc2")(hidden))


class MapAttention(nn.Module):
    """Attention modules one after the other on a feature map.

    Attributes:
        order: a key of `ORDERS`; "none" is the identity.
        kind: "cbam" or "osfa".
        dtype: compute dtype.
    """

    order: str = "channel_spatial"
    kind: str = "cbam"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [B, H, W, C] to [B, H, W, C].

        Raises:
            UserError: an unknown order or kind.
        """
        if self.order not in ORDERS:
            raise errors.unknown("attention", self.order, ORDERS)
        if self.kind not in KINDS:
            raise errors.unknown("kind of attention (attention_kind)", self.kind, KINDS)
        for name in ORDERS[self.order]:
            x = self._module(name)(x, train=train)
        return x.astype(self.dtype)

    def _module(self, name: str) -> Callable[..., jax.Array]:
        # Neither paper gives the initial values of these layers: PyTorch's default, as in CBAM's code.
        cbam: dict[str, Any] = {"kernel_init": initializers.torch_default, "dtype": self.dtype, "name": name}
        if name == "spatial":
            if self.kind == "cbam":
                return attention.SpatialAttention(**cbam)
            return PositionAttention(dtype=self.dtype, name=name)
        gate = attention.ChannelAttention(**cbam) if self.kind == "cbam" else PixelGate(dtype=self.dtype, name=name)
        return lambda x, train: gate(x)
