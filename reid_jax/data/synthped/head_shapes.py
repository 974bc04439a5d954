"""Drawing of heads: face, hair and hats, as seen from a viewpoint."""

from __future__ import annotations

import math

from reid_jax.data.synthped import canvas as canvases
from reid_jax.data.synthped.canvas import Canvas, Point
from reid_jax.data.synthped.people import Cloth, Person
from reid_jax.data.synthped.pose import Skeleton

_HALF_HEIGHT, _HALF_WIDTH, _HALF_DEPTH = (
    0.072,
    0.053,
    0.060,
)  # fractions of the stature, slightly enlarged


class _Sphere:
    """The head as an ellipsoid, with points by height v (from -1 at the top to 1 at the chin) and body angle."""

    def __init__(self, skeleton: Skeleton) -> None:
        lean = skeleton.lean(0.92)
        self.x, self.y = skeleton.project((0.0, 0.918, lean + 0.012))
        self.rx = skeleton.reach(_HALF_WIDTH, _HALF_DEPTH)
        self.ry = _HALF_HEIGHT * skeleton.view.scale
        self.turn = skeleton.turn(_HALF_WIDTH, _HALF_DEPTH)
        self.cos, self.sin = skeleton.cos, skeleton.sin

    def visible(self, angle: float) -> float | None:
        """Returns the position across (-1 … 1) of a body angle, or None where it faces away from the camera."""
        seen = (angle + self.turn + math.pi) % (2 * math.pi) - math.pi
        return math.sin(seen) if abs(seen) <= math.pi / 2 else None

    def at(self, v: float, s: float) -> Point:
        """Returns the canvas point at height v and position s."""
        return self.x + self.rx * s * math.sqrt(max(0.0, 1 - v * v)), self.y + self.ry * v


def draw(canvas: Canvas, person: Person, skeleton: Skeleton, part: int) -> None:
    """Draws the head over what is on the canvas."""
    sphere = _Sphere(skeleton)
    neutral = canvases.NEUTRAL_SHADE
    bald, size = person.hair_style == "bald", person.cut.hair
    if person.hair_style == "curly" and person.hat == "none":
        bush = canvases.ellipse(sphere.x, sphere.y - 0.2 * sphere.ry, 1.42 * size * sphere.rx, 1.18 * size * sphere.ry)
        canvas.polygon(bush, person.hair, part, neutral)
    if person.hair_style == "bob":
        bob = canvases.ellipse(
            sphere.x - 0.1 * sphere.rx * sphere.sin,
            sphere.y + 0.1 * sphere.ry,
            1.25 * size * sphere.rx,
            1.08 * size * sphere.ry,
        )
        canvas.polygon(bob, person.hair, part, neutral)
    if person.hair_style == "bun" and person.hat == "none":
        bun = (sphere.x - 0.55 * sphere.rx * sphere.sin, sphere.y - 1.0 * sphere.ry)
        canvas.polygon(
            canvases.ellipse(*bun, 0.5 * size * sphere.rx, 0.36 * size * sphere.ry, count=10),
            person.hair,
            part,
            neutral,
        )
    canvas.polygon(canvases.ellipse(sphere.x, sphere.y, sphere.rx, sphere.ry), person.skin, part, neutral)
    if not bald:
        # Higher than the head and ending above the chin, which avoids a dark line around the jaw.
        scalp = canvases.ellipse(sphere.x, sphere.y - 0.14 * sphere.ry, 1.06 * sphere.rx, 0.94 * sphere.ry)
        canvas.polygon(scalp, person.hair, part, neutral)
    _face(canvas, person, sphere)
    _hat(canvas, person, sphere, part)
    dark = 1.0 if canvas.light < 0 else -1.0
    side = [
        sphere.at(v, dark * s)
        for s, vs in ((0.3, (-0.9, -0.4, 0, 0.4, 0.9)), (1.0, (0.9, 0.4, 0, -0.4, -0.9)))
        for v in vs
    ]
    canvas.shadow(side, neutral - 22)


def _face(canvas: Canvas, person: Person, sphere: _Sphere) -> None:
    """Draws the skin of the face with eyes, brows, mouth, beard and glasses; nothing in views from behind."""
    half = 1.25
    left = sphere.turn - half
    right = sphere.turn + half
    low, high = _visible_range(left, right)
    if high - low < 0.1:
        if person.hair_style == "bald":
            return
        _nape(canvas, person, sphere)
        return
    s0, s1 = math.sin(low), math.sin(high)
    brow = -0.42
    heights = (brow, 0.0, 0.35, 0.7, 0.95, 1.0)
    face = [sphere.at(v, s0) for v in heights] + [sphere.at(v, s1) for v in reversed(heights)]
    canvas.polygon(face, person.skin)
    if person.beard:
        jaw = (0.45, 0.7, 0.95, 1.0)
        canvas.polygon(
            [sphere.at(v, s0) for v in jaw] + [sphere.at(v, s1) for v in reversed(jaw)],
            canvases.mix(person.skin, person.hair, 0.7),
        )
    eye = canvases.mix(person.skin, (20, 16, 16), 0.8)
    for angle in (-0.42, 0.42):
        s = sphere.visible(angle)
        if s is not None and abs(s) < 0.92:
            x, y = sphere.at(-0.05, s)
            canvas.polygon(canvases.ellipse(x, y, 0.13 * sphere.rx, 0.07 * sphere.ry, count=8), eye)
            bx, by = sphere.at(-0.24, s)
            w = 0.2 * sphere.rx
            canvas.polygon(
                [(bx - w, by - 1), (bx + w, by - 1), (bx + w, by + 0.6), (bx - w, by + 0.6)],
                canvases.mix(person.skin, person.hair, 0.6),
            )
    s = sphere.visible(0.0)
    if s is not None:
        x, y = sphere.at(0.22, s)
        canvas.polygon(
            canvases.ellipse(x, y, 0.12 * sphere.rx, 0.13 * sphere.ry, count=8),
            canvases.mix(person.skin, (120, 60, 40), 0.25),
        )
        mx, my = sphere.at(0.55, s)
        w = 0.28 * sphere.rx
        canvas.polygon(
            [(mx - w, my), (mx, my - 0.06 * sphere.ry), (mx + w, my), (mx, my + 0.07 * sphere.ry)],
            canvases.mix(person.skin, (150, 50, 60), 0.55),
        )
    if person.glasses:
        s0, s1 = math.sin(max(low, sphere.turn - 1.0)), math.sin(min(high, sphere.turn + 1.0))
        band = [sphere.at(-0.18, s0), sphere.at(-0.18, s1), sphere.at(0.1, s1), sphere.at(0.1, s0)]
        canvas.polygon(band, (30, 30, 36))
    # An ear where the side of the head is visible.
    for angle in (-1.45, 1.45):
        s = sphere.visible(angle)
        if s is not None and person.hair_style in ("short", "bald", "ponytail", "bun"):
            x, y = sphere.at(0.08, s)
            canvas.polygon(
                canvases.ellipse(x, y, 0.16 * sphere.rx, 0.17 * sphere.ry, count=8),
                canvases.mix(person.skin, (120, 50, 30), 0.15),
            )


def _nape(canvas: Canvas, person: Person, sphere: _Sphere) -> None:
    """Draws the skin below a short haircut in views from behind."""
    if person.hair_style in ("short", "bun", "ponytail"):
        heights = (0.62, 0.85, 1.0)
        canvas.polygon(
            [sphere.at(v, -0.9) for v in heights] + [sphere.at(v, 0.9) for v in reversed(heights)], person.skin
        )


def _visible_range(left: float, right: float) -> tuple[float, float]:
    middle, half = 0.5 * (left + right), 0.5 * (right - left)
    middle = (middle + math.pi) % (2 * math.pi) - math.pi
    return max(middle - half, -math.pi / 2), min(middle + half, math.pi / 2)


def _hat(canvas: Canvas, person: Person, sphere: _Sphere, part: int) -> None:
    if person.hat == "none":
        return
    color, neutral = person.hat_color, canvases.NEUTRAL_SHADE
    top = 1.16 if person.hat == "beanie" else 1.1
    brim_height = -0.28 if person.hat == "beanie" else -0.36
    dome = canvases.ellipse(
        sphere.x,
        sphere.y + brim_height * sphere.ry,
        1.12 * sphere.rx,
        (top + brim_height) * sphere.ry + 0.12 * sphere.ry,
        math.pi,
        2 * math.pi,
        10,
    )
    canvas.polygon(dome, color, part, neutral)
    y = sphere.y + brim_height * sphere.ry
    edge = canvases.mix(color, (0, 0, 0), 0.3)
    if person.hat == "beanie":
        w, h = 1.14 * sphere.rx, 0.24 * sphere.ry
        canvas.polygon(
            [(sphere.x - w, y - h), (sphere.x + w, y - h), (sphere.x + w, y + 0.4 * h), (sphere.x - w, y + 0.4 * h)],
            edge,
            part,
        )
    elif person.hat == "sunhat":
        canvas.polygon(canvases.ellipse(sphere.x, y, 1.95 * sphere.rx, 0.26 * sphere.ry), color, part, neutral)
        canvas.polygon(canvases.ellipse(sphere.x, y - 0.2 * sphere.ry, 1.12 * sphere.rx, 0.14 * sphere.ry), edge)
    elif sphere.cos > -0.35:
        # The visor points forward: a wide arc in front views, a beak in side views.
        x = sphere.x + 0.95 * sphere.rx * sphere.sin
        wide = sphere.rx * (0.95 - 0.2 * abs(sphere.sin))
        canvas.polygon(canvases.ellipse(x, y + 0.05 * sphere.ry, wide, 0.17 * sphere.ry, count=10), edge, part, neutral)


def draw_long_hair(canvas: Canvas, person: Person, skeleton: Skeleton, part: int) -> None:
    """Draws long hair or a ponytail over the back."""
    sphere = _Sphere(skeleton)
    neutral, size = canvases.NEUTRAL_SHADE, person.cut.hair
    back = -sphere.sin
    if person.hair_style == "ponytail":
        x = sphere.x + 0.95 * sphere.rx * back
        root, tip = (x, sphere.y - 0.3 * sphere.ry), (x + 0.25 * sphere.rx * back, sphere.y + 1.75 * size * sphere.ry)
        tail = canvases.limb([root, tip], [0.42 * size * sphere.rx, 0.24 * size * sphere.rx])
        canvases.paint(canvas, tail, Cloth(person.hair), part, depth=26)
        return
    x = sphere.x + 0.4 * sphere.rx * back
    wide = 1.28 * sphere.rx * (1 - 0.2 * abs(sphere.sin))
    y0, y1 = sphere.y - 0.1 * sphere.ry, sphere.y + 2.0 * size * sphere.ry
    mane = canvases.Tube(
        [(x - 0.85 * wide, y0), (x - wide, 0.5 * (y0 + y1)), (x - 0.75 * wide, y1)],
        [(x + 0.85 * wide, y0), (x + wide, 0.5 * (y0 + y1)), (x + 0.75 * wide, y1)],
    )
    canvases.paint(canvas, mane, Cloth(person.hair), part, depth=30)
    canvas.shadow(mane.outline(), neutral - 8)
