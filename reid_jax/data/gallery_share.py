"""A gallery that is divided over processes: which rows one of them holds, and what it needs of the others.

Labels and names are small and everywhere; features are large and stay with the process that computed them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Exchange(Protocol):
    """Communication of all processes that hold a part; each method is a collective, called by all in the same order."""

    @property
    def index(self) -> int:
        """Number of this process, from 0."""

    @property
    def count(self) -> int:
        """Number of processes."""

    def sum(self, array: np.ndarray) -> np.ndarray:
        """Returns the sum over all processes of integers (int32 or int64) of one shape."""

    def gather(self, array: np.ndarray) -> list[np.ndarray]:
        """Returns the arrays of all processes in their order; their first axes may differ in length."""

    def deal(self, array: np.ndarray) -> np.ndarray:
        """Returns what every process has for this one [count, ...], of arrays [count, ...] with a part for each."""


class Alone:
    """The exchange of a single process."""

    index, count = 0, 1

    def sum(self, array: np.ndarray) -> np.ndarray:
        """Returns the array."""
        return array

    def gather(self, array: np.ndarray) -> list[np.ndarray]:
        """Returns the array as the only one."""
        return [array]

    def deal(self, array: np.ndarray) -> np.ndarray:
        """Returns the array."""
        return array


@dataclasses.dataclass(frozen=True)
class Share:
    """The rows of a gallery that a process holds.

    Attributes:
        places: [n] int64 rows of the whole gallery, ascending; every row is held by one process.
        total: number of rows of the whole gallery.
        exchange: connects the processes.
    """

    places: np.ndarray
    total: int
    exchange: Exchange

    @classmethod
    def whole(cls, total: int) -> Share:
        """Returns the share of a process that holds everything."""
        return cls(np.arange(total), total, Alone())

    @property
    def alone(self) -> bool:
        """Whether this process holds everything."""
        return isinstance(self.exchange, Alone)

    def positions(self, rows: np.ndarray) -> np.ndarray:
        """Returns where rows of the whole gallery stand among those held here, -1 for rows held elsewhere."""
        if self.alone:
            return rows
        if not len(self.places):
            return np.full(np.shape(rows), -1)
        found = np.minimum(np.searchsorted(self.places, rows), len(self.places) - 1)
        return np.where(self.places[found] == rows, found, -1)

    def select(self, rows: np.ndarray) -> tuple[Share, np.ndarray]:
        """Returns the share of a gallery of some of the rows, and where its own stand among those held here.

        Args:
            rows: [m] rows of the whole gallery without repetition, in the order of the new one.
        """
        position = self.positions(rows)
        new = np.flatnonzero(position >= 0)
        return Share(new, len(rows), self.exchange), position[new]

    def sum_values(self, array: np.ndarray) -> np.ndarray:
        """Returns a float32 array of which each process knows some entries and has zeros elsewhere, bit for bit."""
        bits = np.ascontiguousarray(array, np.float32).view(np.int32)
        return self.exchange.sum(bits).view(np.float32)

    def largest(self, value: float) -> float:
        """Returns the largest number of all processes."""
        return float(max(each[0] for each in self.exchange.gather(np.asarray([value], np.float64))))

    def rows(self, array: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Returns some rows of the whole gallery from the rows [n, ...] float32 held here."""
        if self.alone:
            return np.asarray(array[rows])
        out = np.zeros((len(rows), *array.shape[1:]), np.float32)
        position = self.positions(rows)
        out[position >= 0] = array[position[position >= 0]]
        return self.sum_values(out)

    def joined(self, array: np.ndarray) -> np.ndarray:
        """Returns the rows of the whole gallery from those held by each process; takes its memory everywhere."""
        parts: Sequence[np.ndarray] = self.exchange.gather(array)
        places = np.concatenate(self.exchange.gather(self.places))
        out = np.empty((self.total, *array.shape[1:]), array.dtype)
        out[places] = np.concatenate(parts)
        return out
