"""Runs a model on pictures with label maps and keeps what it knows of body parts, beside the truth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from reid_jax import build, errors, progress
from reid_jax.data import pipeline, records, transforms
from reid_jax.inference import extractor as extractor_lib

MOST_COUNTED = 4096  # training images in the fixed map
_BATCH = 64


class Examiner:
    """Runs a model that has the methods `examine_parts` and `part_targets`.

    Args:
        extractor: the model with its settings.
        variables: its variables.
    """

    def __init__(self, extractor: extractor_lib.Extractor, variables: build.Variables) -> None:
        self._size, self._variables, self._model = extractor.size, variables, extractor.model
        preprocess = build.make_preprocess(extractor.settings.preprocess)
        self._shares: dict[str, list[np.ndarray]] = {}

        def examine(variables: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
            images = preprocess({"image": batch["image"], "camid": batch["camid"]})
            return {**extractor.model.examine_parts(variables, images), **self._targets(batch["parts"])}

        self._examine, self._count = jax.jit(examine), jax.jit(self._targets)

    def _targets(self, parts: jax.Array) -> dict[str, jax.Array]:
        """Returns labels of tokens, "true" [B, N], and which parts can be seen, "visible" [B, 8]."""
        found = self._model.part_targets(parts)
        return {"true": found["parsing/labels"], "visible": found["visibility/target"]}

    def examine(self, split: records.Split, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the arrays of `part_examination.examine` for some images of a split, with "true" and "visible".

        Raises:
            UserError: an image has no label map.
        """
        found: dict[str, list[np.ndarray]] = {}
        with progress.bar(f"parts of {split.name}", len(rows), "images") as advance:
            for batch, count in self._batches(split, rows):
                for name, each in jax.device_get(self._examine(self._variables, batch)).items():
                    shared = name.startswith("fusion/")  # a mean over the batch
                    kept = self._shares if shared else found
                    kept.setdefault(name, []).append(each if shared else each[:count])
                advance(count)
        return {name: np.concatenate(each) for name, each in found.items()}

    def shares(self) -> dict[str, float]:
        """Returns the share of each depth in the tokens behind the modules of AMFF, over all images examined."""
        return {
            f"{name.removeprefix('fusion/')}/depth_{depth}": float(share)
            for name, each in self._shares.items()
            for depth, share in enumerate(np.mean(each, axis=0))
        }

    def prior(self, split: records.Split) -> tuple[np.ndarray, np.ndarray]:
        """Returns the most frequent label of each token [N] in training images, and how often each part is seen [8]."""
        rows = np.unique(np.linspace(0, len(split) - 1, min(MOST_COUNTED, len(split))).astype(int))
        counts: Any = 0
        seen: list[np.ndarray] = []
        for batch, count in self._batches(split, rows):
            found = jax.device_get(self._count(batch["parts"]))
            counts = counts + np.stack([(found["true"][:count] == label).sum(axis=0) for label in range(9)])
            seen.append(found["visible"][:count])
        return np.argmax(counts, axis=0), np.concatenate(seen).mean(axis=0)

    def _batches(self, split: records.Split, rows: np.ndarray) -> Iterator[tuple[dict[str, np.ndarray], int]]:
        """Yields batches of one size, the last one padded by repetition, and the images in each."""
        _require_maps(split)
        reader, resize = pipeline.Reader(split, ("parts",)), transforms.Resize(**self._size)
        for first in range(0, len(rows), _BATCH):
            chosen = rows[first : first + _BATCH]
            elements = [resize(reader.read(int(row))) for row in chosen]
            padded = np.minimum(np.arange(_BATCH), len(chosen) - 1)
            batch = {name: np.stack([element[name] for element in elements])[padded] for name in ("image", "parts")}
            yield {**batch, "camid": np.asarray(split.camids[chosen], np.int32)[padded]}, len(chosen)


def _require_maps(split: records.Split) -> None:
    if not len(split) or "parts" not in split.source[0]:
        raise errors.UserError(
            f"expected label maps of body parts in {split.name}, its images have none; give --dataset with one that "
            "has them, such as synthped_street_occluded."
        )
