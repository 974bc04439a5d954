"""The vision transformer as ReID uses it: rectangular images, overlapping patches, a camera embedding.

Submodules carry timm's names with a number joined to the part before it: `blocks.3.attn.qkv.weight` is
`blocks_3/attn/qkv/kernel`.

References:
    Dosovitskiy et al., "An image is worth 16x16 words: transformers for image recognition at scale", ICLR 2021.
    He et al., "TransReID: transformer-based object re-identification", ICCV 2021, sections 3.1 and 3.3.
    Huang et al., "Deep networks with stochastic depth", ECCV 2016.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn

from reid_jax import errors
from reid_jax.models.backbones import position_codes
from reid_jax.nn import conv, initializers
from reid_jax.ops import fusion, products, taps

# Embedding width, blocks, heads, MLP ratio. "deit" networks differ from "vit" ones by their weights alone.
SIZES: dict[str, dict[str, Any]] = {
    "base": {"width": 768, "depth": 12, "heads": 12},
    "small": {"width": 384, "depth": 12, "heads": 6},
    # What TransReID's repository calls ViT-S.
    "small_wide": {
        "width": 768,
        "depth": 8,
        "heads": 8,
        "mlp_ratio": 3.0,
        "qkv_bias": False,
        "attention_scale": 768**-0.5,
    },
    "tiny": {"width": 192, "depth": 12, "heads": 3},
}
SIE = ("none", "camera", "view", "camera_view")
ATTENTION = ("xla", "cudnn")
POSITION_INITS = ("normal", "sincos")

# The PyTorch recipe truncates at 100 standard deviations, which has no effect.
normal_002 = nn.initializers.normal(0.02)
# Initial values of linear layers and of the patch embedding. "normal" is made for a width of 768: in a network of 128,
# branches add little to the tokens, and patches next to nothing to a code of positions. "xavier" follows the width.
KERNEL_INITS: dict[str, tuple[nn.initializers.Initializer, nn.initializers.Initializer]] = {
    "normal": (normal_002, initializers.kaiming_fan_out),
    "xavier": (initializers.xavier_matrix, initializers.xavier_matrix),
}


def layer_norm(name: str, dtype: Any) -> nn.LayerNorm:
    """Returns a layer normalization with the transformer's epsilon and float32 statistics."""
    return nn.LayerNorm(epsilon=1e-6, use_fast_variance=False, dtype=dtype, name=name)


def dense(features: int, name: str, dtype: Any, *, use_bias: bool = True, kernels: str = "normal") -> nn.Dense:
    """Returns a linear layer with initial values of `KERNEL_INITS`."""
    return nn.Dense(features, use_bias=use_bias, kernel_init=kernel_init(kernels)[0], dtype=dtype, name=name)


def kernel_init(name: str) -> tuple[nn.initializers.Initializer, nn.initializers.Initializer]:
    """Returns the initial values of linear layers, and of the patch embedding.

    Raises:
        UserError: an unknown name.
    """
    if name not in KERNEL_INITS:
        raise errors.unknown("initial values (kernels)", name, KERNEL_INITS)
    return KERNEL_INITS[name]


def grid_of(image_size: tuple[int, int], patch: int, stride: int) -> tuple[int, int]:
    """Returns rows and columns of patches in an image.

    >>> grid_of((256, 128), 16, 12)
    (21, 10)

    Raises:
        UserError: the image is smaller than a patch.
    """
    if min(image_size) < patch:
        raise errors.UserError(f"expected images of at least {patch} pixels a side, got {image_size}; resize them.")
    rows, columns = ((side - patch) // stride + 1 for side in image_size)
    return rows, columns


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    scale: float | None = None,
    kernel: str = "xla",
    drop: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
    """Computes multi-head attention; the softmax is float32.

    Args:
        query: [B, H, Q, D].
        key: [B, H, K, D].
        value: [B, H, K, D].
        scale: scale factor of the products; None is 1 / sqrt(D).
        kernel: "xla" everywhere; "cudnn" the fused one of NVIDIA GPUs, for 16-bit dtypes.
        drop: dropout rate of the weights [B, H, Q, K]; "xla" only.

    Returns:
        [B, Q, H D], heads side by side.

    Raises:
        UserError: unknown kernel, or dropped weights in the fused one.
    """
    if kernel not in ATTENTION:
        raise errors.unknown("attention kernel", kernel, ATTENTION)
    if kernel == "cudnn" and drop is not None:
        raise errors.UserError("the cudnn attention kernel drops no weights; set model.attention_kernel='xla'.")
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if kernel == "cudnn" and not taps.watched():
        query, key, value = (rearrange(x, "b h n d -> b n h d") for x in (query, key, value))
        gathered = jax.nn.dot_product_attention(query, key, value, scale=scale, implementation="cudnn")
        return rearrange(gathered, "b n h d -> b n (h d)")
    logits = products.float32_product("bhqd,bhkd->bhqk", query, key)
    weights = nn.softmax(logits * scale, axis=-1).astype(value.dtype)
    weights = taps.tap("attention", weights if drop is None else drop(weights))
    return rearrange(jnp.einsum("bhqk,bhkd->bhqd", weights, value), "b h n d -> b n (h d)")


class Attention(nn.Module):
    """Multi-head self-attention with one projection for query, key and value.

    Attributes:
        heads: number of heads.
        qkv_bias: bias of that projection.
        scale: scale factor of the products; None is 1 / sqrt(D / heads).
        kernel: see `attend`.
        dropout: rate after the output projection, in training.
        attention_dropout: dropout rate of the attention weights, in training.
        dtype: compute dtype.
        kernels: initial values, see `KERNEL_INITS`.
    """

    heads: int
    qkv_bias: bool = True
    scale: float | None = None
    kernel: str = "xla"
    dropout: float = 0.0
    attention_dropout: float = 0.0
    dtype: Any = jnp.float32
    kernels: str = "normal"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps [B, N, D] to [B, N, D]."""
        width = x.shape[-1]
        qkv = dense(3 * width, "qkv", self.dtype, use_bias=self.qkv_bias, kernels=self.kernels)(x)
        # The gradient of a split is one concatenation; that of slices would be a sum of padded arrays.
        query, key, value = (rearrange(x, "b n (h d) -> b h n d", h=self.heads) for x in jnp.split(qkv, 3, axis=-1))
        drop = nn.Dropout(self.attention_dropout, deterministic=not train) if self.attention_dropout else None
        gathered = attend(query, key, value, scale=self.scale, kernel=self.kernel, drop=drop)
        drop_output = nn.Dropout(self.dropout, deterministic=not train)
        project = dense(width, "proj", self.dtype, kernels=self.kernels)
        output: jax.Array = drop_output(project(gathered))
        return output


class MLP(nn.Module):
    """Two layers with an exact (erf) GELU between them.

    Attributes:
        hidden: width of the first.
        dropout: rate after each, in training.
        dtype: compute dtype.
        kernels: initial values, see `KERNEL_INITS`.
    """

    hidden: int
    dropout: float = 0.0
    dtype: Any = jnp.float32
    kernels: str = "normal"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps [B, N, D] to [B, N, D]."""
        drop = nn.Dropout(self.dropout, deterministic=not train)
        enter = dense(self.hidden, "fc1", self.dtype, kernels=self.kernels)
        leave = dense(x.shape[-1], "fc2", self.dtype, kernels=self.kernels)
        hidden = drop(nn.gelu(enter(x), approximate=False))
        output: jax.Array = drop(leave(hidden))
        return output


def drop_path(module: nn.Module, branch: jax.Array, rate: float, *, train: bool) -> jax.Array:
    """Skips a residual branch [B, N, D] for whole samples with probability `rate`, and scales up the others."""
    if not train or rate == 0.0:
        return branch
    keep = jax.random.bernoulli(module.make_rng("dropout"), 1.0 - rate, (branch.shape[0], 1, 1))
    return jnp.where(keep, branch / (1.0 - rate), jnp.zeros((), branch.dtype))


class Block(nn.Module):
    """Pre-norm transformer block: `x + attn(LN(x))`, then `x + mlp(LN(x))`.

    Attributes:
        heads: attention heads.
        mlp_ratio: hidden width of the MLP / width.
        drop_path: probability that a sample skips a residual branch in training.
        qkv_bias: see `Attention`.
        attention_scale: see `Attention`.
        attention_kernel: see `attend`.
        dropout, attention_dropout: see `Attention` and `MLP`.
        dtype: compute dtype.
        kernels: initial values, see `KERNEL_INITS`.
    """

    heads: int
    mlp_ratio: float = 4.0
    drop_path: float = 0.0
    qkv_bias: bool = True
    attention_scale: float | None = None
    attention_kernel: str = "xla"
    dropout: float = 0.0
    attention_dropout: float = 0.0
    dtype: Any = jnp.float32
    kernels: str = "normal"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [B, N, D] to [B, N, D]."""
        attention = Attention(
            self.heads,
            self.qkv_bias,
            self.attention_scale,
            self.attention_kernel,
            self.dropout,
            self.attention_dropout,
            self.dtype,
            self.kernels,
            name="attn",
        )
        mlp = MLP(round(self.mlp_ratio * x.shape[-1]), self.dropout, self.dtype, self.kernels, name="mlp")
        for branch, norm in ((attention, "norm1"), (mlp, "norm2")):
            change = branch(layer_norm(norm, self.dtype)(x), train=train)
            x = fusion.materialize(x + drop_path(self, change, self.drop_path, train=train))
        return x


class PatchEmbed(nn.Module):
    """Embedding of patches: a convolution without padding.

    Attributes:
        width: width of a vector.
        patch: side of a patch in pixels.
        stride: pixels from one patch to the next; smaller than `patch` they overlap.
        dtype: compute dtype.
        kernels: initial values, see `KERNEL_INITS`.
    """

    width: int
    patch: int = 16
    stride: int = 16
    dtype: Any = jnp.float32
    kernels: str = "normal"

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps [B, H, W, 3] to [B, N, width], row after row."""
        convolve = conv.Conv(
            self.width,
            self.patch,
            self.stride,
            padding=0,
            use_bias=True,
            dtype=self.dtype,
            kernel_init=kernel_init(self.kernels)[1],
            name="proj",
        )
        return rearrange(convolve(images), "b y x d -> b (y x) d")


class ViT(nn.Module):
    """Encoder of an image into a class token and patch tokens.

    Attributes:
        image_size: (height, width) of the images; the position embedding belongs to it.
        width: width of a token, D.
        depth: blocks of the published network. Rates of stochastic depth count them.
        heads: attention heads.
        mlp_ratio: hidden width of the MLPs / width.
        patch: side of a patch.
        stride: step between patches.
        qkv_bias: see `Attention`.
        attention_scale: see `Attention`.
        attention_kernel: see `attend`.
        drop_path: rate of stochastic depth of the last block; it rises linearly from 0 at the first.
        dropout: rate after the embedding, the attentions' projections and the MLPs' layers.
        attention_dropout: rate of the attentions' weights.
        positions: adds a learned vector to each position.
        position_init: its initial values, "normal" or "sincos" (`position_codes.token_code`).
        kernels: initial values of linear layers and of the patch embedding, see `KERNEL_INITS`.
        sie: side information embedding: "none", "camera", "view" (of vehicles) or "camera_view".
        sie_weight: what it is multiplied by (the paper's lambda).
        num_cameras: cameras of the training data; with a single camera there is no embedding.
        num_views: viewpoints, likewise.
        stop: blocks to run; None runs all of them and the final normalization.
        dtype: compute dtype; parameters, normalization statistics and softmax are float32.
    """

    image_size: tuple[int, int] = (256, 128)
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    patch: int = 16
    stride: int = 16
    qkv_bias: bool = True
    attention_scale: float | None = None
    attention_kernel: str = "xla"
    drop_path: float = 0.1
    dropout: float = 0.0
    attention_dropout: float = 0.0
    positions: bool = True
    position_init: str = "normal"
    kernels: str = "normal"
    sie: str = "none"
    sie_weight: float = 3.0
    num_cameras: int = 0
    num_views: int = 0
    stop: int | None = None
    dtype: Any = jnp.float32

    def setup(self) -> None:
        if self.sie not in SIE:
            raise errors.unknown("side information (sie)", self.sie, SIE)
        if self.width % self.heads:
            raise errors.UserError(
                f"expected a width that divides into heads, got {self.width} and {self.heads} heads; change one."
            )
        self.patch_embed = PatchEmbed(self.width, self.patch, self.stride, self.dtype, self.kernels)
        self.cls_token = self.param("cls_token", normal_002, (1, 1, self.width), jnp.float32)
        if self.positions:
            places = (1, 1 + self.grid[0] * self.grid[1], self.width)
            self.pos_embed = self.param("pos_embed", self._position_init(), places, jnp.float32)
        self.drop = nn.Dropout(self.dropout)
        if self._sides > 1:
            self.sie_embed = self.param("sie_embed", normal_002, (self._sides, 1, self.width), jnp.float32)
        stop = self.depth if self.stop is None else self.stop
        self.blocks = [Block(**self.block_fields(index)) for index in range(stop)]
        if self.stop is None:
            self.norm = nn.LayerNorm(epsilon=1e-6, use_fast_variance=False, dtype=self.dtype)

    @property
    def grid(self) -> tuple[int, int]:
        """Number of rows and columns of patches."""
        return grid_of(self.image_size, self.patch, self.stride)

    def _position_init(self) -> nn.initializers.Initializer:
        """Returns the initializer of the position embedding."""
        if self.position_init not in POSITION_INITS:
            raise errors.unknown("position_init", self.position_init, POSITION_INITS)
        if self.position_init == "normal":
            return normal_002
        return lambda key, shape, dtype: jnp.asarray(position_codes.token_code(*self.grid, shape[-1]), dtype)

    @property
    def _sides(self) -> int:
        """Number of rows of the side information embedding; up to 1 there is none."""
        cameras = self.num_cameras if self.sie in ("camera", "camera_view") else 1
        return cameras * (self.num_views if self.sie in ("view", "camera_view") else 1)

    def block_fields(self, index: int) -> dict[str, Any]:
        """Returns the fields of the `Block` at an index of the published network."""
        return {
            "heads": self.heads,
            "mlp_ratio": self.mlp_ratio,
            "drop_path": float(np.linspace(0.0, self.drop_path, self.depth)[index]),
            "qkv_bias": self.qkv_bias,
            "attention_scale": self.attention_scale,
            "attention_kernel": self.attention_kernel,
            "dropout": self.dropout,
            "attention_dropout": self.attention_dropout,
            "dtype": self.dtype,
            "kernels": self.kernels,
        }

    def embed(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Returns class token and patches with positions and side information, [B, 1 + N, D].

        Raises:
            UserError: images of another size, or without the side information that the model reads.
        """
        images = batch["image"]
        if images.shape[1:3] != tuple(self.image_size):
            raise errors.UserError(
                f"expected images of {self.image_size} (height, width), for which the model was built, got "
                f"{images.shape[1:3]}; set data.height and data.width."
            )
        patches = taps.tap("patches", self.patch_embed(images.astype(self.dtype)), grid=self.grid, cut=True)
        first = jnp.broadcast_to(self.cls_token.astype(self.dtype), (images.shape[0], 1, self.width))
        tokens = jnp.concatenate((first, patches), axis=1)
        if self.positions:
            tokens = tokens + self.pos_embed.astype(self.dtype)
        if self._sides > 1:
            tokens = tokens + self._side_information(batch).astype(self.dtype)
        return tokens

    def _side_information(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Returns the side information [B, 1, D]; zero for a camera or view that is unknown (-1) or new."""
        index, known = jnp.zeros((), jnp.int32), jnp.ones((), bool)
        for key, count in (("camid", self.num_cameras), ("viewid", self.num_views)):
            if {"camid": "camera", "viewid": "view"}[key] not in self.sie.split("_"):
                continue
            if key not in batch:
                raise errors.UserError(
                    f"sie={self.sie!r} reads {key!r}, which the data have not; set model.sie='none'."
                )
            index = index * count + jnp.clip(batch[key], 0, count - 1)
            known = known & (batch[key] >= 0) & (batch[key] < count)
        return jnp.where(known[:, None, None], self.sie_weight * self.sie_embed[index], 0.0)

    def __call__(
        self,
        batch: Mapping[str, jax.Array],
        *,
        train: bool,
        after: Callable[[int, jax.Array], jax.Array] = lambda number, tokens: tokens,
    ) -> jax.Array:
        """Encodes images.

        Args:
            batch: "image" [B, H, W, 3] normalized; "camid" and "viewid" [B] int where `sie` names them.
            train: turns stochastic depth on (random numbers "dropout").
            after: `(blocks run, tokens) -> tokens`, called with the embedding (0) and after every block; the next
                block reads what it returns.

        Returns:
            Tokens [B, 1 + N, D], the class token first.
        """
        tokens = after(0, self.drop(self.embed(batch), deterministic=not train))
        for number, block in enumerate(self.blocks, start=1):
            tokens = after(number, taps.tap(f"block{number}", block(tokens, train=train), grid=self.grid, leading=1))
        return tokens if self.stop is not None else self.norm(tokens)


def resize_positions(positions: np.ndarray, source: tuple[int, int], target: tuple[int, int]) -> np.ndarray:
    """Resamples a position embedding for another grid: bilinear, half-pixel centers, without antialiasing.

    Args:
        positions: [1, 1 + rows columns, D], the class token's first.
        source: its (rows, columns).
        target: the new (rows, columns).

    Returns:
        [1, 1 + rows columns, D] float32 of the target.
    """
    if source == target:
        return positions
    grid = rearrange(positions[0, 1:], "(y x) d -> y x d", y=source[0])
    # Columns get fewer: the default of `resize` would smooth first, which PyTorch does not.
    grid = jax.image.resize(jnp.asarray(grid), (*target, grid.shape[-1]), "linear", antialias=False)
    resized = rearrange(np.asarray(grid), "y x d -> 1 (y x) d")
    return np.concatenate((positions[:, :1], resized), axis=1)


def guess_grid(count: int, target: tuple[int, int]) -> tuple[int, int]:
    """Returns rows and columns of a published position embedding: the target's, square, or an upright grid of ReID.

    Raises:
        UserError: a number of patches that fits none of them.
    """
    upright = [(ratio * round((count / ratio) ** 0.5), round((count / ratio) ** 0.5)) for ratio in (1, 2, 3)]
    for rows, columns in (target, *upright):
        if rows * columns == count:
            return rows, columns
    raise errors.UserError(
        f"expected a position embedding of a square or upright (2:1, 3:1) grid, got {count} patches; give its rows and "
        "columns as model.position_grid."
    )
