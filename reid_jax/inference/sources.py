"""Sources of images for inference: image folders, published data sets, CSV files, and prepared data sets.

The kind of a folder is detected from its content. Published data sets are read in place, without preparation: the
builder lists the images, and their files are decoded on access.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from reid_jax import errors
from reid_jax.data import builders, image_io, image_names, records

ON_BAD_IMAGE = ("fail", "skip")
PLAIN = "plain"  # data set name for images without identities, regardless of the folder's layout


class Files(Sequence[dict[str, Any]]):
    """Image files as the source of a split, read and decoded on each access.

    Args:
        paths: paths of the files.
        names: names of the images in the features file.
        on_bad_image: "fail" raises an error at the first file that cannot be decoded; "skip" replaces it by a gray
            pixel and adds its position to `bad`.
    """

    def __init__(self, paths: Sequence[pathlib.Path], names: Sequence[str], on_bad_image: str) -> None:
        self.paths, self.names, self.on_bad_image = paths, names, on_bad_image
        self.bad: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> dict[str, Any]:  # type: ignore[override]
        path = self.paths[index]
        try:
            image = image_io.decode(path.read_bytes(), str(path))
        except (errors.UserError, OSError) as error:
            sentence = (
                str(error)
                if isinstance(error, errors.UserError)
                else f"{path} cannot be read ({error.strerror}); repair or remove the file."
            )
            if self.on_bad_image == "fail":
                raise errors.UserError(
                    f"{sentence.rstrip('.')} (--on-bad-image skip ignores all such files)."
                ) from None
            self.bad[int(index)] = sentence
            image = np.full((1, 1, 3), 128, np.uint8)
        return {"image": image, "pid": -1, "camid": -1, "filename": self.names[index]}


@dataclasses.dataclass(frozen=True)
class Source:
    """An opened source of images.

    Attributes:
        kind: description for the user.
        dataset: name of the data set, "" for plain images.
        splits: "query" and "gallery", or only "images".
    """

    kind: str
    dataset: str
    splits: dict[str, records.Split]


def open_source(path: str | pathlib.Path, *, dataset: str | None = None, on_bad_image: str = "fail") -> Source:
    """Returns the images of a folder; detects whether it is a data set.

    Args:
        path: a folder of images (searched recursively), the raw folder of a data set (or the CSV file of
            `reid_folder`), or a prepared folder.
        dataset: a name of `builders.available()`, or `PLAIN` for images without identities; None detects it.
        on_bad_image: "fail" or "skip", for files that cannot be decoded.

    Raises:
        UserError: the folder does not exist, is not the data set `dataset`, or has the layout of several data sets.
    """
    path = pathlib.Path(path).expanduser()
    if on_bad_image not in ON_BAD_IMAGE:
        raise errors.unknown("value of on_bad_image", on_bad_image, ON_BAD_IMAGE)
    if dataset not in (None, PLAIN, *builders.available()):
        raise errors.unknown("data set", str(dataset), [PLAIN, *builders.available()])
    if not path.exists():
        raise errors.UserError(f"expected a folder of images, there is no {path}; give --images DIR.")
    if dataset != PLAIN:
        if (prepared := _prepared(path)) is not None:
            return _open_prepared(prepared, dataset)
        if dataset is None:
            dataset = _detect(path)
    if dataset in (None, PLAIN):
        return _open_plain(path, on_bad_image)
    return _open_raw(str(dataset), path, on_bad_image)


def _prepared(path: pathlib.Path) -> pathlib.Path | None:
    """Returns the folder of a prepared data set, given it or the folder of its versions; None for other folders."""
    if (path / "dataset_info.json").is_file():
        return path
    return records.prepared_version(path) if path.is_dir() else None


def _open_prepared(path: pathlib.Path, expected: str | None) -> Source:
    """Returns the source of a prepared data set."""
    report = path / records.REPORT_FILE
    name = path.resolve().parent.name.split("-")[0]
    if report.is_file():
        with contextlib.suppress(ValueError, KeyError):
            name = json.loads(report.read_text(encoding="utf-8"))["name"]
    if expected not in (None, name):
        raise errors.UserError(f"{path} contains the prepared data set {name!r}, not {expected!r}; omit --dataset.")
    return of_dataset(records.open_folder(name, path), f"prepared data set {name}")


def _detect(path: pathlib.Path) -> str | None:
    """Returns the data set with the layout of a folder, None for plain images."""
    if path.is_file():
        return "reid_folder"
    fitting = [name for name in builders.available() if builders.fits(name, path)]
    # Data sets with the same layout differ in their file names or in the published counts.
    if len(fitting) > 1:
        fitting = [name for name in fitting if _parses(name, path)] or fitting
    if len(fitting) > 1:
        fitting = [name for name in fitting if _has_published_counts(name, path)] or fitting
    if len(fitting) > 1:
        raise errors.UserError(f"{path} has the layout of {' and of '.join(fitting)}; choose one with --dataset NAME.")
    if fitting:
        return fitting[0]
    is_own = (path / "index.csv").is_file() or all((path / split).is_dir() for split in ("query", "gallery"))
    return "reid_folder" if is_own else None


def _parses(name: str, path: pathlib.Path) -> bool:
    """Returns whether the builder of a data set can read the folder."""
    try:
        builders.read(name, builders.load(name), path)
    except errors.UserError:
        return False
    return True


def _has_published_counts(name: str, path: pathlib.Path) -> bool:
    """Returns whether every split has the published number of images."""
    module = builders.load(name)
    try:
        rows = builders.read(name, module, path)[1]
    except errors.UserError:
        return False
    published = builders.published(name, module, {})
    return all(len(rows[split]) == counts["images"] for split, counts in published.items())


def _open_raw(name: str, path: pathlib.Path, on_bad_image: str) -> Source:
    """Returns the source of a data set's raw folder."""
    module = builders.load(name)
    if not hasattr(module, "scan"):
        raise errors.UserError(
            f"data set {name!r} is generated and has no raw folder; prepare it and give the prepared folder."
        )
    _, rows = builders.read(name, module, path)
    splits = {
        split: records.Split(
            name=f"{name}/{split}",
            source=Files([row.path for row in listed], [row.filename for row in listed], on_bad_image),
            pids=np.array([row.pid for row in listed], np.int32),
            camids=np.array([row.camid for row in listed], np.int32),
            filenames=tuple(row.filename for row in listed),
        )
        for split, listed in rows.items()
    }
    return of_dataset(
        records.ReIDDataset(name, query=splits.get("query"), gallery=splits.get("gallery")), f"data set {name}"
    )


def of_dataset(dataset: records.ReIDDataset, kind: str = "") -> Source:
    """Returns the queries and the gallery of an opened data set as a source."""
    dataset.require("query", "gallery")
    splits = {name: split for name, split in dataset.splits().items() if name != "train"}
    return Source(kind or f"data set {dataset.name}", dataset.name, splits)


def _open_plain(path: pathlib.Path, on_bad_image: str) -> Source:
    """Returns the source of all image files in a folder, sorted by relative path."""
    if path.is_file():
        raise errors.UserError(f"expected a folder of images, {path} is a file; give its folder.")
    paths = sorted(_image_files(path), key=lambda file: file.relative_to(path).as_posix())
    if not paths:
        there = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
        raise errors.UserError(
            f"expected images ({', '.join(image_names.SUFFIXES)}) in {path}, found none (there: {there}); give another "
            "--images DIR."
        )
    names = tuple(file.relative_to(path).as_posix() for file in paths)
    unknown = np.full(len(paths), -1, np.int32)
    split = records.Split("images", Files(paths, names, on_bad_image), unknown, unknown, names)
    return Source("plain images", "", {"images": split})


def _image_files(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields all image files in a folder and its subfolders, hidden ones excepted."""
    for directory, below, files in os.walk(folder, followlinks=True):
        below[:] = [name for name in below if not name.startswith(".")]
        for name in files:
            if image_names.is_image(name):
                yield pathlib.Path(directory) / name


def load_image(path: str | pathlib.Path) -> np.ndarray:
    """Returns an image file as uint8 [H, W, 3] RGB.

    Raises:
        UserError: the file cannot be decoded.
    """
    path = pathlib.Path(path)
    return image_io.decode(path.read_bytes(), str(path))
