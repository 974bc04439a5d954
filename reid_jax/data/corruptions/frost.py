"""Frost: the image blended with one of five textures.

The textures of the original benchmark are photographs of unknown license and not part of this project. By default five
textures are generated from a fixed seed; `Textures(folder)` reads others from files. Scores record which set was used
(`Textures.name`).
"""

from __future__ import annotations

import functools
import math
import pathlib

import cv2
import numpy as np

from reid_jax import errors, file_io
from reid_jax.data import image_io, image_names
from reid_jax.data.corruptions.filters import Draws, gray_level

FROST = ((1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))  # weights of image and texture
COUNT = 5
PROCEDURAL = "procedural"


class Textures:
    """Five frost textures, enlarged on demand for images of any size.

    Attributes:
        name: "procedural", the folder's name, or "given".
    """

    def __init__(self, folder: str | pathlib.Path = "", pixels: list[np.ndarray] | None = None):
        """Selects the textures.

        Args:
            folder: folder of image files, of which the first five by name are used; empty generates five.
            pixels: uint8 `[h, w, 3]` RGB arrays to use instead.
        """
        self.name = "given" if pixels is not None else pathlib.Path(folder).name if folder else PROCEDURAL
        self._pixels = pixels if pixels is not None else _read(pathlib.Path(folder)) if folder else None
        self._scaled: dict[tuple[int, float], np.ndarray] = {}

    def scaled(self, index: int, shape: tuple[int, int]) -> np.ndarray:
        """Returns a texture enlarged by 1.1, or by more for images larger than it: uint8 `[h, w, 3]`."""
        if self._pixels is None:
            self._pixels = [draw_texture(number) for number in range(COUNT)]
        texture = self._pixels[index]
        scale = 1.1 * max(1.0, shape[0] / texture.shape[0], shape[1] / texture.shape[1])
        enlarged = self._scaled.get((index, scale))
        if enlarged is None:
            size = (math.ceil(texture.shape[1] * scale), math.ceil(texture.shape[0] * scale))
            enlarged = cv2.resize(texture, size, interpolation=cv2.INTER_CUBIC)
            if len(self._scaled) > 64:  # many different sizes of images larger than the textures
                self._scaled.clear()
            self._scaled[index, scale] = enlarged
        return enlarged


@functools.lru_cache(maxsize=4)
def textures(folder: str = "") -> Textures:
    """Returns the textures of a folder, or the generated ones where it is empty; cached."""
    return Textures(folder)


def _read(folder: pathlib.Path) -> list[np.ndarray]:
    paths = sorted(path for path in folder.glob("*") if image_names.is_image(path.name))[:COUNT]
    if len(paths) < COUNT:
        raise errors.UserError(
            f"expected {COUNT} frost textures ({', '.join(image_names.SUFFIXES)}) in {folder}, found {len(paths)}; "
            "leave frost_dir empty to use the generated ones."
        )
    return [image_io.decode(file_io.read_bytes(path, "a frost texture", "replace it"), path.name) for path in paths]


def sample(severity: int, shape: tuple[int, int], rng: np.random.Generator, source: Textures | None = None) -> Draws:
    """Draws the texture and the top left corner of its crop: (index, top, left)."""
    source = textures() if source is None else source
    index = int(rng.integers(COUNT))
    height, width = source.scaled(index, shape).shape[:2]
    return index, int(rng.integers(height - shape[0])), int(rng.integers(width - shape[1]))


def apply(severity: int, image: np.ndarray, draws: Draws, source: Textures | None = None) -> np.ndarray:
    """Returns the weighted sum of the image and a crop of a texture."""
    share, weight = FROST[severity - 1]
    height, width = image.shape[:2]
    index, top, left = (int(number) for number in draws)
    texture = (textures() if source is None else source).scaled(index, (height, width))
    piece = texture[top : top + height, left : left + width]
    return gray_level(np.float32(share) * image + np.float32(weight) * piece)


def draw_texture(index: int, height: int = 350, width: int = 500) -> np.ndarray:
    """Generates a frost texture, uint8 `[height, width, 3]`, determined by its index up to rounding.

    Octaves of noise, stretched along a direction that is drawn for each texture, give icy streaks; the zero crossings
    of two further noise fields give bright branching ridges.
    """
    rng = np.random.Generator(np.random.Philox(key=[2111, index]))
    angle = rng.uniform(0, 180)
    streaks = np.zeros((height, width))
    ridges = np.zeros((height, width))
    for octave in range(5):
        streaks += 0.6**octave * _noise(rng, height, width, 8 * 2**octave, angle, 3.0)
    for octave in range(4):
        noise = _noise(rng, height, width, 4 * 2**octave, angle + 50, 1.5)
        ridges += 0.7**octave * np.exp(-9 * np.abs(noise))
    ice = 0.6 * _stretch(streaks) + 0.7 * _stretch(ridges)
    ice = np.clip(ice + 0.04 * rng.standard_normal((height, width)), 0, 1)
    tint = np.array([0.86, 0.94, 1.0]) * 235  # cold white
    texture: np.ndarray = (ice[..., None] * tint + 15).astype(np.uint8)
    return texture


def _noise(rng: np.random.Generator, height: int, width: int, cells: int, angle: float, stretch: float) -> np.ndarray:
    """Returns smooth noise with about `cells` bumps across, stretched along a direction: float64 [height, width]."""
    side = 2 * max(height, width)
    coarse = rng.standard_normal((2 * cells, max(2, round(2 * cells / stretch))))
    smooth = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), angle, 1.0)
    turn[:, 2] -= np.array([(side - width) / 2, (side - height) / 2])
    return cv2.warpAffine(smooth, turn, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def _stretch(values: np.ndarray) -> np.ndarray:
    low, high = np.quantile(values, [0.01, 0.99])
    stretched: np.ndarray = np.clip((values - low) / (high - low), 0, 1)
    return stretched
