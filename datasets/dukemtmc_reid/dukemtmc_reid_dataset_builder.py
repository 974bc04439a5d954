"""DukeMTMC-reID: 36,411 boxes of people seen by eight cameras on a university campus.

The authors withdrew the data; this module reads a user's copy, and the project distributes none. README.md describes
layout, protocol and status.
"""

from __future__ import annotations

import pathlib
import re

from reid_datasets import common

FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
PUBLISHED = {
    "train": {"images": 16_522, "identities": 702, "cameras": 8},
    "query": {"images": 2_228, "identities": 702, "cameras": 8},
    "gallery": {"images": 17_661, "identities": 1_110, "cameras": 8},
}
DISJOINT_IDENTITIES = True

_NAME = re.compile(r"(\d+)_c(\d+)_f\d+")  # 0002_c1_f0044158.jpg: identity 2, camera 1, frame 44158


def scan(folder: pathlib.Path, *, part_labels: bool = False) -> dict[str, list[common.Row]]:
    """Returns the images of all splits, sorted by file name.

    Args:
        folder: the folder that holds `bounding_box_train`, `query` and `bounding_box_test`.
        part_labels: store the body-part labels in `masks/` with the images.

    Raises:
        ValueError: a split is missing or empty, or a file name does not parse.
    """
    common.require(folder, FOLDERS.values())
    rows = {
        split: common.scan_split(folder / name, "dukemtmc_reid", _NAME, "0002_c1_f0044158.jpg")
        for split, name in FOLDERS.items()
    }
    return common.with_parts(folder, rows) if part_labels else rows


class Builder(common.RowBuilder):
    """Builder of DukeMTMC-reID from its folders."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "The authors have withdrawn DukeMTMC-reID and it is not available; if you hold a copy, unpack it so "
        "that bounding_box_train, query and bounding_box_test lie in the folder."
    )
