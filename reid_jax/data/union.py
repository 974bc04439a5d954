"""Training on several data sets at once, and testing on another than those trained on.

Identities and cameras of different data sets are different ones, whatever their numbers: each data set's numbers are
moved behind those of the data sets before it. Two numbers keep their meaning everywhere: pid -1 (junk) and, in a
gallery, pid 0 (distractor); an unknown camera stays -1.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from reid_jax import errors
from reid_jax.data import catalog, records

_LARGEST = 2**31 - 1


class JoinedSource(Sequence[dict[str, Any]]):
    """The records of several splits one after the other, under their new names and numbers."""

    def __init__(self, splits: Sequence[records.Split], pids: np.ndarray, camids: np.ndarray, names: tuple[str, ...]):
        """Joins the sources of `splits`; the rest are the joined split's own lists."""
        self._sources = tuple(split.source for split in splits)
        self._ends = list(itertools.accumulate(len(split) for split in splits))
        self._pids, self._camids, self._names = pids, camids, names

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: Any) -> dict[str, Any]:  # type: ignore[override]
        position = index.__index__()
        if position < 0:
            position += len(self)
        if not 0 <= position < len(self):
            raise IndexError(f"record {index} of a split of {len(self)}")
        part = bisect.bisect_right(self._ends, position)
        element = self._sources[part][position - (self._ends[part - 1] if part else 0)]
        ours = {
            "pid": int(self._pids[position]),
            "camid": int(self._camids[position]),
            "filename": self._names[position],
        }
        return {**element, **ours}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[position] for position in range(len(self)))

    def __repr__(self) -> str:
        return f"JoinedSource({len(self)} records of {len(self._sources)} data sets)"


def union(datasets: Sequence[records.ReIDDataset], name: str = "") -> records.ReIDDataset:
    """Joins data sets, split by split; a split that some of them lack is joined of the others.

    Args:
        datasets: in the order in which they are to be numbered; the first keeps its numbers.
        name: of the result; empty is "market1501+msmt17".

    Returns:
        The joined data set. File names carry their data set's name, "market1501/0002_c1s1_000451_03.jpg"; a single
        data set is returned as it is.

    Raises:
        UserError: none are given, or two of them show the same people, or the numbers leave 32 bits.
    """
    _refuse_same_people(datasets)
    if len(datasets) == 1:
        return dataclasses.replace(datasets[0], name=name or datasets[0].name)
    name = name or "+".join(dataset.name for dataset in datasets)
    people, cameras = _offsets(datasets, "pids"), _offsets(datasets, "camids")
    prefixes = _prefixes(datasets)
    joined: dict[str, records.Split] = {}
    for split_name in records.SPLITS:
        parts = [
            (place, split) for place, one in enumerate(datasets) if (split := getattr(one, split_name)) is not None
        ]
        if not parts:
            continue
        first_person = 0 if split_name == "train" else 1  # pid 0 of a test split is nobody's match
        pids = np.concatenate([np.where(one.pids >= first_person, one.pids + people[i], one.pids) for i, one in parts])
        camids = np.concatenate([np.where(one.camids >= 0, one.camids + cameras[i], -1) for i, one in parts])
        pids, camids = pids.astype(np.int32), camids.astype(np.int32)
        names = tuple(f"{prefixes[i]}/{file}" for i, one in parts for file in one.filenames)
        source = JoinedSource([one for _, one in parts], pids, camids, names)
        joined[split_name] = records.Split(f"{name}/{split_name}", source, pids, camids, names)
    return records.ReIDDataset(name, joined.get("train"), joined.get("query"), joined.get("gallery"))


def transfer(target: records.ReIDDataset, sources: Sequence[records.ReIDDataset]) -> records.ReIDDataset:
    """A data set to be tested on after training on others.

    Args:
        target: gives name, query and gallery.
        sources: give the training images, joined by `union`; `target` may be one of them.

    Returns:
        The data set. Test cameras have the numbers that they have in training where `target` is one of the sources
        (or was filmed by the same cameras), else numbers behind all training cameras, so that a model can tell that it
        has never seen them.
    """
    joined = union(sources)
    joined.require("train")
    known = [_same_cameras(source, target) for source in sources]
    # The entry behind the last is where the next data set's cameras would begin.
    offset = _offsets(sources, "camids")[known.index(True) if True in known else -1]
    moved = {name: _move_cameras(split, offset) for name, split in target.splits().items() if name != "train"}
    assert joined.train is not None
    train = dataclasses.replace(joined.train, name=f"{joined.name}/train")
    return records.ReIDDataset(target.name, train, moved.get("query"), moved.get("gallery"))


def _same_cameras(source: records.ReIDDataset, target: records.ReIDDataset) -> bool:
    if source.name == target.name:
        return source.index_hash() == target.index_hash()
    return catalog.related(source.name, target.name, "cameras")


def _move_cameras(split: records.Split, offset: int) -> records.Split:
    if not offset:
        return split
    camids = np.where(split.camids >= 0, split.camids + offset, -1).astype(np.int32)
    source = JoinedSource([split], split.pids, camids, split.filenames)
    return dataclasses.replace(split, source=source, camids=camids)


def _offsets(datasets: Sequence[records.ReIDDataset], field: str) -> list[int]:
    """What is added to each data set's numbers, and behind the last one what would be added to the next."""
    sizes = [
        max((int(getattr(split, field).max(initial=-1)) + 1 for split in dataset.splits().values()), default=0)
        for dataset in datasets
    ]
    ends = [0, *itertools.accumulate(sizes)]
    if ends[-1] > _LARGEST:
        raise errors.UserError(
            f"the numbers of {' and '.join(dataset.name for dataset in datasets)} are too large to be joined "
            f"({ends[-1]:,} and up); give your own data smaller ones."
        )
    return ends


def _prefixes(datasets: Sequence[records.ReIDDataset]) -> list[str]:
    """The data sets' names; a name that occurs again is counted."""
    names = [dataset.name for dataset in datasets]
    return [name if name not in names[:place] else f"{name}-{place + 1}" for place, name in enumerate(names)]


def _refuse_same_people(datasets: Sequence[records.ReIDDataset]) -> None:
    if not datasets:
        raise errors.UserError("expected at least one data set to join, got none; name them in data.sources.")
    for place, one in enumerate(datasets):
        for other in datasets[:place]:
            related = one.name != other.name and catalog.related(one.name, other.name, "people")
            if related or one.index_hash() == other.index_hash():
                raise errors.UserError(
                    f"{other.name} and {one.name} show the same people, who would each become two classes; train on "
                    "one of them."
                )
