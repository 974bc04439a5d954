"""Sums and collections of host arrays over the processes of a run (`reid_jax.data.gallery_share.Exchange`)."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_SMALLEST = 1024  # numbers in a message
_DIGITS = 20  # bits of a digit: sums of the digits of 2,048 processes fit int32


class Processes:
    """Exchanges arrays between all processes.

    Attributes:
        index: number of this process.
        count: number of processes.
        received: bytes that other processes have sent to this one.
    """

    def __init__(self) -> None:
        self.received = 0
        self.index, self.count = int(jax.process_index()), int(jax.process_count())

    def sum(self, array: np.ndarray) -> np.ndarray:
        """Returns the sum over all processes of integers of one shape; int64 ones must not be negative."""
        if array.dtype == np.int64:
            # jax has 32 bits: three digits, each summed on its own.
            digits = np.stack([array >> (_DIGITS * place) & (2**_DIGITS - 1) for place in range(3)]).astype(np.int32)
            return np.asarray(
                sum(self.sum(digit).astype(np.int64) << (_DIGITS * place) for place, digit in enumerate(digits))
            )
        flat = np.zeros(_padded(array.size), np.int32)
        flat[: array.size] = array.reshape(-1)
        mesh, add, _ = _programs()
        everyone = jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec("processes")), flat[None])
        self.received += 2 * flat.nbytes * (self.count - 1) // self.count  # of a ring, to each and back
        summed = np.asarray(add(everyone).addressable_data(0))
        return summed[: array.size].reshape(array.shape).astype(array.dtype)

    def gather(self, array: np.ndarray) -> list[np.ndarray]:
        """Returns the arrays of all processes in their order; their first axes may differ in length."""
        row = int(np.prod(array.shape[1:], dtype=np.int64)) * array.itemsize
        count = np.asarray(len(array), np.int32)
        counts = np.asarray(multihost_utils.process_allgather(count)).reshape(-1)
        padded = np.zeros(int(counts.max()) * row, np.uint8)  # bytes: jax would make float64 of float32
        padded[: len(array) * row] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        everyone = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(counts), -1)
        self.received += (len(counts) - 1) * (padded.nbytes + count.nbytes)
        return [
            part[: number * row].view(array.dtype).reshape(number, *array.shape[1:])
            for part, number in zip(everyone, counts, strict=True)
        ]

    def deal(self, array: np.ndarray) -> np.ndarray:
        """Returns what every process has for this one [count, ...], of arrays [count, ...] with a part for each."""
        own = np.ascontiguousarray(array).reshape(self.count, -1).view(np.uint8)
        mesh, _, transpose = _programs()
        everyone = jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec("processes")), own[None])
        self.received += own.nbytes * (self.count - 1) // self.count
        dealt = np.asarray(transpose(everyone).addressable_data(0))[0]
        return np.ascontiguousarray(dealt).view(array.dtype).reshape(array.shape)


def _padded(size: int) -> int:
    """Returns the number of numbers in a message: one of eight sizes for each power of two, so few programs suffice."""
    unit = max(_SMALLEST, (1 << max(0, size - 1).bit_length()) // 8)
    return max(1, -(-size // unit)) * unit


@functools.cache
def _programs() -> tuple[Mesh, Callable[[jax.Array], jax.Array], Callable[[jax.Array], jax.Array]]:
    """Returns a mesh of one device of each process, and the sum and the transposition over it as programs."""
    first: dict[int, jax.Device] = {}
    for device in jax.devices():
        first.setdefault(device.process_index, device)
    mesh = Mesh(np.asarray([first[index] for index in sorted(first)]), ("processes",))
    add = jax.jit(lambda x: x.sum(axis=0), out_shardings=NamedSharding(mesh, PartitionSpec()))
    split = NamedSharding(mesh, PartitionSpec("processes"))
    return mesh, add, jax.jit(lambda x: x.swapaxes(0, 1), out_shardings=split)
