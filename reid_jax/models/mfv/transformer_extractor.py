"""TFE, the transformer block of MFV: a convolutional stem, then layers of external attention and feed-forward.

External attention replaces the keys and values that self-attention computes from the image by two learned memories, so
its cost grows linearly with the tokens. Every parameter of the layers has "transformer" in its path
(`TRANSFORMER_PATTERN`): the published recipe trains those at half the learning rate.

References:
    Guo et al., "Beyond self-attention: external attention using two linear layers for visual tasks", TPAMI 2022.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from reid_jax import errors
from reid_jax.models.mfv import release_layout
from reid_jax.nn import conv, initializers, norm

ATTENTIONS = ("external", "self", "none")
NORMALIZATIONS = ("tokens", "release")
TRANSFORMER_PATTERN = ".*/transformer/.*"

Result = tuple[jax.Array, jax.Array | None]
"""Map [B, H, W, C] of a stage and, where there is one, its class token [B, C]."""


def double_normalize(scores: jax.Array, kind: str = "tokens") -> jax.Array:
    """Returns scores after the two normalizations of external attention.

    Args:
        scores: [B, ..., S] similarity of each token to each of the S memory slots; "release" needs [B, H, W, S].
        kind: "tokens": softmax over all tokens, then each token's row divided by its sum over the slots (Guo et al.,
            equation 6). "release": softmax over axis 1, then division by the sum over axis 2, which is what the code of
            MFV does to four axes.

    Returns:
        float32, shape of `scores`. With "tokens" every row sums to one.
    """
    scores = scores.astype(jnp.float32)
    if kind == "tokens":
        attention = jax.nn.softmax(scores, axis=tuple(range(1, scores.ndim - 1)))
        return attention / (1e-9 + jnp.sum(attention, axis=-1, keepdims=True))
    if kind == "release":
        attention = jax.nn.softmax(scores, axis=1)
        return attention / jnp.sum(attention, axis=2, keepdims=True)
    raise errors.unknown("normalization of external attention", kind, NORMALIZATIONS)


class ExternalAttention(nn.Module):
    """Attention of the tokens to two learned memories: one head, no biases, no dropout.

    Attributes:
        slots: memory size S; 128 in MFV's code, 64 in Guo et al.
        norm: see `double_normalize`.
        dtype: compute dtype; the normalization is float32.
    """

    slots: int = 128
    norm: str = "tokens"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens [B, ..., C] to [B, ..., C]."""
        dense = functools.partial(nn.Dense, use_bias=False, dtype=self.dtype, kernel_init=initializers.torch_default)
        scores = dense(self.slots, name="memory_key")(x)  # [B, ..., S]
        attention = double_normalize(scores, self.norm).astype(self.dtype)
        return dense(x.shape[-1], name="memory_value")(attention)


class SelfAttention(nn.Module):
    """Multi-head self-attention, for comparison with external attention.

    Attributes:
        heads: number of heads.
        head_width: channels per head.
        dtype: compute dtype; the softmax is float32.
    """

    heads: int = 16
    head_width: int = 64
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens [B, ..., C] to [B, ..., C]."""
        tokens = x.reshape(x.shape[0], -1, x.shape[-1])  # [B, T, C]
        dense = functools.partial(nn.DenseGeneral, dtype=self.dtype, kernel_init=initializers.torch_default)
        inner = (self.heads, self.head_width)
        query, key, value = (dense(inner, use_bias=False, name=name)(tokens) for name in ("query", "key", "value"))
        scores = jnp.einsum("bthd,bshd->bhts", query * self.head_width**-0.5, key)
        attention = jax.nn.softmax(scores.astype(jnp.float32), axis=-1).astype(self.dtype)
        mixed = jnp.einsum("bhts,bshd->bthd", attention, value)
        bias_init = initializers.torch_default_bias(self.heads * self.head_width)
        return dense(x.shape[-1], axis=(-2, -1), bias_init=bias_init, name="out")(mixed).reshape(x.shape)


class FeedForward(nn.Module):
    """Linear, exact GELU, dropout, linear, dropout.

    Attributes:
        width: hidden channels.
        dropout: rate after each linear layer, in training.
        dtype: compute dtype.
    """

    width: int = 2048
    dropout: float = 0.1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps tokens [B, ..., C] to [B, ..., C]."""
        for index, features in enumerate((self.width, x.shape[-1])):
            bias_init = initializers.torch_default_bias(x.shape[-1])
            kernel_init = initializers.torch_default
            x = nn.Dense(features, dtype=self.dtype, kernel_init=kernel_init, bias_init=bias_init, name=f"fc{index}")(x)
            if index == 0:
                x = nn.gelu(x, approximate=False)
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return x


class Transformer(nn.Module):
    """Layers of attention and feed-forward, each added to its input.

    Attributes:
        depth: number of layers.
        attention: "external" or "self".
        slots: memory size of external attention.
        ea_norm: see `double_normalize`.
        prenorm: layer normalization before each part; the code of MFV declares but never applies it.
        ffn_width: hidden channels of the feed-forward part.
        dropout: rate inside the feed-forward part.
        heads: heads of self-attention.
        head_width: channels per head of self-attention.
        shared_attention: external attention to use in every layer in place of one memory each.
        dtype: compute dtype.
    """

    depth: int
    attention: str = "external"
    slots: int = 128
    ea_norm: str = "tokens"
    prenorm: bool = True
    ffn_width: int = 2048
    dropout: float = 0.1
    heads: int = 16
    head_width: int = 64
    shared_attention: nn.Module | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps tokens [B, ..., C] to [B, ..., C]."""
        for index in range(self.depth):
            x = x + self._attend(index)(self._normalize(x, f"norm{index}_attention"))
            ffn = FeedForward(self.ffn_width, self.dropout, dtype=self.dtype, name=f"ffn{index}")
            x = x + ffn(self._normalize(x, f"norm{index}_ffn"), train=train)
        return x

    def _normalize(self, x: jax.Array, name: str) -> jax.Array:
        return nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name=name)(x) if self.prenorm else x

    def _attend(self, index: int) -> nn.Module:
        if self.shared_attention is not None:
            return self.shared_attention
        if self.attention == "external":
            return ExternalAttention(self.slots, self.ea_norm, dtype=self.dtype, name=f"attention{index}")
        return SelfAttention(self.heads, self.head_width, dtype=self.dtype, name=f"attention{index}")


class Stem(nn.Module):
    """Three convolutions, 1×1, 3×3, 1×1, each with batch normalization and ReLU.

    Attributes:
        width: channels out.
        expansion: the last convolution computes this many times the channels, of which every `expansion`-th is kept.
        dtype: compute dtype.
    """

    width: int = 256
    expansion: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [B, H, W, C] to [B, H, W, width]."""
        for index, (size, features) in enumerate(((1, 1), (3, 1), (1, self.expansion)), start=1):
            convolve = conv.Conv(
                features * self.width,
                size,
                kernel_init=initializers.torch_default,
                dtype=self.dtype,
                name=f"conv{index}",
            )
            x = nn.relu(norm.BatchNorm(dtype=self.dtype, name=f"bn{index}")(convolve(x), train=train))
        return x[..., :: self.expansion]


class TFE(nn.Module):
    """Convolutional stem, then a transformer over the map's tokens.

    Attributes:
        width: channels C of the tokens.
        layout: "tokens": a token is a position; "release": see `release_layout.reinterpret`.
        stem_expansion: see `Stem`.
        attention: "external", "self", or "none" for the stem alone.
        cls_token: puts a learned token before the others; it becomes the descriptor in place of the average.
        pos_embed: adds a learned vector to each token.
        transformer: builds the layers.
        dtype: compute dtype.
    """

    width: int
    layout: str
    stem_expansion: int
    attention: str
    cls_token: bool
    pos_embed: bool
    transformer: Callable[..., Transformer]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> Result:
        """Maps [B, H, W, C_in] to (map [B, H, W, C], class token [B, C] or None)."""
        x = Stem(self.width, self.stem_expansion, dtype=self.dtype, name="stem")(x, train=train)
        if self.attention == "none":
            return x, None
        if self.layout == "release":
            x = release_layout.reinterpret(x)
        shape = x.shape  # tokens stay on their grid: all layers but the softmax act on each token alone
        small = nn.initializers.normal(0.02)
        if self.pos_embed:
            x = x + self.param("pos_embed", small, (1, *shape[1:]), jnp.float32).astype(self.dtype)
        if self.cls_token:
            first = self.param("cls_token", small, (1, 1, shape[-1]), jnp.float32).astype(self.dtype)
            first = jnp.broadcast_to(first, (shape[0], 1, shape[-1]))
            x = jnp.concatenate((first, x.reshape(shape[0], -1, shape[-1])), axis=1)  # [B, 1 + H W, C]
        x = self.transformer(name="transformer")(x, train=train)
        token = x[:, 0] if self.cls_token else None
        x = (x[:, 1:] if self.cls_token else x).reshape(shape)
        return (release_layout.restore(x) if self.layout == "release" else x), token
