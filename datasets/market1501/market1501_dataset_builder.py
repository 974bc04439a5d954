"""Market-1501: 32,668 boxes of 1,501 people seen by six cameras in front of a supermarket.

This file turns the published folders into records; layout, protocol and licence are in the README beside it.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}

# What the authors' README states; preparation compares the files found with it.
PUBLISHED = {
    "train": {"images": 12_936, "identities": 751, "cameras": 6},
    "query": {"images": 3_368, "identities": 750, "cameras": 6},
    "gallery": {"images": 19_732, "identities": 750, "cameras": 6, "junk": 3_819},
}
DISJOINT_IDENTITIES = True  # nobody is in both the training and the test half

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_NAME = re.compile(r"(-1|\d+)_c(\d+)")  # 0002_c1s1_000451_03.jpg: identity 2, camera 1, sequence 1, frame 451, box 3


class Row(NamedTuple):
    """One image of the published list."""

    path: pathlib.Path
    pid: int
    camid: int
    filename: str


def scan(folder: pathlib.Path) -> dict[str, list[Row]]:
    """Lists the images of all splits, sorted by file name as in the published evaluation.

    Args:
        folder: the folder that holds `bounding_box_train`, `query` and `bounding_box_test`.

    Returns:
        Rows of each split; identities as published (-1 junk, 0 distractor), cameras counted from 0.

    Raises:
        ValueError: with one sentence, when a split is absent or empty or a file name does not parse.
    """
    return {split: _scan_split(folder, name) for split, name in FOLDERS.items()}


def _scan_split(folder: pathlib.Path, name: str) -> list[Row]:
    directory = folder / name
    if not directory.is_dir():
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise ValueError(
            f"expected the folders {', '.join(FOLDERS.values())} in {folder}, but {name} is missing (there: {there}); "
            "unpack the whole data set there."
        )
    rows = []
    for path in sorted(directory.iterdir(), key=lambda path: path.name):
        if path.suffix.lower() not in _IMAGE_SUFFIXES or path.name.startswith("."):
            continue  # Thumbs.db, .DS_Store and the like
        match = _NAME.match(path.name)
        if match is None or int(match[2]) < 1:
            raise ValueError(
                f"the file name {path} does not parse: expected an identity and a camera counted from 1, such as "
                "0002_c1s1_000451_03.jpg; rename the file or take it out."
            )
        rows.append(Row(path, int(match[1]), int(match[2]) - 1, path.name))
    if not rows:
        raise ValueError(f"expected images ({', '.join(_IMAGE_SUFFIXES)}) in {directory}, found none.")
    return rows


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Builder of Market-1501 from its published folders."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First version."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Ask the authors for Market-1501-v15.09.15.zip and unpack it, so that bounding_box_train, query and "
        "bounding_box_test lie in the folder."
    )
    rows: dict[str, list[Row]] | None = None  # set by whoever has scanned, checked or thinned out the list already

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "pid": np.int32,
                    "camid": np.int32,
                    "filename": tfds.features.Text(),
                }
            ),
            metadata=tfds.core.MetadataDict(),
            citation=(pathlib.Path(__file__).parent / "CITATIONS.bib").read_text(encoding="utf-8"),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        splits = self.rows if self.rows is not None else scan(pathlib.Path(dl_manager.manual_dir))
        self.info.metadata["pids"] = {split: [row.pid for row in rows] for split, rows in splits.items()}
        self.info.metadata["camids"] = {split: [row.camid for row in rows] for split, rows in splits.items()}
        self.info.metadata["filenames"] = {split: [row.filename for row in rows] for split, rows in splits.items()}
        return {split: self._generate_examples(rows) for split, rows in splits.items()}

    def _generate_examples(self, rows: list[Row]) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, row in enumerate(rows):
            yield (
                index,
                {
                    "image": row.path.read_bytes(),
                    "pid": row.pid,
                    "camid": row.camid,
                    "filename": row.filename,
                },
            )
