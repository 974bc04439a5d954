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
from collections.abc import Sequence
from typing import Any

import numpy as np

from reid_jax import errors, file_io
from reid_jax.data import builders, checks, image_io, image_names, records, source_files

ON_BAD_IMAGE = ("fail", "skip")
PLAIN = "plain"  # data set name for images without identities, regardless of the folder's layout


class Files(Sequence[dict[str, Any]]):
    """Image files as the source of a split, read and decoded on each access.

    Args:
        paths: paths of the files.
        names: names of the images in the features file.
        on_bad_image: "fail" raises an error at the first file that cannot be decoded; "skip" replaces it by a gray
            pixel and adds its position to `bad`.

    Attributes:
        bad: a sentence for each file that could not be decoded, by position.
        digests: hashes of the contents of the files read so far.
        rotated: files read so far that ask for a rotation, which is not applied.
    """

    def __init__(self, paths: Sequence[pathlib.Path], names: Sequence[str], on_bad_image: str) -> None:
        self.paths, self.names, self.on_bad_image = paths, names, on_bad_image
        self.bad: dict[int, str] = {}
        self.digests: dict[int, bytes] = {}
        self.rotated: set[int] = set()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> dict[str, Any]:  # type: ignore[override]
        path = self.paths[index]
        try:
            data = path.read_bytes()
            image = image_io.decode(data, file_io.shown(str(path)))
            self.digests[int(index)] = source_files.digest(data)
            if image_io.orientation(data) > 1:
                self.rotated.add(int(index))
        except (errors.UserError, OSError) as error:
            sentence = (
                str(error)
                if isinstance(error, errors.UserError)
                else f"{file_io.shown(str(path))} cannot be read ({errors.reason(error)}); repair or remove the file."
            )
            if self.on_bad_image == "fail":
                raise errors.UserError(
                    f"{sentence.rstrip('.')} (extract.py and search.py leave such files out with --on-bad-image skip)."
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
        root: the folder that the names of the images are relative to, or the prepared folder; empty for images in
            memory.
        notes: sentences about files that are not read.
    """

    kind: str
    dataset: str
    splits: dict[str, records.Split]
    root: str = ""
    notes: tuple[str, ...] = ()

    def warnings(self) -> list[str]:
        """Returns sentences about the images read so far: what makes scores wrong, or is rarely intended."""
        files = [split.source for split in self.splits.values() if isinstance(split.source, Files)]
        if len(files) < len(self.splits):
            return []
        hashes: list[bytes] = []
        rotated: list[int] = []
        for source in files:
            rotated += [len(hashes) + place for place in sorted(source.rotated)]
            hashes += [source.digests.get(place, b"") for place in range(len(source))]
        inspection = checks.Inspection({}, hashes, np.zeros((len(hashes), 2), np.int32), tuple(rotated))
        return checks.warnings_about(self.splits) + checks.warnings_about_files(self.splits, inspection)


def open_source(path: str | pathlib.Path, *, dataset: str | None = None, on_bad_image: str = "fail") -> Source:
    """Returns the images of a folder, or one image; detects whether a folder is a data set.

    Args:
        path: a folder of images (searched recursively), one image file, the raw folder of a data set (or the CSV file
            of `reid_folder`), or a prepared folder.
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
        raise errors.UserError(f"expected an image or a folder of images, there is no {path}; give --images PATH.")
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
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            name = str(json.loads(report.read_text(encoding="utf-8"))["name"])
    if expected not in (None, name):
        raise errors.UserError(f"{path} contains the prepared data set {name!r}, not {expected!r}; omit --dataset.")
    return of_dataset(records.open_folder(name, path), f"prepared data set {name}")


def _detect(path: pathlib.Path) -> str | None:
    """Returns the data set with the layout of a folder, None for plain images."""
    if path.is_file():
        if image_names.is_image(path.name):
            return None
        if path.suffix.lower() != ".csv":
            raise errors.UserError(
                f"expected a folder of images, an image ({', '.join(image_names.SUFFIXES)}) or a CSV file, got the "
                f"file {file_io.shown(path)}; give another --images PATH."
            )
        return "reid_folder"
    fitting = [name for name in builders.available() if builders.fits(name, path)]
    # Data sets with the same layout differ in their file names or in the published counts.
    if len(fitting) > 1:
        parsed = [name for name in fitting if _parses(name, path)]
        if not parsed and _is_own(path) and _parses("reid_folder", path):
            return "reid_folder"  # a user's own images in the folders of a benchmark
        fitting = parsed or fitting
    if len(fitting) > 1:
        fitting = [name for name in fitting if _has_published_counts(name, path)] or fitting
    if len(fitting) > 1:
        raise errors.UserError(f"{path} has the layout of {' and of '.join(fitting)}; choose one with --dataset NAME.")
    if fitting:
        return fitting[0]
    return "reid_folder" if _is_own(path) else None


def _is_own(path: pathlib.Path) -> bool:
    """Returns whether a folder has the layout of `reid_folder`, with queries and a gallery."""
    names = {entry.name.lower() for entry in path.iterdir() if entry.is_dir()}
    return (path / "index.csv").is_file() or ("query" in names and bool(names & {"gallery", "bounding_box_test"}))


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
    origin, rows = builders.read(name, module, path)
    splits = {
        split: records.Split(
            source=Files([row.path for row in rows[split]], fields["filenames"], on_bad_image), **fields
        )
        for split, fields in builders.as_splits(name, rows, origin).items()
    }
    dataset = records.ReIDDataset(name, query=splits.get("query"), gallery=splits.get("gallery"))
    opened = of_dataset(dataset, f"data set {name}")
    folder = origin if origin.is_dir() else origin.parent
    notes = tuple(getattr(rows, "notes", ()))
    return dataclasses.replace(opened, root=os.path.abspath(folder), notes=notes)


def of_dataset(dataset: records.ReIDDataset, kind: str = "") -> Source:
    """Returns the queries and the gallery of an opened data set as a source."""
    dataset.require("query", "gallery")
    splits = {name: split for name, split in dataset.splits().items() if name != "train"}
    root = "" if dataset.path is None else os.path.abspath(dataset.path)
    return Source(kind or f"data set {dataset.name}", dataset.name, splits, root)


def _open_plain(path: pathlib.Path, on_bad_image: str) -> Source:
    """Returns the source of one image file, or of all in a folder, sorted by relative path."""
    if path.is_file():
        folder, there = path.parent, image_names.Listing((path.name,), (), ())
    else:
        with file_io.reading(path, "a folder of images", "give another --images DIR"):
            folder, there = path, image_names.walk(path)
    names = tuple(sorted(there.images))
    if not names:
        shown = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
        raise errors.UserError(
            f"expected images ({', '.join(image_names.SUFFIXES)}) in {path}, found none (there: {shown}); give another "
            "--images DIR."
        )
    builders.refuse_unreadable_names(names, folder)
    unknown = np.full(len(names), -1, np.int32)
    files = Files([folder / name for name in names], names, on_bad_image)
    split = records.Split("images", files, unknown, unknown, names)
    notes = [f"the link {name} leads to a folder above it and is not followed" for name in there.loops]
    if there.others:
        notes.append(f"{len(there.others)} other files are not read, such as {file_io.shown(there.others[0])}")
    return Source("plain images", "", {"images": split}, os.path.abspath(folder), tuple(notes))


def load_image(path: str | pathlib.Path) -> np.ndarray:
    """Returns an image file as uint8 [H, W, 3] RGB.

    Raises:
        UserError: the file cannot be decoded.
    """
    return image_io.decode(file_io.read_bytes(path, "an image", "give another file"), file_io.shown(path))
