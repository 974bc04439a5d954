"""The map of embeddings: a page on which images with similar embeddings are near each other, with pictures on hover."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from reid_jax import explain, file_io, progress
from reid_jax.data.feature_set import FeatureSet
from reid_jax.evaluation import report, thumbnails, web_pages
from reid_jax.explain import projection

_TEMPLATE = pathlib.Path(__file__).with_name("embedding_map.html")


def unit_vectors(features: np.ndarray, visibility: np.ndarray | None) -> np.ndarray:
    """Returns one vector of unit length per image, [N, D]; slots are weighed with the root of their visibility."""
    unit = features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)
    if unit.ndim == 3:
        unit = unit if visibility is None else unit * np.sqrt(visibility)[:, :, None]
        unit = unit.reshape(len(unit), -1)
        unit = unit / np.maximum(np.linalg.norm(unit, axis=-1, keepdims=True), 1e-12)
    return np.asarray(unit)


def choose(features: FeatureSet, most: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns query and gallery rows to show: all of people picked at random, until there are `most` images.

    Distractors come last, and junk is left out.
    """
    generator = np.random.default_rng(seed)
    people = generator.permutation(np.unique(features.query_ids))
    rest = np.setdiff1d(generator.permutation(np.unique(features.gallery_ids)), people)
    chosen: tuple[list[int], list[int]] = ([], [])
    sides = (features.query_ids, features.gallery_ids)
    rest = np.concatenate((rest[rest > 0], rest[rest == 0]))
    for person in (*people, *rest):
        for rows, ids in zip(chosen, sides, strict=True):
            rows.extend(np.flatnonzero(ids == person)[: max(0, most - len(chosen[0]) - len(chosen[1]))].tolist())
    query, gallery = (np.asarray(sorted(rows), np.int64) for rows in chosen)
    return query, gallery


def write(
    path: str | pathlib.Path,
    features: FeatureSet,
    load_image: thumbnails.LoadImage,
    *,
    method: str = "tsne",
    most: int = 2_000,
    seed: int = 0,
    facts: Mapping[str, str] | None = None,
    budget: int = thumbnails.BUDGET,
) -> pathlib.Path:
    """Writes the page and returns its path.

    Args:
        path: the HTML file.
        features: embeddings with identities and cameras.
        load_image: maps ("query" | "gallery", row) to uint8 [H, W, 3].
        method: see `projection.project`.
        most: images on the page, see `choose`.
        seed: of the choice and of t-SNE.
        facts: run, model and date below the headline; by default `report.about(features)`.
        budget: bytes of all pictures; images beyond it have none.

    Raises:
        UserError: see `projection.project`; an image cannot be read, or the file cannot be written.
    """
    path = pathlib.Path(path)
    rows = choose(features, most, seed)
    sides = ("query", "gallery")
    vectors = np.concatenate(
        [
            unit_vectors(values[picked], None if visible is None else visible[picked])
            for values, visible, picked in zip(
                (features.query_features, features.gallery_features),
                (features.query_visibility, features.gallery_visibility),
                rows,
                strict=True,
            )
        ]
    )
    places = projection.project(vectors, method, seed)
    shown = [(side, int(row)) for side, picked in zip(sides, rows, strict=True) for row in picked]
    data = _data(features, load_image, shown, places, budget)
    name = str(features.meta.get("dataset") or "Embeddings")
    about = report.about(features) if facts is None else facts
    page = web_pages.fill(
        _TEMPLATE,
        {
            "TITLE": web_pages.escaped(" · ".join(filter(None, (name, about.get("run"))))),
            "ABOUT": web_pages.facts({**about, "images": f"{len(shown):,}"}),
            "NOTES": _notes(features, method, len(shown)),
            "DATA": web_pages.data_block(data),
        },
        script=_TEMPLATE.with_suffix(".js"),
    )
    file_io.make_folder(path.parent, "the folder of the page")
    file_io.write_text(path, page, "the map of embeddings")
    return path


def _notes(features: FeatureSet, method: str, shown: int) -> str:
    total = features.num_query + features.num_gallery
    how = (
        "By t-SNE: neighbors are neighbors; sizes of clusters and distances between them mean little."
        if method == "tsne"
        else "By principal components: the two directions of the largest variance; most of the space is not seen."
    )
    part = "" if shown == total else f" {shown:,} of {total:,} images are shown, those of people picked at random."
    return web_pages.escaped(f"{how}{part} {explain.CAUTION}")


def _data(
    features: FeatureSet,
    load_image: thumbnails.LoadImage,
    shown: list[tuple[str, int]],
    places: np.ndarray,
    budget: int,
) -> dict[str, Any]:
    """Returns points, people, cameras and pictures for `embedding_map.js`."""
    labels = features.camera_labels()
    cameras = {number: place for place, number in enumerate(sorted(labels))}
    queried = set(features.query_ids.tolist())
    people: dict[int, int] = {}
    points = []
    with progress.bar("map of embeddings", len(shown), "pictures") as advance:
        pictures = thumbnails.Thumbnails(load_image, len(shown), budget=budget, progress=lambda: advance(1))
        for (side, row), (x, y) in zip(shown, places, strict=True):
            is_query = side == "query"
            ids, cams, names = (
                (features.query_ids, features.query_cams, features.query_names)
                if is_query
                else (features.gallery_ids, features.gallery_cams, features.gallery_names)
            )
            person = people.setdefault(int(ids[row]), len(people))
            picture = pictures.number(side, row)
            place = [round(float(x), 4), round(float(y), 4)]
            points.append(
                [*place, int(not is_query), person, cameras[int(cams[row])], picture, web_pages.plain(names[row])]
            )
    return {
        "points": points,
        # A distractor's number stands for many people.
        "people": [
            web_pages.plain(features.person(number) or number) if number or number in queried else "distractor"
            for number in people
        ],
        "known": [bool(number > 0 or number in queried) for number in people],
        "cameras": [web_pages.plain(labels[number]) for number in sorted(labels)],
        "pictures": pictures.texts,
    }
