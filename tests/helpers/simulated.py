"""Processes that are threads of this one, each with a share of a gallery."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from concurrent import futures
from typing import Any

import numpy as np

from reid_jax.data.feature_set import FeatureSet
from reid_jax.data.gallery_share import Share


class Meeting:
    """The place where simulated processes exchange arrays.

    Attributes:
        received: bytes that a process gets from the others, by kind of exchange.
    """

    def __init__(self, count: int) -> None:
        self.count, self.received = count, {"sum": 0, "gather": 0, "deal": 0}
        self._barrier, self._arrays = threading.Barrier(count, timeout=60), [np.zeros(0)] * count

    def all_of(self, index: int, array: np.ndarray, kind: str) -> list[np.ndarray]:
        """Returns the arrays of all processes."""
        self._arrays[index] = array
        self._barrier.wait()
        everyone = list(self._arrays)
        if index == 0:
            self.received[kind] += array.nbytes if kind == "sum" else sum(each.nbytes for each in everyone[1:])
        self._barrier.wait()
        return everyone

    def abort(self) -> None:
        """Lets all others fail that wait for a process that failed."""
        self._barrier.abort()


@dataclasses.dataclass(frozen=True)
class Simulated:
    """The exchange of a simulated process."""

    meeting: Meeting
    index: int

    def sum(self, array: np.ndarray) -> np.ndarray:
        """See `gallery_share.Exchange`."""
        assert array.dtype in (np.int32, np.int64)
        return np.asarray(np.sum(self.meeting.all_of(self.index, array, "sum"), axis=0, dtype=array.dtype))

    @property
    def count(self) -> int:
        """Number of processes."""
        return self.meeting.count

    def deal(self, array: np.ndarray) -> np.ndarray:
        """See `gallery_share.Exchange`."""
        return np.stack([each[self.index] for each in self.meeting.all_of(self.index, array, "deal")])

    def gather(self, array: np.ndarray) -> list[np.ndarray]:
        """See `gallery_share.Exchange`."""
        return self.meeting.all_of(self.index, array, "gather")


def divided(features: FeatureSet, owner: np.ndarray, exchange: Simulated) -> FeatureSet:
    """The feature set of a simulated process, which holds the gallery rows that it owns."""
    places = np.flatnonzero(owner == exchange.index)
    visibility = None if features.gallery_visibility is None else features.gallery_visibility[places]
    return dataclasses.replace(
        features,
        gallery_features=features.gallery_features[places],
        gallery_visibility=visibility,
        share=Share(places, features.num_gallery, exchange),
    )


def run(count: int, work: Callable[[Simulated], Any]) -> tuple[list[Any], Meeting]:
    """The results of all simulated processes, and their meeting."""
    meeting = Meeting(count)

    def guarded(index: int) -> Any:
        try:
            return work(Simulated(meeting, index))
        except BaseException:
            meeting.abort()
            raise

    with futures.ThreadPoolExecutor(count) as pool:
        running = [pool.submit(guarded, index) for index in range(count)]
    failures = [each.exception() for each in running if each.exception() is not None]
    for failure in failures:
        if not isinstance(failure, threading.BrokenBarrierError):
            raise failure
    return [each.result() for each in running], meeting
