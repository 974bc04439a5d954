"""Cameras: their viewpoints, and their effect on color, sharpness and noise."""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np

from reid_jax.data.synthped import randomness

# Main walking direction of the people of camera k, as it sees them: toward it, away, to the right, …
_MAIN_YAW = (0.25, 2.75, -1.45, 0.95, -2.4, 1.75)


@dataclasses.dataclass(frozen=True)
class Camera:
    """Properties of a camera that are the same in all its images.

    `gain` and `gamma` are per channel; `mix` is a 3×3 color matrix in multiples of 1/256; `haze` is the gray level of
    black.
    """

    yaw: float
    tilt: float
    light: float
    gain: tuple[float, float, float]
    gamma: tuple[float, float, float]
    mix: np.ndarray
    contrast: float
    haze: float
    blur: int
    noise: int
    quality: int


def make_camera(seed: int, index: int) -> Camera:
    """Draws a camera; the color casts of consecutive cameras differ by the golden angle.

    The strength of the casts determines how well a color histogram scores: at five times these values, not at all.
    """
    rng = randomness.generator(seed, "camera", index)
    u = rng.random(16).tolist()
    # Warm-cold axis by golden angle over the cameras, plus a random part.
    turn = 2.399963 * index + 6.283185 * randomness.generator(seed, "cast").random()
    warm, green = 0.034 * math.cos(turn), 0.020 * math.sin(turn)
    exposure = 1.0 + 0.056 * math.cos(1.9 * turn + 1.0) + 0.016 * randomness.bell(u[0])
    gain = (exposure * (1 + warm), exposure * (1 + green), exposure * (1 - warm))
    bend = 1.0 + 0.05 * math.sin(turn + 2.0 * u[1])
    gamma = tuple(bend * (1 + 0.02 * randomness.bell(u[2 + k])) for k in range(3))
    saturation = 0.98 + 0.11 * (u[5] - 0.5)
    gray = np.array([77, 150, 29], np.float64)
    mix = np.rint(256 * saturation * np.eye(3) + (1 - saturation) * gray[None, :]).astype(np.float32)
    return Camera(
        yaw=_MAIN_YAW[index % 6] + 0.3 * randomness.bell(u[6]),
        tilt=0.10 + 0.22 * u[7],
        light=-1.0 if u[8] < 0.5 else 1.0,
        gain=gain,
        gamma=gamma,  # type: ignore[arg-type]
        mix=mix / 256.0,  # multiples of 1/256, whose products and sums are exact in float32
        contrast=0.95 + 0.07 * (u[9] - 0.5),
        haze=4.4 * u[10],
        blur=int(u[11] * 2.3),
        noise=1 + int(4 * u[12]),
        quality=62 + int(30 * u[13]),
    )


def noise_field(seed: int, index: int, amplitude: int, size: int = 384) -> np.ndarray:
    """Returns the sensor noise of a camera, int16 `[size, size, 3]`, from which images take crops."""
    rng = randomness.generator(seed, "noise", index)
    grain = rng.integers(-amplitude, amplitude + 1, (2, size, size, 1))
    color = rng.integers(-amplitude, amplitude + 1, (size, size, 3))
    noise: np.ndarray = (grain[0] + grain[1] + color // 2).astype(np.int16)
    return noise


def tone_table(camera: Camera, exposure: float, cast: float) -> np.ndarray:
    """Returns the lookup table of an exposure, uint8 `[256, 1, 3]`: gain, gamma, contrast around mid gray, and haze.

    Args:
        camera: the camera.
        exposure: factor of the image (passing clouds, automatic gain).
        cast: additional shift of the image toward red (positive) or blue (negative).
    """
    x = np.arange(256) / 255.0
    table = np.empty((256, 1, 3), np.uint8)
    for k in range(3):
        tone = np.minimum(x * camera.gain[k] * exposure * (1 + cast * (1 - k)), 1.6) ** camera.gamma[k]
        tone = 0.45 + (tone - 0.45) * camera.contrast
        # Highlights are compressed instead of clipped, as in real cameras.
        tone = np.where(tone > 0.8, 0.8 + 0.2 * (1 - np.exp(-(tone - 0.8) / 0.2)), tone)
        table[:, 0, k] = np.clip(np.rint(camera.haze + (255 - camera.haze) * np.clip(tone, 0, 1)), 0, 255)
    return table


def expose(image: np.ndarray, camera: Camera, table: np.ndarray, blur: int, noise: np.ndarray) -> np.ndarray:
    """Returns a drawing as the camera records it: color mixing, tone, blur and noise.

    Args:
        image: uint8 `[H, W, 3]` RGB at final size.
        camera: the camera.
        table: the result of `tone_table`.
        blur: 0, 1 or 2 passes of a 3×3 binomial blur.
        noise: int16 `[H, W, 3]`.
    """
    image = cv2.LUT(cv2.transform(image, camera.mix), table)
    for _ in range(blur):
        image = _binomial_blur(image)
    noisy: np.ndarray = np.clip(image.astype(np.int16) + noise, 0, 255).astype(np.uint8)
    return noisy


def _binomial_blur(image: np.ndarray) -> np.ndarray:
    """Returns the image blurred by (1, 2, 1)/4 in both directions, in integers."""
    wide = cv2.copyMakeBorder(image, 1, 1, 1, 1, cv2.BORDER_REPLICATE).astype(np.uint16)
    rows = wide[:-2] + 2 * wide[1:-1] + wide[2:]
    blurred: np.ndarray = ((rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:] + 8) >> 4).astype(np.uint8)
    return blurred
