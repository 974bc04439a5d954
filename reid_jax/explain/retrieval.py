"""Queries and their nearest gallery images as columns of a sheet."""

from __future__ import annotations

import dataclasses

import numpy as np

from reid_jax import errors
from reid_jax.data import camera_labels, records
from reid_jax.explain import explainer as explainer_lib
from reid_jax.explain.explainer import Embedded, Explainer
from reid_jax.explain.sheets import Column


@dataclasses.dataclass(frozen=True)
class Query:
    """An image to explain.

    Attributes:
        image: uint8 [H, W, 3].
        name: of the file.
        pid: its identity; None where it is unknown.
        camera: counted from 0, -1 for unknown.
    """

    image: np.ndarray
    name: str = "query"
    pid: int | None = None
    camera: int = -1


def of_split(split: records.Split, row: int) -> Query:
    """Returns an image of a data set.

    Raises:
        UserError: no such row.
    """
    if not 0 <= row < len(split):
        raise errors.UserError(f"expected a query from 0 to {len(split) - 1} of {split.name}, got {row}; give another.")
    return Query(split.image(row), split.filenames[row], int(split.pids[row]), int(split.camids[row]))


def embedded_split(model: Explainer, split: records.Split) -> Embedded:
    """Returns the test features of all images of a split."""
    extracted = model.extractor.split(model.variables, split)
    features = extracted.features if extracted.features.ndim == 3 else extracted.features[:, None]
    visible = extracted.visibility
    return Embedded(features, np.ones(features.shape[:2], np.float32) if visible is None else visible)


def nearest(model: Explainer, query: Query, gallery: records.Split, embedded: Embedded, top: int) -> np.ndarray:
    """Returns the gallery rows most similar to a query, nearest first.

    Junk is left out, and images of the query's own identity and camera, as in the evaluation.
    """
    own = model.embed(model.resized([query.image]), [query.camera])
    found = explainer_lib.similarities(own.take([0] * len(gallery)), embedded)
    out = (gallery.pids == records.JUNK) & (query.pid is not None)
    if query.pid is not None and query.camera != records.UNKNOWN_CAMERA:
        out |= (gallery.pids == query.pid) & (gallery.camids == query.camera)
    kept = np.flatnonzero(~out)
    rows: np.ndarray = kept[np.argsort(-found[kept], kind="stable")][:top]
    return rows


def right_pairs(
    model: Explainer, queries: records.Split, gallery: records.Split, count: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns queries, spread evenly, each with its most similar image of the same person from another camera.

    Raises:
        UserError: no query has such an image.
    """
    embedded, pairs = embedded_split(model, gallery), []
    for row in np.unique(np.linspace(0, len(queries) - 1, min(count, len(queries))).astype(int)):
        query = of_split(queries, int(row))
        ranked = nearest(model, query, gallery, embedded, len(gallery))
        right = ranked[gallery.pids[ranked] == query.pid]
        if len(right):
            pairs.append((query.image, gallery.image(int(right[0]))))
    if not pairs:
        raise errors.UserError(
            f"expected queries with an image of the same person in {gallery.name}, found none; give another data set."
        )
    return pairs


def columns(query: Query, gallery: records.Split, rows: np.ndarray) -> tuple[Column, list[Column]]:
    """Returns the columns of a query and of gallery rows: identity, camera, and right or wrong in words."""
    labels = camera_labels.of(gallery.filenames, gallery.camids)
    if query.pid is None:
        first = Column(query.image, ("query", query.name), query.camera)
    else:
        camera = labels.get(query.camera, camera_labels.UNKNOWN)
        lines = ("query", _person(gallery, query.pid), f"camera {camera}", query.name)
        first = Column(query.image, lines, query.camera)
    found = []
    for row in map(int, rows):
        pid, known = int(gallery.pids[row]), []
        if query.pid is not None:
            known.append("right person" if pid == query.pid else "wrong person")
            known += [_person(gallery, pid), f"camera {labels[int(gallery.camids[row])]}"]
        found.append(Column(gallery.image(row), (*known, gallery.filenames[row]), int(gallery.camids[row])))
    return first, found


def _person(split: records.Split, pid: int) -> str:
    return split.people.get(pid) or ("distractor" if pid == records.DISTRACTOR else f"identity {pid}")
