"""Helpers of the builders: rows, lists of images in folders, body-part labels, and the TFDS base class.

Like the builders, this module imports TFDS, numpy, the standard library and the list of image endings only.
"""

from __future__ import annotations

import os
import pathlib
import re
import struct
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from reid_jax.data import image_names

# Naming schemes of the benchmarks, which identify the data set of a file name.
NAMINGS = {
    "market1501": re.compile(r"(-1|\d{4})_c\ds\d_\d+_\d+"),  # 0002_c1s1_000451_03.jpg
    "dukemtmc_reid (or occluded_duke)": re.compile(r"\d{4}_c\d_f\d+"),  # 0002_c1_f0044158.jpg
    "msmt17": re.compile(r"\d{4}_\d{3}_\d\d_\d{4}(morning|noon|afternoon)_"),  # 0000_000_01_0303morning_0008_0.jpg
    "cuhk03_np": re.compile(r"\d{4}_c\d_\d+\.png"),  # 0001_c1_22.png
    "occluded_reid": re.compile(r"\d{3}_\d\d\.tif"),  # 001_01.tif
}

PART_FOLDER = "masks/pifpaf_maskrcnn_filtering"
PART_THRESHOLD = 0.3  # pixels where no part reaches it are background


class Row(NamedTuple):
    """An image of a published list.

    Attributes:
        path: the file, or an object with a method `read_bytes`.
        pid: identity; -1 is junk, 0 a distractor.
        camid: camera counted from 0; -1 is unknown.
        filename: name, unique within the split.
        parts: file with the confidence maps of the body parts, None without.
        person: the identity's own name where `pid` numbers names ("anna"), otherwise empty.
        camera: the camera's own name where `camid` numbers names ("entrance"), otherwise empty.
    """

    path: Any
    pid: int
    camid: int
    filename: str
    parts: pathlib.Path | None = None
    person: str = ""
    camera: str = ""


class Scan(dict[str, list[Row]]):
    """Rows by split, as every `scan` returns them, with sentences about files that it did not read.

    Attributes:
        notes: the sentences, without a full stop.
    """

    def __init__(self, rows: Mapping[str, list[Row]], notes: Iterable[str] = ()) -> None:
        """Stores rows and notes."""
        super().__init__(rows)
        self.notes = tuple(notes)


def relative_names(rows: Iterable[Row], origin: pathlib.Path) -> list[str]:
    """Returns the paths of the rows' files relative to the source, with forward slashes.

    Args:
        rows: the rows. Those without a file of their own keep their name.
        origin: the source, a folder or a file in it. Files outside have their absolute path.
    """
    folder = os.path.abspath(origin if origin.is_dir() else origin.parent)
    inside = os.path.join(folder, "")
    found = []
    for row in rows:
        path = os.path.abspath(row.path) if isinstance(row.path, pathlib.Path) else row.filename
        found.append(pathlib.PurePath(path.removeprefix(inside)).as_posix())
    return found


def naming_of(filename: str) -> str | None:
    """Returns the data set whose naming scheme a file name follows, None for other names."""
    return next((name for name, pattern in NAMINGS.items() if pattern.match(filename)), None)


def contents(folder: pathlib.Path) -> str:
    """Returns the names of up to eight files and folders in a folder, for error messages."""
    return ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"


def require(folder: pathlib.Path, wanted: Iterable[str], hint: str = "unpack the whole data set there") -> None:
    """Makes sure that the required folders and files exist.

    Raises:
        ValueError: with a sentence that names the first missing entry and the contents of the folder.
    """
    wanted = tuple(wanted)
    for name in wanted:
        if not (folder / name).exists():
            kind = "files" if all(pathlib.PurePath(entry).suffix for entry in wanted) else "folders"
            raise ValueError(
                f"expected the {kind} {', '.join(wanted)} in {folder}, but {name} is missing (there: "
                f"{contents(folder)}); {hint}."
            )


def image_files(directory: pathlib.Path) -> list[pathlib.Path]:
    """Returns the images in a folder, sorted by name; other files are ignored.

    Raises:
        ValueError: the folder has no images.
    """
    files = [directory / name for name in image_names.images_in(directory)]
    if files:
        return files
    deeper = sorted(path.name for path in directory.iterdir() if path.is_dir())
    hint = f"; move them up from {directory / deeper[0]}" if deeper else ""
    raise ValueError(f"expected images ({', '.join(image_names.SUFFIXES)}) in {directory}, found none{hint}.")


def scan_split(directory: pathlib.Path, dataset: str, pattern: re.Pattern, example: str) -> list[Row]:
    """Returns the rows of a folder whose file names hold identity and camera, sorted by name.

    Args:
        directory: the split's folder.
        dataset: name of the data set, for error messages.
        pattern: matches the beginning of a name; group 1 is the identity, group 2 the camera counted from 1.
        example: a name that matches.

    Raises:
        ValueError: there are no images, or a name does not match; the sentence names the data set whose scheme it has.
    """
    rows = []
    for path in image_files(directory):
        match, other = pattern.match(path.name), naming_of(path.name)
        if other is not None and naming_of(example) != other:
            raise ValueError(
                f"the file name {path} is of {other}, expected {dataset} (such as {example}); give the right "
                "folder, prepare it under its own name, or as reid_folder if these are images of your own."
            )
        if match is None or int(match[2]) < 1:
            raise ValueError(
                f"the file name {path} does not parse: expected an identity and a camera counted from 1, such as "
                f"{example}; rename the file or take it out, or prepare images of your own as reid_folder."
            )
        rows.append(Row(path, int(match[1]), int(match[2]) - 1, path.name))
    return rows


def scan_people(directory: pathlib.Path, camid: int, prefix: str = "") -> list[Row]:
    """Returns the rows of a folder of images, or of folders per person; names begin with the identity and `_`.

    Args:
        directory: the folder, such as `occluded_body_images`.
        camid: the camera of all its images.
        prefix: prefix of the file names in the rows, which keeps them unique in a split.

    Raises:
        ValueError: there are no images, or a name has no identity.
    """
    people = sorted(path for path in directory.iterdir() if path.is_dir() and not path.name.startswith("."))
    rows = []
    for person in people or [directory]:
        for path in image_files(person):
            identity = path.name.partition("_")[0]
            if not identity.isdecimal():
                raise ValueError(
                    f"the file name {path} does not parse: expected the identity and an underscore first, such as "
                    "001_01; rename the file or take it out."
                )
            rows.append(Row(path, int(identity), camid, prefix + path.relative_to(directory).as_posix()))
    return rows


# ---- body parts -----------------------------------------------------------------------------------------------------

# Channels of a label file: 17 key points, then 19 limbs between two key points (by index).
_SIDES = ("left", "right")
_JOINTS = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
_POINTS = ("nose", *(f"{side}_{joint}" for joint in _JOINTS for side in _SIDES))
_ENDS = (
    *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6)),
    *((5, 7), (6, 8), (7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
)
_LIMBS = tuple(f"{_POINTS[start]}-{_POINTS[end]}" for start, end in _ENDS)
PART_CHANNELS = (*_POINTS, *_LIMBS)


def _arm(side: str) -> tuple[str, ...]:
    elbow = f"{side}_elbow"
    return (f"{side}_shoulder", elbow, f"{side}_wrist", f"{side}_shoulder-{elbow}", f"{elbow}-{side}_wrist")


def _leg(side: str) -> tuple[str, ...]:
    return (f"{side}_knee", f"{side}_ankle-{side}_knee", f"{side}_knee-{side}_hip")


# The eight parts in the order of their labels from 1 on; 0 is background.
PARTS: dict[str, tuple[str, ...]] = {
    "head": (*_POINTS[:5], *_LIMBS[12:]),
    "left_arm": _arm("left"),
    "right_arm": _arm("right"),
    "torso": ("left_hip", "right_hip", *_LIMBS[4:8]),
    "left_leg": _leg("left"),
    "right_leg": _leg("right"),
    "left_foot": ("left_ankle",),
    "right_foot": ("right_ankle",),
}


def merge_parts(maps: np.ndarray) -> np.ndarray:
    """Returns the maxima of the 36 confidence maps of a label file over the channels of each of `PARTS`.

    Args:
        maps: float [36, H, W], confidences in [0, 1].

    Returns:
        float32 [8, H, W].
    """
    places = {name: place for place, name in enumerate(PART_CHANNELS)}
    groups = [maps[[places[name] for name in names]] for names in PARTS.values()]
    return np.stack([group.max(axis=0) for group in groups]).astype(np.float32)


def part_labels(confidence: np.ndarray) -> np.ndarray:
    """Turns confidences [8, H, W] into labels uint8 [H, W]: 1 + the strongest part, 0 where none reaches 0.3."""
    return np.where(confidence.max(axis=0) < PART_THRESHOLD, 0, 1 + confidence.argmax(axis=0)).astype(np.uint8)


def with_parts(folder: pathlib.Path, rows: Mapping[str, list[Row]]) -> dict[str, list[Row]]:
    """Returns the rows with the label files of their images, `masks/pifpaf_maskrcnn_filtering/<image's path>.npy`.

    Only training requires labels: a test split without any label file is returned as it is.

    Raises:
        ValueError: label files are missing or are not float arrays [36, H, W].
    """
    root = folder / PART_FOLDER
    found = {}
    for split, listed in rows.items():
        files = [(root / row.path.relative_to(folder)).with_suffix(".npy") for row in listed]
        missing = [file for file in files if not file.is_file()]
        if missing and (split == "train" or len(missing) < len(files)):
            raise ValueError(
                f"{len(missing)} of {len(files)} {split} images have no body-part labels, the first should be "
                f"{missing[0]}; add the label files or leave out part_labels."
            )
        found[split] = listed if missing else [row._replace(parts=file) for row, file in zip(listed, files)]
        for file in () if missing else files:
            _check_part_file(file)
    return found


def _check_part_file(file: pathlib.Path) -> None:
    try:
        maps = np.load(file, mmap_mode="r")
    except (ValueError, OSError, EOFError):
        raise ValueError(f"{file} is not a readable array file (.npy); replace it.") from None
    if maps.ndim != 3 or len(maps) != len(PART_CHANNELS) or not np.issubdtype(maps.dtype, np.floating):
        raise ValueError(
            f"expected float maps [36, H, W] (17 key points, 19 limbs) in {file}, got {maps.dtype} {list(maps.shape)}; "
            "replace it."
        )


def encode_png(image: np.ndarray) -> bytes:
    """Encodes uint8 [H, W] or [H, W, 3] as PNG, without an image library, which builders do not import."""
    height, width = image.shape[:2]
    lines = np.ascontiguousarray(image).reshape(height, -1)
    data = np.concatenate([np.zeros((height, 1), np.uint8), lines], axis=1).tobytes()  # filter byte first
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if image.ndim == 2 else 2, 0, 0, 0)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data, 6)) + chunk(b"IEND", b"")


def _encode_parts(file: pathlib.Path | None) -> bytes:
    """Returns a label map as PNG; one pixel of background without a file."""
    if file is None:
        return encode_png(np.zeros((1, 1), np.uint8))
    return encode_png(part_labels(merge_parts(np.nan_to_num(np.clip(np.load(file), 0.0, 1.0)))))


# ---- TFDS -----------------------------------------------------------------------------------------------------------


class RowBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Base class of builders of files: writes the rows that its module's `scan` returns for the manual folder."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First version."}
    rows: Mapping[str, list[Row]] | None = None  # set where the files were scanned and checked before
    origin: pathlib.Path | None = None  # their source

    def __init__(self, *, options: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """Stores the keyword arguments of `scan`; the others are those of TFDS."""
        self.options = dict(options or {})  # first, since the constructor of TFDS asks for the features
        super().__init__(**kwargs)

    @property
    def _module(self) -> Any:
        return sys.modules[type(self).__module__]

    def _info(self) -> tfds.core.DatasetInfo:
        features: dict[str, Any] = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "pid": np.int32,
            "camid": np.int32,
            "filename": tfds.features.Text(),
        }
        if self.options.get("part_labels"):
            features["parts"] = tfds.features.Image(shape=(None, None, 1), encoding_format="png")
        citations = pathlib.Path(str(self._module.__file__)).parent / "CITATIONS.bib"
        return tfds.core.DatasetInfo(
            builder=self,
            description=self._module.__doc__,
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(),
            citation=citations.read_text(encoding="utf-8") if citations.exists() else None,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        splits, origin = self.rows, self.origin
        if splits is None:
            origin = pathlib.Path(dl_manager.manual_dir)
            splits = self._module.scan(origin, **self.options)
        assert splits is not None
        if origin is not None:
            self.info.metadata["paths"] = {split: relative_names(rows, origin) for split, rows in splits.items()}
        people = {split: {str(row.pid): row.person for row in rows if row.person} for split, rows in splits.items()}
        self.info.metadata["people"] = {split: names for split, names in people.items() if names}
        cameras = {split: {str(row.camid): row.camera for row in rows if row.camera} for split, rows in splits.items()}
        self.info.metadata["cameras"] = {split: names for split, names in cameras.items() if names}
        for key, field in (("pids", "pid"), ("camids", "camid"), ("filenames", "filename")):
            self.info.metadata[key] = {split: [getattr(row, field) for row in rows] for split, rows in splits.items()}
        return {split: self._generate_examples(rows) for split, rows in splits.items()}

    def _generate_examples(self, rows: list[Row]) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, row in enumerate(rows):
            record = {"image": row.path.read_bytes(), "pid": row.pid, "camid": row.camid, "filename": row.filename}
            if self.options.get("part_labels"):
                record["parts"] = _encode_parts(row.parts)
            yield index, record
