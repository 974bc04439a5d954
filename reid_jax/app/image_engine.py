"""The model behind the page: descriptors of uploads, and what makes two pictures similar."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from reid_jax import explain
from reid_jax.data import image_io
from reid_jax.explain import drawing, explainer, similarity_maps
from reid_jax.gallery import intake
from reid_jax.inference import extractor as extractor_lib
from reid_jax.inference import features

_HEIGHT = 384  # pixels of an explanation
_BLACK = np.zeros((2, 1, 3), np.uint8)


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What makes two pictures similar.

    Attributes:
        query: the first picture with its map, a PNG.
        entry: the second one, in the same colors.
        similarity: cosine of the embeddings of the two pictures, in [-1, 1].
        exact: whether the maps sum up to it; else they are an approximation.
        low: value of the darkest color.
        high: value of the brightest one.
        note: a sentence on what the maps show.
    """

    query: bytes
    entry: bytes
    similarity: float
    exact: bool
    low: float
    high: float
    note: str


class Engine(Protocol):
    """What the page asks of a model; calls come one at a time."""

    explains: bool

    def describe(
        self, data: bytes, boxes: Sequence[Sequence[float]], metric: str
    ) -> tuple[intake.Described, tuple[str, ...]]:
        """Returns an upload, or boxes of it, with descriptors, and references for the audit log."""

    def explain(self, query: np.ndarray, entry: np.ndarray) -> Explanation:
        """Returns what makes two pictures similar, both uint8 [H, W, 3]."""


UPLOAD = "the upload"  # in messages


class ModelEngine:
    """A model of this package.

    Args:
        extractor: model and preprocessing.
        variables: its variables.
    """

    explains = True

    def __init__(self, extractor: extractor_lib.Extractor, variables: Any) -> None:
        self.extractor, self.variables = extractor, variables
        weights = features.model_meta(extractor, variables)["weights"]
        if "sha256" in weights:  # hashed here once, and not again for each image
            extractor.origin["sha256"] = weights["sha256"]
        self._explainer = explainer.Explainer(extractor, variables)

    def describe(
        self, data: bytes, boxes: Sequence[Sequence[float]], metric: str
    ) -> tuple[intake.Described, tuple[str, ...]]:
        """Returns an upload, or boxes of it, with descriptors, and references for the audit log."""
        return intake.of_bytes(self.extractor, self.variables, data, UPLOAD, boxes, metric)

    def explain(self, query: np.ndarray, entry: np.ndarray) -> Explanation:
        """Returns what makes two pictures similar, both uint8 [H, W, 3]."""
        pair = similarity_maps.pairs(self._explainer, query, [entry])[0]
        sides = (pair.query, pair.gallery)
        high = max(float(side.regions.max()) for side in sides)
        low = min(0.0, *(float(side.regions.min()) for side in sides))
        pictures = []
        for image, side in zip(self._explainer.resized([query, entry]), sides):
            large = drawing.enlarge(image, _HEIGHT)
            pictures.append(image_io.encode_png(drawing.overlay(large, side.regions, low, high)))
        exact = pair.query.exact and pair.gallery.exact
        how = "It is" if exact else "It is, by gradients and so not to the last digit,"
        how += f" the sum of what the regions add and of a constant ({pair.query.note()})."
        return Explanation(
            query=pictures[0],
            entry=pictures[1],
            similarity=float(pair.query.similarity),
            exact=exact,
            low=low,
            high=high,
            note=f"{how} Bright regions make the two pictures similar to the model. {explain.CAUTION}",
        )

    def warm_up(self) -> None:
        """Compiles the program of one image, so that the first upload need not wait for it."""
        self.extractor.images(self.variables, [_BLACK])
