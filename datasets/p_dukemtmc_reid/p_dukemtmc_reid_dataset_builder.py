"""P-DukeMTMC-reID: the people of DukeMTMC-reID with both occluded and full-body images.

Derived from withdrawn data, see README.md.
"""

from __future__ import annotations

import pathlib

from reid_datasets import common

# There are no published counts: no primary source states the commonly quoted ones (README.md).
DISJOINT_IDENTITIES = True

_OCCLUDED, _WHOLE = "occluded_body_images", "whole_body_images"
# Cameras are not labeled: occluded and full-body images count as two, so that the camera filter removes nothing.
_CAMERAS = {_OCCLUDED: 0, _WHOLE: 1}
_SPLITS = {"train": ("train", (_OCCLUDED, _WHOLE)), "query": ("test", (_OCCLUDED,)), "gallery": ("test", (_WHOLE,))}
_FOLDERS = tuple(dict.fromkeys(f"{half}/{name}" for half, names in _SPLITS.values() for name in names))


def layouts() -> list[tuple[str, ...]]:
    """Returns the required folders."""
    return [_FOLDERS]


def scan(folder: pathlib.Path, *, part_labels: bool = False) -> dict[str, list[common.Row]]:
    """Returns the images: training from both folders of `train`, occluded queries and full-body gallery from `test`.

    Args:
        folder: the folder that holds `train` and `test`.
        part_labels: store the body-part labels in `masks/` with the images.

    Raises:
        ValueError: a folder is missing or empty, or a file name does not parse.
    """
    common.require(folder, _FOLDERS)
    rows = {
        split: [row for name in names for row in common.scan_people(folder / half / name, _CAMERAS[name], f"{name}/")]
        for split, (half, names) in _SPLITS.items()
    }
    return common.with_parts(folder, rows) if part_labels else rows


class Builder(common.RowBuilder):
    """Builder of P-DukeMTMC-reID from its folders."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "P-DukeMTMC-reID is derived from DukeMTMC, which its authors have withdrawn; if you hold a copy, unpack it so "
        "that train and test lie in the folder, each with occluded_body_images and whole_body_images."
    )
