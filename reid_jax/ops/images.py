"""Image operations on the device: normalization, filling the boxes of random erasing, cutting into patches."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from einops import rearrange

from reid_jax import errors

Array = jax.Array

# Fills that are one color, as values after normalization. "mean_raw" writes the raw ImageNet mean into normalized
# space, as the BoT code and those derived from it do; "zero" is the color that normalization maps to the mean.
FILLS: dict[str, tuple[float, float, float]] = {
    "mean_raw": (0.485, 0.456, 0.406),
    "zero": (0.0, 0.0, 0.0),
    "mean": (0.0, 0.0, 0.0),
}


def normalize(images: Array, mean: Sequence[float], std: Sequence[float]) -> Array:
    """Scales images to [0, 1] and standardizes each channel.

    Args:
        images: `[B, H, W, 3]`, uint8 in 0-255 or floating point already in [0, 1].
        mean: mean of each channel, in [0, 1].
        std: standard deviation of each channel, in [0, 1].

    Returns:
        `[B, H, W, 3]` float32: `(x - mean) / std`.
    """
    pixels = images.astype(jnp.float32)
    if images.dtype == jnp.uint8:
        pixels = pixels / 255
    per_channel = (1,) * (images.ndim - 1) + (-1,)
    center = jnp.asarray(mean, jnp.float32).reshape(per_channel)
    return (pixels - center) / jnp.asarray(std, jnp.float32).reshape(per_channel)


def box_mask(boxes: Array, height: int, width: int) -> Array:
    """Returns the mask of the pixels inside a box.

    Args:
        boxes: int32 `[B, 4]`: top, left, bottom, right; bottom and right are exclusive. An empty box covers nothing.
        height: rows.
        width: columns.

    Returns:
        bool `[B, height, width]`.
    """
    top, left, bottom, right = (boxes[:, side, None] for side in range(4))  # each [B, 1]
    rows = jax.lax.broadcasted_iota(jnp.int32, (1, height), 1)
    columns = jax.lax.broadcasted_iota(jnp.int32, (1, width), 1)
    in_rows = (rows >= top) & (rows < bottom)
    in_columns = (columns >= left) & (columns < right)
    return in_rows[:, :, None] & in_columns[:, None, :]


def fill_boxes(images: Array, boxes: Array, fill: str | Sequence[float], key: Array | None = None) -> Array:
    """Fills one box in each image, after normalization.

    Args:
        images: `[B, H, W, 3]`, normalized.
        boxes: int32 `[B, 4]`: top, left, bottom, right; zeros for none.
        fill: "noise" (independent N(0, 1) for every pixel and channel), a name of `FILLS`, or three numbers in
            normalized space.
        key: random key; only "noise" needs it.

    Returns:
        `[B, H, W, 3]` in the dtype of `images`.

    Raises:
        UserError: unknown fill, or "noise" without a key.

    References:
        Zhong et al., Random Erasing Data Augmentation, AAAI 2020.
    """
    if isinstance(fill, str) and fill == "noise":
        if key is None:
            raise errors.UserError("the erase fill 'noise' needs a random key, none was given; use 'zero' without one.")
        value = jax.random.normal(key, images.shape, jnp.float32).astype(images.dtype)
    else:
        if isinstance(fill, str) and fill not in FILLS:
            raise errors.unknown("erase fill", fill, [*FILLS, "noise", "three numbers"])
        color = FILLS[fill] if isinstance(fill, str) else tuple(fill)
        if len(color) != images.shape[-1]:
            raise errors.UserError(f"an erase fill of {images.shape[-1]} numbers was expected, got {color}.")
        value = jnp.broadcast_to(jnp.asarray(color, images.dtype), images.shape)
    inside = box_mask(boxes, images.shape[1], images.shape[2])[..., None]
    return jnp.where(inside, value, images)


def patchify(images: Array, patch: int) -> Array:
    """Cuts images `[B, H, W, C]` into square patches `[B, N, patch patch C]`, row after row, pixels likewise.

    Raises:
        UserError: H or W does not divide.
    """
    height, width = images.shape[1:3]
    if height % patch or width % patch:
        raise errors.UserError(
            f"expected images that divide into patches of {patch} pixels a side, got {height} x {width}; change "
            "data.height or data.width."
        )
    return rearrange(images, "b (r y) (c x) d -> b (r c) (y x d)", y=patch, x=patch)


def unpatchify(patches: Array, patch: int, height: int, width: int) -> Array:
    """Puts patches `[B, N, patch patch C]` back in place: `[B, height, width, C]`; the inverse of `patchify`."""
    rows, columns = height // patch, width // patch
    return rearrange(patches, "b (r c) (y x d) -> b (r y) (c x) d", r=rows, c=columns, y=patch, x=patch)
