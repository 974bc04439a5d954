"""Looks of SynthPed: who walks there, and how cameras record them; `plain` is the first one, described here."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import cv2
import numpy as np

from reid_jax.data.synthped import cameras, canvas, figure, people, pose, randomness


@dataclasses.dataclass(frozen=True)
class Shot:
    """The numbers that determine an image.

    Attributes:
        seed: seed of the data set.
        place: person over both populations, camera, index; keys of further generators.
        u: 24 uniform numbers of the image.
        track: 8 uniform numbers that the images of a person from a camera share.
        junk: kind of a bad crop, "" for a regular image.
        height: height of the drawing in pixels.
        width: width of the drawing in pixels.
    """

    seed: int
    place: tuple[int, int, int]
    u: list[float]
    track: list[float]
    junk: str
    height: int
    width: int


class Look(Protocol):
    """A look of the data set: its people, their poses in the image box, and its cameras."""

    @property
    def crowd(self) -> float:
        """Probability of a second person beside or behind the first."""

    def plan(self, seed: int, population: str, count: int) -> list[tuple[int, int]]:
        """Returns the family and the number in it of each person."""

    def person(self, seed: int, population: str, family: int, member: int) -> people.Person:
        """Draws a member of a family of look-alikes."""

    def worn(self, person: people.Person, shot: Shot) -> people.Person:
        """Returns the person as dressed in an image."""

    def camera(self, seed: int, index: int) -> cameras.Camera:
        """Draws a camera."""

    def view(self, camera: cameras.Camera, shot: Shot) -> pose.View:
        """Returns the person's pose and place in the image."""

    def record(
        self, drawing: canvas.Canvas, folds: np.ndarray, camera: cameras.Camera, noise: np.ndarray, shot: Shot
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the recorded image, uint8 `[H, W, 3]`, and its part labels, uint8 `[H, W]`."""

    def quality(self, camera: cameras.Camera, shot: Shot) -> int:
        """Returns the JPEG quality of an image."""


class PlainLook:
    """Colorful clothes, well-kept boxes, and cameras that differ a little; a color histogram finds many people."""

    crowd = 0.12

    def plan(self, seed: int, population: str, count: int) -> list[tuple[int, int]]:
        """Returns families of three or four."""
        return people.family_plan(seed, population, count)

    def person(self, seed: int, population: str, family: int, member: int) -> people.Person:
        """Draws a look-alike that differs from the family's prototype in one or two details."""
        return people.family_member(seed, population, family, member)

    def worn(self, person: people.Person, shot: Shot) -> people.Person:
        """Returns the person; clothes are the same in all images."""
        return person

    def camera(self, seed: int, index: int) -> cameras.Camera:
        """Draws a camera of slight color cast."""
        return cameras.make_camera(seed, index)

    def view(self, camera: cameras.Camera, shot: Shot) -> pose.View:
        """Returns a pose near the camera's main direction in a box with slight errors."""
        height, width, u, track = shot.height, shot.width, shot.u, shot.track
        yaw = camera.yaw + 0.55 * randomness.bell(track[1]) + 0.5 * randomness.bell(u[2])
        if track[2] < 0.2:
            yaw += 3.14159  # walks in the opposite direction
        walking = track[3] < 0.8
        gestures = (("", 6.0), ("phone", 0.8), ("pockets", 1.0), ("strap", 0.6))
        # Error of a detector: the box is too large, too small, or shifted.
        scale = height * (0.91 + 0.10 * randomness.bell(u[3]))
        x = width * (0.5 + 0.10 * randomness.bell(u[4]))
        y = height * (0.955 + 0.045 * randomness.bell(u[5])) + 0.5 * (scale - 0.91 * height)
        scale, x, y = badly_cropped(scale, x, y, shot)
        return pose.View(
            yaw=yaw,
            phase=6.283185 * u[8],
            stride=0.28 + 0.22 * u[9] if walking else 0.05,
            gesture=randomness.weighted(u[10], gestures),
            lean=0.03 + 0.07 * u[11],
            scale=scale,
            x=x,
            y=y,
            tilt=camera.tilt,
        )

    def record(
        self, drawing: canvas.Canvas, folds: np.ndarray, camera: cameras.Camera, noise: np.ndarray, shot: Shot
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns image and part labels: shade, folds, tone of the camera, blur and noise."""
        u = shot.u
        image, parts = _develop(drawing, folds, u)
        table = cameras.tone_table(camera, 1.0 + 0.18 * randomness.bell(u[12]), 0.042 * randomness.bell(u[13]))
        blur = max(0, min(2, camera.blur + (1 if u[16] > 0.85 else 0)))
        return cameras.expose(image, camera, table, blur, grain(noise, image.shape[:2], u)), parts

    def quality(self, camera: cameras.Camera, shot: Shot) -> int:
        """Returns the quality of the camera."""
        return camera.quality


def badly_cropped(scale: float, x: float, y: float, shot: Shot) -> tuple[float, float, float]:
    """Returns scale and place of the person, changed for the kinds of junk."""
    height, u = shot.height, shot.u
    if shot.junk == "legs":
        scale, y = scale * (1.7 + u[6]), height * 0.98
    elif shot.junk == "upper":
        scale = scale * (1.8 + u[6])
        y = height * (0.2 + 0.3 * u[7]) + 0.98 * scale
    elif shot.junk == "pair":
        x = -0.1 * shot.width
    return scale, x, y


def grain(noise: np.ndarray, size: tuple[int, ...], u: list[float]) -> np.ndarray:
    """Returns a crop of a camera's noise, int16 `[H, W, 3]`."""
    row, column = (int(u[14 + axis] * (noise.shape[axis] - size[axis])) for axis in (0, 1))
    return noise[row : row + size[0], column : column + size[1]]


def _develop(drawing: canvas.Canvas, folds: np.ndarray, u: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Returns image and parts at the final size, with shade and folds applied."""
    height, width = drawing.height, drawing.width
    shade = cv2.GaussianBlur(drawing.shade, (7, 7), 2.0)
    lit = light(drawing, folded(drawing, shade, folds, u))
    size = (width // canvas.SUPERSAMPLE, height // canvas.SUPERSAMPLE)
    image = cv2.resize(lit, size, interpolation=cv2.INTER_AREA)
    return image, np.ascontiguousarray(labels(drawing)[:: canvas.SUPERSAMPLE, :: canvas.SUPERSAMPLE])


def folded(drawing: canvas.Canvas, shade: np.ndarray, folds: np.ndarray, u: list[float]) -> np.ndarray:
    """Returns the shade with the folds of clothes on everything that has a part label."""
    height, width = shade.shape
    body = (drawing.parts > 0).astype(np.uint8)
    row, column = int(u[6] * height), int(u[7] * width)
    piece = folds[row : row + height, column : column + width]
    folded_shade: np.ndarray = cv2.subtract(cv2.add(shade, piece, mask=body) + shade * (1 - body), 16 * body)
    return folded_shade


def light(drawing: canvas.Canvas, shade: np.ndarray) -> np.ndarray:
    """Returns the colors under a shade, uint8 `[H, W, 3]` at drawing size."""
    lit: np.ndarray = cv2.multiply(drawing.color, cv2.merge([shade, shade, shade]), scale=1.0 / canvas.NEUTRAL_SHADE)
    return lit


def labels(drawing: canvas.Canvas) -> np.ndarray:
    """Returns the part labels at drawing size, with carried objects as background."""
    return np.where(drawing.parts == figure.OBJECT, np.uint8(0), drawing.parts)
