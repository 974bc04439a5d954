"""Occluded-REID: 200 people with five occluded and five full-body images each; there is no training split.

README.md describes layout, protocol and status.
"""

from __future__ import annotations

import pathlib

from reid_datasets import common

FOLDERS = {"query": "occluded_body_images", "gallery": "whole_body_images"}
# Cameras are not labeled: the protocol treats query and gallery as two cameras, so that the filter removes nothing.
PUBLISHED = {
    "query": {"images": 1_000, "identities": 200, "cameras": 1},
    "gallery": {"images": 1_000, "identities": 200, "cameras": 1},
}


def scan(folder: pathlib.Path) -> dict[str, list[common.Row]]:
    """Returns the images of query (camera 0) and gallery (camera 1), by person and name.

    Args:
        folder: the folder that holds `occluded_body_images` and `whole_body_images`.

    Raises:
        ValueError: a split is missing or empty, or a file name does not parse.
    """
    common.require(folder, FOLDERS.values())
    rows = {split: common.scan_people(folder / name, camid) for camid, (split, name) in enumerate(FOLDERS.items())}
    for row in (row for listed in rows.values() for row in listed):
        if (other := common.naming_of(row.path.name)) not in (None, "occluded_reid"):
            raise ValueError(
                f"the file name {row.path} is of {other}, expected occluded_reid (such as 001_01.tif); give the right "
                "folder, or prepare it under its own name."
            )
    return rows


class Builder(common.RowBuilder):
    """Builder of Occluded-REID from its two folders."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Ask the authors for Occluded_REID and unpack it, so that occluded_body_images and whole_body_images lie in "
        "the folder."
    )
