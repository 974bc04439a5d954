"""A split whose images are corrupted as they are read; everything else of it stays."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from reid_jax.data import image_io, records
from reid_jax.data.corruptions import sampling


class CorruptedSource(Sequence[dict[str, Any]]):
    """Answers `[i]` with the record of the split's image i, its `image` decoded and corrupted at native size.

    It holds no state of its own: each access draws anew from the image's stream and so gives the same bytes, from any
    thread or worker process.
    """

    def __init__(self, split: records.Split, selection: sampling.Selection, *, round_: int, seed: int):
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
    """The same split with every image corrupted, before any resizing.

    Args:
        split: query or gallery; part of the key of each image's stream is the last part of its name.
        selection: what to draw from; None takes all types and severities.
        round_: number of the repetition.
        seed: of the evaluation.
    """
    source = CorruptedSource(split, selection or sampling.Selection(), round_=round_, seed=seed)
    return dataclasses.replace(split, source=source)
