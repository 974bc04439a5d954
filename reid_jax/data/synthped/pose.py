"""Poses: viewpoint and walking phase of a person, and the joints computed from them."""

from __future__ import annotations

import dataclasses
import math

from reid_jax.data.synthped.canvas import Point
from reid_jax.data.synthped.people import Person


@dataclasses.dataclass(frozen=True)
class View:
    """A person's pose relative to the camera; angles are in radians, lengths in pixels of the canvas.

    With `yaw` 0 the person faces the camera, with π/2 it walks to the right of the image. `tilt` is the sine of the
    camera's downward angle. `phase` is the phase of the walking cycle, `stride` the amplitude of the thigh, and
    `gesture` what the arms do.
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
    """The joints of a walking person and their projection (orthographic, with the camera slightly above)."""

    def __init__(self, person: Person, view: View) -> None:
        """Computes the joints."""
        self.view = view
        self.cos, self.sin = math.cos(view.yaw), math.sin(view.yaw)
        self.hip_height = person.leg
        self.left_leg = self._leg(person, 1, view.phase)
        self.right_leg = self._leg(person, -1, view.phase + math.pi)
        # The lower foot stands on the ground.
        self.drop = min(self.left_leg[2][1], self.right_leg[2][1]) - 0.04
        self.left_arm = self._arm(person, 1, view.phase + math.pi)
        self.right_arm = self._arm(person, -1, view.phase)

    def project(self, joint: Joint) -> Point:
        """Returns the canvas position of a point of the body."""
        left, up, forward = joint
        near = forward * self.cos - left * self.sin
        view = self.view
        return (
            view.x + view.scale * (left * self.cos + forward * self.sin),
            view.y - view.scale * (up - self.drop - near * view.tilt),
        )

    def near(self, joint: Joint) -> float:
        """Returns how much closer to the camera a point is than the axis of the body."""
        return joint[2] * self.cos - joint[0] * self.sin

    def reach(self, half_width: float, half_depth: float) -> float:
        """Returns the half-width of an elliptical section of the body in the image, in pixels."""
        return self.view.scale * math.hypot(half_width * self.cos, half_depth * self.sin)

    def turn(self, half_width: float, half_depth: float) -> float:
        """Returns the view angle of the forward direction on an elliptical section."""
        return math.atan2(half_depth * self.sin, half_width * self.cos)

    def lean(self, up: float) -> float:
        """Returns the forward shift of the trunk at a height."""
        return self.view.lean * (up - self.hip_height)

    def _leg(self, person: Person, side: int, phase: float) -> tuple[Joint, Joint, Joint, Joint]:
        """Returns hip, knee, ankle and toe."""
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
        """Returns shoulder, elbow, wrist and end of the hand."""
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
