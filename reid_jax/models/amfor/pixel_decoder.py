"""AMFOR's pixel extension: a decoder of hidden patches from the encoder's patch tokens (not in the published run).

One line in the model, before its outputs are returned:

    outputs |= pixel_decoder.PixelDecoder(image_size, ratio=..., name="pixel_decoder")(local, batch, grid, train=train)

It adds "pixels/predicted" and "pixels/mask" where the batch holds the undamaged image as well as the erased or
occluded one, that is, a view named "clean" with the same flip and crop, and nothing at test time:

    data.views.clean = dict(augment=dict(flip=..., pad_crop=...), geometry="shared")
    losses.pixels = dict(loss="masked_patches", on=("pixels/predicted", "batch/image_clean", "pixels/mask"), weight=0.1)

A model with `reconstructs = True` gets pictures and PSNR at the end of its run, see `reid_jax.runs.drawn_patches`.

References:
    He et al., "Masked autoencoders are scalable vision learners", CVPR 2022 (decoder, loss).
    Yuan et al., "HAP: structure-aware masked image modeling for human-centric perception", NeurIPS 2023 (masks by
    blocks and body parts).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn

from reid_jax import errors
from reid_jax.models.backbones import vit
from reid_jax.nn import initializers
from reid_jax.ops import images as image_ops
from reid_jax.ops import masks

# The view with the picture before it was erased or occluded.
CLEAN = "image_clean"
# Groups of body parts that are masked together, by label of `parts`.
PART_GROUPS = masks.PART_GROUPS
# HAP's masks: largest share of a part's tokens.
PART_SHARE = 0.3
# Blocks drawn; the smallest ones would still cover more than half of a grid of 16 x 8.
BLOCKS = masks.FIRST_COME
# Standard deviation of the nearness that `ColorCopy` begins with, in patches.
REACH = 1.5


def damaged_pixels(images: jax.Array, clean: jax.Array) -> jax.Array:
    """Returns which pixels [B, H, W] differ between images [B, H, W, 3] and the undamaged ones."""
    return jnp.any(jnp.abs(images - clean) > 1e-3, axis=-1)


def damaged_tokens(images: jax.Array, clean: jax.Array, patch: int) -> jax.Array:
    """Returns the patches of which at least half the pixels differ from the undamaged picture.

    Comparing pictures finds erased boxes and pasted occluders alike.

    Args:
        images: [B, H, W, 3] as the encoder sees them.
        clean: [B, H, W, 3] the undamaged images.
        patch: side of a patch.

    Returns:
        [B, N] bool, row after row.
    """
    changed = damaged_pixels(images, clean)[..., None].astype(jnp.float32)
    return jnp.mean(image_ops.patchify(changed, patch), axis=-1) >= 0.5


def part_tokens(parts: jax.Array, patch: int) -> jax.Array:
    """Returns the group of `PART_GROUPS` that most pixels of each patch belong to, -1 for background.

    Args:
        parts: [B, H, W] labels of pixels, 0 for background.
        patch: side of a patch.

    Returns:
        [B, N] int32.
    """
    pixels = image_ops.patchify(parts.astype(jnp.int32)[..., None], patch)  # [B, N, patch patch]
    counts = [jnp.sum(pixels == 0, axis=-1)]
    for group in PART_GROUPS:
        member = jnp.any(jnp.stack([pixels == label for label in group]), axis=0)
        counts.append(jnp.sum(member, axis=-1))
    return jnp.argmax(jnp.stack(counts), axis=0).astype(jnp.int32) - 1


def part_ranks(key: jax.Array, parts: jax.Array) -> jax.Array:
    """Returns a random share of the tokens of randomly picked body parts.

    From none to all of the parts are picked, each as likely as the next; of each, at most `PART_SHARE` of the tokens.

    Args:
        key: random key of the draw.
        parts: [B, N] int32, see `part_tokens`.

    Returns:
        [B, N] float32: in [0, 1) for picked tokens, in random order; 1 for the others.
    """
    number_key, order_key, token_key = jax.random.split(key, 3)
    count, groups = len(parts), len(PART_GROUPS)
    number = jax.random.randint(number_key, (count, 1), 0, groups + 1)
    order = jnp.argsort(jax.random.uniform(order_key, (count, groups)), axis=1)
    picked = order < number  # [B, groups]
    chance = jax.random.uniform(token_key, parts.shape)
    member = (parts[:, None] == jnp.arange(groups).reshape(1, groups, 1)) & picked[:, :, None]  # [B, groups, N]
    place = jnp.argsort(jnp.argsort(jnp.where(member, chance[:, None], 2.0), axis=-1), axis=-1)
    chosen = member & (place < jnp.floor(PART_SHARE * jnp.sum(member, axis=-1, keepdims=True)))
    return jnp.where(jnp.any(chosen, axis=1), chance, 1.0)


def extra_tokens(
    key: jax.Array, count: int, rows: int, columns: int, ratio: float, parts: jax.Array | None = None
) -> jax.Array:
    """Returns the tokens to hide in addition to the damaged ones: body parts, then blocks, then single tokens.

    Args:
        key: random key of the draw.
        count: images B.
        rows: number of rows of tokens.
        columns: number of columns of tokens.
        ratio: share of the tokens, in [0, 0.5]; every image gets exactly `round(ratio * rows * columns)`.
        parts: [B, rows columns] int32 of `part_tokens`; None hides blocks alone.

    Returns:
        [B, rows columns] bool.
    """
    wanted = round(ratio * rows * columns)
    block_key, part_key, rest_key = jax.random.split(key, 3)
    blocks = masks.block_ranks(block_key, count, rows, columns, max(1, wanted))
    rest = jax.random.uniform(rest_key, blocks.shape)
    # Lowest rank first: parts in [0, 1), blocks in [1, 1 + BLOCKS), then the rest.
    order = jnp.where(blocks < BLOCKS, 1.0 + blocks, 1.0 + BLOCKS + rest)
    if parts is not None:
        picked = part_ranks(part_key, parts)
        order = jnp.where(picked < 1.0, picked, order)
    return jnp.argsort(jnp.argsort(order, axis=1), axis=1) < wanted


def sincos_positions(rows: int, columns: int, width: int) -> np.ndarray:
    """Returns fixed codes of positions [rows columns, width]: sine and cosine of row and column, a quarter each."""
    rates = 10000.0 ** -(np.arange(width // 4) / (width // 4))
    y, x = np.mgrid[:rows, :columns].reshape(2, -1, 1)
    return np.concatenate([f(place * rates) for place in (y, x) for f in (np.sin, np.cos)], axis=1).astype(np.float32)


def visible_colors(images: jax.Array, hidden: jax.Array, patch: int) -> tuple[jax.Array, jax.Array]:
    """Returns the mean color of the visible pixels of each patch, and their share of it.

    Args:
        images: [B, H, W, C].
        hidden: [B, H, W] bool, pixels that are not read.
        patch: side of a patch.

    Returns:
        [B, N, C], zeros where nothing is visible, and [B, N] in [0, 1].
    """
    shares = image_ops.patchify((~hidden)[..., None].astype(jnp.float32), patch)  # [B, N, patch patch]
    pixels = image_ops.patchify(jnp.where(hidden[..., None], 0.0, images.astype(jnp.float32)), patch)
    sums = rearrange(pixels, "b n (p c) -> b n p c", c=images.shape[-1]).sum(axis=2)
    return sums / jnp.maximum(shares.sum(axis=-1, keepdims=True), 1.0), shares.mean(axis=-1)


class ColorCopy(nn.Module):
    """Colors of hidden patches as means of those of visible ones, under attention that begins as nearness.

    Attributes:
        width: size of queries and keys.
    """

    width: int = 32

    @nn.compact
    def __call__(self, tokens: jax.Array, colors: jax.Array, shares: jax.Array, columns: int) -> jax.Array:
        """Returns colors [B, N, C], float32.

        Args:
            tokens: [B, N, D] of all patches.
            colors: [B, N, C], see `visible_colors`.
            shares: [B, N], the weights of the patches beside the attention.
            columns: of the grid of patches.
        """
        places = np.arange(tokens.shape[1])
        apart = np.square(places[:, None] // columns - places // columns) + np.square(
            places[:, None] % columns - places % columns
        )
        tokens = tokens.astype(jnp.float32)
        queries = nn.Dense(self.width, kernel_init=nn.initializers.zeros, name="query")(tokens)
        keys = nn.Dense(self.width, kernel_init=initializers.torch_default, name="key")(tokens)
        scores = jnp.einsum("bnk,bmk->bnm", queries, keys) / self.width**0.5
        scores += jnp.log(shares + 1e-9)[:, None] - jnp.asarray(apart / (2 * REACH**2), jnp.float32)[None]
        return jnp.einsum("bnm,bmc->bnc", nn.softmax(scores, axis=-1), colors)


class PixelDecoder(nn.Module):
    """A small transformer from the encoder's patch tokens to pixels.

    Attributes:
        image_size: (height, width) of the images.
        patch: side of a drawn patch; patches do not overlap, whatever the encoder's do.
        width: width of its tokens; a multiple of 4 and of the heads.
        depth: blocks.
        heads: attention heads.
        ratio: share of the patches hidden from the decoder in training, in addition to the damaged ones, see
            `extra_tokens`; in [0, 0.5].
        copies: whether a patch is drawn as a change of a color that is copied from visible patches (`ColorCopy`).
        dtype: compute dtype.
    """

    image_size: tuple[int, int] = (256, 128)
    patch: int = 16
    width: int = 512
    depth: int = 2
    heads: int = 16
    ratio: float = 0.0
    copies: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, local: jax.Array, batch: Mapping[str, jax.Array], grid: tuple[int, int], *, train: bool
    ) -> dict[str, jax.Array]:
        """Draws the picture.

        Args:
            local: [B, n, D] patch tokens of the encoder.
            batch: "image" and "image_clean" [B, H, W, 3] normalized; where present "parts" [B, H, W], for the
                extra masks. Without "image_clean" there is nothing to draw.
            grid: rows and columns of the tokens.
            train: hides extra patches (random numbers "dropout").

        Returns:
            "pixels/predicted" [B, N, patch patch 3] float32 and "pixels/mask" [B, N] bool, the patches of the loss.

        Raises:
            UserError: a ratio out of range, or an image that does not divide into patches.
        """
        if not 0.0 <= self.ratio <= 0.5:
            raise errors.UserError(f"expected a share of hidden patches (pixel ratio) in [0, 0.5], got {self.ratio}.")
        if CLEAN not in batch:
            if self.is_initializing():
                blank = jnp.zeros((len(local), *self.image_size, 3))
                self._draw(local, grid, None, blank, jnp.zeros(blank.shape[:3], bool))
            return {}
        damaged = damaged_tokens(batch["image"], batch[CLEAN], self.patch)
        extra = None
        if train and self.ratio > 0:
            parts = part_tokens(batch["parts"], self.patch) if "parts" in batch else None
            extra = extra_tokens(self.make_rng("dropout"), len(local), *self._cells(), self.ratio, parts)
        mask = damaged if extra is None else damaged | extra
        changed = damaged_pixels(batch["image"], batch[CLEAN])
        return {"pixels/predicted": self._draw(local, grid, extra, batch["image"], changed), "pixels/mask": mask}

    def _cells(self) -> tuple[int, int]:
        """Returns rows and columns of drawn patches."""
        return self.image_size[0] // self.patch, self.image_size[1] // self.patch

    def _draw(
        self, local: jax.Array, grid: tuple[int, int], extra: jax.Array | None, images: jax.Array, changed: jax.Array
    ) -> jax.Array:
        """Returns patches [B, N, patch patch 3] drawn from tokens, of which those of `extra` [B, N] are hidden.

        Colors come from the pixels of `images` [B, H, W, 3] that are not `changed` [B, H, W].
        """
        rows, columns = self._cells()
        tokens = rearrange(local, "b (y x) d -> b y x d", y=grid[0])
        if tuple(grid) != (rows, columns):
            shape = (len(local), rows, columns, local.shape[-1])
            tokens = jax.image.resize(tokens, shape, "linear", antialias=False)
        x = vit.dense(self.width, "embed", self.dtype)(rearrange(tokens, "b y x d -> b (y x) d"))
        if self.ratio > 0:
            hidden = self.param("mask_token", vit.normal_002, (1, 1, self.width), jnp.float32)
            if extra is not None:
                x = jnp.where(extra[..., None], hidden.astype(x.dtype), x)
        x = x + jnp.asarray(sincos_positions(rows, columns, self.width), x.dtype)[None]
        for index in range(self.depth):
            x = vit.Block(self.heads, dtype=self.dtype, name=f"blocks_{index}")(x, train=False)
        x = vit.layer_norm("norm", self.dtype)(x)
        drawn = vit.dense(self.patch**2 * 3, "pixels", jnp.float32)(x.astype(jnp.float32))
        if not self.copies:
            return drawn
        colors, shares = visible_colors(images, changed, self.patch)
        if extra is not None:
            shares = jnp.where(extra, 0.0, shares)
        return drawn + jnp.tile(ColorCopy(name="copy")(x, colors, shares, columns), self.patch**2)
