"""A user's own images as a data set: a folder per split, or a CSV file that lists the images.

README.md describes the layouts and the numbering of identities and cameras.
"""

from __future__ import annotations

import csv
import pathlib
import re
from collections.abc import Iterable
from typing import NamedTuple

from reid_datasets import common

SPLITS = ("train", "query", "gallery")
INDEX_FILE = "index.csv"

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_NAME = re.compile(r"(-1|\d+)(?=[_.])")  # 0007_c2_15.jpg, where the split has no folders: the identity comes first
_CAMERA = re.compile(r"(?:^|[_\-])c(\d+)")  # ..._c2...: the camera, optional
_JUNK = -1
_LARGEST = 2**31 - 1


class _Listed(NamedTuple):
    """An image as listed by the user."""

    path: pathlib.Path
    identity: str
    camera: str
    filename: str


def scan(source: pathlib.Path) -> dict[str, list[common.Row]]:
    """Returns the images of all splits.

    Args:
        source: a CSV file, a folder with an `index.csv`, or a folder with `train`, `query` and `gallery`, or some of
            them.

    Returns:
        Rows of each existing split: those of a CSV file in its order, those of folders sorted by path.

    Raises:
        ValueError: the source cannot be read; the sentence names the file or the line.
    """
    if source.is_file():
        listed = _read_csv(source)
    elif (source / INDEX_FILE).is_file():
        listed = _read_csv(source / INDEX_FILE)
    else:
        listed = _read_folder(source)
    if ("query" in listed) != ("gallery" in listed):
        present, absent = ("query", "gallery") if "query" in listed else ("gallery", "query")
        raise ValueError(f"{source} has {present} images but no {absent} images; an evaluation needs both.")
    return _number(listed, source)


def _read_csv(file: pathlib.Path) -> dict[str, list[_Listed]]:
    listed: dict[str, list[_Listed]] = {}
    seen: dict[tuple[str, str], int] = {}
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not UTF-8 text; save it as CSV in UTF-8.") from None
    reader = csv.DictReader(lines, skipinitialspace=True)
    header = [name.strip() for name in reader.fieldnames or ()]
    reader.fieldnames = header
    missing = [name for name in ("path", "pid", "split") if name not in header]
    if missing:
        got = repr(",".join(header)) if header else "an empty file"
        raise ValueError(
            f"expected the header path,pid,camid,split (camid optional) in the first line of {file}, "
            f"{' and '.join(missing)} missing, got {got}; separate columns with commas."
        )
    for record in reader:
        line = reader.line_num
        # A line with too few fields leaves None, one with too many has a list under the key None.
        fields = {key: (value or "").strip() for key, value in record.items() if key is not None}
        if fields["split"] not in SPLITS:
            raise ValueError(
                f"{file}, line {line}: split should be train, query or gallery, it is {fields['split']!r}."
            )
        if not fields["path"] or not fields["pid"]:
            raise ValueError(f"{file}, line {line}: expected a path and a pid, one of them is empty.")
        path = file.parent / fields["path"]
        if not path.is_file():
            raise ValueError(f"{file}, line {line}: there is no file {path}; paths are relative to the CSV's folder.")
        first = seen.setdefault((fields["split"], fields["path"]), line)
        if first != line:
            raise ValueError(
                f"{file}, line {line}: {fields['path']} is listed in line {first} of the same split already."
            )
        camera = fields.get("camid", "")
        listed.setdefault(fields["split"], []).append(_Listed(path, fields["pid"], camera, fields["path"]))
    if not listed:
        raise ValueError(f"{file} has a header and no images below it.")
    return {split: listed[split] for split in SPLITS if split in listed}


def _read_folder(folder: pathlib.Path) -> dict[str, list[_Listed]]:
    listed = {split: _read_split(folder / split) for split in SPLITS if (folder / split).is_dir()}
    if not listed:
        there = sorted(path.name for path in folder.iterdir())
        hint = (
            "this is Market-1501's layout, prepare it under the name market1501"
            if "bounding_box_train" in there
            else f"put the images into such folders or list them in {INDEX_FILE}"
        )
        raise ValueError(
            f"expected the folders train, query and gallery, or {INDEX_FILE}, in {folder} "
            f"(there: {', '.join(there[:8]) or 'nothing'}); {hint}."
        )
    return listed


def _read_split(directory: pathlib.Path) -> list[_Listed]:
    files = _images(directory)
    folders = sorted(path for path in directory.iterdir() if path.is_dir() and not path.name.startswith("."))
    if files and folders:
        raise ValueError(
            f"{directory} holds both images ({files[0].name}) and folders ({folders[0].name}); use either one folder "
            "per identity or names that begin with the identity."
        )
    listed = []
    for person in folders:
        listed += [
            _Listed(path, person.name, _camera(path.name), f"{person.name}/{path.name}") for path in _images(person)
        ]
    for path in files:
        match = _NAME.match(path.name)
        if match is None:
            raise ValueError(
                f"the file name {path} does not parse: expected the identity's number first, such as 0007_c2_15.jpg; "
                f"rename the file, use one folder per identity, or list the images in {INDEX_FILE}."
            )
        listed.append(_Listed(path, match[1], _camera(path.name), path.name))
    if not listed:
        raise ValueError(f"expected images ({', '.join(_IMAGE_SUFFIXES)}) in {directory}, found none.")
    return listed


def _images(directory: pathlib.Path) -> list[pathlib.Path]:
    return sorted(
        path
        for path in directory.iterdir()
        if path.suffix.lower() in _IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _camera(name: str) -> str:
    match = _CAMERA.search(name)
    return match[1] if match else ""


def _number(listed: dict[str, list[_Listed]], source: pathlib.Path) -> dict[str, list[common.Row]]:
    cameras = _ranks(_as_key(row.camera) for rows in listed.values() for row in rows if row.camera not in ("", "-1"))
    for split in ("train", "query"):
        for row in listed.get(split, ()):
            if _as_key(row.identity) == (0, _JUNK, ""):
                raise ValueError(
                    f"{source}: {row.filename} has pid -1 (junk) in {split}; junk can only be in the gallery."
                )
    spaces = {"train": _identities(listed.get("train", ()), ())}
    spaces["query"] = spaces["gallery"] = _identities(listed.get("gallery", ()), listed.get("query", ()))
    found: dict[str, list[common.Row]] = {}
    for split, rows in listed.items():
        people = [spaces[split][_as_key(row.identity)] for row in rows]
        places = [cameras.get(_as_key(row.camera), -1) for row in rows]
        found[split] = [common.Row(row.path, *both, row.filename) for row, both in zip(rows, zip(people, places))]
    return found


def _identities(rows: Iterable[_Listed], queries: Iterable[_Listed]) -> dict[tuple, int]:
    """Returns the numbers of identities: whole numbers are kept where possible, otherwise all are ranked from 1."""
    wanted = {_as_key(row.identity) for row in queries}
    keys = {_as_key(row.identity) for row in rows} | wanted
    keys.discard((0, _JUNK, ""))
    numbers = all(kind == 0 and 0 <= number <= _LARGEST for kind, number, _ in keys)
    if numbers and (0, 0, "") not in wanted:  # a query of pid 0 is a person, and a gallery image of pid 0 a distractor
        table = {key: key[1] for key in keys}
    else:
        table = {key: rank + 1 for key, rank in _ranks(keys).items()}
    return table | {(0, _JUNK, ""): _JUNK}


def _ranks(keys: Iterable[tuple]) -> dict[tuple, int]:
    return {key: rank for rank, key in enumerate(sorted(set(keys)))}


def _as_key(text: str) -> tuple[int, int, str]:
    """Returns a sort key: whole numbers come by value before words, and 7 equals 0007."""
    return (0, int(text), "") if re.fullmatch(r"-?\d+", text) else (1, 0, text)


class Builder(common.RowBuilder):
    """Builder of a data set from a user's own images."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Put the images into train, query and gallery (a folder per identity, or names that begin with the identity), "
        "or list them in index.csv with the header path,pid,camid,split."
    )
