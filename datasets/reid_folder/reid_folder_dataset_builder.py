"""A user's own images as a data set: a folder per split, or a CSV file that lists the images.

README.md describes the layouts and the numbering of identities and cameras.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterable

from reid_datasets import common
from reid_datasets.reid_folder import csv_lists, folders
from reid_datasets.reid_folder.listed import Listed, as_key, shown

INDEX_FILE = "index.csv"

_JUNK = -1
_LARGEST = 2**31 - 1


def scan(source: pathlib.Path) -> common.Scan:
    """Returns the images of all splits.

    Args:
        source: a CSV file, a folder with an `index.csv`, or a folder with `train`, `query` and `gallery`, or some of
            them.

    Returns:
        Rows of each existing split: those of a CSV file in its order, those of folders sorted by path.

    Raises:
        ValueError: the source cannot be read; the sentence names the file or the line.
    """
    notes: list[str] = []
    if source.is_file():
        listed = csv_lists.read(source)
    elif (source / INDEX_FILE).is_file():
        listed = csv_lists.read(source / INDEX_FILE)
    else:
        listed, notes = folders.read(source, INDEX_FILE)
    if ("query" in listed) != ("gallery" in listed):
        present, absent = ("query", "gallery") if "query" in listed else ("gallery", "query")
        raise ValueError(f"{source} has {present} images but no {absent} images; an evaluation needs both.")
    return common.Scan(_number(listed, source), notes)


def _number(listed: dict[str, list[Listed]], source: pathlib.Path) -> dict[str, list[common.Row]]:
    for row in (row for rows in listed.values() for row in rows):
        kind, number, _ = as_key(row.identity)
        if kind == 0 and number < _JUNK:
            raise ValueError(
                f"{source}: {shown(row.filename)} has pid {number}; expected -1 (junk), 0 or more, or a name."
            )
    for split in ("train", "query"):
        for row in listed.get(split, ()):
            if as_key(row.identity) == (0, _JUNK, ""):
                raise ValueError(
                    f"{source}: {row.filename} has pid -1 (junk) in {split}; junk can only be in the gallery."
                )
    known = (as_key(row.camera) for rows in listed.values() for row in rows if row.camera)
    cameras = _ranks(key for key in known if key != (0, -1, ""))
    spaces = {"train": _Identities(listed.get("train", ()), ())}
    spaces["query"] = spaces["gallery"] = _Identities(listed.get("gallery", ()), listed.get("query", ()))
    return {
        split: [
            common.Row(
                row.path,
                spaces[split].numbers[as_key(row.identity)],
                cameras.get(as_key(row.camera), -1),
                row.filename,
                person=spaces[split].names.get(as_key(row.identity), ""),
                camera=row.camera if as_key(row.camera) in cameras else "",
            )
            for row in rows
        ]
        for split, rows in listed.items()
    }


class _Identities:
    """Numbers of identities, and their own names where the numbers are not those.

    Attributes:
        numbers: whole numbers are kept where possible, otherwise all identities are ranked from 1.
        names: what the user calls the ranked identities; empty where numbers are kept.
    """

    def __init__(self, rows: Iterable[Listed], queries: Iterable[Listed]) -> None:
        """Numbers the identities of `rows` and `queries` together."""
        rows, queries = list(rows), list(queries)
        junk = (0, _JUNK, "")
        wanted = {as_key(row.identity) for row in queries}
        keys = {as_key(row.identity) for row in rows} | wanted
        keys.discard(junk)
        kept = all(kind == 0 and number <= _LARGEST for kind, number, _ in keys)
        # A query of pid 0 is a person, and a gallery image of pid 0 a distractor.
        kept = kept and (0, 0, "") not in wanted
        self.numbers = {key: key[1] if kept else rank + 1 for key, rank in _ranks(keys).items()} | {junk: _JUNK}
        self.names: dict[tuple[int, int, str], str] = {}
        for row in [] if kept else [*queries, *rows]:
            if as_key(row.identity) != junk:
                self.names.setdefault(as_key(row.identity), row.identity)


def _ranks(keys: Iterable[tuple[int, int, str]]) -> dict[tuple[int, int, str], int]:
    return {key: rank for rank, key in enumerate(sorted(set(keys)))}


class Builder(common.RowBuilder):
    """Builder of a data set from a user's own images."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Put the images into train, query and gallery (a folder per identity, or names that begin with the identity), "
        "or list them in index.csv with the header path,pid,camid,split."
    )
