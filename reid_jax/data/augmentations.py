"""Transforms of particular papers: AugMix, soft erasing, self-patch mixing, and pasted occluders.

They work on uint8 images after the geometric transforms; `reid_jax.data.transforms` defines their names and order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar

import cv2
import numpy as np
from PIL import Image, ImageOps

from reid_jax.data import image_io
from reid_jax.data.elements import Box, Element, clear_maps, draw_box, require, require_box_ranges

# ---- AugMix


def _with_pillow(image: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    return np.asarray(change(Image.fromarray(image)))


def _autocontrast(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    return _with_pillow(image, ImageOps.autocontrast)


def _equalize(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    return _with_pillow(image, ImageOps.equalize)


def _posterize(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    dropped = 4 + int(strength * 4)  # of eight bits
    return image & np.uint8(256 - (1 << min(dropped, 7)))


def _solarize(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    return np.where(image < 256 - int(strength * 256), image, 255 - image)


def _sign(rng: np.random.Generator) -> int:
    return 1 if rng.random() < 0.5 else -1


def _warp(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Returns the image with output pixel (x, y) sampled at `matrix @ (x, y, 1)`; black outside."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, np.asarray(matrix, np.float64), image.shape[1::-1], flags=flags)


def _rotate(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    height, width = image.shape[:2]
    angle = _sign(rng) * int(strength * 30)  # degrees
    return _warp(image, cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0))


def _shear_x(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    return _warp(image, np.array([[1, _sign(rng) * strength * 0.3, 0], [0, 1, 0]]))


def _shear_y(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    return _warp(image, np.array([[1, 0, 0], [_sign(rng) * strength * 0.3, 1, 0]]))


def _translate_x(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    return _warp(image, np.array([[1, 0, _sign(rng) * int(strength * image.shape[1] / 3)], [0, 1, 0]]))


def _translate_y(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    return _warp(image, np.array([[1, 0, 0], [0, 1, _sign(rng) * int(strength * image.shape[0] / 3)]]))


# None of these is among the twenty test corruptions: no color, contrast, brightness or sharpness.
OPERATIONS: dict[str, Callable[[np.ndarray, float, np.random.Generator], np.ndarray]] = {
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "posterize": _posterize,
    "rotate": _rotate,
    "solarize": _solarize,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
}


@dataclasses.dataclass(frozen=True)
class AugMix:
    """Blends the image with a mixture of random chains of operations.

    The result is `(1 - m) x + m sum_i w_i chain_i(x)`, with w from a Dirichlet and m from a Beta distribution, rounded
    to uint8 once. Maps stay unchanged.

    Attributes:
        width: number of chains.
        depth: range of the number of operations in a chain.
        severity: the strength of an operation is drawn from U(0.1, severity) / 10.
        alpha: parameter of both distributions.
        operations: keys of `OPERATIONS`.

    References:
        Hendrycks et al., AugMix, ICLR 2020; the operations are those of Chen et al., NeurIPS 2021, which do not overlap
        the test corruptions.
    """

    geometric: ClassVar[bool] = False
    width: int = 3
    depth: Sequence[int] = (1, 3)
    severity: float = 3.0
    alpha: float = 1.0
    operations: Sequence[str] = tuple(OPERATIONS)

    def __post_init__(self) -> None:
        require(self.width >= 1 and self.alpha > 0, self, "a width of at least 1 and a positive alpha")
        require(len(self.depth) == 2 and 1 <= self.depth[0] <= self.depth[1], self, "1 <= depth low <= high")
        require(0.1 <= self.severity <= 10, self, "a severity from 0.1 to 10")
        known = bool(self.operations) and all(name in OPERATIONS for name in self.operations)
        require(known, self, f"operations among {', '.join(OPERATIONS)}")

    def __call__(self, element: Element, rng: np.random.Generator) -> Element:
        """Returns the element with its image blended."""
        image = np.ascontiguousarray(element["image"])
        weights = rng.dirichlet([self.alpha] * self.width)
        share = rng.beta(self.alpha, self.alpha)
        mixed = np.float32(1 - share) * image
        for weight in weights:
            changed = image
            for _ in range(int(rng.integers(self.depth[0], self.depth[1] + 1))):
                name = self.operations[int(rng.integers(len(self.operations)))]
                changed = OPERATIONS[name](changed, rng.uniform(0.1, self.severity) / 10, rng)
            mixed += np.float32(share * weight) * changed
        return {**element, "image": np.clip(mixed + 0.5, 0, 255).astype(np.uint8)}


# ---- regions


@dataclasses.dataclass(frozen=True)
class SoftErase:
    """Blends a random region with noise: `(1 - m) x + m n`, n ~ N(0, 1) for values in [0, 1], m ~ Beta(mix).

    The result is clipped, because images are sent to the device as uint8. Maps stay unchanged, since the person remains
    visible.

    Attributes:
        probability: probability of a change, in [0, 1].
        mix: parameters of the Beta distribution of m; None replaces the region (m = 1).
        area: range of the region's fraction of the image.
        aspect: range of height / width.
        tries: maximum number of regions drawn until a region fits.

    References:
        Chen et al., NeurIPS 2021 (their code).
    """

    geometric: ClassVar[bool] = True  # consistent views must hide the same region
    probability: float = 0.5
    mix: Sequence[float] | None = (0.5, 1.0)
    area: Sequence[float] = (0.02, 0.4)
    aspect: Sequence[float] = (0.3, 1 / 0.3)
    tries: int = 100

    def __post_init__(self) -> None:
        require(0 <= self.probability <= 1, self, "a probability in [0, 1]")
        require(self.mix is None or (len(self.mix) == 2 and min(self.mix) > 0), self, "two positive numbers in mix")
        require_box_ranges(self, self.area, self.aspect, self.tries)

    def __call__(self, element: Element, rng: np.random.Generator) -> Element:
        """Returns the element with a region blended, or as it is."""
        if rng.random() >= self.probability:
            return element
        image = element["image"]
        height, width = image.shape[:2]
        box = draw_box(height, width, rng, area=self.area, aspect=self.aspect, tries=self.tries)
        if not box[2]:
            return element
        share = 1.0 if self.mix is None else rng.beta(self.mix[0], self.mix[1])
        return {**element, "image": _blend(image, box, share, self.fill(image, box, rng))}

    def fill(self, image: np.ndarray, box: Box, rng: np.random.Generator) -> np.ndarray:
        """Returns what the region is blended with: float32 `[h, w, 3]` on the scale 0-255."""
        top, left, bottom, right = box
        return 255 * rng.standard_normal((bottom - top, right - left, 3), np.float32)


@dataclasses.dataclass(frozen=True)
class SelfPatch(SoftErase):
    """Blends a region with another region of the same image, otherwise like `SoftErase`."""

    def fill(self, image: np.ndarray, box: Box, rng: np.random.Generator) -> np.ndarray:
        """Returns a region of the same size at a uniformly drawn position."""
        height, width = box[2] - box[0], box[3] - box[1]
        top = int(rng.integers(image.shape[0] - height + 1))
        left = int(rng.integers(image.shape[1] - width + 1))
        return image[top : top + height, left : left + width].astype(np.float32)


def _blend(image: np.ndarray, box: Box, share: float, fill: np.ndarray) -> np.ndarray:
    top, left, bottom, right = box
    changed = image.copy()
    region = np.float32(1 - share) * image[top:bottom, left:right] + np.float32(share) * fill
    changed[top:bottom, left:right] = np.clip(region + 0.5, 0, 255)
    return changed


@dataclasses.dataclass(frozen=True)
class Occlude:
    """Pastes a patch of another image into a corner, as an occluder.

    The patch, a random box of the donor, is stretched over the whole height (tall patches, h/w > 2) or the whole
    width, covers a quarter to a half of the other side, is color-jittered and may be mirrored. Maps are zeroed
    under it. Without a donor the patch comes from the image itself.

    Attributes:
        probability: probability of an occluder, in [0, 1].
        jitter: brightness, contrast and saturation of the patch are scaled by factors from U(1 - jitter, 1 + jitter).
        area: range of the patch's fraction of the donor.
        aspect: range of the patch's height / width.

    References:
        The occluders of FED and of later part-based systems; an option of AMFOR.
    """

    geometric: ClassVar[bool] = True
    needs_donor: ClassVar[bool] = True
    probability: float = 0.5
    jitter: float = 0.5
    area: Sequence[float] = (0.02, 0.4)
    aspect: Sequence[float] = (0.3, 1 / 0.3)

    def __post_init__(self) -> None:
        require(0 <= self.probability <= 1, self, "a probability in [0, 1]")
        require(0 <= self.jitter <= 1, self, "a jitter in [0, 1]")
        require_box_ranges(self, self.area, self.aspect, 1)

    def __call__(self, element: Element, rng: np.random.Generator) -> Element:
        """Returns the element without its donor, with an occluder pasted or not."""
        changed = dict(element)
        donor = changed.pop("donor", element["image"])
        if rng.random() >= self.probability:
            return changed
        top, left, bottom, right = draw_box(donor.shape[0], donor.shape[1], rng, area=self.area, aspect=self.aspect)
        if not bottom:
            return changed
        image = element["image"]
        height, width = image.shape[:2]
        share = rng.uniform(0.25, 0.5)
        if bottom - top > 2 * (right - left):
            size = (height, max(1, round(share * width)))
        else:
            size = (max(1, round(share * height)), width)
        patch = image_io.resize(np.ascontiguousarray(donor[top:bottom, left:right]), *size)
        patch = self._recolor(patch, rng)
        if rng.random() < 0.5:
            patch = patch[:, ::-1]
        down, across = rng.integers(0, 2, 2)  # which corner
        place = (int(down) * (height - size[0]), int(across) * (width - size[1]))
        box = (place[0], place[1], place[0] + size[0], place[1] + size[1])
        changed["image"] = image.copy()
        changed["image"][box[0] : box[2], box[1] : box[3]] = patch
        return clear_maps(changed, box)

    def _recolor(self, patch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        brightness, contrast, saturation = rng.uniform(1 - self.jitter, 1 + self.jitter, 3)
        values = np.float32(brightness) * patch
        mean = values.mean()
        values = mean + np.float32(contrast) * (values - mean)
        gray = values.mean(axis=2, keepdims=True)
        blended: np.ndarray = np.clip(gray + np.float32(saturation) * (values - gray) + 0.5, 0, 255).astype(np.uint8)
        return blended
