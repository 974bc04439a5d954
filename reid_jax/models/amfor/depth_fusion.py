"""AMFF of AMFOR: after chosen blocks of the encoder, a token becomes a mixture of its values at all depths so far.

How much of each depth enters a channel follows from learned queries, one per depth, which attend to the text features
(the same for all images), then to the class tokens of the image. A gate, initially nearly closed, sets how much of the
mixture replaces the token.

References:
    AMFOR, figure 3. Choices that the figure leaves open are documented at the field that makes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from reid_jax import errors
from reid_jax.nn import attention

TEXT_VALUES = ("text", "query")
NORMALIZATIONS = ("softmax", "none")
_normal_002 = nn.initializers.normal(0.02)


def mix(depths: Sequence[jax.Array], weights: jax.Array, alpha: jax.Array | float) -> jax.Array:
    """Returns the gated weighted sum over depths (step 3).

    Args:
        depths: x_0 ... x_k, each [B, N, D].
        weights: [B, k + 1, D] per depth and channel.
        alpha: share of the sum; 0 returns x_k bit for bit.

    Returns:
        [B, N, D].
    """
    dtype = depths[-1].dtype
    weights = weights.astype(dtype)
    mixed = sum(weights[:, depth, None] * tokens for depth, tokens in enumerate(depths))
    alpha = jnp.asarray(alpha, dtype)
    return alpha * mixed + (1 - alpha) * depths[-1]


class LayerFusion(nn.Module):
    """The fusion module after block k.

    Attributes:
        layer: k, counted from 1.
        width: D.
        heads: heads of both attentions.
        text_value: "text" takes the values of step 1 from the text. "query" repeats the figure, which draws the queries
            there: with keys that are all equal the text then has no influence.
        residual: adds the queries to the result of the attention; the figure shows no such path.
        normalize: "softmax" over depths keeps the scale of a token; "none" repeats the figure.
        beta: added to the scores of depth k before that softmax, which protects pretrained features.
        gate_init: initial value of the gate before its sigmoid; -2 lets 12 % through.
        alpha: fixed share of the mixture; None learns the gate.
        dtype: compute dtype; weights are float32.
    """

    layer: int
    width: int
    heads: int = 8
    text_value: str = "text"
    residual: bool = True
    normalize: str = "softmax"
    beta: float = 2.0
    gate_init: float = -2.0
    alpha: float | None = None
    dtype: Any = jnp.float32

    def setup(self) -> None:
        self.queries = self.param("queries", _normal_002, (self.layer + 1, self.width), jnp.float32)
        self.ask_text = attention.MultiHead(self.heads, dtype=self.dtype)
        self.ask_image = attention.MultiHead(self.heads, dtype=self.dtype)
        self.norm = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, dtype=jnp.float32)
        self.gate = self.param("gate", nn.initializers.constant(self.gate_init), (), jnp.float32)

    def share(self) -> jax.Array:
        """Returns the gate's share of the mixture, in (0, 1) unless `alpha` fixes it."""
        return nn.sigmoid(self.gate) if self.alpha is None else jnp.asarray(self.alpha, jnp.float32)

    def text_queries(self, text: jax.Array | None) -> jax.Array:
        """Step 1, independent of the image: the queries [k + 1, D] after attending to the text [T, D]."""
        if text is None:
            return self.queries
        queries, text = self.queries[None], text[None]
        if self.text_value == "query":
            keys = jnp.broadcast_to(text.mean(axis=1, keepdims=True), queries.shape)
            answer = self.ask_text(queries, keys, queries)[0]
        else:
            answer = self.ask_text(queries, text, text)[0]
        return self.queries + answer if self.residual else answer.astype(jnp.float32)

    def weights(self, classes: jax.Array, text: jax.Array | None) -> jax.Array:
        """Returns what each depth contributes to each channel (steps 1 and 2).

        Args:
            classes: [B, k + 1, D] class tokens of x_0 ... x_k.
            text: [T, D] text features, or None.

        Returns:
            [B, k + 1, D] float32; with "softmax" they add up to 1 over the depths.
        """
        queries = self.text_queries(text)[None]  # [1, k + 1, D]
        answer = self.ask_image(queries, classes, queries)  # [B, k + 1, D]
        scores: jax.Array = self.norm(queries + answer if self.residual else answer)
        if self.normalize == "none":
            return scores
        last = jnp.arange(self.layer + 1) == self.layer
        return nn.softmax(scores + self.beta * last[None, :, None], axis=1)

    def __call__(self, depths: Sequence[jax.Array], text: jax.Array | None) -> jax.Array:
        """Maps x_0 ... x_k, each [B, 1 + N, D] with the class token first, and the text to x'_k."""
        classes = jnp.stack([tokens[:, 0] for tokens in depths], axis=1)
        weights, share = self.weights(classes, text), self.share()
        if not self.is_initializing():  # kept only for callers that ask for it (mutable="intermediates")
            own = jax.nn.one_hot(self.layer, self.layer + 1)
            self.sow("intermediates", "shares", share * weights.mean(axis=(0, 2)) + (1 - share) * own)
        return mix(depths, weights, share)


class AMFF(nn.Module):
    """All fusion modules, and the text features they share.

    Attributes:
        layers: blocks that are followed by a module, counted from 1.
        width: D.
        learned_rows: rows T of a trainable bank in place of text features; 0 for none.
        reuse_fused: later modules see x'_k of earlier ones in place of x_k.
        heads, text_value, residual, normalize, beta, gate_init, alpha: see `LayerFusion`.
        dtype: compute dtype.
    """

    layers: tuple[int, ...]
    width: int
    learned_rows: int = 32
    reuse_fused: bool = False
    heads: int = 8
    text_value: str = "text"
    residual: bool = True
    normalize: str = "softmax"
    beta: float = 2.0
    gate_init: float = -2.0
    alpha: float | None = None
    dtype: Any = jnp.float32

    def setup(self) -> None:
        for kind, value, known in (
            ("text value (amff_text_value)", self.text_value, TEXT_VALUES),
            ("normalization (amff_normalize)", self.normalize, NORMALIZATIONS),
        ):
            if value not in known:
                raise errors.unknown(kind, value, known)
        shared = ("heads", "text_value", "residual", "normalize", "beta", "gate_init", "alpha", "dtype")
        options = {name: getattr(self, name) for name in shared}
        self.fusions = {
            f"layer_{layer}": LayerFusion(layer, self.width, **options, name=f"layer_{layer}") for layer in self.layers
        }
        if self.learned_rows:
            shape = (self.learned_rows, self.width)
            self.text_bank = self.param("text_bank", _normal_002, shape, jnp.float32)

    def __call__(self, depths: list[jax.Array], tokens: jax.Array, text: jax.Array | None = None) -> jax.Array:
        """Appends the output of a block to `depths` and fuses it with the earlier depths.

        Args:
            depths: x_0 ... x_{k-1}, each [B, 1 + N, D]; x_k is appended.
            tokens: x_k.
            text: [T, D] text features; None takes the learned bank, or without one skips step 1.

        Returns:
            What the next block reads: x'_k after one of `layers`, else x_k.
        """
        layer = len(depths)
        depths.append(tokens)
        if layer not in self.layers:
            return tokens
        text = self.text_bank if text is None and self.learned_rows else text
        fused = self.fusions[f"layer_{layer}"](depths, text)
        if self.reuse_fused:
            depths[layer] = fused
        return fused
