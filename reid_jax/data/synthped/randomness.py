"""Random numbers of SynthPed: a generator per (seed, purpose, numbers), so that each image can be drawn by itself."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """Returns the random generator of a purpose and numbers.

    Philox is counter-based and defined on integers, so its stream is the same on every machine.

    Args:
        seed: seed of the data set.
        purpose: what is drawn ("person", "camera", "image", …).
        numbers: for which identity, camera, index, ….
    """
    text = "/".join([str(int(seed)), purpose, *(str(int(number)) for number in numbers)])
    key = np.frombuffer(hashlib.blake2b(text.encode(), digest_size=16).digest(), "<u8").astype(np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def bell(uniform: float) -> float:
    """Maps a uniform number in [0, 1) to a bell-shaped distribution on (-1, 1), by basic arithmetic only."""
    centered = 2.0 * uniform - 1.0
    return centered * (0.35 + 0.65 * centered * centered)


def weighted(uniform: float, table: tuple[tuple[str, float], ...]) -> str:
    """Returns a name from a table of (name, weight), selected by a uniform number in [0, 1)."""
    rest = uniform * sum(weight for _, weight in table)
    for name, weight in table:
        rest -= weight
        if rest < 0:
            return name
    return table[-1][0]
