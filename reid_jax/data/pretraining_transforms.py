"""Transforms of pretraining without labels: random crops at native size, and the seed of each image's masks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from reid_jax.data.elements import Box, Element, map_names, require


@dataclasses.dataclass(frozen=True)
class ResizedCrop:
    """Crops a random box before the resize, from image and maps alike.

    Attributes:
        area: range of the box's fraction of the image.
        aspect: range of width / height of the box in pixels, drawn log-uniformly.
        tries: boxes drawn until one fits; then the largest centered one with the nearest aspect is taken.

    References:
        Szegedy et al., "Going deeper with convolutions", CVPR 2015; MAE and HAP crop this way.
    """

    geometric: ClassVar[bool] = True
    area: Sequence[float] = (0.2, 1.0)
    aspect: Sequence[float] = (0.375, 2 / 3)
    tries: int = 10

    def __post_init__(self) -> None:
        require(len(self.area) == 2 and 0 < self.area[0] <= self.area[1] <= 1, self, "0 < area low <= high <= 1")
        require(len(self.aspect) == 2 and 0 < self.aspect[0] <= self.aspect[1], self, "0 < aspect low <= high")
        require(self.tries >= 1, self, "at least one try")

    def __call__(self, element: Element, rng: np.random.Generator) -> Element:
        """Returns the cropped element, at the size of the box."""
        height, width = element["image"].shape[:2]
        top, left, bottom, right = self.draw(height, width, rng)
        changed = {**element, "image": np.ascontiguousarray(element["image"][top:bottom, left:right])}
        for name in map_names(element):
            changed[name] = np.ascontiguousarray(element[name][top:bottom, left:right])
        return changed

    def draw(self, height: int, width: int, rng: np.random.Generator) -> Box:
        """Returns a box inside `[height, width]`."""
        low, high = np.log(self.aspect)
        for _ in range(self.tries):
            pixels = rng.uniform(self.area[0], self.area[1]) * height * width
            ratio = np.exp(rng.uniform(low, high))
            box_height, box_width = round((pixels / ratio) ** 0.5), round((pixels * ratio) ** 0.5)
            if 0 < box_height <= height and 0 < box_width <= width:
                top = int(rng.integers(0, height - box_height + 1))
                left = int(rng.integers(0, width - box_width + 1))
                return top, left, top + box_height, left + box_width
        ratio = min(max(width / height, self.aspect[0]), self.aspect[1])
        box_height = min(height, max(1, round(width / ratio)))
        box_width = min(width, max(1, round(height * ratio)))
        top, left = (height - box_height) // 2, (width - box_width) // 2
        return top, left, top + box_height, left + box_width


@dataclasses.dataclass(frozen=True)
class MaskSeed:
    """Adds `mask_seed`, uint32 `[2]`, from which a model draws the masks of an image.

    The generator is keyed by the run's seed and the image's place in the run, so that masks depend on nothing else:
    not on devices, hosts, micro-batches or a resume.
    """

    geometric: ClassVar[bool] = False

    def __call__(self, element: Element, rng: np.random.Generator) -> Element:
        """Returns the element with its seed."""
        return {**element, "mask_seed": rng.integers(2**32, size=2, dtype=np.uint32)}
