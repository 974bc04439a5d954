"""CUHK03 under the 767/700 protocol ("CUHK03-NP"), with boxes drawn by hand (labeled) or by a detector (detected).

This module reads the folders of CUHK03-NP, or the original `cuhk-03.mat` with the list files of the protocol. README.md
describes layout, protocol and license.
"""

from __future__ import annotations

import functools
import os
import pathlib
import re
import threading
from typing import Any

import numpy as np
from reid_datasets import common

DISJOINT_IDENTITIES = True

_SPLITS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
_NAME = re.compile(r"(\d+)_c(\d)_")  # 0003_c1_21.png: identity 3, camera 1
_ORIGINAL = re.compile(r"(\d+)_(\d+)_([12])_(\d+)\.png")  # 1_001_2_07.png: pair of cameras, person, camera, image
_INDICES = {"train": "train_idx", "query": "query_idx", "gallery": "gallery_idx"}


def published(boxes: str = "labeled") -> dict[str, dict[str, int]]:
    """Returns the counts that the authors of the protocol published."""
    train, gallery = (7_368, 5_328) if boxes == "labeled" else (7_365, 5_332)
    return {
        "train": {"images": train, "identities": 767, "cameras": 2},
        "query": {"images": 1_400, "identities": 700, "cameras": 2},
        "gallery": {"images": gallery, "identities": 700, "cameras": 2},
    }


def layouts(boxes: str = "labeled") -> list[tuple[str, ...]]:
    """Returns the layouts: the split folders, or the original file (perhaps in a folder) with the protocol's list."""
    return [
        tuple(f"{boxes}/{name}" for name in _SPLITS.values()),
        ("cuhk-03.mat", _protocol(boxes)),
        ("cuhk03_release/cuhk-03.mat", _protocol(boxes)),
    ]


def _protocol(boxes: str) -> str:
    return f"cuhk03_new_protocol_config_{boxes}.mat"


def scan(folder: pathlib.Path, *, boxes: str = "labeled") -> dict[str, list[common.Row]]:
    """Returns the images of all splits: those of folders by name, those of the original in the protocol's order.

    Args:
        folder: the raw folder, see `layouts`.
        boxes: "labeled" or "detected".

    Raises:
        ValueError: a folder or file is missing or cannot be read.
    """
    original = next((file for file in (folder / layout[0] for layout in layouts(boxes)[1:]) if file.is_file()), None)
    if original is not None and not (folder / boxes).is_dir():
        common.require(folder, (_protocol(boxes),), "get the protocol's two list files")
        return _scan_original(original, folder / _protocol(boxes), boxes)
    wrong = "detected" if boxes == "labeled" else "labeled"
    hint = "unpack the whole data set there"
    if (folder / wrong).is_dir() and not (folder / boxes).is_dir():
        hint = f"with these folders, prepare cuhk03_np_{wrong}"
    common.require(folder, layouts(boxes)[0], hint)
    return {
        split: common.scan_split(folder / boxes / name, f"cuhk03_np_{boxes}", _NAME, "0003_c1_21.png")
        for split, name in _SPLITS.items()
    }


def _scan_original(original: pathlib.Path, protocol: pathlib.Path, boxes: str) -> dict[str, list[common.Row]]:
    try:
        import h5py
        import scipy.io
    except ImportError:
        raise ValueError(
            f"reading {original} needs h5py and scipy: pip install 'reid_jax[cuhk03]', or get cuhk03-np.zip, whose "
            f"folders need neither (datasets/cuhk03_np/README.md)."
        ) from None
    try:
        table = scipy.io.loadmat(protocol)
        names = [str(np.ravel(name)[0]) for name in np.ravel(table["filelist"])]
        labels = np.ravel(table["labels"]).astype(int)
        rows = {split: np.ravel(table[key]).astype(int) - 1 for split, key in _INDICES.items()}
    except (KeyError, ValueError, OSError, IndexError, NotImplementedError) as error:
        raise ValueError(
            f"expected filelist, labels, train_idx, query_idx and gallery_idx in {protocol}, could not read them "
            f"({error}); get the protocol's file again."
        ) from None
    if len(names) != len(labels) or any(len(index) and index.max() >= len(names) for index in rows.values()):
        raise ValueError(f"the lists in {protocol} do not fit each other; get the protocol's file again.")
    if not h5py.is_hdf5(original):
        raise ValueError(f"{original} is not a readable MATLAB 7.3 file; get it again.")
    mat = _MatFile(original, boxes)
    return {split: [_original_row(mat, names[i], int(labels[i])) for i in index] for split, index in rows.items()}


def _original_row(mat: _MatFile, name: str, pid: int) -> common.Row:
    match = _ORIGINAL.fullmatch(name)
    if match is None:
        raise ValueError(f"expected names such as 1_001_1_01.png in the protocol's list, got {name!r}; get it again.")
    pair, person, view, image = (int(number) for number in match.groups())
    return common.Row(_MatImage(mat, pair - 1, person - 1, image - 1, name), pid, view - 1, name)


class _MatFile:
    """The original file, a MATLAB 7.3 (HDF5) table of references to images; opened when the first image is read."""

    def __init__(self, path: pathlib.Path, boxes: str) -> None:
        self.path, self._boxes, self._lock = path, boxes, threading.Lock()

    @functools.cached_property
    def _open(self) -> Any:
        import h5py

        return h5py.File(self.path, "r")

    def image(self, pair: int, person: int, image: int) -> np.ndarray:
        """Returns an image, uint8 [H, W, 3].

        Raises:
            OSError: the table has no such image.
        """
        with self._lock:
            file = self._open
            try:
                # MATLAB stores arrays by column, so they appear transposed.
                people = file[file[self._boxes][0][pair]]
                pixels = np.asarray(file[people[image][person]])
            except (KeyError, IndexError, ValueError, TypeError):
                raise OSError(0, f"no such entry in {self.path.name}") from None
        if pixels.ndim != 3 or pixels.dtype != np.uint8:
            raise OSError(0, f"an empty entry of {self.path.name}")
        return pixels.T


class _MatImage:
    """An image of the original file, used in place of a path."""

    def __init__(self, mat: _MatFile, pair: int, person: int, image: int, name: str) -> None:
        self._mat, self._place, self.name = mat, (pair, person, image), name

    def read_bytes(self) -> bytes:
        """Returns the image as PNG."""
        return common.encode_png(self._mat.image(*self._place))

    def stat(self) -> os.stat_result:
        """Returns the state of the file that holds the image."""
        return self._mat.path.stat()

    def __str__(self) -> str:
        return f"{self._mat.path}:{self.name}"


class Builder(common.RowBuilder):
    """Builder of CUHK03 under the 767/700 protocol."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Get cuhk03-np.zip from the authors of the protocol and unpack it, so that labeled and detected lie in the "
        "folder, or put cuhk-03.mat there, with cuhk03_new_protocol_config_labeled.mat and _detected.mat."
    )
