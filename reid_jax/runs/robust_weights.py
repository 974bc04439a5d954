"""Scores of published weights on corrupted images; `trained.evaluate_robustness` has those of a run."""

from __future__ import annotations

import pathlib
from typing import Any

from reid_jax.evaluation import robustness
from reid_jax.inference import features, published


def evaluate(
    name: str,
    weights: str,
    images: str | pathlib.Path,
    *,
    dataset: str | None = None,
    metric: str | None = None,
    ap: str | None = None,
    same_camera_filter: bool | None = None,
    **options: Any,
) -> robustness.Robustness:
    """Returns the scores of a model with weights from a file on corrupted images.

    Args:
        name: a key of `reid_jax.weights.zoo.ZOO`.
        weights: see `published.from_weights`.
        images: raw or prepared folder of a data set with query and gallery.
        dataset: how to read it; None detects that.
        metric: distance; None is the model's own.
        ap: rule of average precision; None is that of the defaults.
        same_camera_filter: whether gallery images with the query's identity and camera are excluded; None is the
            default.
        **options: of `reid_jax.evaluation.robustness.evaluate` (selection, rounds, seed, progress).

    Raises:
        UserError: as `published.from_weights`, or images without query and gallery.
    """
    opened, _ = published.evaluation_data(images, dataset)
    extractor, variables = published.from_weights(name, weights)
    meta = features.feature_meta(extractor.settings)
    given = {"metric": metric, "ap": ap, "same_camera_filter": same_camera_filter}
    protocol: dict[str, Any] = {
        key: getattr(extractor.settings.evals, key) if value is None else value for key, value in given.items()
    }
    # Files do not say what they were trained on.
    return robustness.evaluate(
        lambda data: features.describe_dataset(extractor, variables, data, meta), opened, **protocol, **options
    )
