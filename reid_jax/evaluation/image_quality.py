"""Quality of reconstructed patches: PSNR, compared with a plain fill, and a sheet of pictures."""

from __future__ import annotations

import dataclasses
import math
import pathlib

import numpy as np
from PIL import Image

from reid_jax import file_io

_PAPER = 255
_MARGIN = 4  # pixels around a picture
_TRIPLES = 4  # people side by side
_FLAT = 1e-6  # variance of patches below which they count as flat


@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """Images with hidden patches and their reconstructions.

    Attributes:
        seen: [N, H, W, 3] float in [0, 1], the input of the model.
        drawn: [N, H, W, 3] its output, everywhere; values outside [0, 1] are clipped.
        true: [N, H, W, 3] the original images.
        mask: [N, H, W] bool, pixels of the hidden patches.
        comparable: False where the model reconstructs local contrast only and brightness and scale come from the
            original image; PSNR would then be too high.
    """

    seen: np.ndarray
    drawn: np.ndarray
    true: np.ndarray
    mask: np.ndarray
    comparable: bool = True

    def completed(self) -> np.ndarray:
        """Returns the original images with the reconstruction in the hidden patches, [N, H, W, 3] in [0, 1]."""
        return np.where(self.mask[..., None], np.clip(self.drawn, 0.0, 1.0), self.true)

    def filled(self) -> np.ndarray:
        """Returns the original images with the mean color of the visible pixels in the hidden patches."""
        visible = ~self.mask[..., None]
        color = np.sum(self.true * visible, axis=(1, 2)) / np.maximum(visible.sum(axis=(1, 2)), 1)
        return np.where(visible, self.true, color[:, None, None])

    def scores(self) -> dict[str, float]:
        """Returns PSNR (dB) of the reconstruction and of the mean color over hidden pixels; empty if not comparable."""
        if not self.comparable or not self.mask.any():
            return {}
        return {
            "psnr": psnr(self.completed(), self.true, self.mask),
            "mean_fill_psnr": psnr(self.filled(), self.true, self.mask),
        }

    def sheet(self, people: int = 16) -> np.ndarray:
        """Returns a sheet uint8 [h, w, 3]: of the first people the input, the completed and the original image."""
        people = min(people, len(self.true))
        height, width = self.true.shape[1:3]
        across = min(_TRIPLES, people)
        high, wide = height + 2 * _MARGIN, 3 * width + 4 * _MARGIN
        page = np.full((math.ceil(people / across) * high, across * wide, 3), _PAPER, np.uint8)
        completed = self.completed()
        for person in range(people):
            top, left = person // across * high + _MARGIN, person % across * wide + _MARGIN
            for column, pictures in enumerate((self.seen, completed, self.true)):
                place = left + column * (width + _MARGIN // 2)
                shown = np.clip(np.rint(255 * pictures[person]), 0, 255).astype(np.uint8)
                page[top : top + height, place : place + width] = shown
        return page

    def write(self, path: str | pathlib.Path, people: int = 16) -> None:
        """Writes the sheet as PNG."""
        picture = Image.fromarray(self.sheet(people))
        file_io.write(path, lambda file: picture.save(file, format="PNG"), "the picture")


def psnr(drawn: np.ndarray, true: np.ndarray, mask: np.ndarray) -> float:
    """Returns the peak signal-to-noise ratio in decibels over the masked pixels of all images together.

    Args:
        drawn: [N, H, W, 3] in [0, 1].
        true: [N, H, W, 3] in [0, 1].
        mask: [N, H, W] bool, not empty.

    Returns:
        `-10 log10(mean squared error)`; infinity for equal images.
    """
    error = np.mean(np.square(drawn[mask].astype(np.float64) - true[mask].astype(np.float64)))
    return float("inf") if error == 0 else float(-10.0 * np.log10(error))


def pattern_share(drawn: np.ndarray, true: np.ndarray, mask: np.ndarray, patch: int) -> float:
    """Returns how much of the pattern within hidden patches a drawing explains: 1 for all of it, 0 for flat patches.

    Mean and scale of a patch do not count: true patches are normalized to variance 1, and drawn ones, brought to mean 0
    and divided by their own scale, are multiplied by the one number that suits all patches best. It is 1 minus the
    mean squared error then, what a masked autoencoder of normalized patches is trained for.

    Args:
        drawn: [N, H, W, 3].
        true: [N, H, W, 3].
        mask: [N, H, W] bool, whole patches.
        patch: side of a patch in pixels.
    """
    hidden = _patches(mask[..., None], patch)[..., 0]
    wanted, found = (_patches(images, patch)[hidden].astype(np.float64) for images in (true, drawn))
    wanted, found = (values - values.mean(axis=-1, keepdims=True) for values in (wanted, found))
    wanted /= np.sqrt(np.square(wanted).mean(axis=-1, keepdims=True) + _FLAT)
    found /= np.sqrt(np.square(found).mean(axis=-1, keepdims=True) + _FLAT)
    scale = np.mean(wanted * found) / max(float(np.mean(found * found)), _FLAT)
    return float(1.0 - np.mean(np.square(wanted - scale * found)) / max(float(np.mean(wanted * wanted)), _FLAT))


def _patches(images: np.ndarray, patch: int) -> np.ndarray:
    """Returns images [N, H, W, C] as patches [N, patches, values]."""
    n, height, width, channels = images.shape
    cells = images.reshape(n, height // patch, patch, width // patch, patch, channels)
    return cells.transpose(0, 1, 3, 2, 4, 5).reshape(n, -1, patch * patch * channels)
