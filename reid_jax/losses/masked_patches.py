"""Losses on the masked patches of an image: reconstruction, and the statistics of each patch."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from reid_jax import errors
from reid_jax.ops import images as image_ops
from reid_jax.ops import patch_statistics as patch_ops

SCALE_OFFSET = patch_ops.SCALE_OFFSET


def masked_patches(predicted: jax.Array, images: jax.Array, mask: jax.Array, *, normalize: bool = False) -> jax.Array:
    """Returns the mean squared error within each masked patch, averaged over the masked patches of the batch.

    Args:
        predicted: [B, N, P] pixels of square patches, P = side * side * 3, in the order of `ops.images.patchify`.
        images: [B, H, W, 3] target images, normalized like the model's input.
        mask: [B, N] bool, the patches in the loss.
        normalize: normalize the target patches to mean 0 and variance 1 (see `normalize_patches`), so that patches of
            low and high contrast have the same weight.

    Returns:
        float32 scalar; zero where nothing is masked. Pixels outside masked patches have no influence.

    Raises:
        UserError: patches that do not cover such images.

    References:
        He et al., Masked Autoencoders Are Scalable Vision Learners (CVPR 2022), section 3.
    """
    target = image_ops.patchify(images.astype(jnp.float32), side_of(predicted, images))
    if normalize:
        target = normalize_patches(target)
    per_patch = jnp.mean(jnp.square(predicted.astype(jnp.float32) - target), axis=-1)  # [B, N]
    return jnp.sum(jnp.where(mask, per_patch, 0.0)) / jnp.maximum(jnp.sum(mask), 1)


def patch_statistics(statistics: jax.Array, images: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns the mean squared error of predicted means and scales of the masked patches.

    A model of normalized patches needs them to draw a picture without looking at the true one (`scale_patches`).

    Args:
        statistics: [B, N, 2], the mean of a patch and `log(standard deviation + 0.01)`, over all its values.
        images: [B, H, W, 3] target images, normalized like the model's input.
        mask: [B, N] bool, the patches in the loss.

    Returns:
        float32 scalar, averaged over masked patches and both numbers; zero where nothing is masked.

    Raises:
        UserError: a number of patches that square ones of such images cannot have.
    """
    height, width = images.shape[1:3]
    side = math.isqrt(height * width // mask.shape[1])
    if side == 0 or side**2 * mask.shape[1] != height * width:
        raise errors.UserError(
            f"expected square patches that cover images of {height} x {width}, got {mask.shape[1]} patches; compare "
            "statistics with images of their size."
        )
    target = patch_ops.statistics_of(image_ops.patchify(images.astype(jnp.float32), side))
    per_patch = jnp.mean(jnp.square(statistics.astype(jnp.float32) - target), axis=-1)
    return jnp.sum(jnp.where(mask, per_patch, 0.0)) / jnp.maximum(jnp.sum(mask), 1)


def scale_patches(patches: jax.Array, statistics: jax.Array) -> jax.Array:
    """Returns normalized patches [B, N, P] with predicted mean and scale ([B, N, 2], see `patch_statistics`)."""
    scale = jnp.exp(statistics[..., 1:]) - SCALE_OFFSET
    return patches * scale + statistics[..., :1]


def normalize_patches(patches: jax.Array) -> jax.Array:
    """Returns each patch [..., P] minus its mean, divided by `sqrt(variance + 1e-6)`."""
    mean, variance = jnp.mean(patches, axis=-1, keepdims=True), jnp.var(patches, axis=-1, keepdims=True)
    return (patches - mean) / jnp.sqrt(variance + 1e-6)


def denormalize_patches(patches: jax.Array, true: jax.Array) -> jax.Array:
    """Returns the inverse of `normalize_patches`, with mean and variance of the true patches, all [..., P]."""
    mean, variance = jnp.mean(true, axis=-1, keepdims=True), jnp.var(true, axis=-1, keepdims=True)
    return patches * jnp.sqrt(variance + 1e-6) + mean


def side_of(patches: jax.Array, images: jax.Array) -> int:
    """Returns the side in pixels of patches [B, N, P] that cover images [B, H, W, C].

    Raises:
        UserError: patches that do not cover such images.
    """
    height, width, channels = images.shape[1:]
    side = math.isqrt(patches.shape[-1] // channels)
    if side**2 * channels != patches.shape[-1] or patches.shape[1] * side**2 != height * width:
        raise errors.UserError(
            f"expected square patches that cover images of {height} x {width}, got {patches.shape[1]} patches of "
            f"{patches.shape[-1]} values; compare a reconstruction with images of its size."
        )
    return side
