"""Records of a data set, written by its builder with TensorFlow Datasets."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import pathlib
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from reid_jax import errors, progress
from reid_jax.data import builders


def build(
    name: str,
    module: types.ModuleType,
    folder: pathlib.Path,
    options: Mapping[str, Any],
    *,
    rows: Mapping[str, Sequence[Any]] | None = None,
    origin: pathlib.Path | None = None,
    manual: pathlib.Path | None = None,
    images: int | None = None,
) -> pathlib.Path:
    """Runs the builder of a data set and returns the folder it wrote, below `folder`.

    Args:
        name: the data set's name.
        module: its builder's module.
        folder: an empty folder.
        options: the options of the data set.
        rows: rows of every split, where the source files were listed and checked before.
        origin: the source of the rows.
        manual: the folder of the raw files of a builder that reads them itself.
        images: number of images, for the progress shown; None where it is not known.

    Raises:
        UserError: the builder does not store what training reads.
    """
    import tensorflow_datasets as tfds

    if hasattr(module, "make_config"):
        config = {"config": module.make_config(**builders.arguments(module.make_config, name, options))}
    elif hasattr(module, "scan"):
        config = {"options": builders.arguments(module.scan, name, options)}
    else:
        config = dict(options)
    manual_dir = str(manual) if manual is not None and manual.is_dir() else None
    with _quiet_tfds():
        builder = module.Builder(data_dir=str(folder), file_format="array_record", **config)
        if rows is not None:
            builder.rows, builder.origin = rows, origin
        settings = tfds.download.DownloadConfig(compute_stats="skip", manual_dir=manual_dir)
        with progress.bar("writing records", images, "images") as advance:
            _count_examples(builder, advance)
            builder.download_and_prepare(download_config=settings)
    _check_schema(name, builder.info)
    return pathlib.Path(builder.data_dir)


def _count_examples(builder: Any, advance: Callable[[int], None]) -> None:
    """Makes a builder report every example that it makes; the bars of TFDS do not say how many are left."""
    split_generators = builder._split_generators

    def counted(examples: Iterator[Any]) -> Iterator[Any]:
        for example in examples:
            yield example
            advance(1)

    @functools.wraps(split_generators)  # TFDS looks at its arguments
    def counting(*args: Any, **options: Any) -> Any:
        made = split_generators(*args, **options)
        return {name: counted(each) if isinstance(each, Iterator) else each for name, each in made.items()}

    builder._split_generators = counting


def _check_schema(name: str, info: Any) -> None:
    """Makes sure that a builder stored what training reads.

    Raises:
        UserError: a feature or a list of the metadata is missing, or the order of the records was not kept.
    """
    missing = [f"the feature {key}" for key in ("image", "pid", "camid", "filename") if key not in info.features]
    metadata = info.metadata or {}
    for key in ("pids", "camids", "filenames"):
        missing += [f"metadata[{key!r}][{split!r}]" for split in info.splits if split not in metadata.get(key, {})]
    missing += [] if info.disable_shuffling else ["disable_shuffling=True"]
    if missing:
        raise errors.UserError(
            f'expected {", ".join(missing)} in the builder of the data set {name!r}, not found; see "Writing another '
            'builder" in datasets/README.md.'
        )


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[None]:
    """Silences TFDS, which prints messages, a warning for each unlisted configuration, and two bars per split."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    # Not by absl's own functions, which set the level of the root logger as well.
    absl = logging.getLogger("absl")
    level = absl.level
    absl.setLevel(logging.ERROR)
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            yield
    finally:
        absl.setLevel(level)
