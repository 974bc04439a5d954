"""The canvas: color, part labels and shading at twice the final size, drawn from the same polygons."""

from __future__ import annotations

import math

import cv2
import numpy as np

from reid_jax.data.synthped.people import Cloth, Color

# Images are drawn at twice their size with hard edges and averaged, an antialiasing that is equal on all machines.
SUPERSAMPLE = 2
# Coordinates are rounded to 1/16 pixel before drawing, so that the last bit of a sine changes no pixel.
_FRACTION_BITS = 4
_FRACTION = 1 << _FRACTION_BITS
NEUTRAL_SHADE = 128  # shade / 128 multiplies the color

Point = tuple[float, float]


def pieces(points: list[Point]) -> list[np.ndarray]:
    """Splits a polygon into shapes that every scan line crosses once, rounded to the drawing grid.

    All versions of OpenCV fill such shapes equally, unlike general polygons. A shape that bends back is treated as a
    ribbon: an edge from the first to the middle point, and an edge back.

    Returns:
        int32 `[N, 2]` arrays in units of 1/16 pixel.
    """
    fixed = [(round(x * _FRACTION), round(y * _FRACTION)) for x, y in points]
    if _is_simple(fixed):
        return [np.array(fixed, np.int32)]
    shapes = []
    count = len(fixed)
    for k in range(count // 2 - 1 + count % 2):
        quad = [fixed[k], fixed[k + 1], fixed[count - 2 - k], fixed[count - 1 - k]]
        shapes += [quad] if _is_simple(quad) else [quad[:3], [quad[0], *quad[2:]]]
    return [np.array(shape, np.int32) for shape in shapes]


def _is_simple(points: list[tuple[int, int]]) -> bool:
    """Returns whether a contour goes down once and up once."""
    changes, before = 0, 0
    y = points[-1][1]
    first = 0
    for _, next_y in points:
        if next_y != y:
            direction = 1 if next_y > y else -1
            if before and direction != before:
                changes += 1
            first = first or direction
            before, y = direction, next_y
    return changes + (before != first) <= 2


def fill(image: np.ndarray, points: list[Point], value: int | Color) -> None:
    """Fills a polygon in an array of drawing size."""
    for piece in pieces(points):
        cv2.fillConvexPoly(image, piece, value, cv2.LINE_8, _FRACTION_BITS)


class Canvas:
    """Arrays of color `[H, W, 3]`, parts `[H, W]` and shade `[H, W]`, all uint8 at drawing size."""

    def __init__(self, color: np.ndarray) -> None:
        """Starts from a background, which is drawn over."""
        self.color = color
        self.height, self.width = color.shape[:2]
        self.parts = np.zeros((self.height, self.width), np.uint8)
        self.shade = np.full((self.height, self.width), NEUTRAL_SHADE, np.uint8)
        self.labels_only = False  # draw the parts only, to measure a shape
        self.light = -1.0  # direction of the light, from -1 (left) to 1 (right)

    def polygon(self, points: list[Point], color: Color, part: int | None = None, shade: int | None = None) -> None:
        """Fills a polygon; None leaves the part labels or the shade unchanged."""
        if self.labels_only and part is None:
            return
        for piece in pieces(points):
            if part is not None:
                cv2.fillConvexPoly(self.parts, piece, part, cv2.LINE_8, _FRACTION_BITS)
            if self.labels_only:
                continue
            cv2.fillConvexPoly(self.color, piece, color, cv2.LINE_8, _FRACTION_BITS)
            if shade is not None:
                cv2.fillConvexPoly(self.shade, piece, shade, cv2.LINE_8, _FRACTION_BITS)

    def tube(self, tube: Tube, color: Color, part: int | None = None, shade: int | None = NEUTRAL_SHADE) -> None:
        """Fills the silhouette of a tube, including its round top."""
        if tube.cap:
            self.polygon([tube.left[0], *reversed(tube.cap), tube.right[0]], color, part, shade)
        self.polygon(tube.outline(), color, part, shade)

    def polygons(self, many: list[list[Point]], color: Color) -> None:
        """Fills several polygons with a color."""
        for points in () if self.labels_only else many:
            fill(self.color, points, color)

    def shadow(self, points: list[Point], shade: int) -> None:
        """Sets the shade inside a polygon: NEUTRAL_SHADE has no effect, smaller values are darker."""
        if not self.labels_only:
            fill(self.shade, points, shade)


class Tube:
    """A body part or garment as seen from the camera: two silhouette edges with levels from 0 (top) to 1 (bottom).

    A point of its surface has a level `t` and a position `s` across, from -1 (left edge) to 1 (right edge). `turn` is
    the view angle of the wearer's forward direction, so that details at a body angle are visible from their side only.
    """

    def __init__(
        self, left: list[Point], right: list[Point], turn: float = 0.0, cap: list[Point] | None = None
    ) -> None:
        self.left, self.right, self.turn, self.cap = left, right, turn, cap or []
        self.last = len(left) - 1

    def edges(self, t: float) -> tuple[Point, Point]:
        """Returns the points of the left and the right edge at level t."""
        place = min(max(t, 0.0), 1.0) * self.last
        i = min(int(place), self.last - 1)
        w = place - i
        (ax, ay), (bx, by) = self.left[i], self.left[i + 1]
        (cx, cy), (dx, dy) = self.right[i], self.right[i + 1]
        return (ax + w * (bx - ax), ay + w * (by - ay)), (cx + w * (dx - cx), cy + w * (dy - cy))

    def at(self, t: float, s: float) -> Point:
        """Returns the surface point at level t and position s."""
        (ax, ay), (bx, by) = self.edges(t)
        u = 0.5 * (s + 1.0)
        return ax + u * (bx - ax), ay + u * (by - ay)

    def outline(self) -> list[Point]:
        """Returns the silhouette without its round top."""
        return self.left + self.right[::-1]

    def strip(self, t0: float, t1: float, s0: float, s1: float) -> list[Point]:
        """Returns the polygon between two levels and two positions."""
        inner = [k / self.last for k in range(1, self.last) if t0 + 1e-3 < k / self.last < t1 - 1e-3]
        levels = [t0, *inner, t1]
        return [self.at(t, s0) for t in levels] + [self.at(t, s1) for t in reversed(levels)]

    def seen(self, angle0: float, angle1: float) -> tuple[float, float] | None:
        """Returns the positions (s0, s1) of the visible part of a range of body angles, None where none is visible.

        Angles are in radians; 0 is forward, and left is positive.
        """
        middle, half = 0.5 * (angle0 + angle1) + self.turn, 0.5 * (angle1 - angle0)
        middle = (middle + math.pi) % (2 * math.pi) - math.pi
        low, high = max(middle - half, -math.pi / 2), min(middle + half, math.pi / 2)
        if high - low < 0.05:
            return None
        return math.sin(low), math.sin(high)

    def patch(self, t0: float, t1: float, angle0: float, angle1: float) -> list[Point] | None:
        """Returns the visible polygon of a range of levels and body angles, or None."""
        places = self.seen(angle0, angle1)
        return None if places is None else self.strip(t0, t1, *places)


def limb(points: list[Point], radii: list[float], cap_top: bool = True, cap_bottom: bool = True) -> Tube:
    """Returns a tube around a chain of joints.

    Args:
        points: joints from top to bottom.
        radii: half-width at each joint, in pixels.
        cap_top: whether the upper end is round.
        cap_bottom: whether the lower end is round.
    """
    left, right = [], []
    count = len(points)
    for k in range(count):
        (ax, ay), (bx, by) = points[max(k - 1, 0)], points[min(k + 1, count - 1)]
        length = math.hypot(bx - ax, by - ay) or 1.0
        nx, ny = -(by - ay) / length, (bx - ax) / length  # across, to the image left for a limb that hangs down
        (x, y), r = points[k], radii[k]
        left.append((x + nx * r, y + ny * r))
        right.append((x - nx * r, y - ny * r))
    if cap_bottom:
        left, right = _round_end(left, right)
    cap = _arc(left[0], right[0], up=True) if cap_top else []
    return Tube(left, right, cap=cap)


def _arc(a: Point, b: Point, up: bool) -> list[Point]:
    """Returns three points of the half circle from b to a on the far side of the limb."""
    cx, cy = 0.5 * (a[0] + b[0]), 0.5 * (a[1] + b[1])
    hx, hy = 0.5 * (b[0] - a[0]), 0.5 * (b[1] - a[1])
    ox, oy = (hy, -hx) if up else (-hy, hx)
    k = 0.7071
    return [(cx + k * (hx + ox), cy + k * (hy + oy)), (cx + ox, cy + oy), (cx - k * (hx - ox), cy - k * (hy - oy))]


def _round_end(left: list[Point], right: list[Point]) -> tuple[list[Point], list[Point]]:
    """Returns both edges with a further level that rounds off the lower end."""
    (ax, ay), (bx, by) = left[-1], right[-1]
    hx, hy = 0.5 * (bx - ax), 0.5 * (by - ay)
    ox, oy = -hy, hx
    cx, cy = 0.5 * (ax + bx) + 0.85 * ox, 0.5 * (ay + by) + 0.85 * oy
    return [*left, (cx - 0.5 * hx, cy - 0.5 * hy)], [*right, (cx + 0.5 * hx, cy + 0.5 * hy)]


def ellipse(
    x: float, y: float, rx: float, ry: float, start: float = 0.0, stop: float = 2 * math.pi, count: int = 14
) -> list[Point]:
    """Returns points of an ellipse; angles are clockwise from the right, since the y axis points down."""
    step = (stop - start) / count
    return [(x + rx * math.cos(start + k * step), y + ry * math.sin(start + k * step)) for k in range(count + 1)]


def mix(a: Color, b: Color, share: float) -> Color:
    """Returns a mixture of two colors; a share of 0 is a, and 1 is b."""
    return tuple(round(p + share * (q - p)) for p, q in zip(a, b))  # type: ignore[return-value]


def shade_tube(canvas: Canvas, tube: Tube, depth: int = 34) -> None:
    """Shades a tube: brighter toward the light, darker away from it."""
    dark = 1.0 if canvas.light < 0 else -1.0
    for start, stop, shade in ((0.15, 0.55, -0.45), (0.55, 1.0, -1.0), (-0.85, -0.35, 0.3)):
        low, high = sorted((dark * start, dark * stop))
        canvas.shadow(tube.strip(0.0, 1.0, low, high), NEUTRAL_SHADE + int(depth * shade))


def paint(canvas: Canvas, tube: Tube, cloth: Cloth, part: int | None, depth: int = 34, repeats: float = 1.0) -> None:
    """Paints a tube with a fabric, its pattern and its shading.

    Args:
        canvas: the canvas.
        tube: the shape.
        cloth: the fabric.
        part: label of the body part; None leaves the labels unchanged.
        depth: strength of the shading.
        repeats: fraction of the pattern's repeats that fits the length of the tube.
    """
    canvas.tube(tube, cloth.color, part)
    if canvas.labels_only:
        return
    paint_pattern(canvas, tube, cloth, repeats)
    shade_tube(canvas, tube, depth)


def paint_pattern(canvas: Canvas, tube: Tube, cloth: Cloth, repeats: float = 1.0) -> None:
    """Paints the pattern of a fabric, if any; the arguments are those of `paint`."""
    if cloth.pattern != "plain":
        _PATTERNS[cloth.pattern](canvas, tube, cloth, repeats)


def _bands(tube: Tube, count: int, share: float) -> list[list[Point]]:
    return [tube.strip((k + 0.5 * (1 - share)) / count, (k + 0.5 * (1 + share)) / count, -1, 1) for k in range(count)]


def _columns(tube: Tube, count: int, share: float) -> list[list[Point]]:
    """Returns vertical stripes, evenly spaced by body angle."""
    step = 2 * math.pi / count
    patches = (tube.patch(0, 1, (k - share / 2) * step, (k + share / 2) * step) for k in range(count))
    return [patch for patch in patches if patch]


def _horizontal_stripes(canvas: Canvas, tube: Tube, cloth: Cloth, repeats: float) -> None:
    canvas.polygons(_bands(tube, max(1, round(cloth.scale * repeats)), 0.5), cloth.second)


def _vertical_stripes(canvas: Canvas, tube: Tube, cloth: Cloth, repeats: float) -> None:
    canvas.polygons(_columns(tube, 2 * cloth.scale if repeats == 1.0 else 6, 0.42), cloth.second)


def _checks(canvas: Canvas, tube: Tube, cloth: Cloth, repeats: float) -> None:
    half = mix(cloth.color, cloth.second, 0.55)
    canvas.polygons(_bands(tube, max(1, round(cloth.scale * repeats)), 0.4), half)
    canvas.polygons(_columns(tube, 2 * cloth.scale if repeats == 1.0 else 6, 0.36), cloth.second)


def _dots(canvas: Canvas, tube: Tube, cloth: Cloth, repeats: float) -> None:
    rows = max(2, round(cloth.scale * repeats))
    radius = max(1.0, 0.0125 * canvas.height * 6 / (cloth.scale + 2))
    columns = 2 * cloth.scale if repeats == 1.0 else 6
    dots = []
    for row in range(rows):
        for column in range(columns):
            place = tube.seen(*(((column + 0.5 * (row % 2)) * 2 * math.pi / columns + d) for d in (-0.03, 0.03)))
            if place and abs(place[0]) < 0.93:
                x, y = tube.at((row + 0.5) / rows, place[0])
                dots.append(ellipse(x, y, radius, radius, count=6))
    canvas.polygons(dots, cloth.second)


def _two_tone(canvas: Canvas, tube: Tube, cloth: Cloth, repeats: float) -> None:
    if repeats == 1.0:
        canvas.polygon(tube.strip(0.62 if cloth.scale % 2 else 0.45, 1, -1, 1), cloth.second)


def _band(canvas: Canvas, tube: Tube, cloth: Cloth, repeats: float) -> None:
    middle = 0.3 + 0.05 * (cloth.scale - 4)
    canvas.polygon(tube.strip(middle, middle + 0.16, -1, 1), cloth.second)


def _gradient(canvas: Canvas, tube: Tube, cloth: Cloth, repeats: float) -> None:
    steps = 6
    for k in range(1, steps):
        canvas.polygon(tube.strip(k / steps, 1, -1, 1), mix(cloth.color, cloth.second, k / (steps - 1)))


_PATTERNS = {
    "hstripes": _horizontal_stripes,
    "vstripes": _vertical_stripes,
    "checks": _checks,
    "dots": _dots,
    "twotone": _two_tone,
    "band": _band,
    "gradient": _gradient,
}
