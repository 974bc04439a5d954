"""Deletion and insertion: whether the regions that a map names matter to a similarity more than regions at random.

Reference: Petsiuk et al., "RISE: Randomized input sampling for explanation of black-box models", BMVC 2018.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from reid_jax.explain import explainer as explainer_lib
from reid_jax.explain.explainer import Embedded, Explainer

POINTS = 17  # of a curve, both ends included


@dataclasses.dataclass(frozen=True)
class Curves:
    """Similarity while regions disappear, and while they appear on an empty image, highest value of the map first.

    Attributes:
        deletion: float64 [POINTS], similarity after the shares 0 ... 1 of the regions are hidden.
        insertion: float64 [POINTS], after these shares are shown.
    """

    deletion: np.ndarray
    insertion: np.ndarray

    def areas(self) -> tuple[float, float]:
        """Returns the mean heights of both curves; a good map has a low deletion and a high insertion."""
        return tuple(float(np.trapezoid(curve, dx=1 / (len(curve) - 1))) for curve in (self.deletion, self.insertion))  # type: ignore[return-value]


def curves(model: Explainer, image: np.ndarray, values: np.ndarray, partner: Embedded, camera: int = -1) -> Curves:
    """Returns the curves of a map.

    Args:
        model: the model.
        image: uint8 [height, width, 3] of the model's size.
        values: [h, w] map of it; cells are hidden in the order of their values, ties in the order of the rows.
        partner: features of the one image that it is compared with.
        camera: of the image, see `Explainer.embed`.
    """
    order = np.argsort(-values, axis=None, kind="stable")
    counts = np.round(np.linspace(0, values.size, POINTS)).astype(int)
    blank = np.broadcast_to(model.blank, image.shape)
    pictures = []
    for start, end in ((image, blank), (blank, image)):
        for count in counts:
            chosen = np.zeros(values.size, bool)
            chosen[order[:count]] = True
            pictures.append(np.where(enlarged(chosen.reshape(values.shape), image.shape[:2])[..., None], end, start))
    embedded = model.embed(np.stack(pictures), [camera] * len(pictures))
    found = explainer_lib.similarities(embedded, partner.take([0] * len(pictures)))
    return Curves(found[:POINTS], found[POINTS:])


def enlarged(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns a map [h, w] on an image [*size]: each pixel has the value of the cell it lies in."""
    rows, columns = (
        (np.arange(pixels) + 0.5) * cells // pixels for pixels, cells in zip(size, values.shape, strict=True)
    )
    taken: np.ndarray = values[rows.astype(int)[:, None], columns.astype(int)[None]]
    return taken


def random_order(shape: tuple[int, int], seed: int) -> np.ndarray:
    """Returns a map of random values, an order to compare with."""
    return np.random.default_rng(seed).random(shape)
