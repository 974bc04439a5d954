"""Backgrounds: a wide street scene per camera, of which each image shows a crop."""

from __future__ import annotations

import cv2
import numpy as np

from reid_jax.data.synthped import randomness
from reid_jax.data.synthped.canvas import ellipse, fill, mix
from reid_jax.data.synthped.people import Color

_WALLS: tuple[Color, ...] = (
    (150, 140, 128),
    (128, 132, 138),
    (164, 152, 136),
    (120, 100, 90),
    (176, 176, 170),
    (104, 112, 108),
)
_FLOORS: tuple[Color, ...] = (
    (132, 130, 126),
    (112, 112, 114),
    (150, 142, 130),
    (96, 104, 88),
    (160, 158, 152),
    (124, 114, 104),
)
_CARS: tuple[Color, ...] = (
    (150, 40, 40),
    (40, 60, 110),
    (200, 200, 198),
    (50, 52, 56),
    (110, 120, 124),
    (196, 170, 80),
)


def make_scene(seed: int, camera: int, height: int, width: int) -> np.ndarray:
    """Draws the scene of a camera.

    Args:
        seed: seed of the data set.
        camera: index of the camera.
        height: drawing height of an image; the scene is 1.25 times as high.
        width: drawing width of an image; the scene is 8 times as wide.

    Returns:
        uint8 `[1.25 height, 8 width, 3]`, slightly out of focus.
    """
    rng = randomness.generator(seed, "scene", camera)
    h, w = height + height // 4, 8 * width
    horizon = int(h * (0.30 + 0.25 * rng.random()))
    image = np.empty((h, w, 3), np.uint8)
    _gradient(image[:horizon], _WALLS[int(rng.integers(6))], 18, rng)
    _gradient(image[horizon:], _FLOORS[int(rng.integers(6))], -22, rng)
    (_bricks, _panels, _windows)[int(rng.integers(3))](image, horizon, height, rng)
    (_tiles, _lane, _verge)[int(rng.integers(3))](image, horizon, height, rng)
    for _ in range(int(rng.integers(14, 22))):
        _clutter(image, horizon, height, rng)
    soft = np.asarray(cv2.GaussianBlur(image, (0, 0), height / 110.0))
    grain = rng.integers(-7, 8, ((h + 1) // 2, (w + 1) // 2, 1)).astype(np.int16)
    grain = grain.repeat(2, 0).repeat(2, 1)[:h, :w]
    textured: np.ndarray = np.clip(soft.astype(np.int16) + grain, 0, 255).astype(np.uint8)
    return textured


def _gradient(area: np.ndarray, color: Color, change: int, rng: np.random.Generator) -> None:
    """Fills an area with a color that changes from top to bottom and slowly along the street."""
    h, w = area.shape[:2]
    down = (change * np.arange(h) // h)[:, None, None]
    # Linear between 17 knots in integers, since machines may round halves of floats differently.
    knots, place = rng.integers(-26, 27, 17), 16 * np.arange(w)
    start, share = place // w, place % w
    along = (knots[start] + (knots[start + 1] - knots[start]) * share // w)[None, :, None]
    area[:] = np.clip(np.array(color)[None, None, :] + down + along, 0, 255).astype(np.uint8)


def _shift(image: np.ndarray, box: tuple[int, int, int, int], amount: int) -> None:
    top, left, bottom, right = box
    area = image[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    area[:] = np.clip(area.astype(np.int16) + amount, 0, 255).astype(np.uint8)


def _bricks(image: np.ndarray, horizon: int, unit: int, rng: np.random.Generator) -> None:
    step = max(4, unit // 18)
    for row, y in enumerate(range(0, horizon, step)):
        _shift(image, (y, 0, min(y + max(1, step // 6), horizon), image.shape[1]), -24)
        for x in range((row % 2) * step, image.shape[1], 2 * step):
            _shift(image, (y, x, min(y + step, horizon), x + max(1, step // 6)), -20)


def _panels(image: np.ndarray, horizon: int, unit: int, rng: np.random.Generator) -> None:
    x = 0
    while x < image.shape[1]:
        wide = int(unit * (0.15 + 0.35 * rng.random()))
        _shift(image, (0, x, horizon, x + wide), int(rng.integers(-38, 39)))
        _shift(image, (0, x, horizon, x + max(1, unit // 100)), -45)
        x += wide


def _windows(image: np.ndarray, horizon: int, unit: int, rng: np.random.Generator) -> None:
    x = int(rng.integers(0, unit // 4))
    while x < image.shape[1]:
        wide = int(unit * (0.18 + 0.2 * rng.random()))
        top, bottom = int(0.06 * unit), int(horizon * (0.62 + 0.3 * rng.random()))
        glass = (70, 84, 98) if rng.random() < 0.7 else (196, 186, 150)
        image[top:bottom, x : x + wide] = glass
        _shift(image, (top, x, bottom, x + wide // 2), 18)
        _shift(image, (top + (bottom - top) // 2, x, top + (bottom - top) // 2 + max(1, unit // 90), x + wide), -40)
        x += int(wide * (1.3 + 0.8 * rng.random()))


def _tiles(image: np.ndarray, horizon: int, unit: int, rng: np.random.Generator) -> None:
    """Draws paving: rows that grow toward the viewer, with slanted joints."""
    y, step = float(horizon), unit / 40
    h, w = image.shape[:2]
    while y < h:
        _shift(image, (int(y), 0, int(y) + max(1, unit // 128), w), -20)
        y, step = y + step, step * 1.35
    center, gap = w / 2, unit // 7
    for k in range(-2 * w // gap, 2 * w // gap):
        x0, x1 = center + k * gap, center + k * gap * 2.2
        if -w < x0 < 2 * w:
            red, green, blue = (int(v) - 16 for v in image[h - 2, w // 2])
            fill(image, [(x0, horizon), (x0 + 1, horizon), (x1 + unit / 60, h), (x1, h)], (red, green, blue))


def _lane(image: np.ndarray, horizon: int, unit: int, rng: np.random.Generator) -> None:
    """Draws a road with a curb and broken white lines."""
    h, w = image.shape[:2]
    curb = horizon + int(0.1 * unit)
    _shift(image, (horizon, 0, curb, w), 28)
    _shift(image, (curb, 0, curb + max(2, unit // 60), w), -50)
    low = h - int((0.12 + 0.2 * rng.random()) * unit)
    for x in range(0, w, int(0.6 * unit)):
        fill(
            image,
            [
                (x, low),
                (x + 0.34 * unit, low),
                (x + 0.3 * unit, low + 0.03 * unit),
                (x - 0.05 * unit, low + 0.03 * unit),
            ],
            (206, 204, 192),
        )


def _verge(image: np.ndarray, horizon: int, unit: int, rng: np.random.Generator) -> None:
    """Draws grass behind a path."""
    path = horizon + int(0.16 * unit)
    image[horizon:path] = np.clip(
        np.array([86, 108, 62]) + rng.integers(-14, 15, (path - horizon, image.shape[1], 1)), 0, 255
    )
    _shift(image, (path, 0, path + max(1, unit // 80), image.shape[1]), -36)


def _clutter(image: np.ndarray, horizon: int, unit: int, rng: np.random.Generator) -> None:
    """Draws an object of the street: tree, car, pole, sign, door, bush or distant person."""
    x = float(rng.integers(0, image.shape[1]))
    y = horizon + unit * 0.12 * rng.random()
    kind = int(rng.integers(0, 6))
    if kind == 0:
        _tree(image, x, y, unit, rng)
    elif kind == 1:
        _car(image, x, y, unit * (0.2 + 0.12 * rng.random()), _CARS[int(rng.integers(6))])
    elif kind == 2:
        wide, high = unit * 0.012, unit * 0.6
        fill(image, [(x, y), (x, y - high), (x + wide, y - high), (x + wide, y)], (70, 72, 74))
        if rng.random() < 0.5:
            fill(image, ellipse(x, y - high * 0.9, unit * 0.05, unit * 0.05), _CARS[int(rng.integers(6))])
    elif kind == 3:
        wide, high = unit * (0.1 + 0.1 * rng.random()), unit * (0.2 + 0.15 * rng.random())
        fill(
            image,
            [(x, horizon), (x, horizon - high), (x + wide, horizon - high), (x + wide, horizon)],
            mix(_CARS[int(rng.integers(6))], (90, 90, 90), 0.5),
        )
    elif kind == 4:
        for _ in range(7):
            dx, dy = unit * 0.1 * (rng.random(2) - 0.5)
            fill(image, ellipse(x + dx, y + 0.4 * dy, unit * 0.05, unit * 0.04), (60 + int(30 * rng.random()), 92, 52))
    else:
        size = unit * (0.16 + 0.16 * rng.random())
        color = _CARS[int(rng.integers(6))]
        fill(image, ellipse(x, y - 0.9 * size, 0.07 * size, 0.09 * size), (176, 138, 112))
        fill(image, ellipse(x, y - 0.63 * size, 0.15 * size, 0.2 * size), color)
        fill(
            image,
            [
                (x - 0.12 * size, y - 0.5 * size),
                (x + 0.12 * size, y - 0.5 * size),
                (x + 0.08 * size, y),
                (x - 0.1 * size, y),
            ],
            (48, 50, 60),
        )


def _tree(image: np.ndarray, x: float, y: float, unit: int, rng: np.random.Generator) -> None:
    fill(
        image,
        [
            (x - 0.02 * unit, y),
            (x - 0.012 * unit, y - 0.5 * unit),
            (x + 0.012 * unit, y - 0.5 * unit),
            (x + 0.02 * unit, y),
        ],
        (82, 64, 50),
    )
    for _ in range(10):
        dx, dy = unit * 0.22 * (rng.random(2) - 0.5)
        leaf = (56 + int(34 * rng.random()), 88 + int(30 * rng.random()), 48)
        fill(image, ellipse(x + dx, y - 0.52 * unit + dy, 0.075 * unit, 0.06 * unit), leaf)


def _car(image: np.ndarray, x: float, y: float, size: float, color: Color) -> None:
    fill(
        image,
        [
            (x - size, y),
            (x - size, y - 0.35 * size),
            (x - 0.6 * size, y - 0.42 * size),
            (x - 0.35 * size, y - 0.72 * size),
            (x + 0.4 * size, y - 0.72 * size),
            (x + 0.7 * size, y - 0.4 * size),
            (x + size, y - 0.34 * size),
            (x + size, y),
        ],
        color,
    )
    fill(
        image,
        [
            (x - 0.5 * size, y - 0.42 * size),
            (x - 0.3 * size, y - 0.66 * size),
            (x + 0.35 * size, y - 0.66 * size),
            (x + 0.58 * size, y - 0.42 * size),
        ],
        (58, 70, 84),
    )
    for side in (-0.6, 0.6):
        fill(image, ellipse(x + side * size, y, 0.19 * size, 0.19 * size), (30, 30, 32))
