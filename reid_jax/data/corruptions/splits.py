"""Corrupted splits for evaluation: images are corrupted when they are read, and all else stays the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from reid_jax.data import image_io, records
from reid_jax.data.corruptions import sampling


class CorruptedSource(Sequence[dict[str, Any]]):
    """The records of a split with every `image` decoded and corrupted at native size.

    It holds no state: each access draws from a new generator of the image and so returns the same bytes, in any thread
    or worker process.
    """

    def __init__(self, split: records.Split, selection: sampling.Selection, *, round_: int, seed: int):
        """Wraps a split; the arguments are those of `corrupted`."""
        self._split, self._selection, self._round, self._seed = split, selection, round_, seed
        self._name = split.name.rsplit("/", 1)[-1]

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, index: Any) -> dict[str, Any]:  # type: ignore[override]
        record = dict(self._split.source[index])
        filename = self._split.filenames[index]
        image = record["image"]
        if not isinstance(image, np.ndarray):
            image = image_io.decode(image, f"image {filename!r} of {self._split.name}")
        rng = sampling.generator(self._seed, self._round, self._name, filename)
        record["image"] = self._selection.corrupt(image, rng)
        return record


def corrupted(
    split: records.Split, selection: sampling.Selection | None = None, *, round_: int = 0, seed: int = 0
) -> records.Split:
    """Returns a split with every image corrupted, before any resizing.

    Args:
        split: query or gallery; the last part of its name is part of the key of each image's generator.
        selection: the corruptions to draw from; None uses all types and severities.
        round_: number of the repetition.
        seed: seed of the evaluation.
    """
    source = CorruptedSource(split, selection or sampling.Selection(), round_=round_, seed=seed)
    return dataclasses.replace(split, source=source)
