"""Features of images and data sets, and the features file (`.npz`) with its meta data."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from reid_jax import build, errors, file_io, trees
from reid_jax import config as config_lib
from reid_jax.config import phases
from reid_jax.data import feature_set as feature_set_lib
from reid_jax.data import records
from reid_jax.inference import extractor as extractor_lib
from reid_jax.inference import sources
from reid_jax.runtime import determinism, provenance


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Summary of `write_features`.

    Attributes:
        images: number of images by split.
        shape: shape of an image's features.
        skipped: a sentence for each image that was skipped.
        warnings: sentences about the images that make scores wrong.
        images_per_second: throughput over all images, without compilation.
        seconds: total time with compilation and the writing of the file.
    """

    images: dict[str, int]
    shape: tuple[int, ...]
    skipped: tuple[str, ...]
    images_per_second: float
    seconds: float
    warnings: tuple[str, ...] = ()

    def text(self) -> str:
        """Returns a summary line, preceded by a warning for each skipped image."""
        size = " x ".join(map(str, self.shape))
        lines = [f"warning: skipped: {sentence}" for sentence in self.skipped]
        lines += [f"warning: {sentence}" for sentence in self.warnings]
        return "\n".join([*lines, f"{counts(self.images)}: {size} values each, {self.images_per_second:.4g} images/s"])


def counts(images: Mapping[str, int]) -> str:
    """Returns numbers of images by split as text.

    >>> counts({"query": 3368, "gallery": 19732}), counts({"images": 1})
    ('3,368 query, 19,732 gallery', '1 image')
    """
    return ", ".join(
        f"{count:,} {'image' if (name, count) == ('images', 1) else name}" for name, count in images.items()
    )


def check_output(path: str | pathlib.Path) -> pathlib.Path:
    """Returns the path of the features file after checking that it can be written.

    Raises:
        UserError: it cannot be written.
    """
    path = pathlib.Path(path).expanduser()
    if path.suffix != ".npz":
        raise errors.UserError(f"expected --output to end in .npz, got {path}; for example features.npz.")
    file_io.check_place(path, "the features file")
    return path


def write_features(
    extractor: extractor_lib.Extractor,
    variables: build.Variables,
    source: sources.Source,
    output: str | pathlib.Path,
    *,
    metric: str | None = None,
) -> Outcome:
    """Extracts the features of a source and writes the features file atomically.

    Plain images become `features` [N, D] or [N, S, D], `names`, `visibility` if the model has one, and `meta`. A data
    set becomes a `reid_jax.data.feature_set.FeatureSet`, which `evaluate.py` reads.

    Args:
        extractor: model and preprocessing.
        variables: variables of the model.
        source: images.
        output: path of the `.npz` file.
        metric: metric to record in place of the model's own.

    Raises:
        UserError: an image cannot be read, all images were skipped, or the file cannot be written.
    """
    output = check_output(output)
    started = time.perf_counter()
    described: dict[str, extractor_lib.Extracted] = {}
    kept: dict[str, np.ndarray] = {}
    skipped: list[str] = []
    for name, split in source.splits.items():
        extracted = extractor.split(variables, split)
        bad = getattr(split.source, "bad", {})
        skipped += [bad[position] for position in sorted(bad)]
        kept[name] = np.setdiff1d(np.arange(len(split)), np.fromiter(bad, np.int64, len(bad)))
        if not len(kept[name]):
            raise errors.UserError(f"none of the {len(split)} images of {split.name} can be read ({skipped[-1]})")
        described[name] = _rows(extracted, kept[name])
    features = {name: extracted.features for name, extracted in described.items()}
    meta = _meta(extractor, variables, source, features, metric)
    if "images" in described:
        split, rows = source.splits["images"], kept["images"]
        arrays = {
            "features": features["images"],
            "names": np.asarray([split.names[row] for row in rows], np.str_),
            "meta": np.asarray(json.dumps(meta, sort_keys=True)),
        }
        if described["images"].visibility is not None:
            arrays["visibility"] = described["images"].visibility
        feature_set_lib.refuse_non_finite(features["images"], "features", [str(name) for name in arrays["names"]])
        file_io.make_folder(output.parent)
        file_io.write(output, lambda file: np.savez(file, allow_pickle=False, **arrays), "the features file")
    else:
        query, gallery = (_labels(source.splits[name], kept[name]) for name in ("query", "gallery"))
        extractor_lib.feature_set(described["query"], described["gallery"], query, gallery, meta).save(output)
    seconds = time.perf_counter() - started
    shape = next(iter(features.values())).shape[1:]
    read = sum(map(len, source.splits.values()))
    return Outcome(
        {name: len(rows) for name, rows in kept.items()},
        shape,
        tuple(skipped),
        read / sum(extracted.seconds for extracted in described.values()),
        seconds=seconds,
        warnings=tuple(source.warnings()),
    )


def _rows(extracted: extractor_lib.Extracted, rows: np.ndarray) -> extractor_lib.Extracted:
    """Returns the descriptors of some rows."""
    visibility = None if extracted.visibility is None else extracted.visibility[rows]
    return dataclasses.replace(extracted, features=extracted.features[rows], visibility=visibility)


def _labels(split: records.Split, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Returns identities, cameras and names of some rows of a split."""
    return split.pids[rows], split.camids[rows], tuple(split.names[row] for row in rows)


def _meta(
    extractor: extractor_lib.Extractor,
    variables: build.Variables,
    source: sources.Source,
    features: Mapping[str, np.ndarray],
    metric: str | None,
) -> dict[str, Any]:
    """Returns the meta data of a features file."""
    meta = model_meta(extractor, variables)
    lengths = np.concatenate([np.linalg.norm(array, axis=-1).ravel() for array in features.values()])
    return {
        **meta,
        **own_names(source.splits.values()),
        "dataset": source.dataset,
        "source": source.root,
        "metric": metric or meta["metric"],
        "normalized": bool(np.all(np.abs(lengths - 1) < 1e-3)),
        "dtype": np.dtype(build.compute_dtype(extractor.settings.dtype)).name,
        "device": provenance.device_name(),
        "commit": provenance.commit(),
        **({"deterministic": True} if determinism.active() else {}),
    }


def model_meta(extractor: extractor_lib.Extractor, variables: build.Variables) -> dict[str, Any]:
    """Returns a description of model, preprocessing and weights as JSON values.

    The weights are named by a SHA-256: that of their file, or of the arrays of a run's checkpoint.
    """
    meta = feature_meta(extractor.settings)
    meta["preprocessing"].pop("erase_fill")  # used in training only
    origin = dict(extractor.origin)
    if not {"sha256", "random"} & set(origin):
        origin["sha256"] = _sha256_of(variables)
    return {**meta, "weights": origin}


def _sha256_of(variables: build.Variables) -> str:
    """Returns the SHA-256 of names, types, shapes and values of all arrays."""
    digest = hashlib.sha256()
    for name, leaf in sorted(trees.flatten(variables).items()):
        array = np.ascontiguousarray(np.asarray(leaf))
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def describe_dataset(
    extractor: extractor_lib.Extractor,
    variables: build.Variables,
    dataset: records.ReIDDataset,
    meta: Mapping[str, Any],
) -> feature_set_lib.FeatureSet:
    """Returns the features of a data set's query and gallery, junk images included.

    In a run of several processes the gallery is divided over them (`feature_set.FeatureSet.share`).
    """
    source = {} if dataset.path is None else {"source": os.path.abspath(dataset.path)}
    meta = {**meta, **own_names([dataset.split("query"), dataset.split("gallery")]), **source}
    query = extractor.split(variables, dataset.split("query"))
    gallery = extractor.split(variables, dataset.split("gallery"), divided=True)
    return extractor_lib.feature_set(
        query, gallery, dataset.split("query").labels(), dataset.split("gallery").labels(), meta
    )


def own_names(splits: Iterable[records.Split]) -> dict[str, Any]:
    """Returns the entries `people` and `cameras` of the meta data: own names by number, where there are such names."""
    splits = list(splits)
    people = {str(pid): name for split in splits for pid, name in sorted(split.people.items())}
    cameras = {str(camera): name for split in splits for camera, name in sorted(split.cameras.items())}
    return {key: names for key, names in (("people", people), ("cameras", cameras)) if names}


def feature_meta(settings: config_lib.Settings) -> dict[str, Any]:
    """Returns a description of model, data and preprocessing as JSON values."""
    # Unknown for published weights, which have no preset.
    corruption = {"train_corruption": train_corruption(settings)} if settings.preset else {}
    size = {key: getattr(settings.data, key) for key in ("height", "width", "interpolation")}
    return {
        **corruption,
        "system": settings.system,
        "model": dict(settings.model),
        "dataset": settings.data.name,
        "preprocessing": {**settings.preprocess.as_dict(), **size},
        "flip": settings.evals.flip,
        "metric": settings.evals.metric,
    }


def train_corruption(settings: config_lib.Settings) -> str:
    """Returns the corruptions of training images: "none", "augmix", "all20", "leave_family_out(noise)", ...

    Considers the transforms of all views in all phases and joins several corruptions by "+". Scores on corrupted images
    are comparable only between models with the same corruptions in training.
    """
    found: set[str] = set()
    for _, phase in phases.resolve(settings):
        augment = phase.data.augment
        # A view without its own transforms has those of the main view.
        for chain in (augment, *(view.get("augment", augment) for view in phase.data.views.values())):
            corrupt = (chain or {}).get("corrupt")
            if corrupt is not None and corrupt is not False:
                options = {} if corrupt is True else corrupt
                found.add(options.get("policy", "all20") if options.get("probability", 1) else "none")
            if (chain or {}).get("augmix") not in (None, False):
                found.add("augmix")
    return "+".join(sorted(found - {"none"})) or "none"
