"""Baseline features without learning: raw pixels, and a color histogram per third of the body.

A trained network has to beat their scores. Both take milliseconds per thousand images and need numpy only.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def raw_pixels(images: np.ndarray, height: int = 32, width: int = 16) -> np.ndarray:
    """Returns images averaged over the cells of a small grid and flattened.

    Args:
        images: uint8 `[N, H, W, 3]`; H and W must be multiples of the grid's.
        height: rows of the grid.
        width: columns of the grid.

    Returns:
        float32 `[N, height * width * 3]` in [0, 1].

    Raises:
        ValueError: H or W is not a multiple of the grid's.
    """
    count, rows, columns, channels = images.shape
    if rows % height or columns % width:
        raise ValueError(f"a {height}x{width} grid does not divide {rows}x{columns} images; choose divisors.")
    blocks = images.reshape(count, height, rows // height, width, columns // width, channels)
    means: np.ndarray = blocks.mean(axis=(2, 4), dtype=np.float32).reshape(count, -1)
    return means / np.float32(255.0)


def hsv(images: np.ndarray) -> np.ndarray:
    """Converts RGB to hue, saturation and value.

    Args:
        images: uint8 `[..., 3]` RGB.

    Returns:
        float32 `[..., 3]`, each in [0, 1]; hue 0 is red and 1/3 green, gray has hue 0.
    """
    rgb = images.astype(np.float32) / np.float32(255.0)
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    value = rgb.max(axis=-1)
    chroma = value - rgb.min(axis=-1)
    safe = np.where(chroma > 0, chroma, 1)
    hue = np.where(
        value == red,
        ((green - blue) / safe) % 6,
        np.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    hue = np.where(chroma > 0, hue / 6, 0)
    saturation = np.where(value > 0, chroma / np.where(value > 0, value, 1), 0)
    return np.stack([hue, saturation, value], axis=-1).astype(np.float32)


def hsv_histogram(images: np.ndarray, thirds: int = 3, bins: tuple[int, int, int] = (12, 6, 6)) -> np.ndarray:
    """Returns smoothed color histograms of horizontal thirds (head and chest, hips, legs), as square roots.

    Only the middle half of the width counts: the person stands there, and the background says more about the camera.
    Counts are smoothed over neighboring bins by (1, 2, 1)/4, so that colors near the border of a bin still match.

    Args:
        images: uint8 `[N, H, W, 3]` RGB.
        thirds: number of horizontal bands.
        bins: numbers of bins of hue, saturation and value.

    Returns:
        float32 `[N, thirds * prod(bins)]`; Euclidean distance is the Hellinger distance of the histograms.
    """
    count, rows, columns, _ = images.shape
    middle = slice(columns // 4, columns - columns // 4)
    features = np.empty((count, thirds, int(np.prod(bins))), np.float32)
    for position, image in enumerate(images):  # image by image, which saves two float copies of all of them
        color = hsv(image[:, middle])
        index = [np.minimum((color[..., k] * bins[k]).astype(np.int32), bins[k] - 1) for k in range(3)]
        cell = (index[0] * bins[1] + index[1]) * bins[2] + index[2]
        for band in range(thirds):
            part = cell[band * rows // thirds : (band + 1) * rows // thirds]
            histogram = _smooth(np.bincount(part.ravel(), minlength=features.shape[-1]).reshape(bins))
            features[position, band] = np.sqrt(histogram.ravel() / part.size)
    return features.reshape(count, -1)


def _smooth(histogram: np.ndarray) -> np.ndarray:
    """Returns a histogram smoothed by (1, 2, 1)/4 along hue (circular), saturation and value (not circular)."""
    histogram = (np.roll(histogram, 1, 0) + 2 * histogram + np.roll(histogram, -1, 0)) / 4
    for axis in (1, 2):
        size = histogram.shape[axis]
        padded = np.pad(histogram, [(int(k == axis),) * 2 for k in range(3)], mode="edge")
        below, above = (padded.take(range(start, start + size), axis) for start in (0, 2))
        histogram = (below + 2 * histogram + above) / 4
    return histogram


SIMPLE_FEATURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "raw_pixels": raw_pixels,
    "hsv_histogram": hsv_histogram,
}
