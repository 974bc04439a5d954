"""Arrays of users as uint8 RGB images: crops, stacks, and boxes of a frame; anything ambiguous is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from reid_jax import errors

CHANNELS = ("rgb", "bgr")
_BLACK = np.zeros((1, 1, 3), np.uint8)


def as_images(
    images: np.ndarray | Sequence[np.ndarray], boxes: Any = None, channels: str = "rgb", *, blank: bool = False
) -> list[np.ndarray]:
    """Returns uint8 RGB images [H, W, 3].

    Args:
        images: uint8 images of any size: a list, an array [N, H, W, C], or one image [H, W, C]. C is 3, or 1 (gray,
            repeated), or 4 (the transparency is dropped); gray images may also be [H, W] in a list.
        boxes: None, or [N, 4] left, top, right, bottom in pixels of the one image, from which the crops are cut. A box
            is enlarged to whole pixels and clipped to the image.
        channels: order of the channels, "rgb", or "bgr" as OpenCV reads images.
        blank: a crop or box without a pixel becomes a black one in place of an error.

    Raises:
        UserError: another type, shape or range; an empty image or box; the message names its number, counted from 1.
    """
    if channels not in CHANNELS:
        raise errors.unknown("order of channels", str(channels), CHANNELS)
    if isinstance(images, np.ndarray) and images.ndim == 3 and images.shape[-1] in (1, 3, 4):
        images = [images]
    elif isinstance(images, np.ndarray) and images.ndim != 4:
        raise errors.UserError(
            f"expected images as a list, an array [N, H, W, 3] or one image [H, W, 3], got an array of shape "
            f"{images.shape}; put the channels last."
        )
    total = len(images)
    converted = [
        _as_rgb(np.asarray(image), f"image {number} of {total}", channels, blank)
        for number, image in enumerate(images, start=1)
    ]
    if boxes is None:
        return converted
    if len(converted) != 1:
        raise errors.UserError(f"expected one image with boxes, got {len(converted)}; call once for each image.")
    return _cut(converted[0], np.asarray(boxes), blank)


def _as_rgb(image: np.ndarray, name: str, channels: str, blank: bool) -> np.ndarray:
    if image.dtype.kind not in "biuf":
        raise errors.UserError(
            f"expected {name} as an array of numbers, got {image.dtype}; open files by "
            "reid_jax.inference.sources.load_image."
        )
    if image.dtype != np.uint8:
        scaled = "(255 * image)" if _is_fraction(image) else "image"
        raise errors.UserError(
            f"expected {name} as uint8 from 0 to 255, got {image.dtype}; convert it, for example by "
            f"np.rint({scaled}).clip(0, 255).astype(np.uint8)."
        )
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4):
        raise errors.UserError(
            f"expected {name} of shape [H, W, 3], or with 1 (gray) or 4 (transparency) channels, got {image.shape}; "
            "put the channels last."
        )
    if not image.size and blank:
        return _BLACK
    if not image.size:
        raise errors.UserError(f"expected {name} with at least one pixel, got shape {image.shape}; leave it out.")
    if image.shape[2] == 1:
        return np.repeat(image, 3, axis=2)
    return np.ascontiguousarray(image[:, :, [2, 1, 0]] if channels == "bgr" else image[:, :, :3])


def _is_fraction(image: np.ndarray) -> bool:
    """Returns whether an array seems to be in the range from 0 to 1."""
    return bool(np.issubdtype(image.dtype, np.floating) and image.size and np.nanmax(image) <= 1)


def _cut(image: np.ndarray, boxes: np.ndarray, blank: bool) -> list[np.ndarray]:
    """Returns the crops of boxes."""
    if boxes.size == 0:
        return []
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype.kind not in "iuf" or not np.isfinite(boxes).all():
        raise errors.UserError(
            f"expected boxes as finite numbers [N, 4] (left, top, right, bottom), got {boxes.dtype} of shape "
            f"{boxes.shape}; correct them."
        )
    height, width = image.shape[:2]
    crops = []
    for number, box in enumerate(boxes.astype(np.float64), start=1):
        left, top = np.clip(np.floor(box[:2]), 0, (width, height)).astype(int)
        right, bottom = np.clip(np.ceil(box[2:]), 0, (width, height)).astype(int)
        empty = left >= right or top >= bottom
        if empty and not blank:
            raise errors.UserError(
                f"box {number} of {len(boxes)}, {[round(float(value), 1) for value in box]} (left, top, right, "
                f"bottom), has no pixel in the image of {width} x {height}; leave it out."
            )
        crops.append(_BLACK if empty else image[top:bottom, left:right])
    return crops
