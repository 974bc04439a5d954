"""Two-dimensional convolution that picks, per platform, the exact formulation that runs fastest there.

Every formulation computes the same sums; they differ in the code that the compiler generates.

- GPU and TPU: the native convolution, always, with JAX's own derivatives.
- CPU, 1×1 kernel: a matrix product, in both passes. Residual blocks should end in `fusion.materialize`: without it XLA
  fuses the chain of residual sums into these products and recomputes it for every layer.
- CPU, depthwise kernel with stride 1: shifted multiply-and-add (the native grouped convolution is 35 to 130 times
  slower forward); the weight gradient scans over the batch, so that one image stays in cache.
- CPU, pictures (up to 4 channels) to fewer than 48 maps: sixteen maps at a time (in a single pass, 32 take twice and 24
  five times as long).
- CPU, dense k×k kernel with stride 1 and at least 48 channels on both sides: the native convolution, and the weight
  gradient by one matrix product per row of the kernel (the native one is 1.1 to 2.7 times slower).
- CPU, any other dense k×k kernel: the native convolution.

The platform is chosen when a program is traced (`reid_jax.ops.platforms`). Formulations of the CPU are traced once per
shape and kept, since a network repeats its layers. Hand-written gradients are first order and reverse mode only;
`formulation="native"` lifts that limit.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from reid_jax.ops import fusion, platforms, tracing

Arrays = tuple[jax.Array, jax.Array]

FORMULATIONS = ("auto", "native", "cpu")
SIXTEEN = 16
WIDE = 48  # channels from which on a weight gradient by matrix products is faster
LARGE = 1 << 19  # values from which on a factor of a weight gradient is written to memory before it is transposed
FOLD = 8  # groups of rows in a depthwise weight gradient; 4 and 16 are slower
NEAR = 8_192  # values of an image up to which its shifts by a column lie next to each other; 16,384 are slower so
_LAYOUT = ("NHWC", "HWIO", "NHWC")
Padding = tuple[tuple[int, int], tuple[int, int]]


def symmetric_padding(kernel_size: Sequence[int], dilation: int = 1) -> Padding:
    """Returns the padding (k - 1) // 2 on each side that PyTorch recipes write, not XLA's uneven "SAME"."""
    rows, columns = ((size - 1) * dilation // 2 for size in kernel_size)
    return (rows, rows), (columns, columns)


def convolution(
    images: jax.Array,
    kernel: jax.Array,
    *,
    strides: int = 1,
    padding: Padding | None = None,
    dilation: int = 1,
    groups: int = 1,
    formulation: str = "auto",
) -> jax.Array:
    """Convolves (cross-correlates, as all deep-learning libraries do) a batch of maps with a kernel.

    Args:
        images: [B, H, W, C] maps.
        kernel: [kh, kw, C / groups, D] weights, same dtype as the maps.
        strides: step of the window, the same for rows and columns.
        padding: zeros ((top, bottom), (left, right)); None means `symmetric_padding`.
        dilation: distance between the kernel's taps.
        groups: number of channel groups; C = D = groups is a depthwise convolution.
        formulation: "auto" (by platform), "native" or "cpu" (that of the platform, whichever this is; for tests).

    Returns:
        [B, H', W', D] maps, H' = (H + top + bottom - dilation (kh - 1) - 1) // strides + 1.

    Raises:
        ValueError: the formulation is unknown.
    """
    if formulation not in FORMULATIONS:
        raise ValueError(f"formulation must be one of {FORMULATIONS}, not {formulation!r}")
    if padding is None:
        padding = symmetric_padding(kernel.shape[:2], dilation)
    if formulation == "cpu" or (formulation == "auto" and platforms.target() == "cpu"):
        if kernel.shape[:2] == (1, 1) and groups == 1 and padding == ((0, 0), (0, 0)):
            return _pointwise(images, kernel, strides)
        depthwise = groups == images.shape[-1] == kernel.shape[-1] and groups > 1
        if depthwise and strides == dilation == 1:
            return _depthwise(images, kernel, padding)
        if groups == 1 and images.shape[-1] <= 4 and SIXTEEN < kernel.shape[-1] < 3 * SIXTEEN:
            return _by_sixteens(images, kernel, strides, padding, dilation)
        if groups == strides == dilation == 1 and _is_wide(kernel, padding):
            return _wide(images, kernel, padding)
    return _native(images, kernel, strides, padding, dilation, groups)


def _native(
    images: jax.Array, kernel: jax.Array, strides: int, padding: Padding, dilation: int = 1, groups: int = 1
) -> jax.Array:
    return lax.conv_general_dilated(
        images,
        kernel,
        (strides, strides),
        padding,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=_LAYOUT,
        feature_group_count=groups,
    )


def _by_sixteens(images: jax.Array, kernel: jax.Array, strides: int, padding: Padding, dilation: int) -> jax.Array:
    cuts = range(0, kernel.shape[-1], SIXTEEN)
    parts = [_native(images, kernel[..., cut : cut + SIXTEEN], strides, padding, dilation) for cut in cuts]
    return jnp.concatenate(parts, axis=-1)


# Dense convolution with stride 1 of many channels.


def _is_wide(kernel: jax.Array, padding: Padding) -> bool:
    inside = all(max(pads) < taps for pads, taps in zip(padding, kernel.shape[:2], strict=True))
    return min(kernel.shape[2:]) >= WIDE and inside


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _wide(images: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
    return _native(images, kernel, 1, padding)


def _wide_forward(images: jax.Array, kernel: jax.Array, padding: Padding) -> tuple[jax.Array, Arrays]:
    return _wide(images, kernel, padding), (images, kernel)


@tracing.once(static=(0,))
def _wide_backward(padding: Padding, residuals: Arrays, gradient: jax.Array) -> Arrays:
    images, kernel = residuals
    images, gradient = _before_transposing(images, gradient)
    mirrored = _mirrored(kernel.shape[:2], padding)
    images_gradient = _native(gradient, kernel[::-1, ::-1].swapaxes(2, 3), 1, mirrored)
    return images_gradient, _wide_kernel_gradient(images, gradient, kernel.shape, padding)


def _wide_kernel_gradient(
    images: jax.Array, gradient: jax.Array, shape: tuple[int, ...], padding: Padding
) -> jax.Array:
    """Returns the weight gradient [kh, kw, C, D] by kh products of [positions, C]ᵀ and [positions, kw D].

    The kernel's columns are shifts of the gradient next to each other, so that each product is large: where C is small,
    the many positions are what costs time, and they are read once per row of the kernel instead of once per tap.
    """
    rows, columns, channels, maps = shape
    height, width = gradient.shape[1], images.shape[2]
    shiftable = jnp.pad(gradient, ((0, 0), (0, 0), _mirrored((rows, columns), padding)[1], (0, 0)))
    shifts = [shiftable[:, :, start : start + width] for start in reversed(range(columns))]
    shifted = jnp.concatenate(shifts, axis=-1)
    padded = jnp.pad(images, ((0, 0), padding[0], (0, 0), (0, 0)))
    products = [jnp.einsum("bhwi,bhwo->io", padded[:, row : row + height], shifted) for row in range(rows)]
    return jnp.stack(products).reshape(rows, channels, columns, maps).swapaxes(1, 2)


_wide.defvjp(_wide_forward, _wide_backward)


def _before_transposing(images: jax.Array, gradient: jax.Array) -> Arrays:
    """Returns the factors of a weight gradient, written to memory where they are large.

    One of them gets transposed in memory, which is slow where the same loop also computes it. Small ones stay in cache,
    and each array written is one more body to compile.
    """
    large = max(images.size, gradient.size) >= LARGE
    return (fusion.materialize(images), fusion.materialize(gradient)) if large else (images, gradient)


def _mirrored(taps: Sequence[int], padding: Padding) -> Padding:
    """Returns the padding of the convolution that takes a gradient back to the images."""
    rows, columns = ((size - 1 - low, size - 1 - high) for size, (low, high) in zip(taps, padding, strict=True))
    return rows, columns


# 1×1 convolution.


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _pointwise(images: jax.Array, kernel: jax.Array, strides: int) -> jax.Array:
    return _strided_product(images, kernel, strides)


@tracing.once(static=(2,))
def _strided_product(images: jax.Array, kernel: jax.Array, strides: int) -> jax.Array:
    return jnp.einsum("bhwi,io->bhwo", images[:, ::strides, ::strides], kernel[0, 0])


def _pointwise_forward(images: jax.Array, kernel: jax.Array, strides: int) -> tuple[jax.Array, Arrays]:
    return _pointwise(images, kernel, strides), (images, kernel)


@tracing.once(static=(0,))
def _pointwise_backward(strides: int, residuals: Arrays, gradient: jax.Array) -> Arrays:
    images, kernel = residuals
    seen, gradient = _before_transposing(images[:, ::strides, ::strides], gradient)
    # The first factor gets transposed in memory: so it is the smaller one. The product is written out because the
    # compiler would otherwise fold the following transpose into the product and reverse the order again.
    if images.shape[-1] > gradient.shape[-1]:
        kernel_gradient = fusion.materialize(jnp.einsum("bhwo,bhwi->oi", gradient, seen)).T
    else:
        kernel_gradient = jnp.einsum("bhwi,bhwo->io", seen, gradient)
    images_gradient = jnp.einsum("bhwo,io->bhwi", gradient, kernel[0, 0])
    if strides > 1:
        images_gradient = spread(images_gradient, images.shape[1:3], (0, 0), strides)
    return images_gradient, kernel_gradient[None, None]


_pointwise.defvjp(_pointwise_forward, _pointwise_backward)


def spread(values: jax.Array, size: Sequence[int], offset: tuple[int, int], strides: int) -> jax.Array:
    """Places [B, h, w, C] values on the strided grid that starts at `offset` of a zero map [B, *size, C]."""
    config = [(0, 0, 0)]
    for axis in range(2):
        covered = offset[axis] + (values.shape[1 + axis] - 1) * strides + 1
        config.append((offset[axis], size[axis] - covered, strides - 1))
    return lax.pad(values, jnp.zeros((), values.dtype), [*config, (0, 0, 0)])


# Depthwise convolution with stride 1.


@tracing.once(static=(2,))
def _shifted_sum(images: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
    """Returns the sum over the kernel's taps of the shifted maps times that tap's weights [C]."""
    padded = jnp.pad(images, ((0, 0), *padding, (0, 0)))
    height = padded.shape[1] - kernel.shape[0] + 1
    width = padded.shape[2] - kernel.shape[1] + 1
    taps = [(row, column) for row in range(kernel.shape[0]) for column in range(kernel.shape[1])]
    terms = (padded[:, i : i + height, j : j + width] * kernel[i, j, 0][None, None, None] for i, j in taps)
    return functools.reduce(jnp.add, terms)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise(images: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
    return _shifted_sum(images, kernel, padding)


def _depthwise_forward(images: jax.Array, kernel: jax.Array, padding: Padding) -> tuple[jax.Array, Arrays]:
    return _depthwise(images, kernel, padding), (images, kernel)


@tracing.once(static=(0,))
def _depthwise_backward(padding: Padding, residuals: Arrays, gradient: jax.Array) -> Arrays:
    images, kernel = residuals
    rows, columns = kernel.shape[:2]
    images_gradient = _shifted_sum(gradient, kernel[::-1, ::-1], _mirrored((rows, columns), padding))
    kernel_gradient = _depthwise_kernel_gradient(images, gradient, (rows, columns), padding)
    return images_gradient, kernel_gradient.reshape(kernel.shape).astype(kernel.dtype)


def _depthwise_kernel_gradient(
    images: jax.Array, gradient: jax.Array, taps: tuple[int, int], padding: Padding
) -> jax.Array:
    """Returns, for each tap, the sum over images and positions of shifted maps times gradient, float32 [taps, C].

    It runs image by image, so that the nine passes over an image read from cache; the padded image is materialized
    first, because slices of a slice at a running offset are not vectorized. Rows are summed by element-wise additions
    in `FOLD` groups, which fuse with the products; a reduction would have them written to memory.

    Shifts of a small image by a column lie next to each other, so that a row of taps is a single product: a third of
    the operations for the compiler, with the same sums. Three copies of a larger image would leave the cache.
    """
    height, width, channels = gradient.shape[1:]
    fold = next(size for size in range(FOLD, 0, -1) if height % size == 0)
    group = height // fold
    together = taps[1] if height * width * channels <= NEAR else 1

    def add(total: jax.Array, pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        padded, slope = jnp.pad(pair[0], (*padding, (0, 0))), fusion.materialize(pair[1])
        if together > 1:
            padded = jnp.stack([padded[:, column : column + width] for column in range(together)])
            slope = slope[None]
        image, slopes = fusion.materialize(padded), jnp.split(slope, fold, axis=-3)
        sums = []
        for row in range(taps[0]):
            for column in range(0, taps[1], together):
                shifted = image[..., row : row + height, column : column + width, :]
                pairs = zip(jnp.split(shifted, fold, axis=-3), slopes, strict=True)
                sums.append(functools.reduce(jnp.add, [(x * slope).astype(jnp.float32) for x, slope in pairs]))
        return total + jnp.stack(sums).reshape(total.shape), None

    start = jnp.zeros((taps[0] * taps[1], group, width, channels), jnp.float32)
    return lax.scan(add, start, (images, gradient))[0].sum((1, 2))


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)
