"""Unlabelled pools: many crops without identities, for masked pretraining, as a training split.

A pool is prepared by `reid_jax.data.pool_preparation` into `<root>/prepared/unlabelled[-<title>]/<version>/`: shards of
records, arrays of what is known of each image, and `pool.json`. Opening it reads no record, and nothing is kept in
Python for an image.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from reid_jax import errors, file_io, progress
from reid_jax.data import difference_hash, records
from reid_jax.stores import objects

NAME = "unlabelled"
VERSION = "1.0.0"
INDEX = "pool.json"
CAMERAS, TRACKS, HASHES = "camids.npy", "tracks.npy", "hashes.npy"
OPTIONS = {"title": "", "overlap": "refuse"}
OVERLAPS = ("refuse", "allow")
# Bits in which a hash of an image and that of its copy under another compression may differ. Of 960 test images of
# SynthPed, saved again as JPEG of quality 80, 95 % differ in 2 bits at most and 99 % in 4, of quality 40 78 % and 97 %;
# none of them is that near to one of 12,000 images of other people (8 bits: 11 are).
LEAK_BITS = 4
_EXPECTED, _REMEDY = "the index of a prepared pool (JSON)", "prepare the pool again"


class Names(Sequence[str]):
    """Names of the images in messages; the files' own names stand in the records."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        return f"record {range(self._count)[index]}"

    def __iter__(self) -> Iterator[str]:
        return (f"record {index}" for index in range(self._count))


@dataclasses.dataclass(frozen=True)
class Pool(records.Split):
    """A training split without identities.

    Attributes:
        hashes: uint64 [N], memory-mapped, see `difference_hash`.
        digest: hash of the pool's content, hexadecimal.
        overlap: "refuse" stops a run whose test images are in the pool, "allow" counts them.
    """

    hashes: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.uint64))
    digest: str = ""
    overlap: str = "refuse"

    def listing(self) -> str:
        """Returns what stands for the list of names in a data set's hash."""
        return self.digest


def options_of(given: Mapping[str, Any]) -> dict[str, str]:
    """Returns the options of a pool in `data.sources`, "unlabelled@title=street".

    Raises:
        UserError: an unknown option or value.
    """
    for key in given:
        if key not in OPTIONS:
            raise errors.unknown(f"option of data set {NAME!r}:", key, OPTIONS)
    options = {**OPTIONS, **{key: str(value) for key, value in given.items()}}
    if options["overlap"] not in OVERLAPS:
        raise errors.unknown("value of overlap", options["overlap"], OVERLAPS)
    return options


def folder(root: str | pathlib.Path, title: str = "") -> pathlib.Path:
    """Returns the folder of a pool, whether it exists or not.

    Raises:
        UserError: a title that is no part of a file name.
    """
    if title and not title.replace("_", "").replace(".", "").isalnum():
        raise errors.UserError(f"expected a title of letters, digits, '_' and '.', got {title[:40]!r}.")
    name = f"{NAME}-{title}" if title else NAME
    return pathlib.Path(root).expanduser() / "prepared" / name / VERSION


def check(root: str | pathlib.Path, given: Mapping[str, Any]) -> None:
    """Checks that a pool is prepared.

    Raises:
        UserError: it is not, or the root is in an object store.
    """
    if isinstance(root, str) and objects.is_remote(root):
        raise errors.UserError(
            f"expected data.root on this machine for an unlabelled pool, got {file_io.shown(root)[:200]}; copy it "
            "to a disk."
        )
    path = folder(root, options_of(given)["title"])
    if not (path / INDEX).is_file():
        raise errors.UserError(
            f"expected a prepared pool in {path}, there is none; run "
            f"`python scripts/prepare_dataset.py {NAME} --source DIR --root {root}` first."
        )


def open_pool(root: str | pathlib.Path, given: Mapping[str, Any] | None = None) -> records.ReIDDataset:
    """Opens a prepared pool as a data set of training images alone.

    Images with a track have it as identity, for losses that read tracks; others have identity 0.

    Raises:
        UserError: it is not prepared, or the folder is damaged.
    """
    from array_record.python import array_record_data_source

    check(root, given or {})
    options = options_of(given or {})
    path = folder(root, options["title"])
    index = file_io.read_json(path / INDEX, _EXPECTED, _REMEDY)
    with file_io.reading(path / INDEX, _EXPECTED, _REMEDY):
        shards = [path / str(shard["file"]) for shard in index["shards"]]
        count, digest = sum(int(shard["images"]) for shard in index["shards"]), str(index["digest"])
    with file_io.reading(path, "the complete files of a prepared pool", _REMEDY):
        source = array_record_data_source.ArrayRecordDataSource([str(shard) for shard in shards])
        cameras, tracks = (_array(path / name, count) for name in (CAMERAS, TRACKS))
        hashes = np.load(path / HASHES, mmap_mode="r")
        if len(source) != count or len(hashes) != count:
            raise ValueError(f"{len(source)} records, {len(hashes)} hashes, {count} images listed")
    split = Pool(
        name=f"{NAME}/train",
        source=records.RecordSource(source),
        pids=np.zeros(count, np.int32) if tracks is None else np.asarray(tracks),
        camids=np.broadcast_to(np.int32(records.UNKNOWN_CAMERA), count) if cameras is None else cameras,
        filenames=Names(count),  # type: ignore[arg-type]  # a sequence of names, made when asked for
        hashes=hashes,
        digest=digest,
        overlap=options["overlap"],
    )
    return records.ReIDDataset(NAME, train=split, path=path, content=digest)


def _array(path: pathlib.Path, count: int) -> np.ndarray | None:
    """Returns a memory-mapped array of what is known of each image; None without one."""
    if not path.is_file():
        return None
    found: np.ndarray = np.load(path, mmap_mode="r")
    if len(found) != count:
        raise ValueError(f"{len(found)} entries in {path.name}, {count} images listed")
    return found


def overlap(pool: Pool, tested: Sequence[records.ReIDDataset]) -> list[tuple[str, int]]:
    """Returns the test images that are in a pool, up to another compression: their name and place in the pool.

    Args:
        pool: the pool.
        tested: data sets with query and gallery.
    """
    found: list[tuple[str, int]] = []
    for dataset in tested:
        for split in (dataset.split("query"), dataset.split("gallery")):
            with progress.bar(f"looking for {split.name} in the pool", len(split), "images") as advance:
                hashes = np.zeros(len(split), np.uint64)
                for row in range(len(split)):
                    hashes[row] = difference_hash.difference_hash(split.image(row))
                    advance(1)
            pairs = difference_hash.near(hashes, np.asarray(pool.hashes), LEAK_BITS)
            found += [(f"{split.name}: {split.filenames[row]}", place) for row, place in pairs]
    return found


def refuse_leaks(split: records.Split, tested: Sequence[records.ReIDDataset]) -> int | None:
    """Returns how many test images are in a pool; None for a training split that is no pool.

    Raises:
        UserError: there are some, and the pool does not allow them.
    """
    if not isinstance(split, Pool):
        return None
    found = overlap(split, tested)
    images = {name for name, _ in found}
    if images and split.overlap != "allow":
        first, place = found[0]
        raise errors.UserError(
            f"expected a pool without test images, {len(images)} of them are in it (such as {first}, record {place}); "
            f"leave them out of the pool, or name it as '{NAME}@overlap=allow' in data.sources, which writes the count "
            "into result.json."
        )
    return len(images)
