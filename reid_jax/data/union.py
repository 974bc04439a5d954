"""Unions of data sets: training on several of them, and testing on a data set that was not trained on.

Identities and cameras of different data sets are distinct, whatever their numbers: the numbers of each data set are
shifted past those of the data sets before it. Junk (pid -1), distractors (pid 0 in a gallery) and unknown cameras
(-1) keep their numbers.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from reid_jax import errors
from reid_jax.data import catalog, fewer_people, records

_LARGEST = 2**31 - 1


class JoinedSource(Sequence[dict[str, Any]]):
    """The concatenated records of several splits, under their new names and numbers."""

    def __init__(self, splits: Sequence[records.Split], pids: np.ndarray, camids: np.ndarray, names: tuple[str, ...]):
        """Concatenates the sources of splits; identities, cameras and names are those of the result."""
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
        renumbered = {
            "pid": int(self._pids[position]),
            "camid": int(self._camids[position]),
            "filename": self._names[position],
        }
        return {**element, **renumbered}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[position] for position in range(len(self)))

    def __repr__(self) -> str:
        return f"JoinedSource({len(self)} records of {len(self._sources)} data sets)"


def union(datasets: Sequence[records.ReIDDataset], name: str = "") -> records.ReIDDataset:
    """Joins data sets split by split; where some lack a split, it is joined from the others.

    Args:
        datasets: the data sets in the order of their numbers; the first keeps its numbers.
        name: name of the result; empty joins the names, "market1501+msmt17".

    Returns:
        The joined data set. File names begin with the name of their data set,
        "market1501/0002_c1s1_000451_03.jpg"; a single data set is returned as it is.

    Raises:
        UserError: none are given, two of them show the same people, or the numbers exceed 32 bits.
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
            (place, split)
            for place, dataset in enumerate(datasets)
            if (split := getattr(dataset, split_name)) is not None
        ]
        if not parts:
            continue
        first_person = 0 if split_name == "train" else 1  # pid 0 of a test split is a distractor
        pids = np.concatenate([_shifted(part.pids, people[i], first_person) for i, part in parts])
        camids = np.concatenate([_shifted(part.camids, cameras[i], 0) for i, part in parts])
        names = tuple(f"{prefixes[i]}/{file}" for i, part in parts for file in part.filenames)
        source = JoinedSource([part for _, part in parts], pids, camids, names)
        joined[split_name] = records.Split(f"{name}/{split_name}", source, pids, camids, names)
    content = records.joined_content([dataset.content for dataset in datasets])
    return records.ReIDDataset(name, joined.get("train"), joined.get("query"), joined.get("gallery"), content=content)


def _shifted(numbers: np.ndarray, offset: int, first: int) -> np.ndarray:
    """Returns identities or cameras with an offset added to those from `first` on; smaller ones have a meaning."""
    return np.where(numbers >= first, numbers + offset, numbers).astype(np.int32)


def transfer(
    target: records.ReIDDataset, sources: Sequence[records.ReIDDataset], shares: Sequence[float] = ()
) -> records.ReIDDataset:
    """Returns a data set for training on some data sets and testing on another.

    Args:
        target: the data set of name, query and gallery.
        sources: the data sets of the training images, joined by `union`; `target` may be among them.
        shares: share of the training identities of each source, see `fewer_people.keep`; empty takes all.

    Returns:
        The data set. Test cameras keep the numbers that they have in training where `target` is among the sources or
        shares their cameras; otherwise they are numbered after all training cameras, so that a model can tell that
        they are new.
    """
    # Cameras are compared before people are left out.
    fewer = [
        dataclasses.replace(source, train=fewer_people.keep(source.split("train"), share)) if share < 1 else source
        for source, share in zip(sources, shares or [1.0] * len(sources), strict=True)
    ]
    joined = union(fewer)
    joined.require("train")
    known = [_same_cameras(source, target) for source in sources]
    # The last entry is the first number after all training cameras.
    offset = _offsets(fewer, "camids")[known.index(True) if True in known else -1]
    moved = {name: _move_cameras(split, offset) for name, split in target.splits().items() if name != "train"}
    assert joined.train is not None
    train = dataclasses.replace(joined.train, name=f"{joined.name}/train")
    parts = [f"{share:g}" for share in shares if share < 1]
    content = records.joined_content([target.content, joined.content, *parts])
    return records.ReIDDataset(target.name, train, moved.get("query"), moved.get("gallery"), content=content)


def _same_cameras(source: records.ReIDDataset, target: records.ReIDDataset) -> bool:
    if source.name == target.name:
        return source.index_hash() == target.index_hash()
    return catalog.related(source.name, target.name, "cameras")


def _move_cameras(split: records.Split, offset: int) -> records.Split:
    if not offset:
        return split
    camids = _shifted(split.camids, offset, 0)
    source = JoinedSource([split], split.pids, camids, split.filenames)
    return dataclasses.replace(split, source=source, camids=camids)


def _offsets(datasets: Sequence[records.ReIDDataset], field: str) -> list[int]:
    """Returns what is added to the numbers of each data set, followed by the first number after all of them."""
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
    """Returns the names of the data sets, with a counter where a name repeats."""
    names = [dataset.name for dataset in datasets]
    return [name if name not in names[:place] else f"{name}-{place + 1}" for place, name in enumerate(names)]


def _refuse_same_people(datasets: Sequence[records.ReIDDataset]) -> None:
    if not datasets:
        raise errors.UserError("expected at least one data set to join, got none; name them in data.sources.")
    for place, dataset in enumerate(datasets):
        for other in datasets[:place]:
            related = dataset.name != other.name and catalog.related(dataset.name, other.name, "people")
            if related or dataset.index_hash() == other.index_hash():
                raise errors.UserError(
                    f"{other.name} and {dataset.name} show the same people, who would each become two classes; train "
                    "on one of them."
                )
