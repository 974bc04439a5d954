"""Queries of SynthPed together with the same pictures without their occluders."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from reid_jax import errors, progress
from reid_jax.data import catalog, records
from reid_jax.data.synthped import dataset as synthped

MOST_PAIRS = 512


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Queries with an occluder, and what is behind it.

    Attributes:
        rows: [M], places in the query split.
        split: the pictures without occluder, in the same order, with their label maps.
    """

    rows: np.ndarray
    split: records.Split


def of_queries(query: records.Split, name: str, options: dict[str, Any]) -> Pairs | None:
    """Returns the pairs, `MOST_PAIRS` at most and evenly spread; None where the data are not drawn or have none.

    Args:
        query: the prepared queries.
        name: name of the data set.
        options: its options.

    Raises:
        UserError: the prepared pictures differ from those that are drawn today.
    """
    entry = catalog.entries().get(name)
    if entry is None or entry.builder != "synthped":
        return None
    given = records.resolve_options(name, options)
    height = int(given.get("height", 128))
    size, seed = str(given["size"]), int(given["seed"])
    drawn = synthped.SynthPed(size, seed, height=height, width=height // 2, **entry.arguments)
    specs = {spec.filename: spec for spec in drawn.split("query")}
    rows = np.array([row for row, file in enumerate(query.filenames) if specs[file].occluder], np.int64)
    if not len(rows):
        return None
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(MOST_PAIRS, len(rows))).astype(int))]
    first = query.source[int(rows[0])]["image"]
    if drawn.encode(specs[query.filenames[rows[0]]])[0] != first:
        raise errors.UserError(
            f"the prepared pictures of {query.name} are of another version of SynthPed, so their occluders cannot be "
            "taken away; prepare the data set again (prepare_dataset.py --force)."
        )
    source = []
    with progress.bar("pictures without occluder", len(rows), "images") as advance:
        for row in rows:
            spec = dataclasses.replace(specs[query.filenames[row]], occluder="")
            image, parts = drawn.encode(spec)
            source.append({"image": image, "parts": parts})
            advance(1)
    names = tuple(query.filenames[row] for row in rows)
    return Pairs(rows, records.Split(f"{name}/clean", source, query.pids[rows], query.camids[rows], names))
