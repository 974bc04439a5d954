"""The look "street": as hard for colors as photographs are.

Cameras differ in white balance, exposure, gamma, saturation and sharpness, and so do the images of each: daylight
changes between passages, shadows fall across people, boxes are shifted, stretched and cut. The strengths are calibrated
on scores of features without learning and of a trained network; see `datasets/synthped/README.md`.
"""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np

from reid_jax.data.synthped import cameras, canvas, looks, people, pose, randomness, street_people, street_wear
from reid_jax.data.synthped.randomness import bell

# Three cameras stand at each site: the same light and street, another place in it.
_CAMERAS_PER_SITE = 3
# Main walking direction at a site, as its cameras see it.
_SITE_YAW = (0.3, 2.6, -1.3)


@dataclasses.dataclass(frozen=True)
class Conditions:
    """How strongly conditions vary: between sites, cameras of a site, passages of a person, and images.

    Exposures, casts and gammas are relative; `turn` and `passage_turn` are in radians; `family` is the least size of a
    family of look-alikes and one more than the largest; the others are probabilities or shares of the image.
    """

    site_exposure: float = 0.25
    site_cast: float = 0.08
    site_gamma: float = 0.2
    camera_exposure: float = 0.06
    camera_cast: float = 0.015
    passage_exposure: float = 0.12
    passage_cast: float = 0.03
    image_exposure: float = 0.14
    image_cast: float = 0.02
    image_gamma: float = 0.03
    saturation: tuple[float, float] = (0.62, 1.05)
    shadow: float = 0.2
    shadow_depth: float = 0.5
    side_light: float = 0.4
    turn: float = 0.6
    passage_turn: float = 1.0
    wear: float = 0.9
    undress: float = 0.2
    shift: float = 0.075
    scale: float = 0.08
    cut: float = 0.2
    resolution: tuple[float, float] = (0.11, 0.33)
    crowd: float = 0.3
    family: tuple[int, int] = (4, 10)


class StreetLook:
    """People in everyday clothes, seen by cameras and in light that differ strongly."""

    def __init__(self, conditions: Conditions | None = None) -> None:
        """Sets the strengths; None is the calibrated ones."""
        self.conditions = conditions or Conditions()

    @property
    def crowd(self) -> float:
        """Probability of a second person beside or behind the first."""
        return self.conditions.crowd

    def plan(self, seed: int, population: str, count: int) -> list[tuple[int, int]]:
        """Returns a (family, member) pair for each identity."""
        return people.family_plan(seed, population, count, self.conditions.family)

    def person(self, seed: int, population: str, family: int, member: int) -> people.Person:
        """Draws a look-alike that shares all colors with the family's prototype."""
        return street_people.family_member(seed, population, family, member)

    def worn(self, person: people.Person, shot: looks.Shot) -> people.Person:
        """Returns the person as dressed at this passage."""
        rng = randomness.generator(shot.seed, "street/wear", *_passage(shot))
        return street_wear.worn(person, rng, self.conditions.wear, self.conditions.undress)

    def camera(self, seed: int, index: int) -> cameras.Camera:
        """Draws a camera; color casts of consecutive sites differ by the golden angle."""
        c, site = self.conditions, index // _CAMERAS_PER_SITE
        base = cameras.make_camera(seed, index)
        u = randomness.generator(seed, "street/camera", index).random(8).tolist()
        s = randomness.generator(seed, "street/site", site).random(8).tolist()
        turn = 2.399963 * site + 6.283185 * randomness.generator(seed, "street/cast").random()
        warm = c.site_cast * math.cos(turn) + c.camera_cast * bell(u[0])
        green = 0.5 * (c.site_cast * math.sin(turn) + c.camera_cast * bell(u[1]))
        exposure = 1.0 + c.site_exposure * math.cos(1.7 * turn + 1.0) + c.camera_exposure * bell(u[2])
        bend = 1.0 + c.site_gamma * math.sin(1.3 * turn + 2.0 * s[0])
        return dataclasses.replace(
            base,
            yaw=_SITE_YAW[site % len(_SITE_YAW)] + 0.4 * bell(u[3]),
            gain=(exposure * (1 + warm), exposure * (1 + green), exposure * (1 - warm)),
            gamma=(bend, bend * (1 + 0.03 * bell(s[1])), bend * (1 + 0.06 * bell(s[2]))),
            contrast=0.85 + 0.25 * s[3],
            haze=24.0 * s[4] * s[4],
            noise=3 + int(9 * u[4]),
            quality=56 + int(30 * u[5]),
        )

    def view(self, camera: cameras.Camera, shot: looks.Shot) -> pose.View:
        """Returns a pose of any direction, mostly the camera's main one; a passage has one direction at all cameras."""
        c, u = self.conditions, shot.u
        way = randomness.generator(shot.seed, "street/way", *_passage(shot)).random(2).tolist()
        plain = looks.PlainLook().view(camera, shot)
        if shot.junk:
            return plain
        yaw = camera.yaw + c.turn * bell(u[2]) + c.passage_turn * bell(way[0])
        if way[1] < 0.4:
            yaw += 3.14159
        scale = shot.height * (0.86 + c.scale * bell(u[3]))
        x = shot.width * (0.5 + c.shift * bell(u[4]))
        y = shot.height * (0.93 + 0.5 * c.shift * bell(u[5])) + 0.5 * (scale - 0.86 * shot.height)
        return dataclasses.replace(plain, yaw=yaw, scale=scale, x=x, y=y, lean=0.02 + 0.1 * u[11])

    def record(
        self, drawing: canvas.Canvas, folds: np.ndarray, camera: cameras.Camera, noise: np.ndarray, shot: looks.Shot
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns image and part labels: light, box, sharpness, tone, blur and noise."""
        v = randomness.generator(shot.seed, "street/image", *shot.place).random(32).tolist()
        w = randomness.generator(shot.seed, "street/passage", *_passage(shot)).random(8).tolist()
        size = drawing.height // canvas.SUPERSAMPLE, drawing.width // canvas.SUPERSAMPLE
        sigma = 2.0 * drawing.height / 256
        shade = looks.folded(drawing, cv2.GaussianBlur(drawing.shade, (0, 0), sigma), folds, shot.u)
        lit = looks.light(drawing, self._daylight(shade, v, w))
        rows, columns = self._box(lit.shape[:2], size, v, shot.junk)
        image = _resize(lit[rows[0] : rows[1], columns[0] : columns[1]], size)
        parts = looks.labels(drawing)[np.ix_(_places(rows, size[0]), _places(columns, size[1]))]
        image = self._softened(image, v, w)
        image = cv2.transform(image, self._saturation(v, w))
        image = cameras.expose(image, camera, self._tone(camera, v, w), 0, looks.grain(noise, size, shot.u))
        return image, parts

    def quality(self, camera: cameras.Camera, shot: looks.Shot) -> int:
        """Returns the quality of the camera, varied by image."""
        return camera.quality + int(20 * (shot.u[16] - 0.5))

    def _daylight(self, shade: np.ndarray, v: list[float], w: list[float]) -> np.ndarray:
        """Returns the shade under light from a side, and under the edge of a cast shadow."""
        c = self.conditions
        height, width = shade.shape
        slope = c.side_light * bell(w[0]) + 0.5 * c.side_light * bell(v[0])
        across = np.rint(canvas.NEUTRAL_SHADE * (1 + slope * (np.arange(width) / width - 0.5)))
        factor: np.ndarray = np.broadcast_to(across.astype(np.uint8), shade.shape).copy()
        if v[1] < c.shadow:
            dark = 1.0 - c.shadow_depth * (0.4 + 0.6 * v[2])
            covered: np.ndarray = np.full(shade.shape, canvas.NEUTRAL_SHADE, np.uint8)
            middle, tilt = height * (0.1 + 0.8 * v[3]), 0.6 * height * bell(v[4])
            edge = [(0.0, middle - tilt), (float(width), middle + tilt)]
            far = height * 2.0 if v[5] < 0.5 else -float(height)
            canvas.fill(covered, [*edge, (float(width), far), (0.0, far)], round(canvas.NEUTRAL_SHADE * dark))
            covered = cv2.GaussianBlur(covered, (0, 0), (0.8 + 5 * v[6]) * height / 256)
            factor = cv2.multiply(factor, covered, scale=1.0 / canvas.NEUTRAL_SHADE)
        result: np.ndarray = cv2.multiply(shade, factor, scale=1.0 / canvas.NEUTRAL_SHADE)
        return result

    def _box(
        self, drawn: tuple[int, ...], size: tuple[int, int], v: list[float], junk: str
    ) -> tuple[tuple[int, int], tuple[int, int]]:
        """Returns rows and columns of the detector's box in the drawing: stretched, shifted, sometimes cut."""
        cut = 0.0 if junk else self.conditions.cut
        ranges = []
        for axis in (0, 1):
            length = int(drawn[axis] * (1.0 - cut * v[7 + axis] * v[9 + axis]))
            start = int((drawn[axis] - length) * v[11 + axis])
            ranges.append((start, start + length))
        return ranges[0], ranges[1]

    def _softened(self, image: np.ndarray, v: list[float], w: list[float]) -> np.ndarray:
        """Returns the image as a person at a distance is resolved, and blurred by motion in some."""
        low, high = self.conditions.resolution
        share = low + (high - low) * (0.5 * v[13] + 0.5 * w[1])
        height, width = image.shape[:2]
        if share < 0.95:
            small = _resize(image, (max(8, int(height * share)), max(8, int(width * share))))
            image = _resize(small, (height, width))
        if v[14] < 0.2:
            reach = 1 + 2 * max(1, round(height * (1 + v[15]) / 128))
            image = cv2.blur(image, (reach, 1) if v[16] < 0.7 else (1, reach))
        return image

    def _saturation(self, v: list[float], w: list[float]) -> np.ndarray:
        low, high = self.conditions.saturation
        saturation = low + (high - low) * (0.6 * w[2] + 0.4 * v[17])
        gray = np.array([77, 150, 29], np.float64)
        mix = np.rint(256 * saturation * np.eye(3) + (1 - saturation) * gray[None, :])
        result: np.ndarray = mix.astype(np.float32) / np.float32(256.0)
        return result

    def _tone(self, camera: cameras.Camera, v: list[float], w: list[float]) -> np.ndarray:
        """Returns the lookup table of an image; see `cameras.tone_table`."""
        c = self.conditions
        exposure = (1 + c.passage_exposure * bell(w[3])) * (
            1 + c.image_exposure * bell(v[18]) * (4 if v[22] < 0.15 else 1)
        )
        warm = c.passage_cast * bell(w[4]) + c.image_cast * bell(v[19])
        green = 0.5 * (c.passage_cast * bell(w[5]) + c.image_cast * bell(v[20]))
        bend = 1 + c.image_gamma * bell(v[21])
        (red, middle, blue), gamma = camera.gain, camera.gamma
        changed = dataclasses.replace(
            camera,
            gain=(red * (1 + warm), middle * (1 + green), blue * (1 - warm)),
            gamma=(bend * gamma[0], bend * gamma[1], bend * gamma[2]),
        )
        return cameras.tone_table(changed, exposure, 0.0)


def _passage(shot: looks.Shot) -> tuple[int, int]:
    """Returns the numbers of a person's passage: the person and the site, all of whose cameras see it."""
    return shot.place[0], shot.place[1] // _CAMERAS_PER_SITE


def _resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns the image at `(height, width)`, by arithmetic that is equal on all machines."""
    resized: np.ndarray = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR_EXACT)
    return resized


def _places(span: tuple[int, int], count: int) -> np.ndarray:
    """Returns the indices of the pixels in the middle of `count` equal pieces of a span."""
    length = span[1] - span[0]
    return span[0] + (2 * np.arange(count) + 1) * length // (2 * count)
