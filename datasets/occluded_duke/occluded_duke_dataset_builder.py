"""Occluded-DukeMTMC: new splits of DukeMTMC-reID in which every query shows an occluded person.

Derived from withdrawn data, see README.md.
"""

from __future__ import annotations

import pathlib
import re

from reid_datasets import common

FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
PUBLISHED = {
    "train": {"images": 15_618, "identities": 702, "cameras": 8},
    "query": {"images": 2_210, "identities": 519, "cameras": 8},
    "gallery": {"images": 17_661, "identities": 1_110, "cameras": 8},
}
DISJOINT_IDENTITIES = True

_NAME = re.compile(r"(\d+)_c(\d+)_f\d+")  # 0001_c2_f0046182.jpg: identity 1, camera 2, frame 46182


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
        split: common.scan_split(folder / name, "occluded_duke", _NAME, "0001_c2_f0046182.jpg")
        for split, name in FOLDERS.items()
    }
    return common.with_parts(folder, rows) if part_labels else rows


class Builder(common.RowBuilder):
    """Builder of Occluded-DukeMTMC from the folders that its authors' script writes."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Occluded-DukeMTMC is derived from DukeMTMC-reID, which its authors have withdrawn; if you hold a copy, sort "
        "it by the published name lists, so that bounding_box_train, query and bounding_box_test lie in the folder."
    )
