"""Sparse matrices by compressed rows, with the operations of re-ranking (numpy, no dependency)."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Rows:
    """A sparse matrix by rows; columns rise within a row.

    Attributes:
        start: [N + 1] int64, where each row begins.
        columns: [nonzeros] int32.
        values: [nonzeros] float32.
        width: number of columns.
    """

    start: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    width: int

    def entries(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the entries of some rows, row after row.

        Args:
            rows: [n] row numbers, repeats allowed.

        Returns:
            The position of each entry in `columns` and `values`, and the place in `rows` it belongs to.
        """
        lengths = self.start[rows + 1] - self.start[rows]
        owner = np.repeat(np.arange(len(rows)), lengths)
        offset = np.cumsum(lengths) - lengths
        return np.arange(len(owner)) + (self.start[rows] - offset)[owner], owner

    def take(self, rows: np.ndarray) -> Rows:
        """Returns some rows [n] as a matrix of their own."""
        entry, _ = self.entries(rows)
        start = np.concatenate([[0], np.cumsum(self.start[rows + 1] - self.start[rows])]).astype(np.int64)
        return Rows(start, self.columns[entry], self.values[entry], self.width)

    def transposed(self, first: int) -> Rows:
        """Returns the transpose of the rows from `first` on; its column numbers count from `first`."""
        begin = int(self.start[first])
        columns = self.columns[begin:]
        owner = np.repeat(np.arange(len(self.start) - 1 - first, dtype=np.int32), np.diff(self.start[first:]))
        order = np.argsort(columns, kind="stable")
        start = np.zeros(self.width + 1, np.int64)
        np.cumsum(np.bincount(columns, minlength=self.width), out=start[1:])
        return Rows(start, owner[order], self.values[begin:][order], len(self.start) - 1 - first)


class Builder:
    """Builds a sparse matrix block by block."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._lengths: list[np.ndarray] = []
        self._columns: list[np.ndarray] = []
        self._values: list[np.ndarray] = []

    def add(self, owner: np.ndarray, columns: np.ndarray, values: np.ndarray, count: int) -> None:
        """Appends `count` rows; `owner` [entries], ascending, is the row of each entry."""
        self._lengths.append(np.bincount(owner, minlength=count))
        self._columns.append(columns.astype(np.int32))
        self._values.append(values.astype(np.float32))

    def build(self) -> Rows:
        """Returns the matrix."""
        start = np.concatenate([[0], np.cumsum(np.concatenate(self._lengths))]).astype(np.int64)
        rows = Rows(start, np.concatenate(self._columns), np.concatenate(self._values), self._width)
        self._columns, self._values = [], []
        return rows
