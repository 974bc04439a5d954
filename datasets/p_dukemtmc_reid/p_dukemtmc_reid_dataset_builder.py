"""P-DukeMTMC-reID: the people of DukeMTMC-reID who were seen both partly hidden and whole.

Derived from withdrawn data, see the README beside this file.
"""

from __future__ import annotations

import pathlib

from reid_datasets import common

# No published counts: the ones commonly quoted (README) have no source that states them.
DISJOINT_IDENTITIES = True

_HIDDEN, _WHOLE = "occluded_body_images", "whole_body_images"
# No camera is labeled: hidden and whole images count as two cameras, so that the camera rule removes nothing.
_CAMERAS = {_HIDDEN: 0, _WHOLE: 1}
_SPLITS = {"train": ("train", (_HIDDEN, _WHOLE)), "query": ("test", (_HIDDEN,)), "gallery": ("test", (_WHOLE,))}
_FOLDERS = tuple(dict.fromkeys(f"{half}/{name}" for half, names in _SPLITS.values() for name in names))


def layouts() -> list[tuple[str, ...]]:
    """The folders that must be there."""
    return [_FOLDERS]


def scan(folder: pathlib.Path, *, part_labels: bool = False) -> dict[str, list[common.Row]]:
    """Lists the images: training from both folders of `train`; queries hidden, gallery whole, from `test`.

    Args:
        folder: the folder that holds `train` and `test`.
        part_labels: body-part labels lie in `masks/` and are to be stored with the images.

    Raises:
        ValueError: with one sentence, when a folder is absent or empty or a file name does not parse.
    """
    common.require(folder, _FOLDERS)
    rows = {
        split: [
            row
            for name in names
            for row in common.scan_people(folder / half / name, _CAMERAS[name], common.IMAGE_SUFFIXES, f"{name}/")
        ]
        for split, (half, names) in _SPLITS.items()
    }
    return common.with_parts(folder, rows) if part_labels else rows


class Builder(common.RowBuilder):
    """Builder of P-DukeMTMC-reID from its folders."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "P-DukeMTMC-reID is made from DukeMTMC, which its authors have withdrawn; if you hold a copy, unpack it so "
        "that train and test lie in the folder, each with occluded_body_images and whole_body_images."
    )
