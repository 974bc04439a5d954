"""Noise: Gaussian, shot (Poisson), impulse and speckle, independent for every channel of every pixel.

Signatures of all corruptions: `sample_<name>(severity, (height, width), rng)` returns the random draws, and
`<name>(severity, image, draws)` the corrupted image; images are uint8 `[H, W, 3]` RGB, and severities are 1 to 5.
"""

from __future__ import annotations

import functools

import numpy as np

from reid_jax.data.corruptions.filters import Draws, to_bytes, to_unit

GAUSSIAN_STD = (0.08, 0.12, 0.18, 0.26, 0.38)
SHOT_RATE = (60, 25, 12, 5, 3)  # expected photons of a white pixel
IMPULSE_AMOUNT = (0.03, 0.06, 0.09, 0.17, 0.27)
SPECKLE_STD = (0.15, 0.2, 0.35, 0.45, 0.6)


def _normal(std: float, shape: tuple[int, int], rng: np.random.Generator) -> Draws:
    noise = rng.standard_normal((*shape, 3), np.float32)
    noise *= np.float32(std)
    return (noise,)


def sample_gaussian(severity: int, shape: tuple[int, int], rng: np.random.Generator) -> Draws:
    """Draws noise from N(0, std), float32 `[H, W, 3]`."""
    return _normal(GAUSSIAN_STD[severity - 1], shape, rng)


def gaussian(severity: int, image: np.ndarray, draws: Draws) -> np.ndarray:
    """Returns the image with the noise added."""
    return to_bytes(to_unit(image) + draws[0])


def sample_speckle(severity: int, shape: tuple[int, int], rng: np.random.Generator) -> Draws:
    """Draws noise from N(0, std), float32 `[H, W, 3]`."""
    return _normal(SPECKLE_STD[severity - 1], shape, rng)


def speckle(severity: int, image: np.ndarray, draws: Draws) -> np.ndarray:
    """Returns the image with noise in proportion to its values: x + x n."""
    values = to_unit(image)
    return to_bytes(values + values * draws[0])


def sample_shot(severity: int, shape: tuple[int, int], rng: np.random.Generator) -> Draws:
    """Draws the quantiles of the Poisson distributions of all values from U(0, 1), float64 `[H, W, 3]`."""
    return (rng.random((*shape, 3)),)


def shot(severity: int, image: np.ndarray, draws: Draws) -> np.ndarray:
    """Returns photon counts as an image: Poisson(rate x) / rate.

    The draws are quantiles (floats), because the distribution depends on the image; photon counts (integers) are
    accepted too.
    """
    rate = SHOT_RATE[severity - 1]
    counts = draws[0]
    if counts.dtype.kind == "f":
        # Level v occupies [v, v + 1) of a single sorted table, so that one search serves all pixels.
        table, first = _poisson_table(rate)
        counts = np.searchsorted(table, (counts + image).ravel(), side="right").reshape(image.shape) - first[image]
    return to_bytes(counts / rate)  # in float64, since many quotients are whole gray levels


@functools.lru_cache(maxsize=len(SHOT_RATE))
def _poisson_table(rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns v + P(count <= k), k = 0, 1, ..., concatenated over the gray levels v, and the start of each level."""
    rows = []
    for level in range(256):
        mean = rate * level / 255
        terms = int(mean + 12 * np.sqrt(mean) + 12)
        probabilities = np.empty(terms)
        probabilities[0] = np.exp(-mean)
        for count in range(1, terms):
            probabilities[count] = probabilities[count - 1] * mean / count
        cumulated = np.cumsum(probabilities)
        rows.append(level + cumulated[cumulated < 1 - 1e-12])
    first = np.cumsum([0, *(len(row) for row in rows[:-1])])
    return np.concatenate(rows), first


def sample_impulse(severity: int, shape: tuple[int, int], rng: np.random.Generator) -> Draws:
    """Draws two masks, bool `[H, W, 3]`: which values are replaced, and which of them by white."""
    uniform = rng.random((2, *shape, 3), np.float32)
    return uniform[0] < IMPULSE_AMOUNT[severity - 1], uniform[1] < 0.5


def impulse(severity: int, image: np.ndarray, draws: Draws) -> np.ndarray:
    """Returns the image with random values replaced by 255 or 0 (salt and pepper)."""
    flipped, salt = draws
    return np.where(flipped, salt.astype(np.uint8) * np.uint8(255), image)
