"""Orders of very many indices without a table: keyed bijections, computed for the positions that are asked for.

    order = index_cipher.Cipher(10**8, keys)      # a few numbers, whatever the size
    order(np.arange(128))                         # the first 128 indices of a random order, each index once

References:
    Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002 (Feistel network with cycle walking).
"""

from __future__ import annotations

import numpy as np

ROUNDS = 4
CHUNK, CHUNKS = 1024, 64  # of the order `Windows`
_MIX = np.uint64(0x9E3779B97F4A7C15)


class Cipher:
    """A pseudorandom bijection of [0, size)."""

    def __init__(self, size: int, keys: np.ndarray):
        """Takes the size and the keys.

        Args:
            size: number of indices, at least 1.
            keys: uint64 [ROUNDS].
        """
        self.size = size
        # Both halves have the same number of bits: the domain is at most four times too large.
        self._half = np.uint64(max(1, (max(size - 1, 1).bit_length() + 1) // 2))
        self._mask = np.uint64((1 << int(self._half)) - 1)
        self._keys = np.asarray(keys, np.uint64)

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Returns the index at each position: int64, for positions in [0, size)."""
        values = self._permuted(np.asarray(positions).astype(np.uint64))
        # Values outside are sent on until they fall inside: still a bijection.
        while (outside := values >= self.size).any():
            values[outside] = self._permuted(values[outside])
        return values.astype(np.int64)

    def _permuted(self, values: np.ndarray) -> np.ndarray:
        left, right = values >> self._half, values & self._mask
        for key in self._keys:
            mixed = (right + key) * _MIX  # wraps around at 64 bits
            mixed ^= mixed >> np.uint64(29)
            mixed *= _MIX
            left, right = right, left ^ ((mixed >> np.uint64(32)) & self._mask)
        return (left << self._half) | right


class Windows:
    """An order for disks that seek slowly: chunks of neighbors in random order, mixed inside windows of some chunks."""

    def __init__(self, size: int, keys: np.ndarray):
        """Takes the size and the keys, as `Cipher`; what fills no chunk comes last."""
        self._whole = size // CHUNK * CHUNK
        self._size, self._keys = size, np.asarray(keys, np.uint64)
        self._chunks = Cipher(max(1, size // CHUNK), self._keys)

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Returns the index at each position: int64, for positions in [0, size)."""
        positions = np.asarray(positions, np.int64)
        found = np.empty_like(positions)
        width = CHUNK * CHUNKS
        window = np.where(positions < self._whole, positions // width, -1)
        for number in np.unique(window):
            inside = window == number
            keys = self._keys + np.uint64(number + 2)
            if number < 0:
                tail = Cipher(max(1, self._size - self._whole), keys)
                found[inside] = self._whole + tail(positions[inside] - self._whole)
                continue
            first = int(number) * width
            mixed = Cipher(min(width, self._whole - first), keys)(positions[inside] - first)
            chunk = self._chunks(int(number) * CHUNKS + mixed // CHUNK)
            found[inside] = chunk * CHUNK + mixed % CHUNK
        return found
