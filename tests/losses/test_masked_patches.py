"""Masked mean squared error of patches: a slow numpy version, what is outside the mask, both targets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reid_jax import errors
from reid_jax.losses import masked_patches
from reid_jax.ops import images as image_ops

SIDE = 4


@pytest.fixture
def drawn():
    """Patches, pictures of 2 x 3 patches, a mask."""
    rng = np.random.default_rng(0)
    predicted = rng.normal(size=(3, 6, SIDE * SIDE * 3)).astype(np.float32)
    return predicted, rng.normal(size=(3, 8, 12, 3)).astype(np.float32), rng.random((3, 6)) < 0.5


def slow(predicted, pictures, mask, normalize):
    errors_, count = 0.0, 0
    for image in range(3):
        for row in range(2):
            for column in range(3):
                patch = pictures[image, row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE].ravel()
                patch = patch.astype(np.float64)
                if normalize:
                    patch = (patch - patch.mean()) / np.sqrt(patch.var() + 1e-6)
                if mask[image, row * 3 + column]:
                    errors_ += np.mean((predicted[image, row * 3 + column] - patch) ** 2)
                    count += 1
    return errors_ / max(count, 1)


@pytest.mark.parametrize("normalize", [False, True])
def test_it_is_the_slow_version(drawn, normalize):
    predicted, pictures, mask = drawn
    value = masked_patches.masked_patches(predicted, pictures, mask, normalize=normalize)
    np.testing.assert_allclose(value, slow(predicted, pictures, mask, normalize), rtol=1e-5)


def test_only_masked_patches_count(drawn):
    """Property 15."""
    predicted, pictures, mask = drawn
    outside = np.repeat(np.repeat(~mask.reshape(3, 2, 3), SIDE, axis=1), SIDE, axis=2)[..., None]
    other = np.where(outside, 100.0, pictures).astype(np.float32)
    loss = jax.value_and_grad(masked_patches.masked_patches)
    value, gradient = loss(predicted, pictures, mask)
    changed, same = loss(predicted, other, mask)
    assert value == changed
    np.testing.assert_array_equal(gradient, same)
    assert not np.any(np.asarray(gradient)[~mask])
    nothing, zero = loss(predicted, pictures, np.zeros_like(mask))
    assert nothing == 0
    assert not np.any(zero)


def test_local_contrast_and_back(drawn):
    _, pictures, _ = drawn
    true = image_ops.patchify(jnp.asarray(pictures), SIDE)
    normalized = masked_patches.normalize_patches(true)
    np.testing.assert_allclose(normalized.var(axis=-1), 1, rtol=1e-4)
    np.testing.assert_allclose(masked_patches.denormalize_patches(normalized, true), true, atol=1e-5)
    flat = masked_patches.normalize_patches(jnp.ones((1, 2, 12)))
    np.testing.assert_array_equal(flat, 0)


def test_patches_of_another_picture_are_refused(drawn):
    predicted, _, mask = drawn
    with pytest.raises(errors.UserError, match="cover images of 8 x 16, got 6 patches of 48 values"):
        masked_patches.masked_patches(predicted, np.zeros((3, 8, 16, 3), np.float32), mask)
