"""The interface of transforms, and helpers that several of them share; `transforms` explains elements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from reid_jax import errors

Element = dict[str, Any]
Box = tuple[int, int, int, int]  # top, left, bottom, right; zeros for none


class Transform(Protocol):
    """The interface of a transform.

    A transform may also have `needs_donor = True`: the element then holds another image of the split under `donor`
    (uint8 `[h, w, 3]`), which the transform removes.
    """

    @property
    def geometric(self) -> bool:
        """Whether views of an image may have to share its random draws, because it moves or replaces pixels."""

    def __call__(self, element: Element, rng: np.random.Generator) -> Element:
        """Returns the transformed element; randomness comes from the generator only."""


def map_names(element: Mapping[str, Any]) -> list[str]:
    """Returns the names of the per-pixel maps (uint8 `[H, W]`) of an element."""
    return [name for name, value in element.items() if isinstance(value, np.ndarray) and value.ndim == 2]


def require(condition: bool, transform: Any, expected: str) -> None:
    """Raises a `UserError` about the options of a transform unless a condition holds."""
    if not condition:
        raise errors.UserError(f"the transform {transform} cannot be built: expected {expected}.")


def require_box_ranges(transform: Any, area: Sequence[float], aspect: Sequence[float], tries: int) -> None:
    """Raises a `UserError` unless the ranges are valid for `draw_box`."""
    require(len(area) == 2 and 0 < area[0] <= area[1] <= 1, transform, "0 < area low <= high <= 1")
    require(len(aspect) == 2 and 0 < aspect[0] <= aspect[1], transform, "0 < aspect low <= high")
    require(tries >= 1, transform, "at least one try")


def draw_box(
    height: int,
    width: int,
    rng: np.random.Generator,
    *,
    area: Sequence[float],
    aspect: Sequence[float],
    log_aspect: bool = False,
    tries: int = 100,
) -> Box:
    """Draws a random box strictly inside an image, as random erasing does.

    Args:
        height: rows of the image.
        width: columns of the image.
        rng: random generator.
        area: range of the box's fraction of the image.
        aspect: range of height / width.
        log_aspect: draws the aspect log-uniformly instead of uniformly.
        tries: maximum number of boxes drawn until a box fits.

    Returns:
        The box, or zeros when none fits.
    """
    low, high = np.log(aspect) if log_aspect else aspect
    for _ in range(tries):
        pixels = rng.uniform(area[0], area[1]) * height * width
        ratio = rng.uniform(low, high)
        ratio = np.exp(ratio) if log_aspect else ratio
        box_height, box_width = round((pixels * ratio) ** 0.5), round((pixels / ratio) ** 0.5)
        if 0 < box_height < height and 0 < box_width < width:
            top, left = rng.integers(0, height - box_height + 1), rng.integers(0, width - box_width + 1)
            return int(top), int(left), int(top) + box_height, int(left) + box_width
    return 0, 0, 0, 0


def clear_maps(element: Element, box: Box) -> Element:
    """Returns the element with its maps set to 0 (background) inside a box."""
    top, left, bottom, right = box
    changed = dict(element)
    for name in map_names(element):
        changed[name] = element[name].copy()
        changed[name][top:bottom, left:right] = 0
    return changed
