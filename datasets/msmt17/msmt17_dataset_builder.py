"""MSMT17: 126,441 boxes of 4,101 people seen by fifteen cameras, indoors and outdoors, at four times of a month.

Version 1 is the first publication, and version 2 has masked faces. README.md describes layout, protocol and license.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Collection
from typing import Any

from reid_datasets import common

# Folders of the training and the test half.
VERSIONS = {"v1": ("train", "test"), "v2": ("mask_train_v2", "mask_test_v2")}
_LISTS = ("list_train.txt", "list_val.txt", "list_query.txt", "list_gallery.txt")
_NAME = re.compile(r"\d+_\d+_(\d+)_")  # 0000_000_01_0303morning_0008_0.jpg: person 0, image 0, camera 1, day and hour


def published(train_only: bool = False, **_: Any) -> dict[str, dict[str, int]]:
    """Returns the counts that the authors published, equal for both versions."""
    return {
        "train": {"images": 30_248 if train_only else 32_621, "identities": 1_041, "cameras": 15},
        "query": {"images": 11_659, "identities": 3_060, "cameras": 15},
        "gallery": {"images": 82_161, "identities": 3_060, "cameras": 15},
    }


def layouts(version: str = "") -> list[tuple[str, ...]]:
    """Returns the required folders and lists, as alternatives where no version is given."""
    return [(*VERSIONS[name], *_LISTS) for name in ([version] if version in VERSIONS else VERSIONS)]


def scan(folder: pathlib.Path, *, version: str = "", train_only: bool = False) -> dict[str, list[common.Row]]:
    """Returns the images in the order of the published lists.

    Args:
        folder: the folder that holds the four list files and the two folders of images.
        version: "v1" or "v2"; empty is the version that is found.
        train_only: leave out the images of `list_val.txt`, which published recipes use for training.

    Returns:
        Rows of each split. Identities are those of the lists plus one, since 0 is a distractor in a gallery; training
        and test identities are numbered independently, as in the lists.

    Raises:
        ValueError: a folder, list or listed image is missing, or a line does not parse.
    """
    if version and version not in VERSIONS:
        raise ValueError(f"option version of msmt17 should be v1 or v2, it is {version!r}.")
    version = version or ("v2" if (folder / VERSIONS["v2"][0]).is_dir() else "v1")
    other = "v2" if version == "v1" else "v1"
    hint = "unpack the whole data set there"
    if (folder / VERSIONS[other][0]).is_dir() and not (folder / VERSIONS[version][0]).is_dir():
        hint = f"this is the other version, take option version={other}"
    common.require(folder, (*VERSIONS[version], *_LISTS), hint)
    train, test = (folder / name for name in VERSIONS[version])
    training = ["list_train.txt"] if train_only else ["list_train.txt", "list_val.txt"]
    # One directory listing, because testing 126,441 files on a network file system takes minutes.
    in_train, in_test = ({path.relative_to(half).as_posix() for path in half.rglob("*.*")} for half in (train, test))
    return {
        "train": [row for name in training for row in _read_list(folder / name, train, in_train)],
        "query": _read_list(folder / "list_query.txt", test, in_test),
        "gallery": _read_list(folder / "list_gallery.txt", test, in_test),
    }


def _read_list(file: pathlib.Path, directory: pathlib.Path, there: Collection[str]) -> list[common.Row]:
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition(" ")
        match = _NAME.match(pathlib.PurePosixPath(name).name)
        if match is None or not label.isdecimal() or int(match[1]) < 1:
            raise ValueError(
                f"{file}, line {number}: expected an image and its identity, such as "
                f"'0000/0000_000_01_0303morning_0008_0.jpg 0', got {line.strip()[:80]!r}; get the list file again."
            )
        if name not in there:
            raise ValueError(
                f"{file}, line {number}: there is no {directory / name}; use the lists and the images of one version, "
                "and unpack all of them."
            )
        rows.append(common.Row(directory / name, int(label) + 1, int(match[1]) - 1, name))
    if not rows:
        raise ValueError(f"{file} lists no images; get the list file again.")
    return rows


class Builder(common.RowBuilder):
    """Builder of MSMT17 from its lists and folders."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Ask the authors for MSMT17 and unpack it, so that list_train.txt, list_val.txt, list_query.txt and "
        "list_gallery.txt lie in the folder beside train and test (version 1) or mask_train_v2 and mask_test_v2 "
        "(version 2)."
    )
