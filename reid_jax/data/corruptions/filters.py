"""Helpers of the corruptions: conversion of gray levels, Gaussian filters, zoom and motion blur."""

from __future__ import annotations

import functools
import math
from typing import Any

import cv2
import numpy as np

Draws = tuple[Any, ...]  # random arrays and numbers in the order in which they were drawn

# The input pipeline has threads of its own; a second pool inside every call would compete with them.
cv2.setNumThreads(1)


def to_unit(image: np.ndarray) -> np.ndarray:
    """Returns uint8 values as float32 in [0, 1]."""
    return image * np.float32(1 / 255)


def to_bytes(values: np.ndarray) -> np.ndarray:
    """Returns values in [0, 1] as uint8: clipped, times 255, and truncated (not rounded) as in the benchmark."""
    rounded: np.ndarray = (np.clip(values, 0, 1) * 255).astype(np.uint8)
    return rounded


def gray_level(values: np.ndarray) -> np.ndarray:
    """Returns values in [0, 255] as uint8, clipped and truncated."""
    clipped: np.ndarray = np.clip(values, 0, 255).astype(np.uint8)
    return clipped


def no_draws(severity: int, shape: tuple[int, int], rng: np.random.Generator) -> Draws:
    """Returns no draws, for deterministic corruptions."""
    return ()


@functools.lru_cache(maxsize=256)
def gaussian_kernel(sigma: float, truncate: float = 4.0) -> np.ndarray:
    """Returns a Gaussian of radius int(truncate * sigma + 0.5) that sums to 1: float64 `[2 * radius + 1]`."""
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
    """Returns values under a separable Gaussian filter, channel by channel.

    Args:
        values: float32 or float64 `[H, W]` or `[H, W, C]`.
        sigma: standard deviation in pixels, or a pair for rows and columns.
        truncate: radius of the kernel in standard deviations.
        border: OpenCV's border mode; edge pixels are repeated by default.
    """
    down, right = sigma if isinstance(sigma, tuple) else (sigma, sigma)
    return cv2.sepFilter2D(
        values, -1, gaussian_kernel(right, truncate), gaussian_kernel(down, truncate), borderType=border
    )


@functools.lru_cache(maxsize=1024)
def zoom_positions(size: int, factor: float, keep: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the sampling positions of an axis whose center is cropped to ceil(size / factor) and enlarged.

    Interpolation is bilinear with aligned corners: of m = round(n factor) outputs, output i is sampled at
    i (n - 1) / (m - 1) of the n cropped pixels.

    Args:
        size: pixels of the axis.
        factor: enlargement, at least 1.
        keep: number of outputs from the first on; None returns all, which may be more than `size`.

    Returns:
        Indices of the lower and the upper neighbor, int64 `[m]`, and the weight of the upper, float32 `[m]`.
    """
    cropped = math.ceil(size / factor)
    enlarged = round(cropped * factor)
    start = (size - cropped) // 2
    position = np.arange(enlarged) * ((cropped - 1) / max(enlarged - 1, 1))
    lower = np.minimum(position.astype(np.int64), max(cropped - 2, 0))
    share = (position - lower).astype(np.float32)
    positions = (start + lower, start + np.minimum(lower + 1, cropped - 1), share)
    for array in positions:
        array.setflags(write=False)  # shared by all callers through the cache
    return positions[0][:keep], positions[1][:keep], positions[2][:keep]


def zoom(values: np.ndarray, factor: float, *, crop: bool) -> np.ndarray:
    """Returns the center of an image enlarged, see `zoom_positions`.

    Args:
        values: float32 `[H, W, C]`.
        factor: enlargement, at least 1.
        crop: crop the result, which may be a pixel or two larger, to its top left H x W pixels.
    """
    height, width = values.shape[:2]
    top, bottom, down = zoom_positions(height, factor, height if crop else None)
    left, right, across = zoom_positions(width, factor, width if crop else None)
    first = values.take(top, axis=0)
    rows = values.take(bottom, axis=0)
    rows -= first
    rows *= down[:, None, None]
    rows += first
    # Columns are rows of the transposed image, which are cheap to gather.
    turned = np.ascontiguousarray(rows.transpose(1, 0, 2))
    first = turned.take(left, axis=0)
    columns = turned.take(right, axis=0)
    columns -= first
    columns *= across[:, None, None]
    columns += first
    return columns.transpose(1, 0, 2)


def motion_blur(values: np.ndarray, radius: int, sigma: float, angle: float) -> np.ndarray:
    """Returns values under one-sided motion blur along a line.

    Tap i of 2 * radius + 1 has the weight exp(-i^2 / (2 sigma^2)), normalized, and samples the image i pixels along the
    line, rounded to whole pixels, with repeated edges. The taps from the first that is a whole image away are left out
    after normalization, so that very small images darken, as in the reference.

    Args:
        values: float32 `[H, W]` or `[H, W, C]`.
        radius: half the number of taps.
        sigma: standard deviation of the weights in pixels.
        angle: angle of the line in degrees.
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
