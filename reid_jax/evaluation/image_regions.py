"""Regions of drawn pixels, and fills that a drawing has to beat: the camera's average, and a smooth one.

Fills never read the hidden pixels of the image that they fill.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

FEWEST_OF_CAMERA = 16  # training images below which a camera's average is that of all cameras
SWEEPS, RELAXATION = 16, 1.7  # of each resolution of the smooth fill


def camera_averages(images: Iterable[tuple[np.ndarray, int]]) -> dict[int, np.ndarray]:
    """Returns the mean image of each camera, and of all images under the key -1.

    Args:
        images: pairs of an image [H, W, 3] in [0, 1] and its camera.

    Returns:
        float64 [H, W, 3] by camera, for cameras with `FEWEST_OF_CAMERA` images or more.
    """
    sums: dict[int, np.ndarray] = {}
    counts: dict[int, int] = {}
    for image, camera in images:
        for key in {int(camera), -1}:
            sums[key] = sums.get(key, 0.0) + image.astype(np.float64)
            counts[key] = counts.get(key, 0) + 1
    return {key: sums[key] / counts[key] for key in sums if key == -1 or counts[key] >= FEWEST_OF_CAMERA}


def camera_fill(true: np.ndarray, mask: np.ndarray, cameras: np.ndarray, averages: dict[int, np.ndarray]) -> np.ndarray:
    """Returns images whose hidden pixels are the camera's average plus the image's own offset from it.

    Args:
        true: [N, H, W, 3] in [0, 1].
        mask: bool [N, H, W], hidden pixels.
        cameras: [N].
        averages: see `camera_averages`.

    Returns:
        [N, H, W, 3]; the offset is the mean difference over the visible pixels, per channel.
    """
    base = np.stack([averages.get(int(camera), averages[-1]) for camera in cameras])
    visible = ~mask[..., None]
    offset = np.sum((true - base) * visible, axis=(1, 2)) / np.maximum(visible.sum(axis=(1, 2)), 1)
    return np.where(visible, true, base + offset[:, None, None])


def smooth_fill(true: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns images whose hidden pixels are the mean of their four neighbors (Laplace's equation).

    A rival that needs no learning, and a strong one of scattered masks, which leave something visible near every hidden
    pixel. The equation is solved from coarse to fine, at each resolution by sweeps of successive over-relaxation.

    Args:
        true: [N, H, W, 3] in [0, 1].
        mask: bool [N, H, W], hidden pixels.

    Returns:
        [N, H, W, 3] float32; neighbors outside the image do not count, images without visible pixels are 0.
    """
    return _smoothed(np.where(mask[..., None], 0.0, true).astype(np.float32), mask)


def _smoothed(values: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Returns the values [N, H, W, C], zero where hidden, with the hidden ones solved for."""
    n, height, width = hidden.shape
    if height % 2 == 0 and width % 2 == 0:
        cells = (n, height // 2, 2, width // 2, 2)
        visible = (~hidden).reshape(cells).sum(axis=(2, 4))
        coarse = values.reshape(*cells, -1).sum(axis=(2, 4)) / np.maximum(visible, 1)[..., None].astype(np.float32)
        start = _smoothed(coarse, visible == 0).repeat(2, axis=1).repeat(2, axis=2)
    else:
        visible = (~hidden).sum(axis=(1, 2))
        start = (values.sum(axis=(1, 2)) / np.maximum(visible, 1)[:, None].astype(np.float32))[:, None, None]
    found: np.ndarray = np.where(hidden[..., None], start, values)
    color = np.add.outer(np.arange(height), np.arange(width)) % 2 == 0
    halves = [(RELAXATION * (hidden & half)[..., None]).astype(np.float32) for half in (color, ~color)]
    for half in halves * SWEEPS:
        around = np.pad(found, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        change = (around[:, :-2, 1:-1] + around[:, 2:, 1:-1] + around[:, 1:-1, :-2] + around[:, 1:-1, 2:]) / 4 - found
        found += half * change
    return found


def regions(mask: np.ndarray, parts: np.ndarray | None) -> dict[str, np.ndarray]:
    """Returns hidden pixels by region: all of them, and those of person and background where `parts` says.

    Args:
        mask: bool [N, H, W], hidden pixels.
        parts: labels [N, H, W], 0 for background, or None.
    """
    if parts is None:
        return {"all": mask}
    return {"all": mask, "person": mask & (parts > 0), "background": mask & (parts == 0)}
