"""All images of a test set, queries and gallery, of which each process holds some: neighbors and distances of pairs.

Images are numbered, queries first. A process holds every n-th query and its share of the gallery. To compare all images
with each other, the processes show theirs in turn, a block at a time, and every process compares what is shown with
what it holds; the features of the whole gallery are never on one process at once. With one process, the only block is
everything.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from jax.sharding import Mesh

from reid_jax.data.gallery_share import Share
from reid_jax.evaluation import distance_blocks

_SHOWN_BYTES = 2**26  # of features that all processes show at once
_PAIRS_AT_ONCE = 4096


@dataclasses.dataclass(frozen=True)
class Images:
    """The images that a process holds, and its connection to the others.

    Attributes:
        side: [n] their descriptors.
        numbers: [n] their numbers, ascending.
        holders: the numbers that each process holds.
        share: the share of the gallery.
        num_query: number of queries Q.
    """

    side: distance_blocks.Side
    numbers: np.ndarray
    holders: list[np.ndarray]
    share: Share
    num_query: int

    @classmethod
    def of(cls, query: distance_blocks.Side, gallery: distance_blocks.Side, share: Share) -> Images:
        """Returns the images of all Q queries, which every process has, and of a share of the gallery."""
        exchange = share.exchange
        queries = np.arange(exchange.index, query.num_rows, exchange.count)
        numbers = np.concatenate([queries, query.num_rows + share.places])
        side = query.take(queries).join(gallery)
        return cls(side, numbers, exchange.gather(numbers), share, query.num_rows)

    @property
    def count(self) -> int:
        """Number of images of all processes."""
        return self.num_query + self.share.total

    @property
    def _block(self) -> int:
        """Number of images that a process shows at once."""
        processes = self.share.exchange.count
        return self.count if processes == 1 else max(64, _SHOWN_BYTES // (processes * self.side.row_bytes))

    def _shown(self) -> Iterator[distance_blocks.Side]:
        """Yields the images that all processes show at once, those of process 0 first, until all have been shown."""
        if self.share.alone:
            yield self.side
            return
        for first in range(0, max(map(len, self.holders)), self._block):
            part = self.side.take(slice(first, first + self._block))
            yield part.map(lambda array: np.concatenate(self.share.exchange.gather(array)))

    def nearest(self, k: int, mesh: Mesh | None = None) -> distance_blocks.Neighbors:
        """Returns the k nearest of all images, by their numbers, of every image held here; ties in their order.

        Args:
            k: number of neighbors, at most the number of images.
            mesh: devices of this process.
        """
        found = []
        for step, shown in enumerate(self._shown()):
            near = self._nearest_here(shown, k, mesh)
            if self.share.alone:
                return near
            shown_of = [holder[step * self._block : (step + 1) * self._block] for holder in self.holders]
            found.append(self._merged(near, [len(numbers) for numbers in shown_of]))
        rows, distances, farthest = (np.concatenate([part[field] for part in found]) for field in range(3))
        return distance_blocks.Neighbors(rows, distances, farthest)

    def _nearest_here(self, shown: distance_blocks.Side, k: int, mesh: Mesh | None) -> distance_blocks.Neighbors:
        """Returns the k nearest images held here of those shown; filled up with number -1 and distance infinity."""
        rows = np.full((shown.num_rows, k), -1, np.int32)
        distances = np.full((shown.num_rows, k), np.inf, np.float32)
        if not self.side.num_rows:
            return distance_blocks.Neighbors(rows, distances, np.full(shown.num_rows, -np.inf, np.float32))
        near = distance_blocks.nearest(shown, self.side, k, mesh=mesh)
        width = near.rows.shape[1]
        rows[:, :width], distances[:, :width] = self.numbers[near.rows], near.distances
        return distance_blocks.Neighbors(rows, distances, near.farthest)

    def _merged(self, near: distance_blocks.Neighbors, lengths: list[int]) -> distance_blocks.Neighbors:
        """Returns the nearest of all processes for the images that this one has shown.

        Args:
            near: the nearest here of the images that all have shown.
            lengths: how many each process has shown.
        """
        starts, size = np.cumsum([0, *lengths]), max(lengths)

        def dealt(array: np.ndarray) -> np.ndarray:
            parts = np.zeros((len(lengths), size, *array.shape[1:]), array.dtype)
            for process, length in enumerate(lengths):
                parts[process, :length] = array[starts[process] : starts[process] + length]
            received = self.share.exchange.deal(parts)[:, : lengths[self.share.exchange.index]]
            return np.moveaxis(received, 0, 1)  # [n, processes, ...]

        rows, distances, farthest = (dealt(array) for array in near)
        rows, distances = (array.reshape(len(array), -1) for array in (rows, distances))
        order = np.lexsort((rows, distances, rows < 0), axis=-1)[:, : near.rows.shape[1]]
        rows, distances = (np.take_along_axis(array, order, axis=1) for array in (rows, distances))
        return distance_blocks.Neighbors(rows, distances, farthest.max(axis=1, initial=-np.inf))

    def joined(self, array: np.ndarray) -> np.ndarray:
        """Returns rows of all images by number, from those [n, ...] of the images held here."""
        out = np.empty((self.count, *array.shape[1:]), array.dtype)
        for numbers, part in zip(self.holders, self.share.exchange.gather(array), strict=True):
            out[numbers] = part
        return out

    def pairs(self, rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Returns the distances of images held here to images of all processes.

        Args:
            rows: [m] places among the images held here.
            numbers: [m] numbers of the others.

        Returns:
            [m] float32.
        """
        out = np.empty(len(rows), np.float32)
        step, place = np.empty(self.count, np.int32), np.empty(self.count, np.int64)
        starts = np.zeros(-(-max(map(len, self.holders)) // self._block), np.int64)
        for holder in self.holders:
            position = np.arange(len(holder))
            step[holder] = position // self._block
            place[holder] = starts[step[holder]] + position % self._block
            starts += np.bincount(step[holder], minlength=len(starts))
        order = np.argsort(step[numbers], kind="stable")
        ends = np.cumsum(np.bincount(step[numbers], minlength=len(starts)))
        for number, shown in enumerate(self._shown()):
            chosen = order[ends[number - 1] if number else 0 : ends[number]]
            for first in range(0, len(chosen), _PAIRS_AT_ONCE):
                part = chosen[first : first + _PAIRS_AT_ONCE]
                out[part] = distance_blocks.pairs(self.side.take(rows[part]), shown.take(place[numbers[part]]))
        return out
