"""What `evaluate` is given: features files, runs, or published weights on a data set, under names that differ."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from reid_jax import errors, file_io
from reid_jax.data import image_io, records
from reid_jax.data.feature_set import FeatureSet
from reid_jax.evaluation import image_files, thumbnails


@dataclasses.dataclass(frozen=True)
class Source:
    """Features of one data set by one model.

    Attributes:
        label: tells it from the other sources of a call; "" where it is the only one.
        dataset: name of the data set.
        sets: features by the name of their test set; of a run, those of its further descriptors too.
        load_image: loads an image of the page of ranked lists; None where its folder has to be known first.
        run: the run folder of the model; "" for others.
    """

    label: str
    dataset: str
    sets: dict[str, FeatureSet]
    load_image: thumbnails.LoadImage | None = None
    run: str = ""

    def page_images(self, folder: str | None) -> thumbnails.LoadImage:
        """Returns a function that loads images: from the folder, or the one that the features were extracted from."""
        if self.load_image is not None:
            return self.load_image
        features = self.sets[self.dataset]
        source = folder or features.meta.get("source")
        if not isinstance(source, str) or not source:
            raise errors.UserError("--html needs --images DIR, the folder the features were made from.")
        return image_files.ImageFiles(source, features)


def labels(flag: str, paths: Sequence[str]) -> list[str]:
    """Returns a label for each file or folder: its name, or as much of its path as tells it from the others.

    Raises:
        UserError: one is given twice.
    """
    whole = [pathlib.Path(path).resolve() for path in paths]
    if len(set(whole)) < len(whole):
        raise errors.UserError(f"{flag} was given {paths[_repeated(whole)]} twice; name each once.")
    if len(whole) == 1:
        return [""]
    parts = [path.with_suffix("").parts if path.suffix == ".npz" else path.parts for path in whole]
    for length in range(1, max(map(len, parts)) + 1):
        found = ["-".join(part.strip("/") for part in each[-length:]) for each in parts]
        if len(set(found)) == len(found):
            return [file_io.shown(label)[:80] for label in found]
    return [str(number) for number in range(1, len(whole) + 1)]


def _repeated(whole: Sequence[pathlib.Path]) -> int:
    return next(place for place, path in enumerate(whole) if path in whole[:place])


def page_path(html: str, label: str) -> pathlib.Path:
    """Returns the file of a source's page: `page.html`, with several sources `page-<label>.html`."""
    path = pathlib.Path(html)
    return path.with_name(f"{path.stem}-{label}{path.suffix}") if label else path


def read(args: argparse.Namespace) -> list[Source]:
    """Returns the sources that the arguments name, with distinct names of their test sets.

    Data sets that occur in several sources are called `<data set>:<label>`.
    """
    if args.run:
        sources = [_run(path, label, args) for path, label in zip(args.run, labels("--run", args.run), strict=True)]
    elif args.weights:
        sources = [_weights(args)]
    else:
        sources = [
            _file(path, label, args.allow_float16)
            for path, label in zip(args.features, labels("--features", args.features), strict=True)
        ]
    times = collections.Counter(source.dataset for source in sources)
    return [_renamed(source) if times[source.dataset] > 1 else source for source in sources]


def _renamed(source: Source) -> Source:
    name = f"{source.dataset}:{source.label}"
    sets = {name + key.removeprefix(source.dataset): features for key, features in source.sets.items()}
    return dataclasses.replace(source, dataset=name, sets=sets)


def _file(path: str, label: str, allow_float16: bool) -> Source:
    features = FeatureSet.load(path, allow_float16=allow_float16)
    # A name from a file: on one line, and short.
    name = file_io.shown(str(features.meta.get("dataset") or pathlib.Path(path).stem))[:80]
    return Source(label, name, {name: features})


def _run(path: str, label: str, args: argparse.Namespace) -> Source:
    from reid_jax.runs import trained  # models and data: only where a model runs

    described, dataset = trained.all_features_of_run(path, best=args.best, dataset=args.dataset)
    return Source(label, dataset.name, described, _loader(dataset), path)


def _weights(args: argparse.Namespace) -> Source:
    from reid_jax.inference import published

    features, dataset = published.evaluation_features(args.model, args.weights, args.images, args.dataset)
    return Source("", dataset.name, {dataset.name: features}, _loader(dataset))


def _loader(dataset: records.ReIDDataset) -> thumbnails.LoadImage:
    def load(side: str, row: int) -> np.ndarray:
        split = getattr(dataset, side)
        image = split.source[row]["image"]
        return image_io.decode(image, split.filenames[row]) if isinstance(image, bytes) else image

    return load
