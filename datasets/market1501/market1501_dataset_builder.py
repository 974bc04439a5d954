"""Market-1501: 32,668 boxes of 1,501 people seen by six cameras in front of a supermarket.

This module reads the published folders; README.md describes layout, protocol and license.
"""

from __future__ import annotations

import pathlib
import re

from reid_datasets import common

FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}

# Counts in the authors' README, with which preparation compares the files.
PUBLISHED = {
    "train": {"images": 12_936, "identities": 751, "cameras": 6},
    "query": {"images": 3_368, "identities": 750, "cameras": 6},
    "gallery": {"images": 19_732, "identities": 750, "cameras": 6, "junk": 3_819},
}
DISJOINT_IDENTITIES = True  # between training and test

_NAME = re.compile(r"(-1|\d+)_c(\d+)")  # 0002_c1s1_000451_03.jpg: identity 2, camera 1, sequence 1, frame 451, box 3


def scan(folder: pathlib.Path, *, part_labels: bool = False) -> dict[str, list[common.Row]]:
    """Returns the images of all splits, sorted by file name as in the published evaluation.

    Args:
        folder: the folder that holds `bounding_box_train`, `query` and `bounding_box_test`.
        part_labels: store the body-part labels in `masks/` with the images.

    Returns:
        Rows of each split, with identities as published (-1 is junk, 0 a distractor) and cameras counted from 0.

    Raises:
        ValueError: a split is missing or empty, or a file name does not parse.
    """
    common.require(folder, FOLDERS.values())
    rows = {
        split: common.scan_split(folder / name, "market1501", _NAME, "0002_c1s1_000451_03.jpg")
        for split, name in FOLDERS.items()
    }
    return common.with_parts(folder, rows) if part_labels else rows


class Builder(common.RowBuilder):
    """Builder of Market-1501 from its published folders."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Ask the authors for Market-1501-v15.09.15.zip and unpack it, so that bounding_box_train, query and "
        "bounding_box_test lie in the folder."
    )
