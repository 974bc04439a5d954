"""Occluders: objects in front of people. The kinds of the test split never occur in training."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from reid_jax.data.synthped import canvas as canvases
from reid_jax.data.synthped import figure, pose
from reid_jax.data.synthped.canvas import NEUTRAL_SHADE, Canvas, Tube, ellipse, mix
from reid_jax.data.synthped.people import Cloth, Color, Person

TRAIN_KINDS = ("crates", "plant", "board", "pillar")
TEST_KINDS = ("car", "pedestrian", "bin", "umbrella", "railing")
SHARE = (0.25, 0.60)  # hidden fraction of the person's visible area

_PAINTS: tuple[Color, ...] = (
    (150, 44, 42),
    (44, 64, 120),
    (200, 200, 196),
    (58, 60, 64),
    (116, 126, 130),
    (66, 104, 78),
    (196, 160, 70),
)
_HALVINGS = 7
_MARGIN = 0.03


def occlude(canvas: Canvas, kind: str, rng: np.random.Generator, passer: Person | None = None) -> float:
    """Draws an occluder that hides 25-60 % of the person's visible area, and clears the part labels under it.

    How far the occluder reaches over the person is found by bisection, since the hidden fraction grows with it.

    Args:
        canvas: the canvas with the person.
        kind: a member of `TRAIN_KINDS` or `TEST_KINDS`.
        rng: generator of the image.
        passer: the person who passes by; required for "pedestrian".

    Returns:
        The hidden fraction.
    """
    body = (canvas.parts - np.uint8(1) < len(figure.PARTS)).astype(np.uint8)  # 0 wraps around to 255
    area = max(1, cv2.countNonZero(body))
    wanted = SHARE[0] + _MARGIN + (SHARE[1] - SHARE[0] - 2 * _MARGIN) * rng.random()
    uniforms = rng.random(12).tolist()
    left, top, wide, high = cv2.boundingRect(body)
    box = (left, top, wide, high)
    layer = Canvas(np.zeros_like(canvas.color))
    layer.light, layer.labels_only = canvas.light, True
    least, most, share = 0.0, 1.0, 0.0
    for _ in range(_HALVINGS):
        reach = 0.5 * (least + most)
        layer.parts[:] = 0
        _KINDS[kind](layer, box, reach, uniforms, passer)
        cover = (layer.parts > 0).astype(np.uint8)
        share = cv2.countNonZero(cv2.bitwise_and(cover, body)) / area
        if abs(share - wanted) < _MARGIN:
            break
        least, most = (reach, most) if share < wanted else (least, reach)
    layer.labels_only = False
    _KINDS[kind](layer, box, reach, uniforms, passer)
    cv2.copyTo(layer.color, cover, canvas.color)
    cv2.copyTo(layer.shade, cover, canvas.shade)
    canvas.parts[cover > 0] = 0
    return share


Box = tuple[int, int, int, int]  # left, top, width, height of the person


def _paint(uniform: float) -> Color:
    return _PAINTS[int(uniform * len(_PAINTS))]


def _rectangle(layer: Canvas, x0: float, y0: float, x1: float, y1: float, color: Color) -> Tube:
    tube = Tube([(x0, y0), (x0, y1)], [(x1, y0), (x1, y1)])
    canvases.paint(layer, tube, Cloth(color), 1, depth=20)
    return tube


def _crates(layer: Canvas, box: Box, reach: float, uniforms: list[float], passer: Person | None) -> None:
    """Draws stacked wooden crates from the ground up."""
    left, top, wide, high = box
    wood = mix((168, 128, 84), (120, 92, 70), uniforms[0])
    x0 = left - 0.15 * wide + 0.5 * wide * (uniforms[1] - 0.5)
    x1 = x0 + wide * 1.15
    y1 = top + 1.08 * high
    y0 = y1 - reach * 1.05 * high
    _rectangle(layer, x0, y0, x1, y1, wood)
    rows = 2 + int(2 * uniforms[2])
    for row in range(rows * 3):
        y = y1 - (row + 1) * high / (rows * 3)
        if y > y0:
            thick = 0.012 * high * (2.2 if row % 3 == 2 else 1.0)
            layer.polygon([(x0, y), (x1, y), (x1, y + thick), (x0, y + thick)], mix(wood, (30, 22, 16), 0.55))
    for k in (0.03, 0.5, 0.92):
        x = x0 + k * (x1 - x0)
        layer.polygon(
            [(x, y0), (x + 0.05 * wide, y0), (x + 0.05 * wide, y1), (x, y1)], mix(wood, (240, 220, 180), 0.18)
        )


def _plant(layer: Canvas, box: Box, reach: float, uniforms: list[float], passer: Person | None) -> None:
    """Draws a bush, or a bush in a pot."""
    left, top, wide, high = box
    x, y = left + wide * (0.25 + 0.5 * uniforms[0]), top + 1.06 * high
    tall, broad = reach * 1.05 * high, wide * (0.5 + 0.25 * uniforms[1])
    greens = [mix((44, 74, 40), (104, 128, 58), k / 3) for k in range(4)]
    core = [
        (x - 0.8 * broad, y),
        (x - 0.9 * broad, y - 0.6 * tall),
        (x, y - 0.95 * tall),
        (x + 0.9 * broad, y - 0.6 * tall),
        (x + 0.8 * broad, y),
    ]
    layer.polygon(core, greens[0], 1, NEUTRAL_SHADE - 14)
    for k in range(30):
        # Leaves on a sunflower spiral, which covers an area evenly.
        angle, ring = 2.399963 * k + 6.28 * uniforms[2], ((k + 0.5) / 30) ** 0.5
        lx = x + broad * ring * np.cos(angle)
        ly = y - 0.5 * tall + 0.5 * tall * ring * np.sin(angle)
        size = 0.05 * high * (0.8 + 0.5 * ((k * 7) % 5) / 4)
        lean = 0.6 * np.cos(angle * 3)
        leaf = [
            (lx - size * 0.5, ly),
            (lx + lean * size, ly - size),
            (lx + size * 0.5, ly),
            (lx - lean * size, ly + size),
        ]
        layer.polygon(leaf, greens[k % 4], 1, NEUTRAL_SHADE + 10 * (k % 3) - 10)


def _board(layer: Canvas, box: Box, reach: float, uniforms: list[float], passer: Person | None) -> None:
    """Draws an advertising board that reaches in from a side."""
    left, top, wide, high = box
    color = _paint(uniforms[0])
    y0, y1 = top + high * (0.05 + 0.25 * uniforms[1]), top + 1.1 * high
    edge = left - 0.05 * wide + reach * 1.1 * wide
    x0, x1 = (edge - 1.6 * wide, edge) if uniforms[2] < 0.5 else (2 * left + wide - edge, 2 * left + 2.6 * wide - edge)
    frame = _rectangle(layer, x0, y0, x1, y1, mix(color, (30, 30, 30), 0.5))
    layer.polygon(frame.strip(0.04, 0.93, -0.92, 0.92), color)
    layer.polygon(frame.strip(0.10, 0.30, -0.8, 0.8), mix(color, (255, 255, 255), 0.6))
    for k in range(4):
        layer.polygon(
            frame.strip(0.38 + 0.1 * k, 0.41 + 0.1 * k, -0.8, 0.8 - 0.3 * uniforms[3 + k]),
            mix(color, (20, 20, 20), 0.6),
        )


def _pillar(layer: Canvas, box: Box, reach: float, uniforms: list[float], passer: Person | None) -> None:
    """Draws a post or concrete pillar over the whole height."""
    left, top, wide, high = box
    stone = mix((148, 146, 140), (96, 98, 104), uniforms[0])
    middle = left + wide * (0.25 + 0.5 * uniforms[1])
    half = 0.5 * wide * (0.08 + 1.0 * reach)
    tube = Tube(
        [(middle - half, -4), (middle - half, top + 1.2 * high)],
        [(middle + half, -4), (middle + half, top + 1.2 * high)],
    )
    canvases.paint(layer, tube, Cloth(stone), 1, depth=44)
    if uniforms[2] < 0.5:
        low = 0.35 + 0.3 * uniforms[3]
        layer.polygon(tube.strip(low, low + 0.13, -0.7, 0.7), (216, 210, 196))
        layer.polygon(tube.strip(low + 0.03, low + 0.05, -0.5, 0.5), (70, 60, 60))
    else:
        for k in range(3):
            layer.polygon(tube.strip(0.3 + 0.12 * k, 0.35 + 0.12 * k, -1, 1), (206, 176, 60))


def _car(layer: Canvas, box: Box, reach: float, uniforms: list[float], passer: Person | None) -> None:
    """Draws the side of a parked car over the legs."""
    left, top, wide, high = box
    color = _paint(uniforms[0])
    ground = top + 1.05 * high
    tall = reach * 1.0 * high
    long = 1.25 * max(tall, 0.5 * high)
    x = left + 0.5 * wide + (0.2 + 0.4 * uniforms[1]) * long * (1 if uniforms[3] < 0.5 else -1)
    flip = 1 if uniforms[2] < 0.5 else -1
    profile = (
        (-1.0, 0.12),
        (-1.0, 0.52),
        (-0.72, 0.60),
        (-0.42, 0.98),
        (0.38, 1.0),
        (0.68, 0.60),
        (0.98, 0.5),
        (1.0, 0.12),
    )
    shell = [(x + flip * long * u, ground - tall * v) for u, v in profile]
    layer.polygon(shell, color, 1, NEUTRAL_SHADE)
    glass = (
        ((-0.60, 0.62), (-0.37, 0.92), (-0.02, 0.93), (-0.02, 0.62)),
        ((0.03, 0.62), (0.03, 0.93), (0.34, 0.93), (0.56, 0.62)),
    )
    for pane in glass:
        layer.polygon([(x + flip * long * u, ground - tall * v) for u, v in pane], (62, 76, 90), 1, NEUTRAL_SHADE + 8)
    lower = [
        (x - long, ground - 0.33 * tall),
        (x + long, ground - 0.33 * tall),
        (x + long, ground - 0.12 * tall),
        (x - long, ground - 0.12 * tall),
    ]
    layer.polygon(lower, mix(color, (0, 0, 0), 0.3))
    door = [
        (x, ground - 0.6 * tall),
        (x + 2, ground - 0.6 * tall),
        (x + 2, ground - 0.2 * tall),
        (x, ground - 0.2 * tall),
    ]
    layer.polygon(door, mix(color, (0, 0, 0), 0.5))
    for u in (-0.62, 0.62):
        layer.polygon(
            ellipse(x + u * long, ground - 0.14 * tall, 0.2 * tall, 0.2 * tall), (30, 30, 32), 1, NEUTRAL_SHADE
        )
        layer.polygon(ellipse(x + u * long, ground - 0.14 * tall, 0.1 * tall, 0.1 * tall), (150, 152, 154))


def _pedestrian(layer: Canvas, box: Box, reach: float, uniforms: list[float], passer: Person | None) -> None:
    """Draws a pedestrian in front of the person."""
    assert passer is not None, "the occluder 'pedestrian' requires a passer"
    left, top, wide, high = box
    side = 1 if uniforms[0] < 0.5 else -1
    x = left + 0.5 * wide + side * (1.1 - 1.1 * reach) * wide
    view = pose.View(
        yaw=6.28 * uniforms[1],
        phase=6.28 * uniforms[2],
        stride=0.4 * uniforms[3],
        gesture="",
        lean=0.05,
        scale=high * (1.02 + 0.25 * uniforms[4]),
        x=x,
        y=top + high * (1.02 + 0.1 * uniforms[5]),
        tilt=0.15,
    )
    figure.draw(layer, passer, view)


def _bin(layer: Canvas, box: Box, reach: float, uniforms: list[float], passer: Person | None) -> None:
    """Draws a round litter bin."""
    left, top, wide, high = box
    color = mix(_paint(uniforms[0]), (40, 70, 50), 0.4)
    x, y1 = left + wide * (0.3 + 0.4 * uniforms[1]), top + 1.08 * high
    y0 = y1 - reach * 1.02 * high
    half = wide * (0.5 + 0.15 * uniforms[2])
    tube = Tube([(x - half, y0), (x - 0.85 * half, y1)], [(x + half, y0), (x + 0.85 * half, y1)])
    canvases.paint(layer, tube, Cloth(color), 1, depth=44)
    for k in range(5):
        layer.polygon(tube.strip(0.2, 0.95, -0.85 + 0.4 * k, -0.78 + 0.4 * k), mix(color, (0, 0, 0), 0.4))
    layer.polygon(ellipse(x, y0, half * 1.06, 0.05 * high), mix(color, (255, 255, 255), 0.25), 1, NEUTRAL_SHADE)
    layer.polygon(ellipse(x, y0, half * 0.7, 0.026 * high), (30, 30, 30))
    layer.polygon(tube.strip(0.36, 0.5, -0.3, 0.3), (214, 214, 206))


def _umbrella(layer: Canvas, box: Box, reach: float, uniforms: list[float], passer: Person | None) -> None:
    """Draws an open umbrella over head and shoulders."""
    left, top, wide, high = box
    color, second = _paint(uniforms[0]), _paint(uniforms[1])
    x = left + wide * (0.35 + 0.3 * uniforms[2])
    y = top - 0.05 * high + reach * 0.9 * high
    half, tall = wide * (0.85 + 0.2 * uniforms[3]), 0.30 * high + reach * 0.55 * high
    # The seams of a dome are ellipses of equal height and different widths; the rim sags between the ribs.
    other = second if uniforms[4] < 0.5 else color
    for width, ribs, paint, shade in ((1.0, 6, color, 0), (0.6, 4, other, 6), (0.2, 2, color, 12)):
        rim = [x + width * half * (1 - 2 * k / ribs) for k in range(ribs + 1)]
        layer.polygon(ellipse(x, y, width * half, tall, np.pi, 2 * np.pi, 16), paint, 1, NEUTRAL_SHADE + shade)
        for k in range(0, ribs, 2):
            layer.polygon(
                [(rim[k], y - 1), (rim[k + 2], y - 1), (rim[k + 1], y + 0.03 * high)], paint, 1, NEUTRAL_SHADE + shade
            )
        seam = mix(paint, (0, 0, 0), 0.35)
        for side in (-1, 1):
            arc = ellipse(x, y, side * width * half, tall, 1.5 * np.pi, 2 * np.pi, 8)
            layer.polygon([*arc, *((px - side * 1.6, py) for px, py in reversed(arc))], seam)
    far = ellipse(x, y, -layer.light * half, tall, 1.5 * np.pi, 2 * np.pi, 8)
    layer.shadow([(x, y - tall), *far, (x - layer.light * 0.4 * half, y)], NEUTRAL_SHADE - 26)
    low, end = y - 0.03 * high, y + 0.3 * high
    layer.polygon([(x - 1.5, low), (x + 1.5, low), (x + 1.5, end), (x - 1.5, end)], (60, 50, 44), 1)


def _railing(layer: Canvas, box: Box, reach: float, uniforms: list[float], passer: Person | None) -> None:
    """Draws a fence of vertical bars between two rails."""
    left, top, wide, high = box
    color = mix(_paint(uniforms[0]), (120, 120, 120), 0.3)
    y0, y1 = top + high * (0.12 + 0.3 * uniforms[1]), top + 1.1 * high
    pitch = wide * (0.22 + 0.1 * uniforms[2])
    thick = pitch * min(0.98, 0.1 + 0.95 * reach)
    x = left - wide + pitch * uniforms[3]
    while x < left + 2 * wide:
        bar = Tube([(x, y0), (x, y1)], [(x + thick, y0), (x + thick, y1)])
        canvases.paint(layer, bar, Cloth(color), 1, depth=36)
        x += pitch
    rail = 0.05 * high
    for y in (y0, y0 + 0.3 * high):
        layer.polygon(
            [(0, y), (layer.width, y), (layer.width, y + rail), (0, y + rail)],
            mix(color, (255, 255, 255), 0.12),
            1,
            NEUTRAL_SHADE,
        )


_KINDS: dict[str, Callable[[Canvas, Box, float, list[float], Person | None], None]] = {
    "crates": _crates,
    "plant": _plant,
    "board": _board,
    "pillar": _pillar,
    "car": _car,
    "pedestrian": _pedestrian,
    "bin": _bin,
    "umbrella": _umbrella,
    "railing": _railing,
}
