"""HPR of AMFOR: a decoder that reconstructs the features of occluded parts from those of the others.

    f_f ─ as a map, patches ─ stage A ─ joined over tokens ─ F^f ┐
    f_1 ... f_8 ─────────────────────────────────────────────────┴─ position code ─ stage B ─ F^b_f, F^b_1 ... F^b_8

It is used in training only; it has an effect at test time because the encoder learns through it.

References:
    AMFOR, figure 4, and the sizes of the official training log. The blocks are those of masked autoencoders: He et al.,
    "Masked autoencoders are scalable vision learners", CVPR 2022.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn

from reid_jax import errors
from reid_jax.models.backbones import vit
from reid_jax.nn import conv, initializers

PATCH = 16  # of the enlarged map


def volume_shape(width: int) -> tuple[int, int]:
    """Returns rows and columns of the map, multiples of 8 and as square as possible, that a feature of D numbers fills.

    >>> volume_shape(768), volume_shape(192)
    ((32, 24), (24, 8))

    Raises:
        UserError: D is not a multiple of 64.
    """
    sides = [(width // columns, columns) for columns in range(8, width // 8 + 1, 8) if width % columns == 0]
    upright = [(rows, columns) for rows, columns in sides if rows >= columns and rows % 8 == 0]
    if not upright:
        raise errors.UserError(
            f"expected a width that is a multiple of 64, so that a feature can stand as a map, got {width}; change "
            "model.width."
        )
    return upright[-1]


def position_code(count: int, width: int) -> np.ndarray:
    """Returns the sine and cosine code of `count` positions, [count, width] (Vaswani et al. 2017, section 3.5)."""
    rates = 10000.0 ** (-np.arange(width // 2) / (width // 2))
    angles = np.arange(count)[:, None] * rates[None]
    return np.concatenate((np.sin(angles), np.cos(angles)), axis=1).astype(np.float32)


class Stage(nn.Module):
    """Transformer blocks of another width, between two projections.

    Attributes:
        depth: blocks.
        width: width of the blocks.
        heads: number of heads of their attention.
        dtype: compute dtype.
        kernels: initial values, see `vit.KERNEL_INITS`.
    """

    depth: int
    width: int
    heads: int
    dtype: Any = jnp.float32
    kernels: str = "normal"

    @nn.compact
    def __call__(self, tokens: jax.Array, *, train: bool) -> jax.Array:
        """Maps [B, N, D] to [B, N, D]."""
        x = vit.dense(self.width, "enter", self.dtype, kernels=self.kernels)(tokens)
        for index in range(self.depth):
            x = vit.Block(self.heads, dtype=self.dtype, kernels=self.kernels, name=f"block_{index}")(x, train=train)
        x = vit.layer_norm("norm", self.dtype)(x)
        return vit.dense(tokens.shape[-1], "leave", self.dtype, kernels=self.kernels)(x)


class FeatureDecoder(nn.Module):
    """The decoder with both stages.

    Attributes:
        depths: blocks of stage A and of stage B; figure 4 draws 3 each, the published run has 8.
        width: width of the blocks.
        heads: number of heads of their attention.
        map_tokens: whether stage A also reads the foreground feature as a map.
        residual: the decoder's output, scaled by a learned gain per slot, is added to its input, which makes it stable
            from scratch; False returns the output alone, as the figure does.
        gain_init: initial value of those gains.
        dtype: compute dtype.
        kernels: initial values of linear layers, see `vit.KERNEL_INITS`.
    """

    depths: tuple[int, int] = (8, 8)
    width: int = 512
    heads: int = 16
    map_tokens: bool = True
    residual: bool = True
    gain_init: float = 0.1
    dtype: Any = jnp.float32
    kernels: str = "normal"

    @nn.compact
    def __call__(self, pooled: jax.Array, *, train: bool) -> jax.Array:
        """Maps foreground and parts [B, 1 + 8, D] to their reconstruction, float32 of the same shape."""
        pooled = pooled.astype(jnp.float32)
        tokens = self.foreground_tokens(pooled[:, 0])
        stage_a, stage_b = (
            Stage(depth, self.width, self.heads, self.dtype, self.kernels, name=name)
            for depth, name in zip(self.depths, ("stage_a", "stage_b"), strict=True)
        )
        decoded = stage_a(tokens, train=train)
        # A 1 x 1 convolution over the token axis.
        joined = nn.Dense(1, kernel_init=initializers.torch_default, dtype=self.dtype, name="join")
        foreground = jnp.swapaxes(joined(jnp.swapaxes(decoded, 1, 2)), 1, 2)  # [B, 1, D]
        slots = jnp.concatenate((foreground, pooled[:, 1:].astype(self.dtype)), axis=1)
        slots = slots + position_code(*slots.shape[1:]).astype(self.dtype)[None]
        decoded = stage_b(slots, train=train).astype(jnp.float32)
        if not self.residual:
            return decoded
        gain = self.param("gain", nn.initializers.constant(self.gain_init), (slots.shape[1],), jnp.float32)
        return pooled + gain[None, :, None] * decoded

    def foreground_tokens(self, foreground: jax.Array) -> jax.Array:
        """Returns the foreground feature [B, D] and the patches of its map enlarged twice, [B, 1 + D / 64, D]."""
        foreground = foreground.astype(self.dtype)
        if not self.map_tokens:
            return foreground[:, None]
        batch, width = foreground.shape
        rows, columns = volume_shape(width)
        volume = foreground.reshape(batch, rows, columns, 1)
        volume = jax.image.resize(volume, (batch, 2 * rows, 2 * columns, 1), "linear")
        embed = conv.Conv(
            width,
            PATCH,
            PATCH,
            padding=0,
            use_bias=True,
            dtype=self.dtype,
            kernel_init=initializers.torch_default,
            name="patches",
        )
        patches = rearrange(embed(volume), "b y x d -> b (y x) d")
        return jnp.concatenate((foreground[:, None], patches), axis=1)
