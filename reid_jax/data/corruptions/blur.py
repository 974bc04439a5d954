"""Blur: Gaussian, defocus, frosted glass, motion and zoom; `noise` explains the signatures."""

from __future__ import annotations

import functools

import cv2
import numpy as np

from reid_jax.data.corruptions import filters
from reid_jax.data.corruptions.filters import Draws, to_bytes, to_unit

GAUSSIAN_SIGMA = (1, 2, 3, 4, 6)
DEFOCUS = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))  # radius, sigma of the smoothed edge
GLASS = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))  # sigma, reach, passes
MOTION = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))  # radius, sigma
ZOOM = (
    (0.01, 12),
    (0.01, 16),
    (0.02, 11),
    (0.02, 13),
    (0.03, 11),
)  # step of the zoom factors, their number


def gaussian(severity: int, image: np.ndarray, draws: Draws) -> np.ndarray:
    """Returns the image under Gaussian blur."""
    return to_bytes(filters.gaussian_filter(to_unit(image), GAUSSIAN_SIGMA[severity - 1]))


def defocus(severity: int, image: np.ndarray, draws: Draws) -> np.ndarray:
    """Returns the image correlated with a disk; borders are reflected without repeating the edge."""
    return to_bytes(cv2.filter2D(to_unit(image), -1, _disk(*DEFOCUS[severity - 1]), borderType=cv2.BORDER_REFLECT_101))


@functools.lru_cache(maxsize=len(DEFOCUS))
def _disk(radius: int, sigma: float) -> np.ndarray:
    """Returns a smoothed disk on a grid of 17 x 17 (21 x 21 for radius 10) that sums to 1."""
    half, size = (8, 3) if radius <= 8 else (radius, 5)
    axis = np.arange(-half, half + 1)
    disk = (axis[:, None] ** 2 + axis[None] ** 2 <= radius**2).astype(np.float32)
    kernel: np.ndarray = cv2.GaussianBlur(disk / disk.sum(), (size, size), sigma)
    return kernel


def sample_glass(severity: int, shape: tuple[int, int], rng: np.random.Generator) -> Draws:
    """Draws int8 `[passes * (H - 2 reach) * (W - 2 reach), 2]`: (dx, dy) in [-reach, reach - 1], in scan order."""
    _, reach, passes = GLASS[severity - 1]
    count = passes * max(shape[0] - 2 * reach, 0) * max(shape[1] - 2 * reach, 0)
    return (rng.integers(-reach, reach, (count, 2), np.int8),)


def glass(severity: int, image: np.ndarray, draws: Draws) -> np.ndarray:
    """Returns the image blurred, with pixels replaced by random neighbors, and blurred again.

    A pass scans rows and columns backward in place: a pixel takes the value that its neighbor has at that moment.
    """
    sigma, reach, passes = GLASS[severity - 1]
    blurred = to_bytes(filters.gaussian_filter(to_unit(image), sigma))
    height, width = image.shape[:2]
    if height > 2 * reach and width > 2 * reach:
        source = np.arange(height * width)
        for offsets in np.split(draws[0], passes):
            source = source[glass_sources(height, width, reach, offsets)]
        blurred = blurred.reshape(-1, 3)[source].reshape(image.shape)
    return to_bytes(filters.gaussian_filter(to_unit(blurred), sigma))


def glass_sources(height: int, width: int, reach: int, offsets: np.ndarray) -> np.ndarray:
    """Returns the source of each pixel after a backward pass of in-place copies, without a loop over pixels.

    A neighbor that is later in raster order and inside the scanned area was overwritten before it is copied, so its own
    source is followed. Such chains lead forward only, and pointer doubling resolves them in a few rounds.

    Args:
        height: rows of the image.
        width: columns of the image.
        reach: the scan covers rows `height - reach` down to `reach + 1`, and columns likewise.
        offsets: `[(height - 2 reach) * (width - 2 reach), 2]`, (dx, dy) in scan order.

    Returns:
        int64 `[height * width]`, indices in raster order.
    """
    rows, columns = np.arange(height - reach, reach, -1), np.arange(width - reach, reach, -1)
    place = (rows[:, None] * width + columns[None]).ravel()
    target = place + offsets[:, 1].astype(np.int64) * width + offsets[:, 0]
    pointer = np.arange(height * width)
    pointer[place] = target
    scanned = np.zeros(height * width, bool)
    scanned[place] = True
    onward = (target > place) & scanned[target]
    jump = np.arange(height * width)
    jump[place[onward]] = target[onward]
    while True:
        further = jump[jump]
        if np.array_equal(further, jump):
            return pointer[jump]
        jump = further


def sample_motion(severity: int, shape: tuple[int, int], rng: np.random.Generator) -> Draws:
    """Draws the angle, U(-45, 45) degrees."""
    return (rng.uniform(-45, 45),)


def motion(severity: int, image: np.ndarray, draws: Draws) -> np.ndarray:
    """Returns the image under one-sided motion blur along the drawn angle."""
    radius, sigma = MOTION[severity - 1]
    return to_bytes(filters.motion_blur(to_unit(image), radius, sigma, float(draws[0])))


def zoom(severity: int, image: np.ndarray, draws: Draws) -> np.ndarray:
    """Returns the mean of the image and enlargements of its center."""
    step, count = ZOOM[severity - 1]
    values = to_unit(image)
    total = values.transpose(1, 0, 2).copy()  # transposed, like the intermediate result of `filters.zoom`
    # Factors are rounded as in the reference: where one divides the size, the cropped size depends on the last bit.
    for factor in 1 + np.arange(count) * ((1 + step) - 1):
        total += filters.zoom(values, float(factor), crop=True).transpose(1, 0, 2)
    return np.ascontiguousarray(to_bytes(total * np.float32(1 / (count + 1))).transpose(1, 0, 2))
