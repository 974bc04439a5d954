"""Chance for SynthPed: one independent generator per (seed, purpose, numbers), so that any image can be drawn alone."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """Returns the generator that belongs to a purpose and a place.

    Philox is counter based and defined on integers, so the stream is the same on every machine.

    Args:
        seed: seed of the whole data set.
        purpose: what is drawn ("person", "camera", "image", …).
        numbers: where (identity, camera, index, …).
    """
    text = "/".join([str(int(seed)), purpose, *(str(int(number)) for number in numbers)])
    key = np.frombuffer(hashlib.blake2b(text.encode(), digest_size=16).digest(), "<u8").astype(np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def bell(uniform: float) -> float:
    """Turns one number of [0, 1) into a bell-like one of (-1, 1): dense at 0, bounded, without any library function."""
    centered = 2.0 * uniform - 1.0
    return centered * (0.35 + 0.65 * centered * centered)


def weighted(uniform: float, table: tuple[tuple[str, float], ...]) -> str:
    """Picks a name from a table of (name, weight) with one number of [0, 1)."""
    rest = uniform * sum(weight for _, weight in table)
    for name, weight in table:
        rest -= weight
        if rest < 0:
            return name
    return table[-1][0]
