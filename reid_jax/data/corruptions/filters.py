"""What the corruptions share: gray levels in and out, Gaussian filters, interpolation, motion blur."""

from __future__ import annotations

import functools
import math
from typing import Any

import cv2
import numpy as np

Draws = tuple[Any, ...]  # arrays and numbers, in the order in which they were drawn

# The input pipeline has threads of its own; a second pool inside every call would only fight with them.
cv2.setNumThreads(1)


def to_unit(image: np.ndarray) -> np.ndarray:
    """uint8 to float32 in [0, 1]."""
    return image * np.float32(1 / 255)


def to_bytes(values: np.ndarray) -> np.ndarray:
    """[0, 1] to uint8: clipped, times 255, truncated (not rounded), as the benchmark has it."""
    rounded: np.ndarray = (np.clip(values, 0, 1) * 255).astype(np.uint8)
    return rounded


def gray_level(values: np.ndarray) -> np.ndarray:
    """0..255 to uint8: clipped and truncated."""
    clipped: np.ndarray = np.clip(values, 0, 255).astype(np.uint8)
    return clipped


def no_draws(severity: int, shape: tuple[int, int], rng: np.random.Generator) -> Draws:
    """For corruptions without chance."""
    return ()


@functools.lru_cache(maxsize=256)
def gaussian_kernel(sigma: float, truncate: float = 4.0) -> np.ndarray:
    """Sampled Gaussian of radius int(truncate * sigma + 0.5) that sums to 1: float64 `[2 * radius + 1]`."""
    radius = int(truncate * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights /= weights.sum()
    weights.setflags(write=False)
    return weights


def gaussian_filter(
    values: np.ndarray,
    sigma: float | tuple[float, float],
    *,
    truncate: float = 4.0,
    border: int = cv2.BORDER_REPLICATE,
) -> np.ndarray:
    """Separable Gaussian filter of float `[H, W]` or `[H, W, C]`, each channel by itself.

    Args:
        values: float32 or float64.
        sigma: standard deviation in pixels, or one for rows and one for columns.
        truncate: radius of the kernel in standard deviations.
        border: OpenCV's name of what lies outside; edge pixels are repeated by default.
    """
    down, right = sigma if isinstance(sigma, tuple) else (sigma, sigma)
    return cv2.sepFilter2D(
        values, -1, gaussian_kernel(right, truncate), gaussian_kernel(down, truncate), borderType=border
    )


@functools.lru_cache(maxsize=1024)
def zoom_positions(size: int, factor: float, keep: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where an axis is read when its center is cropped to ceil(size / factor) and enlarged by `factor`.

    Bilinear with aligned corners: output i of m lies at i (n - 1) / (m - 1) of the n cropped pixels, m = round(n f).

    Args:
        size: pixels of the axis.
        factor: enlargement, at least 1.
        keep: how many outputs, from the first on; None gives all, which may be more than `size`.

    Returns:
        lower int64 `[m]`, upper int64 `[m]`, share of the upper float32 `[m]`.
    """
    cropped = math.ceil(size / factor)
    enlarged = round(cropped * factor)
    start = (size - cropped) // 2
    position = np.arange(enlarged) * ((cropped - 1) / max(enlarged - 1, 1))
    lower = np.minimum(position.astype(np.int64), max(cropped - 2, 0))
    share = (position - lower).astype(np.float32)
    found = (start + lower, start + np.minimum(lower + 1, cropped - 1), share)
    for one in found:
        one.setflags(write=False)
    return found[0][:keep], found[1][:keep], found[2][:keep]


def zoom(values: np.ndarray, factor: float, *, crop: bool) -> np.ndarray:
    """Enlarges the center of `[H, W, C]` by `factor`, see `zoom_positions`.

    Args:
        values: float32 `[H, W, C]`.
        factor: at least 1.
        crop: keeps the top-left H x W of the result, which may be a pixel or two larger.
    """
    height, width = values.shape[:2]
    top, bottom, down = zoom_positions(height, factor, height if crop else None)
    left, right, across = zoom_positions(width, factor, width if crop else None)
    first = values.take(top, axis=0)
    rows = values.take(bottom, axis=0)
    rows -= first
    rows *= down[:, None, None]
    rows += first
    # Columns are whole rows of the turned picture, which are cheap to fetch.
    turned = np.ascontiguousarray(rows.transpose(1, 0, 2))
    first = turned.take(left, axis=0)
    columns = turned.take(right, axis=0)
    columns -= first
    columns *= across[:, None, None]
    columns += first
    return columns.transpose(1, 0, 2)


def motion_blur(values: np.ndarray, radius: int, sigma: float, angle: float) -> np.ndarray:
    """One-sided motion blur along a line.

    Tap i of 2 * radius + 1 weighs exp(-i^2 / (2 sigma^2)), normalized, and reads the picture i pixels along the line,
    rounded to whole pixels; pixels beyond the edge repeat it. Taps from the first that lies a whole picture away are
    left out, so that very small pictures darken, as in the reference.

    Args:
        values: float32 `[H, W]` or `[H, W, C]`.
        radius: half the number of taps.
        sigma: of the weights, in pixels.
        angle: in degrees.
    """
    height, width = values.shape[:2]
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-0.5 * (steps / sigma) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    down = -np.ceil(steps * math.sin(math.radians(angle)) - 0.5).astype(int)
    right = -np.ceil(steps * math.cos(math.radians(angle)) - 0.5).astype(int)
    reached = (np.abs(down) < height) & (np.abs(right) < width)
    count = len(steps) if reached.all() else int(np.argmin(reached))
    pad_y, pad_x = int(np.abs(down[:count]).max()), int(np.abs(right[:count]).max())
    padded = cv2.copyMakeBorder(values, pad_y, pad_y, pad_x, pad_x, cv2.BORDER_REPLICATE)
    blurred, scaled = np.zeros_like(values), np.empty_like(values)
    for weight, dy, dx in zip(weights[:count], down[:count], right[:count]):
        top, left = pad_y - dy, pad_x - dx
        np.multiply(padded[top : top + height, left : left + width], weight, out=scaled)
        blurred += scaled
    return blurred
