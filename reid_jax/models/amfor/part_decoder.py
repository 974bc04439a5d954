"""Body parts of AMFOR: labels of tokens, the mask generator, weighted pooling, and the teacher-student part decoder.

References:
    AMFOR, figure 2. Teacher and student are one decoder: the teacher's attention is restricted to the tokens that the
    mask generator gives to a part.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from reid_jax.models.backbones import vit
from reid_jax.nn import attention, initializers, norm
from reid_jax.ops import images

# Head, left arm, right arm, torso, left leg, right leg, left foot, right foot; label 0 is background.
NUM_PARTS = 8
# Size of the images in which the pixels of a visible part are counted.
VISIBLE_AT = (128, 64)
# Vertical bands in place of label files, as shares of the height: (end, labels from left to right).
BANDS = ((0.15, (1, 1, 1, 1)), (0.5, (2, 4, 4, 3)), (0.88, (5, 5, 6, 6)), (1.0, (7, 7, 8, 8)))


# ---- labels ---------------------------------------------------------------------------------------------------------


def token_labels(parts: jax.Array, grid: tuple[int, int], patch: int, stride: int) -> jax.Array:
    """Returns the part label of each token: the label of most pixels of its patch.

    Sampling single pixels, as is right for smooth confidence maps, would lose a quarter of all feet and arms.

    Args:
        parts: [B, H, W] labels 0 ... 8 of pixels.
        grid: rows and columns of tokens.
        patch: side of a token's patch in pixels.
        stride: distance between neighboring patches in pixels; below `patch` they overlap.

    Returns:
        int32 [B, N], row after row; ties go to the lower label.
    """
    rows, columns = (_areas(size, count, patch, stride) for size, count in zip(parts.shape[1:], grid, strict=True))

    def pixels(label: jax.Array) -> jax.Array:
        member = (parts == label).astype(jnp.float32)
        return jnp.einsum("rh,bhw,cw->brc", rows, member, columns)

    counts = jax.lax.map(pixels, jnp.arange(NUM_PARTS + 1, dtype=parts.dtype))  # [9, B, rows, columns]
    return jnp.argmax(counts, axis=0).reshape(len(parts), -1)


def _areas(size: int, count: int, patch: int, stride: int) -> np.ndarray:
    """Returns which of `size` pixels each of `count` patches covers along one axis, [count, size] of 0 and 1."""
    place, start = np.arange(size)[None], stride * np.arange(count)[:, None]
    return ((place >= start) & (place < start + patch)).astype(np.float32)


def strip_map(size: tuple[int, int], boxes: jax.Array) -> jax.Array:
    """Returns labels of pixels without label files: bands of a person who fills the image, see `BANDS`.

    Args:
        size: (height, width) of the images.
        boxes: [B, 4] top, left, bottom, right of erased boxes, which are background; zeros for none.

    Returns:
        uint8 [B, H, W].
    """
    height, width = size
    rows = [next(labels for end, labels in BANDS if (row + 0.5) / height <= end) for row in range(height)]
    bands = np.array([[labels[4 * column // width] for column in range(width)] for labels in rows], np.uint8)
    return jnp.where(images.box_mask(boxes, height, width), 0, bands[None]).astype(jnp.uint8)


def visible_parts(parts: jax.Array, pixels: float) -> jax.Array:
    """Returns 1 for each part with enough pixels, else 0; float32 [B, 8].

    Args:
        parts: [B, H, W] labels 0 ... 8 of pixels.
        pixels: the least pixels of a visible part in an image of `VISIBLE_AT`; in others, the same share of the image.
    """
    height, width = parts.shape[1:]
    least = pixels * height * width / (VISIBLE_AT[0] * VISIBLE_AT[1])
    counts = [jnp.sum(parts == label, axis=(1, 2)) for label in range(1, NUM_PARTS + 1)]
    return (jnp.stack(counts, axis=1) >= least).astype(jnp.float32)


# ---- masks and pooling ----------------------------------------------------------------------------------------------


class MaskGenerator(nn.Module):
    """Classifier of tokens by body part; float32.

    Attributes:
        positions: whether every place of the grid has logits of its own to add, as a map of where parts usually are.
    """

    positions: bool = False

    @nn.compact
    def __call__(self, tokens: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """Maps tokens [B, N, D] to logits and masks (their softmax) [B, N, 9]; channel 0 is background."""
        normalized = norm.BatchNorm(name="norm")(tokens.astype(jnp.float32), train=train)
        classify = nn.Dense(NUM_PARTS + 1, use_bias=False, kernel_init=initializers.classifier, name="classifier")
        logits = classify(normalized)
        if self.positions:
            usual = self.param("positions", nn.initializers.zeros, logits.shape[1:], jnp.float32)
            logits += usual[None]
        return logits, nn.softmax(logits, axis=-1)


def weighted_average(tokens: jax.Array, weights: jax.Array) -> jax.Array:
    """Returns weighted means of tokens (GWAP).

    Args:
        tokens: [B, N, D].
        weights: [B, N, P], not negative.

    Returns:
        [B, P, D] float32; zero where all weights are.
    """
    weights = weights.astype(jnp.float32)
    total = jnp.einsum("bnp,bnd->bpd", weights, tokens.astype(jnp.float32))
    return total / jnp.maximum(weights.sum(axis=1), 1e-6)[..., None]


def pool(tokens: jax.Array, masks: jax.Array) -> jax.Array:
    """Returns the foreground and the eight parts, [B, 1 + 8, D], of tokens [B, N, D] under masks [B, N, 9]."""
    parts = masks[..., 1:]
    return weighted_average(tokens, jnp.concatenate((parts.sum(axis=-1, keepdims=True), parts), axis=-1))


# ---- teacher and student --------------------------------------------------------------------------------------------


def draw_masks(masks: jax.Array, key: jax.Array | None) -> jax.Array:
    """Draws hard masks: a token is open to a part with the probability in the mask.

    Args:
        masks: [B, N, 9] probabilities.
        key: random key of the draw; without one a token is open from a probability of one half.

    Returns:
        bool [B, 9, N].
    """
    masks = jax.lax.stop_gradient(jnp.swapaxes(masks, 1, 2))
    return masks > (0.5 if key is None else jax.random.uniform(key, masks.shape))


class PartDecoder(nn.Module):
    """Decoder in which learned queries of background and parts attend to the memory.

    Attributes:
        heads: number of heads of both attentions.
        mlp_ratio: hidden width of the feed-forward layer / D.
        dtype: compute dtype.
    """

    heads: int = 8
    mlp_ratio: float = 4.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, memory: jax.Array, allowed: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """Decodes parts twice, with and without masks.

        Args:
            memory: [B, 1 + N, D], the class token first.
            allowed: bool [B, 9, N], tokens that the teacher's queries may attend to; None allows all.

        Returns:
            Part features [B, 8, D] of the student and of the teacher; without masks they are the same.
        """
        width = memory.shape[-1]
        memory = vit.layer_norm("norm_memory", self.dtype)(memory)
        table = self.param("queries", nn.initializers.normal(width**-0.5), (NUM_PARTS + 1, width), jnp.float32)
        table = jnp.broadcast_to(table.astype(self.dtype), (memory.shape[0], *table.shape))
        queries = jnp.concatenate((jax.lax.stop_gradient(memory[:, :1]), table), axis=1)  # [B, 10, D]
        queries = queries + attention.MultiHead(self.heads, dtype=self.dtype, name="self")(queries, queries, queries)
        queries = self._norm("norm_self")(queries)[:, 1:]
        tokens = memory[:, 1:]
        if allowed is not None:
            # Student and teacher differ only in their masks: a single attention with twice the queries.
            queries = jnp.concatenate((queries, queries), axis=1)
            allowed = jnp.concatenate((jnp.ones_like(allowed), allowed), axis=1)
        gathered = attention.MultiHead(self.heads, dtype=self.dtype, name="cross")(queries, tokens, tokens, allowed)
        hidden = self._dense(round(self.mlp_ratio * width), "fc1")(self._norm("norm_ffn")(gathered))
        # No residual around the attention, so nothing of a query or of a masked token bypasses it.
        decoded = (gathered + self._dense(width, "fc2")(nn.relu(hidden))).astype(jnp.float32)
        student = decoded[:, 1 : NUM_PARTS + 1]  # without the background
        return student, student if allowed is None else decoded[:, NUM_PARTS + 2 :]

    def _norm(self, name: str) -> nn.LayerNorm:
        return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, dtype=self.dtype, name=name)

    def _dense(self, features: int, name: str) -> nn.Dense:
        return nn.Dense(features, kernel_init=initializers.torch_default, dtype=self.dtype, name=name)


class VisibilityHead(nn.Module):
    """Predictor of a part's visibility from its feature; float32.

    Attributes:
        apart: whether every part has statistics and weights of its own. Shared ones are mostly those of the differences
            between parts, so that in a short run the head learns how often each part can be seen and little else.
    """

    apart: bool = False

    @nn.compact
    def __call__(self, parts: jax.Array, *, train: bool) -> jax.Array:
        """Maps part features [B, 8, D] to logits [B, 8]."""
        parts = parts.astype(jnp.float32)
        normalize = norm.BatchNorm(name="norm")
        if not self.apart:
            normalized = normalize(parts, train=train)
            return nn.Dense(1, kernel_init=initializers.classifier, name="classifier")(normalized)[..., 0]
        normalized = normalize(parts.reshape(len(parts), -1), train=train).reshape(parts.shape)
        kernel = self.param("kernel", initializers.classifier, parts.shape[1:], jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, parts.shape[1:2], jnp.float32)
        return jnp.einsum("bpd,pd->bp", normalized, kernel) + bias[None]
