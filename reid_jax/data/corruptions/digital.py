"""Digital corruptions: contrast, elastic transform, pixelation, JPEG and saturation; see `noise` for signatures."""

from __future__ import annotations

import io

import cv2
import numpy as np
from PIL import Image

from reid_jax.data import image_io
from reid_jax.data.corruptions import filters
from reid_jax.data.corruptions.filters import Draws, to_bytes, to_unit

CONTRAST = (0.4, 0.3, 0.2, 0.1, 0.05)
ELASTIC_STRENGTH = (12.5, 16.25, 21.25, 25.0, 30.0)
PIXELATE_SCALE = (0.6, 0.5, 0.4, 0.3, 0.25)
JPEG_QUALITY = (25, 18, 15, 10, 7)
SATURATE = ((0.3, 0.0), (0.1, 0.0), (2.0, 0.0), (5.0, 0.1), (20.0, 0.2))  # a and b: saturation S becomes a S + b


def contrast(severity: int, image: np.ndarray, draws: Draws) -> np.ndarray:
    """Returns the image with every value moved toward the mean of its channel."""
    values = image.astype(np.float64) / 255
    means = values.mean(axis=(0, 1))
    return to_bytes((values - means) * CONTRAST[severity - 1] + means)


def sample_elastic(severity: int, shape: tuple[int, int], rng: np.random.Generator) -> Draws:
    """Draws two fields from U(-0.005 H, 0.005 H), float64 `[H, W]`: displacement to the right, then down."""
    reach = 0.005 * shape[0]
    return rng.uniform(-reach, reach, shape), rng.uniform(-reach, reach, shape)


def elastic(severity: int, image: np.ndarray, draws: Draws) -> np.ndarray:
    """Returns the image displaced by smooth random fields, with bilinear interpolation and reflected borders."""
    height, width = image.shape[:2]
    strength = ELASTIC_STRENGTH[severity - 1]
    right, down = (
        filters.gaussian_filter(
            field.astype(np.float64), (0.01 * height, 0.01 * width), truncate=3, border=cv2.BORDER_REFLECT
        )
        * strength
        for field in draws
    )
    y, x = np.arange(height)[:, None] + down, np.arange(width)[None] + right
    top, left = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    share_y, share_x = (y - top).astype(np.float32)[..., None], (x - left).astype(np.float32)[..., None]
    top, bottom = _reflect(top, height) * width, _reflect(top + 1, height) * width
    left, right_ = _reflect(left, width), _reflect(left + 1, width)
    pixels = to_unit(image).reshape(-1, 3)
    upper = pixels.take(top + left, axis=0) * (1 - share_x) + pixels.take(top + right_, axis=0) * share_x
    lower = pixels.take(bottom + left, axis=0) * (1 - share_x) + pixels.take(bottom + right_, axis=0) * share_x
    return to_bytes(upper * (1 - share_y) + lower * share_y)


def _reflect(index: np.ndarray, size: int) -> np.ndarray:
    """Returns indices reflected at the borders with the edge repeated: -1 is 0, `size` is `size - 1`."""
    index = index % (2 * size)
    return np.where(index < size, index, 2 * size - 1 - index)


def pixelate(severity: int, image: np.ndarray, draws: Draws) -> np.ndarray:
    """Returns the image reduced by Pillow's box filter and enlarged by nearest neighbor."""
    height, width = image.shape[:2]
    scale = PIXELATE_SCALE[severity - 1]
    small = Image.fromarray(image).resize(
        (max(1, int(width * scale)), max(1, int(height * scale))), Image.Resampling.BOX
    )
    return np.array(small.resize((width, height), Image.Resampling.NEAREST))


def jpeg(severity: int, image: np.ndarray, draws: Draws) -> np.ndarray:
    """Returns the image encoded by Pillow as baseline JPEG of low quality with chroma subsampling, and decoded."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY[severity - 1])
    return image_io.decode(buffer.getvalue())


def saturate(severity: int, image: np.ndarray, draws: Draws) -> np.ndarray:
    """Returns the image with HSV saturation a S + b and the same hue and value; b > 0 makes gray, of hue 0, reddish.

    In RGB this is v - (v - x) S' / S, where v is the largest channel.
    """
    scale, shift = SATURATE[severity - 1]
    values = image.astype(np.float64) / 255
    largest = values.max(axis=2, keepdims=True)
    spread = largest - values.min(axis=2, keepdims=True)
    saturation = np.divide(spread, largest, out=np.zeros_like(spread), where=largest > 0)
    wanted = np.clip(saturation * scale + shift, 0, 1)
    ratio = np.divide(wanted, saturation, out=np.zeros_like(wanted), where=saturation > 0)
    below = (largest - values) * ratio
    gray = saturation[..., 0] == 0
    below[gray] = largest[gray] * wanted[gray] * np.array([0.0, 1.0, 1.0])
    return to_bytes(largest - below)
