"""Images that a user lists in a CSV file with the columns path, pid, camid (optional) and split."""

from __future__ import annotations

import csv
import io
import os
import pathlib
import stat

from reid_datasets.reid_folder import listed as listed_lib
from reid_datasets.reid_folder.listed import Listed, plain, shown

_REQUIRED = ("path", "pid", "split")
_KNOWN = (*_REQUIRED, "camid")
_DELIMITERS = ",;\t"  # spreadsheets write semicolons where the comma is the decimal separator
_MISSING = ("nan", "none", "null", "n/a", "<na>")  # what programs write for a value that is not there


def read(file: pathlib.Path) -> dict[str, list[Listed]]:
    """Returns the listed images by split, in the order of the lines.

    Raises:
        ValueError: with a sentence that names the line.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not UTF-8 text; save it as CSV in UTF-8.") from None
    # `str.splitlines` would split names at characters such as U+2028.
    header, delimiter = _header(text, file)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    places = {name: header.index(name) for name in _KNOWN if name in header}
    listed: dict[str, list[Listed]] = {}
    lines, first = _Lines(), True
    for values in reader:
        if not any(value.strip() for value in values):
            continue
        if first:
            first = False
            continue
        where = f"{file}, line {reader.line_num}"
        if any(value.strip() for value in values[len(header) :]):
            raise ValueError(
                f"{where}: {len(values)} fields, the header has {len(header)}; put fields with the separator "
                f"{delimiter!r} into quotation marks."
            )
        fields = {name: values[k].strip() if k < len(values) else "" for name, k in places.items()}
        split, image, identity = _image(file, where, fields)
        lines.add(where, reader.line_num, split, image, identity)
        listed.setdefault(split, []).append(image)
    if not listed:
        raise ValueError(f"{file} has a header and no images below it.")
    return {split: listed[split] for split in listed_lib.SPLITS if split in listed}


def _header(text: str, file: pathlib.Path) -> tuple[list[str], str]:
    """Returns the names of the columns in lower case, and the separator: the one that gives the required columns."""
    found: dict[str, list[str]] = {}
    for delimiter in _DELIMITERS:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        first: list[str] = next((row for row in rows if any(name.strip() for name in row)), [])
        found[delimiter] = [name.strip().lower() for name in first]
    delimiter = next((mark for mark, names in found.items() if set(_REQUIRED) <= set(names)), ",")
    header = found[delimiter]
    missing = [name for name in _REQUIRED if name not in header]
    if missing:
        got = shown(",".join(header)) if header else "an empty file"
        raise ValueError(
            f"expected the header path,pid,camid,split (camid optional) in the first line of {file}, "
            f"{' and '.join(missing)} missing, got {got}; separate columns with commas."
        )
    twice = [name for name in _KNOWN if header.count(name) > 1]
    if twice:
        raise ValueError(f"{file}: the header has the column {twice[0]} {header.count(twice[0])} times; keep one.")
    return header, delimiter


def _image(file: pathlib.Path, where: str, fields: dict[str, str]) -> tuple[str, Listed, tuple[int, int]]:
    split = fields["split"].lower()
    if split not in listed_lib.SPLITS:
        raise ValueError(f"{where}: split should be train, query or gallery, it is {shown(fields['split'])}.")
    if not fields["path"] or not fields["pid"]:
        raise ValueError(f"{where}: expected a path and a pid, one of them is empty.")
    for name in ("pid", "camid"):
        if name == "pid" and fields["pid"].lower() in _MISSING:
            raise ValueError(f"{where}: expected a pid, got {fields['pid']}, which stands for a missing value.")
        key = listed_lib.as_key(fields.get(name, ""))
        if key[0] == 0 and key[1] < -1:
            meaning = "junk" if name == "pid" else "unknown"
            raise ValueError(f"{where}: expected a {name} of -1 ({meaning}) or more, or a name, got {key[1]}.")
    camera = fields.get("camid", "")
    camera = "" if camera.lower() in _MISSING else camera
    name, path = fields["path"], file.parent / fields["path"]
    identity = _file_identity(path)
    if identity is None and "\\" in name:  # written on Windows
        name = name.replace("\\", "/")
        path = file.parent / name
        identity = _file_identity(path)
    if identity is None:
        raise ValueError(f"{where}: there is no file {plain(path)}; paths are relative to the CSV's folder.")
    return split, Listed(path, fields["pid"], camera, name), identity


def _file_identity(path: pathlib.Path) -> tuple[int, int] | None:
    """Returns what two names of one file share, None where there is no file."""
    try:
        status = path.stat()
    except (OSError, ValueError):  # a name that no file can have is a ValueError
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None


class _Lines:
    """The lines of all files so far, which finds repeated ones."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int], list[tuple[int, str, Listed]]] = {}

    def add(self, where: str, line: int, split: str, image: Listed, identity: tuple[int, int]) -> None:
        """Refuses a file that is listed twice in a split, or as two people in training or in test."""
        for other_line, other_split, other in self._seen.setdefault(identity, []):
            if other_split == split and os.path.abspath(other.path) == os.path.abspath(image.path):
                raise ValueError(
                    f"{where}: {plain(image.filename)} is listed in line {other_line} of the same split already."
                )
            same_half = (other_split == "train") == (split == "train")
            if same_half and listed_lib.as_key(other.identity) != listed_lib.as_key(image.identity):
                raise ValueError(
                    f"{where}: {shown(image.filename)} has the pid {shown(image.identity)}, in line {other_line} it is "
                    f"{shown(other.identity)}; an image shows one person."
                )
        self._seen[identity].append((line, split, image))
