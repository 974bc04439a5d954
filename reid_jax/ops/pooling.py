"""Pooling over windows and over whole maps, with PyTorch's padding and its rule for equal maxima."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax

from reid_jax.ops import convolution, platforms


def max_pool(images: jax.Array, window: int, *, strides: int | None = None, padding: int = 0) -> jax.Array:
    """Returns the largest value of each window; the gradient goes to the first maximum in row-major order (PyTorch).

    On CPU both passes are written with shifted slices: XLA's own gradient (select-and-scatter) is a scalar loop there.

    Args:
        images: [B, H, W, C] maps.
        window: side of the square window.
        strides: step of the window; None means its side.
        padding: cells of minus infinity on every side.

    Returns:
        [B, H', W', C] maps, H' = (H + 2 padding - window) // strides + 1.
    """
    on_cpu = platforms.target() == "cpu"
    return (_shifted_max_pool if on_cpu else _native_max_pool)(images, window, strides or window, padding)


def average_pool(images: jax.Array, window: int) -> jax.Array:
    """Averages adjoining windows, [B, H, W, C] to [B, H // window, W // window, C]; a remainder is left out."""
    batch, height, width, channels = images.shape
    rows, columns = height // window, width // window
    cut = images[:, : rows * window, : columns * window]
    return cut.reshape(batch, rows, window, columns, window, channels).mean((2, 4))


def global_average(images: jax.Array) -> jax.Array:
    """Returns the mean over positions in float32, [B, H, W, C] to [B, C]."""
    return images.astype(jnp.float32).mean((1, 2))


def global_max(images: jax.Array) -> jax.Array:
    """Returns the largest value over positions in float32, [B, H, W, C] to [B, C]."""
    return images.astype(jnp.float32).max((1, 2))


def generalized_mean(images: jax.Array, power: jax.Array, epsilon: float = 1e-6) -> jax.Array:
    """Returns the power mean (GeM) over positions, [B, H, W, C] to [B, C].

    Power 1 is the average; large powers approach the maximum.

    Args:
        images: maps; values below `epsilon` are raised to it, since a power of a negative number is undefined.
        power: scalar or [C] exponent.
        epsilon: smallest value that enters the power.

    References:
        Radenović, Tolias, Chum, "Fine-tuning CNN image retrieval with no human annotation", TPAMI 2019, eq. 3.
    """
    raised = jnp.maximum(images.astype(jnp.float32), epsilon) ** jnp.reshape(power, (1, 1, 1, -1))
    return raised.mean((1, 2)) ** (1.0 / jnp.reshape(power, (1, -1)))


def _native_max_pool(images: jax.Array, window: int, strides: int, padding: int) -> jax.Array:
    pooled: jax.Array = lax.reduce_window(
        images,
        -jnp.inf,
        lax.max,
        (1, window, window, 1),
        (1, strides, strides, 1),
        ((0, 0), (padding, padding), (padding, padding), (0, 0)),
    )
    return pooled


def _windows(
    images: jax.Array, window: int, strides: int, padding: int
) -> tuple[jax.Array, list[tuple[int, int]], tuple[int, int]]:
    """Returns the maps padded by minus infinity, the offsets inside a window, and how far a strided slice reaches."""
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)), constant_values=-jnp.inf)
    offsets = [(row, column) for row in range(window) for column in range(window)]
    rows, columns = ((padded.shape[axis] - window) // strides * strides + 1 for axis in (1, 2))
    return padded, offsets, (rows, columns)


def _slice(padded: jax.Array, offset: tuple[int, int], spans: tuple[int, int], strides: int) -> jax.Array:
    (row, column), (rows, columns) = offset, spans
    return padded[:, row : row + rows : strides, column : column + columns : strides]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _shifted_max_pool(images: jax.Array, window: int, strides: int, padding: int) -> jax.Array:
    padded, offsets, spans = _windows(images, window, strides, padding)
    return functools.reduce(jnp.maximum, (_slice(padded, offset, spans, strides) for offset in offsets))


def _shifted_max_pool_forward(
    images: jax.Array, window: int, strides: int, padding: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    pooled = _shifted_max_pool(images, window, strides, padding)
    return pooled, (images, pooled)


def _shifted_max_pool_backward(
    window: int, strides: int, padding: int, residuals: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array]:
    images, pooled, gradient = lax.optimization_barrier((*residuals, gradient))
    padded, offsets, spans = _windows(images, window, strides, padding)
    taken = jnp.zeros(pooled.shape, bool)
    total = jnp.zeros_like(padded)
    for offset in offsets:
        first = (_slice(padded, offset, spans, strides) == pooled) & ~taken
        taken |= first
        total += convolution.spread(jnp.where(first, gradient, 0), padded.shape[1:3], offset, strides)
    return (total[:, padding : padding + images.shape[1], padding : padding + images.shape[2]],)


_shifted_max_pool.defvjp(_shifted_max_pool_forward, _shifted_max_pool_backward)
