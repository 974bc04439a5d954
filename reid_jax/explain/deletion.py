"""Deletion and insertion: whether the regions that a map names matter to a similarity more than regions at random.

Reference: Petsiuk et al., "RISE: Randomized input sampling for explanation of black-box models", BMVC 2018.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from reid_jax import progress
from reid_jax.explain import explainer as explainer_lib
from reid_jax.explain import occlusion, pictures, similarity_maps
from reid_jax.explain.explainer import Embedded, Explainer

POINTS = 17  # of a curve, both ends included
_RANDOM = 3  # random orders that a map is compared with


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


def trial(model: Explainer, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[dict[str, Any]]:
    """Returns how the maps of a model fare against random orders on their own grids.

    Args:
        model: the model.
        pairs: queries and their matches, uint8 [H, W, 3] of any size.

    Returns:
        A row for each picture: "picture", "rows" and "columns" of its grid; mean areas "deletion" and "insertion", and
        the same of random orders, "random_deletion" and "random_insertion"; "better_deletion" and "better_insertion",
        the shares of the pairs in which the map is better.
    """
    areas: dict[str, list[tuple[float, ...]]] = {}
    grids: dict[str, tuple[int, int]] = {}
    with progress.bar("deletion and insertion", len(pairs), "pairs") as advance:
        for number, pair in enumerate(pairs):
            query, match = model.resized(pair)
            partner = model.embed(match[None])
            random: dict[tuple[int, int], np.ndarray] = {}
            for name, values in _maps(model, query, match, partner).items():
                grids[name] = grid = (values.shape[0], values.shape[1])
                if grid not in random:
                    orders = [random_order(grid, _RANDOM * number + draw) for draw in range(_RANDOM)]
                    random[grid] = np.mean([curves(model, query, order, partner).areas() for order in orders], axis=0)
                areas.setdefault(name, []).append((*curves(model, query, values, partner).areas(), *random[grid]))
            advance(1)
    return [outcome(name, grids[name], np.asarray(found)) for name, found in areas.items()]


def _maps(model: Explainer, query: np.ndarray, match: np.ndarray, partner: Embedded) -> dict[str, np.ndarray]:
    found = {"activation": pictures.activation(model, query[None])[0]}
    if "rollout" in pictures.available(model):
        found["attention"] = pictures.attention(model, query[None])[0].mean(axis=0)
        found["rollout"] = pictures.rollout(model, query[None])[0]
    found["similarity"] = similarity_maps.pairs(model, query, [match])[0].query.map
    found["occlusion"] = occlusion.falls(model, query, partner)[0]
    return found


def outcome(name: str, grid: tuple[int, int], areas: np.ndarray) -> dict[str, Any]:
    """Returns the row of a picture from areas [pairs, 4]: deletion, insertion, and those of random orders."""
    deletion, insertion, random_deletion, random_insertion = (round(float(mean), 5) for mean in areas.mean(axis=0))
    return {
        "picture": name,
        "rows": grid[0],
        "columns": grid[1],
        "deletion": deletion,
        "random_deletion": random_deletion,
        "better_deletion": round(float((areas[:, 0] < areas[:, 2]).mean()), 3),
        "insertion": insertion,
        "random_insertion": random_insertion,
        "better_insertion": round(float((areas[:, 1] > areas[:, 3]).mean()), 3),
    }
