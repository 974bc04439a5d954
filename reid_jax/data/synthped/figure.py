"""Drawing of a person from back to front: legs, trunk, arms, and what is worn and carried; see `head_shapes` too."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

from reid_jax.data.synthped import canvas as canvases
from reid_jax.data.synthped import head_shapes
from reid_jax.data.synthped.canvas import Canvas, Tube
from reid_jax.data.synthped.people import Cloth, Person
from reid_jax.data.synthped.pose import Joint, Skeleton, View

# Labels of the parts mask; left and right are those of the person.
PARTS = ("head", "left_arm", "right_arm", "torso", "left_leg", "right_leg", "left_foot", "right_foot")
HEAD, LEFT_ARM, RIGHT_ARM, TORSO, LEFT_LEG, RIGHT_LEG, LEFT_FOOT, RIGHT_FOOT = range(1, 9)
OBJECT = 255  # carried objects, which belong to no part and become background at the end

_JACKETS = ("jacket", "coat", "vest")


def draw(canvas: Canvas, person: Person, view: View) -> None:
    """Draws a person with parts and shading over what is on the canvas."""
    figure = _Figure(canvas, person, view)
    figure.legs()
    if person.top in ("dress", "coat") or person.bottom == "skirt":
        figure.skirt()
    # Objects behind the trunk are drawn first; a tiny bias keeps the order stable in pure front and side views.
    layers: list[tuple[float, Callable[[], None]]] = [(0.0, figure.trunk), (0.012, figure.head)]
    for side in (1, -1):
        layers.append((figure.arm_depth(side), functools.partial(figure.arm, side)))
    if person.bag == "backpack":
        layers.append((-0.11 * figure.skeleton.cos, figure.backpack))
    if person.bag == "shoulder":
        layers.append((figure.bag_depth(), figure.shoulder_bag))
    if person.hair_style in ("long", "ponytail"):
        layers.append((-0.06 * figure.skeleton.cos, figure.long_hair))
    for _, paint in sorted(layers, key=lambda layer: layer[0]):
        paint()


class _Figure:
    """A person being drawn on a canvas."""

    def __init__(self, canvas: Canvas, person: Person, view: View) -> None:
        self.canvas, self.person, self.view = canvas, person, view
        self.skeleton = Skeleton(person, view)
        self.scale = view.scale
        trousers = person.bottom in ("trousers", "leggings")
        self.leg_cloth = dataclasses.replace(person.bottom_cloth, pattern="plain") if trousers else person.bottom_cloth
        self.trunk_depth = 0.068 * person.girth
        self.hem = 0.455 if person.top in ("hoodie", "jumper", "vest") else 0.44
        self.hem += person.leg - 0.485
        self.hem -= person.cut.top_length

    # Legs -----------------------------------------------------------------------------------------------------------

    def legs(self) -> None:
        """Draws both legs with shoes, the farther leg first."""
        skeleton = self.skeleton
        sides = [(skeleton.left_leg, LEFT_LEG, LEFT_FOOT), (skeleton.right_leg, RIGHT_LEG, RIGHT_FOOT)]
        sides.sort(key=lambda side: skeleton.near(side[0][1]) + skeleton.near(side[0][0]))
        for joints, leg, foot in sides:
            self._leg(joints, leg, foot)

    def _leg(self, joints: Sequence[Joint], leg: int, foot: int) -> None:
        canvas, person, scale = self.canvas, self.person, self.scale
        hip, knee, ankle, _ = points = [self.skeleton.project(joint) for joint in joints]
        thick = scale * person.girth
        skin = canvases.limb([hip, knee, ankle], [0.052 * thick, 0.034 * thick, 0.021 * thick])
        bare = person.bottom in ("shorts", "skirt", "none")
        if bare:
            canvases.paint(canvas, skin, Cloth(person.skin), leg)
        self._foot(points, foot)
        if person.bottom == "trousers" or person.bottom == "leggings":
            wide = (0.056, 0.041, 0.031) if person.bottom == "trousers" else (0.053, 0.035, 0.023)
            wide = (wide[0], wide[1] * person.cut.trouser_width, wide[2] * person.cut.trouser_width)
            cuff = (ankle[0] + 0.04 * (ankle[0] - knee[0]), ankle[1] + 0.04 * (ankle[1] - knee[1]))
            if person.cut.trousers < 1.0:
                canvases.paint(canvas, skin, Cloth(person.skin), leg)
                cuff = _between(knee, ankle, person.cut.trousers)
            tube = canvases.limb([hip, knee, cuff], [width * thick for width in wide], cap_bottom=False)
            tube.turn = self.skeleton.turn(1, 1)
            canvases.paint(canvas, tube, self.leg_cloth, leg)
            if person.bottom_cloth.pattern != "plain":
                canvases.paint(canvas, tube, person.bottom_cloth, leg, repeats=1.6)
            self._side_stripe(tube, leg)
            if person.shoes == "boot":
                self._boot(knee, ankle, leg)
        elif person.bottom == "shorts":
            end = (0.8 * knee[0] + 0.2 * hip[0], 0.8 * knee[1] + 0.2 * hip[1])
            longer = person.cut.shorts_length
            end = (end[0] + longer * (knee[0] - hip[0]), end[1] + longer * (knee[1] - hip[1]))
            tube = canvases.limb([hip, end], [0.058 * thick, 0.048 * thick], cap_bottom=False)
            tube.turn = self.skeleton.turn(1, 1)
            canvases.paint(canvas, tube, person.bottom_cloth, leg, repeats=0.8)
            self._side_stripe(tube, leg)
        if bare and person.shoes == "boot":
            self._boot(knee, ankle, leg)

    def _boot(self, knee: canvases.Point, ankle: canvases.Point, leg: int) -> None:
        top = (0.45 * knee[0] + 0.55 * ankle[0], 0.45 * knee[1] + 0.55 * ankle[1])
        radius = self.scale * self.person.girth
        shaft = canvases.limb([top, ankle], [0.034 * radius, 0.028 * radius], cap_top=False)
        canvases.paint(self.canvas, shaft, Cloth(self.person.shoe_color), leg)

    def _side_stripe(self, tube: Tube, leg: int) -> None:
        if self.person.side_stripe:
            outward = math.pi / 2 if leg == LEFT_LEG else -math.pi / 2
            patch = tube.patch(0, 1, outward - 0.45, outward + 0.45)
            if patch:
                self.canvas.polygon(patch, self.person.bottom_cloth.second)

    def _foot(self, points: Sequence[tuple[float, float]], foot: int) -> None:
        canvas, person, scale = self.canvas, self.person, self.scale
        _, _, (ax, ay), (tx, ty) = points
        heel = (ax - 0.22 * (tx - ax), ay + 0.012 * scale)
        toe = (tx, ty + 0.008 * scale)
        sole = canvases.limb([heel, toe], [0.026 * scale, 0.021 * scale])
        upper = person.skin if person.shoes == "sandal" else person.shoe_color
        drop = 0.009 * scale
        under = canvases.limb([(heel[0], heel[1] + drop), (toe[0], toe[1] + drop)], [0.026 * scale, 0.021 * scale])
        canvas.tube(under, person.sole_color, foot, canvases.NEUTRAL_SHADE - 6)
        canvas.tube(sole, upper, foot)
        instep = canvases.limb(
            [(ax, ay - 0.02 * scale), (ax + 0.3 * (tx - ax), ay + 0.012 * scale)], [0.024 * scale, 0.026 * scale]
        )
        canvas.tube(instep, upper, foot)
        if person.shoes == "sneaker":
            mid = canvases.limb(
                [(0.55 * ax + 0.45 * tx, 0.55 * ay + 0.45 * ty - 0.004 * scale), toe], [0.009 * scale, 0.008 * scale]
            )
            canvas.tube(mid, canvases.mix(upper, person.sole_color, 0.6), foot)
        elif person.shoes == "sandal":
            strap = canvases.limb(
                [(ax, ay + 0.012 * scale), (0.4 * ax + 0.6 * tx, 0.4 * ay + 0.6 * ty)], [0.024 * scale, 0.008 * scale]
            )
            canvas.tube(strap, person.shoe_color, foot)

    # Trunk ----------------------------------------------------------------------------------------------------------

    def _ring(self, up: float, width: float, depth: float) -> tuple[canvases.Point, canvases.Point]:
        """Returns the silhouette of the trunk at a height."""
        x, y = self.skeleton.project((0.0, up, self.skeleton.lean(up)))
        reach = self.skeleton.reach(width, depth)
        return (x - reach, y), (x + reach, y)

    def _trunk_tube(self, loose: float = 0.0) -> Tube:
        person = self.person
        shoulder, hip, depth, girth = person.shoulder, person.hip, self.trunk_depth, person.girth
        waist = (0.36 * shoulder + 0.46 * hip) * (0.5 + 0.5 * girth)
        rings = (
            (0.842, 0.040, 0.042),
            (0.822, 0.62 * shoulder, 0.70 * depth),
            (0.790, 0.97 * shoulder, 0.94 * depth),
            (0.715, 0.90 * shoulder, 1.06 * depth),
            (0.620, waist, 0.94 * depth),
            (0.530, 0.98 * hip, 0.98 * depth),
            (self.hem, 1.02 * hip, 1.0 * depth),
        )
        edges = [self._ring(up, w + loose * (up < 0.8), d + loose * (up < 0.8)) for up, w, d in rings]
        return Tube([left for left, _ in edges], [right for _, right in edges], self.skeleton.turn(shoulder, depth))

    def trunk(self) -> None:
        """Draws the upper garment with front, prints and straps, then the neck."""
        canvas, person = self.canvas, self.person
        loose = 0.010 if person.top in ("coat", "hoodie") else 0.005 if person.top in ("jacket", "shirt") else 0.0
        tube = self._trunk_tube(loose)
        self._neck(tube)
        canvases.paint(canvas, tube, person.top_cloth, TORSO, depth=38)
        self._front(tube)
        self._prints(tube)
        if person.belt and person.top in ("shirt", "tshirt", "dress"):
            canvas.polygon(
                tube.strip(0.76, 0.815, -1, 1) if person.top == "dress" else tube.strip(0.94, 1.0, -1, 1), (46, 36, 30)
            )
        self._straps(tube)
        self._collar(tube)

    def _neck(self, tube: Tube) -> None:
        x, y = self.skeleton.project((0.0, 0.85, self.skeleton.lean(0.85)))
        s = self.scale
        neck = canvases.limb([(x, y - 0.035 * s), (x, y + 0.02 * s)], [0.030 * s, 0.036 * s])
        self.canvas.tube(neck, canvases.mix(self.person.skin, (0, 0, 0), 0.14), HEAD)

    def _front(self, tube: Tube) -> None:
        """Draws the front of a garment: opening, zipper, buttons, pocket."""
        canvas, person = self.canvas, self.person
        if person.top in _JACKETS:
            half = (0.5 if person.top != "coat" else 0.3) + person.cut.opening
            opening = tube.patch(0.02, 1, -half, half)
            if opening:
                inner = tube.seen(-half, half)
                assert inner is not None
                under = Tube([tube.at(k / 6, inner[0]) for k in range(7)], [tube.at(k / 6, inner[1]) for k in range(7)])
                shown = dataclasses.replace(person.inner_cloth, scale=person.inner_cloth.scale + 2)
                canvas.polygon(under.outline(), shown.color, TORSO)
                if shown.pattern in ("hstripes", "checks", "band", "twotone", "gradient"):
                    canvases.paint_pattern(canvas, under, shown)
                edge = canvases.mix(person.top_cloth.color, (0, 0, 0), 0.35)
                for angle in (-half, half):
                    lapel = tube.patch(0.02, 1, angle - 0.07, angle + 0.07)
                    if lapel:
                        canvas.polygon(lapel, edge)
        elif person.top == "shirt":
            placket = tube.patch(0.05, 1, -0.07, 0.07)
            if placket:
                canvas.polygon(placket, canvases.mix(person.top_cloth.color, (255, 255, 255), 0.35))
        elif person.top == "hoodie":
            pocket = tube.patch(0.68, 0.9, -0.6, 0.6)
            if pocket:
                canvas.polygon(pocket, canvases.mix(person.top_cloth.color, (0, 0, 0), 0.22))
        if person.top in ("hoodie", "jumper", "jacket"):
            canvas.polygon(tube.strip(0.955, 1, -1, 1), canvases.mix(person.top_cloth.color, (0, 0, 0), 0.25))

    def _prints(self, tube: Tube) -> None:
        person = self.person
        if person.top in ("tshirt", "jumper", "hoodie", "dress"):
            self._print(tube, person.chest_print, 0.0)
        if person.top in ("tshirt", "jumper", "hoodie", "jacket", "vest"):
            self._print(tube, person.back_print, math.pi)

    def _print(self, tube: Tube, kind: str, angle: float) -> None:
        if kind == "none" or (angle != 0.0 and self.person.bag == "backpack"):
            return
        canvas, color = self.canvas, self.person.print_color
        down, size = self.person.cut.print_height, self.person.cut.print_size
        shape = None
        if kind == "patch":
            shape = tube.patch(0.3 + down, 0.42 + down, angle + 0.15, angle + 0.15 + 0.5 * size)
        elif kind == "square":
            shape = tube.patch(0.3 + down, 0.58 + down + 0.28 * (size - 1), angle - 0.52 * size, angle + 0.52 * size)
        elif kind == "lines":
            for k in range(3):
                top, half = 0.28 + down + 0.09 * size * k, (0.62, 0.45, 0.55)[k] * size
                line = tube.patch(top, top + 0.045 * size, angle - half, angle + half)
                if line:
                    canvas.polygon(line, color)
        elif kind == "slash":
            places = tube.seen(angle - 0.9, angle + 0.9)
            if places:
                high, low, (left, right) = 0.22 + down, 0.48 + down + 0.1 * size, places
                shape = [tube.at(high, left), tube.at(high + 0.1, left), tube.at(low, right), tube.at(low - 0.1, right)]
        else:
            places = tube.seen(angle - 0.55 * size, angle + 0.55 * size)
            if places:
                x, y = tube.at(0.43 + down, 0.5 * (places[0] + places[1]))
                (ax, _), (bx, _) = tube.edges(0.43 + down)
                shape = canvases.ellipse(x, y, 0.25 * (bx - ax) * (places[1] - places[0]), 0.052 * self.scale * size)
        if shape:
            canvas.polygon(shape, color)

    def _collar(self, tube: Tube) -> None:
        canvas, person, s = self.canvas, self.person, self.scale
        x, y = self.skeleton.project((0.0, 0.842, self.skeleton.lean(0.842)))
        if person.scarf:
            canvas.polygon(
                canvases.ellipse(x, y, 0.062 * s, 0.03 * s), person.scarf_color, HEAD, canvases.NEUTRAL_SHADE
            )
            tail = tube.patch(0.02, 0.4, 0.15, 0.5)
            if tail:
                canvas.polygon(tail, person.scarf_color)
        elif person.top == "hoodie":
            hood = canvases.mix(person.top_cloth.color, (0, 0, 0), 0.15)
            back = -0.035 * s * self.skeleton.sin
            canvas.polygon(canvases.ellipse(x + back, y, 0.064 * s, 0.032 * s), hood, TORSO, canvases.NEUTRAL_SHADE)
        elif person.top in ("shirt", "jacket", "coat"):
            collar = canvases.mix(person.top_cloth.color, (255, 255, 255), 0.18)
            canvas.polygon(canvases.ellipse(x, y + 0.004 * s, 0.05 * s, 0.018 * s), collar, TORSO)
        if self.skeleton.cos > 0.25 and not person.scarf:
            front = canvases.ellipse(x + 0.02 * s * self.skeleton.sin, y + 0.002 * s, 0.031 * s, 0.022 * s)
            canvas.polygon(front, canvases.mix(person.skin, (0, 0, 0), 0.10), HEAD)

    def _straps(self, tube: Tube) -> None:
        """Draws the straps of bags over the trunk."""
        person = self.person
        if person.bag == "backpack":
            color = canvases.mix(person.bag_color, (0, 0, 0), 0.2)
            for side in (-1, 1):
                strap = tube.patch(0.1, 0.6, side * 0.62 - 0.13, side * 0.62 + 0.13)
                if strap:
                    self.canvas.polygon(strap, color)
        elif person.bag == "shoulder":
            self._diagonal_strap(tube)

    def _diagonal_strap(self, tube: Tube) -> None:
        """Draws a strap from a shoulder to the bag on the opposite hip, on front and back."""
        side, color = self.person.bag_side, self.person.bag_color
        for start in (0.0, math.pi):
            # Body angle runs from the far shoulder at the top to the bag's hip at the bottom.
            sign = side if start == 0.0 else -side
            points: list[tuple[canvases.Point, canvases.Point]] = []
            for k in range(7):
                t = 0.12 + 0.12 * k
                angle = start + sign * (-0.95 + 0.36 * k)
                places = tube.seen(angle - 0.11, angle + 0.11)
                if places:
                    points.append((tube.at(t, places[0]), tube.at(t, places[1])))
            if len(points) > 1:
                self.canvas.polygon([a for a, _ in points] + [b for _, b in reversed(points)], color)

    def skirt(self) -> None:
        """Draws a skirt, the lower part of a dress or coat tails: a tube over both legs, labeled by its halves."""
        person, skeleton, girth = self.person, self.skeleton, self.person.girth
        long = person.top == "coat"
        low = (0.30 if long else 0.27) - person.cut.skirt_length
        cloth = person.bottom_cloth if person.top not in ("dress", "coat") else person.top_cloth
        spread = 0.5 * abs(skeleton.left_leg[1][2] - skeleton.right_leg[1][2])
        flare = 0.008 if long else 0.022
        rings = (
            (self.hem + 0.08, person.hip * girth, 0.068 * girth),
            (low, person.hip * girth + flare, 0.07 * girth + 0.6 * flare + 0.8 * spread),
        )
        edges = [self._ring(up, width, depth) for up, width, depth in rings]
        tube = Tube([a for a, _ in edges], [b for _, b in edges], skeleton.turn(person.hip, 0.068))
        canvases.paint(self.canvas, tube, cloth, RIGHT_LEG, depth=36, repeats=0.6 if cloth.pattern != "dots" else 0.61)
        # The person's left is on the right of the image in front views; the halves meet at the front line.
        left = tube.patch(0, 1, 0.0, math.pi)
        if left:
            canvases.fill(self.canvas.parts, left, LEFT_LEG)
        if long:
            slit = tube.patch(0, 1, -0.12, 0.12)
            if slit:
                self.canvas.polygon(slit, canvases.mix(cloth.color, (0, 0, 0), 0.4))

    # Arms and bags --------------------------------------------------------------------------------------------------

    def _arm_joints(self, side: int) -> tuple[Joint, Joint, Joint, Joint]:
        return self.skeleton.left_arm if side > 0 else self.skeleton.right_arm

    def arm_depth(self, side: int) -> float:
        """Returns the depth of an arm relative to the axis of the trunk."""
        shoulder, elbow, wrist, _ = self._arm_joints(side)
        near = self.skeleton.near
        return near(shoulder) + 0.5 * near(elbow) + 0.5 * near(wrist)

    def arm(self, side: int) -> None:
        """Draws an arm with its hand and what it carries."""
        canvas, person, s = self.canvas, self.person, self.scale * (0.75 + 0.25 * self.person.girth)
        part = LEFT_ARM if side > 0 else RIGHT_ARM
        shoulder, elbow, wrist, hand = [self.skeleton.project(joint) for joint in self._arm_joints(side)]
        if person.bag in ("handbag", "tote") and side == person.bag_side:
            self._hand_bag(hand)
        canvases.paint(canvas, canvases.limb([wrist, hand], [0.019 * s, 0.016 * s]), Cloth(person.skin), part, depth=16)
        cloth = dataclasses.replace(person.top_cloth, color=person.sleeve_color)
        if person.sleeve_color != person.top_cloth.color or cloth.pattern in ("twotone", "gradient", "band"):
            cloth = dataclasses.replace(cloth, pattern="plain")
        if person.sleeve == "long":
            bulk = 1.15 if person.top in ("coat", "jacket", "hoodie") else 1.0
            radii = [0.031 * s * bulk, 0.032 * s * bulk, 0.024 * s * bulk]
            end = wrist
            if person.cut.sleeve < 1.0:
                bare = canvases.limb([shoulder, elbow, wrist], [0.031 * s, 0.026 * s, 0.019 * s])
                canvases.paint(canvas, bare, Cloth(person.skin), part)
                end = _between(elbow, wrist, person.cut.sleeve)
            tube = canvases.limb([shoulder, elbow, end], radii, cap_bottom=False)
            tube.turn = self.skeleton.turn(1, 1)
            canvases.paint(canvas, tube, cloth, part, repeats=1.05)
            canvas.polygon(tube.strip(0.93, 1, -1, 1), canvases.mix(cloth.color, (0, 0, 0), 0.28))
            return
        bare = canvases.limb([shoulder, elbow, wrist], [0.031 * s, 0.026 * s, 0.019 * s])
        canvases.paint(canvas, bare, Cloth(person.skin), part)
        if person.top != "vest":
            end = _between(shoulder, elbow, 0.68 * person.cut.short_sleeve)
            tube = canvases.limb([shoulder, end], [0.034 * s, 0.040 * s], cap_bottom=False)
            tube.turn = self.skeleton.turn(1, 1)
            canvases.paint(canvas, tube, cloth, part, repeats=0.45)

    def _hand_bag(self, hand: canvases.Point) -> None:
        """Draws a bag that hangs from the hand; it belongs to no body part."""
        canvas, person, s = self.canvas, self.person, self.scale
        (x, y), tote = hand, person.bag == "tote"
        size = person.cut.bag_size
        wide = (0.055 if tote else 0.065) * (0.55 + 0.45 * abs(self.skeleton.sin)) * s * size
        top, bottom = y + (0.07 if tote else 0.045) * s, y + (0.22 if tote else 0.135) * s * size
        strap = canvases.mix(person.bag_color, (0, 0, 0), 0.3)
        loop = [
            (x - 0.6 * wide, top),
            (x, y - 0.01 * s),
            (x + 0.6 * wide, top),
            (x + 0.42 * wide, top),
            (x, y + 0.012 * s),
            (x - 0.42 * wide, top),
        ]
        canvas.polygon(loop, strap, OBJECT)
        body = Tube([(x - 0.85 * wide, top), (x - wide, bottom)], [(x + 0.85 * wide, top), (x + wide, bottom)])
        canvases.paint(canvas, body, Cloth(person.bag_color), OBJECT, depth=26)
        canvas.polygon(body.strip(0.0, 0.3 if not tote else 0.08, -1, 1), strap)

    def backpack(self) -> None:
        """Draws a backpack: wide from behind, a bulge from the side, and hidden from the front except its straps."""
        canvas, person, s = self.canvas, self.person, self.scale
        skeleton = self.skeleton
        out = -(self.trunk_depth + 0.035)
        rings = (
            (0.80, 0.055, 0.028),
            (0.775, 0.082, 0.040),
            (0.66, 0.088, 0.050),
            (0.575, 0.086, 0.054),
            (0.55, 0.07, 0.045),
        )
        edges = []
        drop, size = person.cut.bag_drop, person.cut.bag_size
        for up, width, depth in rings:
            up = 0.80 - (0.80 - up) * size - drop if size != 1.0 else up - drop
            x, y = skeleton.project((0.0, up, out + skeleton.lean(up)))
            reach = skeleton.reach(width * size, depth * size)
            edges.append(((x - reach, y), (x + reach, y)))
        tube = Tube([a for a, _ in edges], [b for _, b in edges], skeleton.turn(0.085, 0.05))
        canvases.paint(canvas, tube, Cloth(person.bag_color), TORSO, depth=34)
        dark = canvases.mix(person.bag_color, (0, 0, 0), 0.3)
        pocket = tube.patch(0.5, 0.92, math.pi - 0.75, math.pi + 0.75)
        if pocket:
            canvas.polygon(pocket, canvases.mix(person.bag_color, (255, 255, 255), 0.12))
            flap = tube.patch(0.5, 0.56, math.pi - 0.75, math.pi + 0.75)
            if flap:
                canvas.polygon(flap, dark)
        zipper = tube.patch(0.2, 0.25, math.pi - 0.9, math.pi + 0.9)
        if zipper:
            canvas.polygon(zipper, dark)
        if skeleton.cos < -0.3:
            x, y = tube.at(0.0, 0.0)
            canvas.polygon(canvases.ellipse(x, y, 0.02 * s, 0.012 * s, count=8), dark)

    def _bag_joint(self) -> tuple[float, float, float]:
        return self.person.bag_side * (self.person.hip + 0.02), self.hem + 0.05 - self.person.cut.bag_drop, 0.0

    def bag_depth(self) -> float:
        """Returns the depth of the shoulder bag, slightly in front of the trunk in front and back views."""
        return self.skeleton.near(self._bag_joint()) + 0.004

    def shoulder_bag(self) -> None:
        """Draws the body of a shoulder bag on the hip."""
        canvas, person, s = self.canvas, self.person, self.scale
        x, y = self.skeleton.project(self._bag_joint())
        size = person.cut.bag_size
        half = s * math.hypot(0.03 * self.skeleton.cos, 0.075 * self.skeleton.sin) * size
        tube = Tube(
            [(x - 0.9 * half, y - 0.05 * s), (x - half, y + 0.055 * s * size)],
            [(x + 0.9 * half, y - 0.05 * s), (x + half, y + 0.055 * s * size)],
        )
        canvases.paint(canvas, tube, Cloth(person.bag_color), TORSO, depth=26)
        canvas.polygon(tube.strip(0, 0.45, -1, 1), canvases.mix(person.bag_color, (0, 0, 0), 0.25))

    # Head -----------------------------------------------------------------------------------------------------------

    def head(self) -> None:
        """Draws the head with face, hair and hat."""
        head_shapes.draw(self.canvas, self.person, self.skeleton, HEAD)

    def long_hair(self) -> None:
        """Draws hair that falls over the back."""
        head_shapes.draw_long_hair(self.canvas, self.person, self.skeleton, HEAD)


def _between(a: canvases.Point, b: canvases.Point, share: float) -> canvases.Point:
    """Returns the point at a share of the way from a to b."""
    return a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1])
