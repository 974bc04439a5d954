"""How a person stands before the camera: viewpoint, walking phase, and the joints that follow from them."""

from __future__ import annotations

import dataclasses
import math

from reid_jax.data.synthped.canvas import Point
from reid_jax.data.synthped.people import Person


@dataclasses.dataclass(frozen=True)
class View:
    """One appearance of a person. Angles in radians, lengths in pixels of the canvas.

    `yaw` 0 looks into the camera, π/2 walks to the image right. `tilt` is the sine of the camera's downward angle.
    `phase` is the place in the walking cycle, `stride` the amplitude of the thigh, `gesture` what the arms do.
    """

    yaw: float
    phase: float
    stride: float
    gesture: str
    lean: float
    scale: float
    x: float
    y: float
    tilt: float


Joint = tuple[float, float, float]  # left, up, forward: fractions of the stature


class Skeleton:
    """Joints of a walking person and their projection (orthographic, camera slightly above)."""

    def __init__(self, person: Person, view: View) -> None:
        self.view = view
        self.cos, self.sin = math.cos(view.yaw), math.sin(view.yaw)
        self.hip_height = person.leg
        self.left_leg = self._leg(person, 1, view.phase)
        self.right_leg = self._leg(person, -1, view.phase + math.pi)
        # The lower foot carries the person.
        self.drop = min(self.left_leg[2][1], self.right_leg[2][1]) - 0.04
        self.left_arm = self._arm(person, 1, view.phase + math.pi)
        self.right_arm = self._arm(person, -1, view.phase)

    def project(self, joint: Joint) -> Point:
        """Canvas position of a point of the body."""
        left, up, forward = joint
        near = forward * self.cos - left * self.sin
        view = self.view
        return (
            view.x + view.scale * (left * self.cos + forward * self.sin),
            view.y - view.scale * (up - self.drop - near * view.tilt),
        )

    def near(self, joint: Joint) -> float:
        """How much closer to the camera than the body's axis a point is."""
        return joint[2] * self.cos - joint[0] * self.sin

    def reach(self, half_width: float, half_depth: float) -> float:
        """Half-width in the image of an elliptical section of the body, in pixels."""
        return self.view.scale * math.hypot(half_width * self.cos, half_depth * self.sin)

    def turn(self, half_width: float, half_depth: float) -> float:
        """View angle of the forward direction on an elliptical section."""
        return math.atan2(half_depth * self.sin, half_width * self.cos)

    def lean(self, up: float) -> float:
        """Forward shift of the trunk at a height."""
        return self.view.lean * (up - self.hip_height)

    def _leg(self, person: Person, side: int, phase: float) -> tuple[Joint, Joint, Joint, Joint]:
        """Hip, knee, ankle, toe."""
        swing = self.view.stride * math.sin(phase)
        lift = max(0.0, math.cos(phase + 0.5))
        flex = 0.06 + (1.9 * self.view.stride) * lift * lift
        upper = 0.47 * person.leg
        lower = person.leg - upper - 0.04
        x = side * person.hip * 0.54
        knee = (x, person.leg - upper * math.cos(swing), upper * math.sin(swing))
        shin = swing - flex
        ankle = (x * 0.92, knee[1] - lower * math.cos(shin), knee[2] + lower * math.sin(shin))
        pitch = min(0.35, 0.75 * shin + 0.1) if shin < 0 else 0.25 * shin
        toe = (ankle[0] * 1.25, ankle[1] - 0.022 + 0.105 * math.sin(pitch), ankle[2] + 0.105 * math.cos(pitch))
        return (x, person.leg, 0.0), knee, ankle, toe

    def _arm(self, person: Person, side: int, phase: float) -> tuple[Joint, Joint, Joint, Joint]:
        """Shoulder, elbow, wrist, end of the hand."""
        upper, lower, out = 0.156, 0.130, 0.14 * person.girth
        swing = 0.8 * self.view.stride * math.sin(phase)
        bend = 0.25 + 0.9 * self.view.stride * max(0.0, math.sin(phase))
        gesture = self.view.gesture
        if (gesture == "phone" and side > 0) or gesture == "pockets":
            swing, bend = (0.35, 1.75) if gesture == "phone" else (-0.25, 0.75)
        if gesture == "strap" and side < 0:
            swing, bend, out = 0.15, 2.2, 0.3
        shoulder = (side * person.shoulder * 0.89, 0.767, self.lean(0.767))
        elbow = (
            shoulder[0] + side * upper * math.sin(out),
            shoulder[1] - upper * math.cos(swing),
            shoulder[2] + upper * math.sin(swing),
        )
        fore = swing + bend
        inward = -0.03 * side if gesture != "" else 0.006 * side
        wrist = (elbow[0] + inward, elbow[1] - lower * math.cos(fore), elbow[2] + lower * math.sin(fore))
        hand = (wrist[0] + 0.3 * inward, wrist[1] - 0.038 * math.cos(fore), wrist[2] + 0.038 * math.sin(fore))
        return shoulder, elbow, wrist, hand
