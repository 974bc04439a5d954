"""Disk cache of decoded and resized images: one array file per split and size, memory-mapped by every process.

Training from it decodes nothing. The pages are shared by all worker processes and concurrent runs of a machine, and
stay in the file cache of the operating system between runs. Disk space: images x height x width x 3 bytes, 1.2 GB for
the training images of Market-1501 at 256 x 128.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import json
import logging
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from reid_jax import file_io
from reid_jax.data import records, transforms

LOG = logging.getLogger(__name__)
Element = dict[str, Any]


class DecodedImages:
    """Memory-mapped arrays, uint8 `[N, H, W, 3]` (image) and `[N, H, W]` (maps); pickled as their paths."""

    def __init__(self, paths: dict[str, pathlib.Path]):
        """Stores the files' paths by array name; they are opened at the first access."""
        self._paths = paths
        self._open: dict[str, np.ndarray] = {}

    def read(self, index: int) -> Element:
        """Returns `image` and the maps of image `index` as read-only arrays."""
        if not self._open:
            self._open = {name: np.load(path, mmap_mode="r") for name, path in self._paths.items()}
        return {name: np.asarray(array[index]) for name, array in self._open.items()}

    def __getstate__(self) -> dict[str, Any]:
        return {"_paths": self._paths, "_open": {}}


def open_or_create(
    folder: str | pathlib.Path,
    split: records.Split,
    resize: transforms.Resize,
    maps: Sequence[str],
    decode: Callable[[int], Element],
    threads: int = 4,
) -> DecodedImages:
    """Opens the arrays of a split, creating the files first where they do not exist.

    The file names hold a hash of the split's index and of the resize, so that no stale file is read. A file is written
    under a temporary name and renamed when it is complete; when two processes create it at the same time, the later
    rename wins, with the same bytes.

    Args:
        folder: the folder of the files; created where it does not exist.
        split: the images.
        resize: size and interpolation.
        maps: names of per-pixel maps.
        decode: returns the element of an image at its native size.
        threads: number of decoding threads.

    Raises:
        UserError: an image cannot be read, or the disk is full or cannot be written to.
    """
    folder = pathlib.Path(folder)
    key = _key(split, resize)
    shape = (len(split), resize.height, resize.width)
    shapes = {"image": (*shape, 3), **dict.fromkeys(maps, shape)}
    paths = {name: folder / f"{split.name.rsplit('/', 1)[-1]}-{key}-{name}.npy" for name in shapes}
    if not all(_is_complete(paths[name], shapes[name]) for name in shapes):
        megabytes = sum(int(np.prod(size)) for size in shapes.values()) / 2**20
        LOG.info("decoding %d images of %s into %s (%.0f MB)", len(split), split.name, folder, megabytes)
        file_io.make_folder(folder, "the folder of decoded images")
        what = f'the decoded images ({megabytes:.0f} MB; data.cache="auto" writes none)'
        _create(paths, shapes, lambda index: resize(decode(index)), threads, what)
    return DecodedImages(paths)


def _key(split: records.Split, resize: transforms.Resize) -> str:
    text = [split.name, split.filenames, resize.height, resize.width, resize.interpolation]
    digest = hashlib.sha256(json.dumps(text).encode())
    digest.update(np.ascontiguousarray(split.pids, "<i4").tobytes())
    return digest.hexdigest()[:16]


def _is_complete(path: pathlib.Path, shape: tuple[int, ...]) -> bool:
    """Returns whether a file exists with the expected shape; an interrupted copy does not."""
    try:
        array = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return False
    return bool(array.shape == shape and array.dtype == np.uint8)


def _create(
    paths: dict[str, pathlib.Path],
    shapes: dict[str, tuple[int, ...]],
    read: Callable[[int], Element],
    threads: int,
    what: str,
) -> None:
    """Writes the arrays of all images; `what` names them in an error's message."""
    with contextlib.ExitStack() as stack:
        arrays = {}
        for name, path in paths.items():
            part = stack.enter_context(file_io.replacing(path, what))
            arrays[name] = np.lib.format.open_memmap(part, "w+", np.uint8, shapes[name])
            _reserve(part)

        def fill(index: int) -> None:
            element = read(index)
            for name, array in arrays.items():
                array[index] = element[name]

        with concurrent.futures.ThreadPoolExecutor(max(1, threads)) as pool:
            for _ in pool.map(fill, range(shapes["image"][0])):
                pass
        for array in arrays.values():
            array.flush()


def _reserve(path: pathlib.Path) -> None:
    """Allocates the disk space now: running out of it later would end the process with SIGBUS at a page write."""
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
