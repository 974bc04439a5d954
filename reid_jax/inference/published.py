"""Extractors of the models in `reid_jax.weights.zoo`, with published or random weights.

    extractor, variables = published.from_weights("bot", "market_resnet50.pth")
    features = extractor.images(variables, [image_a, image_b]).features  # uint8 [H, W, 3] arrays of any size

`reid_jax.runs.trained.from_run` does the same for a run folder.
"""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from reid_jax import build, errors, models, trees
from reid_jax.data import feature_set, records
from reid_jax.inference import extractor as extractor_lib
from reid_jax.inference import features, sources
from reid_jax.runtime import mesh as mesh_lib
from reid_jax.weights import convert, hub, zoo

LOG = logging.getLogger(__name__)


def from_weights(
    name: str,
    path: str | pathlib.Path,
    *,
    options: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> tuple[extractor_lib.Extractor, dict[str, Any]]:
    """Returns the extractor of a model and its variables from a weights file.

    Args:
        name: a key of `zoo.ZOO`.
        path: PyTorch, safetensors or npz file, or a name of `reid_jax.weights.hub`. Loading is strict except for
            classifiers of other identities.
        options: further fields of the model.
        overrides: dotted overrides of the config (`data.height`); None keeps a value.

    Raises:
        UserError: unknown model or field, unreadable file, or weights of another model.
    """
    path = hub.resolve(str(path))
    known = models.options_of_weights(zoo.lookup(name).model["name"], path)
    settings = zoo.settings(name, {**known, **(options or {})}, overrides)
    mesh = mesh_lib.create_mesh()
    # The number of identities matters only in training: the compiled program does not contain the classifier.
    extractor = extractor_lib.Extractor(build.build_model(settings, num_classes=1), settings, mesh)
    variables, report = _fill(extractor, zoo.lookup(name), path)
    LOG.info("weights from %s: %s", path, report)
    extractor.origin = {"file": path.name, "sha256": hub.sha256_of(path)}
    return extractor, mesh_lib.replicate(variables, mesh)


def evaluation_data(images: str | pathlib.Path, dataset: str | None = None) -> tuple[records.ReIDDataset, str]:
    """Returns query and gallery of a data set's folder, and the folder; says what is doubtful about it.

    Args:
        images: raw or prepared folder of a data set with query and gallery.
        dataset: how to read it; None detects that.

    Raises:
        UserError: images without query and gallery.
    """
    source = sources.open_source(images, dataset=dataset)
    if "query" not in source.splits:
        raise errors.UserError(
            f"expected a data set with query and gallery as --images, found {source.kind} at {images}; extract.py "
            "writes features of images alone."
        )
    for sentence in (*source.notes, *source.warnings()):
        LOG.warning("warning: %s.", sentence.rstrip("."))
    opened = records.ReIDDataset(source.dataset, query=source.splits["query"], gallery=source.splits["gallery"])
    return opened, source.root


def evaluation_features(
    name: str, weights: str, images: str | pathlib.Path, dataset: str | None = None
) -> tuple[feature_set.FeatureSet, records.ReIDDataset]:
    """Returns the features of a data set's query and gallery by a model with weights from a file, and the data set.

    Args:
        name: a key of `zoo.ZOO`.
        weights: see `from_weights`.
        images: raw or prepared folder of a data set with query and gallery.
        dataset: how to read it; None detects that.

    Raises:
        UserError: as `from_weights`, or images without query and gallery.
    """
    opened, root = evaluation_data(images, dataset)
    extractor, variables = from_weights(name, weights)
    meta = {**features.feature_meta(extractor.settings), "dataset": opened.name, "weights": extractor.origin}
    return features.describe_dataset(extractor, variables, opened, {**meta, "source": root}), opened


def from_seed(
    name: str,
    seed: int = 0,
    *,
    options: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> tuple[extractor_lib.Extractor, dict[str, Any]]:
    """Returns the extractor of a model and randomly initialized variables, as a baseline without training.

    Args:
        name: a key of `zoo.ZOO`.
        seed: seed of the initialization.
        options: further fields of the model.
        overrides: dotted overrides of the config (`data.height`); None keeps a value.

    Raises:
        UserError: unknown model or field.
    """
    settings = zoo.settings(name, options, {**(overrides or {}), "seed": seed})
    mesh = mesh_lib.create_mesh()
    extractor = extractor_lib.Extractor(
        build.build_model(settings, num_classes=1), settings, mesh, {"random": True, "seed": seed}
    )
    return extractor, mesh_lib.replicate(
        build.init_variables(extractor.model, settings, extractor.example_batch()), mesh
    )


def _fill(
    extractor: extractor_lib.Extractor, entry: zoo.Entry, path: str | pathlib.Path
) -> tuple[dict[str, Any], convert.Report]:
    """Returns the variables of a model from a file, and the loading report.

    Of the optional layers that the file lacks, normalizations become identities and all others become zero.
    """
    keys = jax.eval_shape(lambda: {"params": jax.random.key(0), "dropout": jax.random.key(1)})
    preprocess = build.make_preprocess(extractor.settings.preprocess)
    shapes = jax.eval_shape(
        lambda keys, batch: extractor.model.init(keys, preprocess(batch), train=False), keys, extractor.example_batch()
    )
    variables, report = models.load_weights(
        entry.model["name"],
        shapes,
        path,
        model=extractor.model,
        into=entry.submodule,
        allow_missing=entry.classifiers,
    )

    def concrete(leaf: Any, name: str) -> Any:
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        return np.full(leaf.shape, float(name.endswith(("/scale", "/var"))), leaf.dtype)

    flat = {name: concrete(leaf, name) for name, leaf in trees.flatten(variables).items()}
    return {"batch_stats": {}, **trees.unflatten(flat)}, report
