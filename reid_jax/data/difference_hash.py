"""Difference hashes of images, which survive another compression or size, and the search for near-equal ones."""

from __future__ import annotations

import itertools

import cv2
import numpy as np

BITS = 64
_PAIRS = 2**22  # candidate pairs compared at once


def difference_hash(image: np.ndarray) -> int:
    """Returns a 64-bit hash: whether each of 8 x 8 cells of a small gray image is darker than its right neighbor.

    Args:
        image: uint8 [H, W, 3].
    """
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(gray, (9, 8), interpolation=cv2.INTER_AREA).astype(np.int16)
    bits = small[:, 1:] > small[:, :-1]
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def near(queries: np.ndarray, pool: np.ndarray, bits: int) -> list[tuple[int, int]]:
    """Returns pairs (place in queries, place in pool) of hashes that differ in at most some bits, sorted.

    Hashes that differ in at most n bits agree in one of n + 1 bands of bits; only those are compared.

    Args:
        queries: uint64 [Q].
        pool: uint64 [N].
        bits: largest number of different bits, 0 to 8.
    """
    found: set[tuple[int, int]] = set()
    edges = np.linspace(0, BITS, bits + 2).astype(int)
    for low, high in itertools.pairwise(edges):
        band = np.uint64(((1 << int(high - low)) - 1) << int(low))
        order = np.argsort(pool & band, kind="stable")
        values = (pool & band)[order]
        starts, ends = (np.searchsorted(values, queries & band, side=side) for side in ("left", "right"))
        counts = ends - starts
        for part in _parts(counts):
            rows = np.repeat(part, counts[part])
            within = np.arange(len(rows)) - np.repeat(np.cumsum(counts[part]) - counts[part], counts[part])
            columns = order[starts[rows] + within]
            close = np.bitwise_count(queries[rows] ^ pool[columns]) <= bits
            found |= set(zip(rows[close].tolist(), columns[close].tolist(), strict=True))
    return sorted(found)


def _parts(counts: np.ndarray) -> list[np.ndarray]:
    """Returns the places of the queries in runs of about `_PAIRS` candidates."""
    runs = np.cumsum(counts) // _PAIRS
    return np.split(np.arange(len(counts)), np.flatnonzero(np.diff(runs)) + 1)
