"""Normalization and box fills on the device, against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reid_jax import errors
from reid_jax.ops import images

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BOXES = np.array([[0, 0, 0, 0], [1, 2, 5, 4], [0, 0, 8, 6], [3, 3, 3, 5]], np.int32)


def make_pixels():
    return np.random.default_rng(0).integers(0, 256, (4, 8, 6, 3)).astype(np.uint8)


def test_normalize_equals_numpy():
    pixels = make_pixels()
    expected = (pixels / 255.0 - np.array(MEAN)) / np.array(STD)
    normalized = jax.jit(lambda x: images.normalize(x, MEAN, STD))(pixels)
    assert normalized.dtype == jnp.float32
    np.testing.assert_allclose(normalized, expected, atol=2e-6)
    scaled = images.normalize(jnp.asarray(pixels / 255.0, jnp.float32), MEAN, STD)
    np.testing.assert_allclose(scaled, expected, atol=2e-6)


@pytest.mark.parametrize("fill", ["mean_raw", "zero", "mean", (0.4914, 0.4822, 0.4465)], ids=str)
def test_fill_writes_the_box_and_nothing_else(fill):
    normalized = np.asarray(images.normalize(make_pixels(), MEAN, STD))
    color = {"mean_raw": MEAN, "zero": (0, 0, 0), "mean": (0, 0, 0)}.get(fill, fill)
    expected = normalized.copy()
    for image, (top, left, bottom, right) in zip(expected, BOXES):
        image[top:bottom, left:right] = color
    np.testing.assert_array_equal(images.fill_boxes(jnp.asarray(normalized), BOXES, fill), expected)


def test_noise_is_standard_normal_inside_the_box():
    start = jnp.full((4, 64, 32, 3), 9.0)
    boxes = np.array([[0, 0, 0, 0], [4, 2, 60, 30], [0, 0, 64, 32], [0, 0, 64, 32]], np.int32)
    fill = jax.jit(lambda x, b, k: images.fill_boxes(x, b, "noise", k))
    filled = np.asarray(fill(start, boxes, jax.random.key(0)))
    assert (filled[0] == 9).all()
    assert (filled[1, :4] == 9).all()
    assert (filled[1, :, 30:] == 9).all()
    assert (filled[1, 4:60, 2:30] != 9).all()
    inside = filled[2:]
    assert abs(inside.mean()) < 0.04
    assert abs(inside.std() - 1) < 0.03
    assert (filled[2] != filled[3]).mean() > 0.99  # each image has its own
    assert abs(np.corrcoef(inside[..., 0].ravel(), inside[..., 1].ravel())[0, 1]) < 0.06  # each channel, too
    np.testing.assert_array_equal(filled, fill(start, boxes, jax.random.key(0)))


def test_fill_keeps_the_dtype():
    filled = images.fill_boxes(jnp.ones((4, 8, 6, 3), jnp.bfloat16), BOXES, "mean_raw")
    assert filled.dtype == jnp.bfloat16
    noisy = images.fill_boxes(jnp.ones((4, 8, 6, 3), jnp.bfloat16), BOXES, "noise", jax.random.key(1))
    assert noisy.dtype == jnp.bfloat16


def test_mistakes_are_named():
    batch = jnp.zeros((4, 8, 6, 3))
    with pytest.raises(errors.UserError, match="did you mean 'mean_raw'"):
        images.fill_boxes(batch, BOXES, "mean-raw")
    with pytest.raises(errors.UserError, match="random key"):
        images.fill_boxes(batch, BOXES, "noise")
    with pytest.raises(errors.UserError, match="3 numbers"):
        images.fill_boxes(batch, BOXES, (0.5, 0.5))


def test_noise_does_not_depend_on_the_number_of_devices():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:4])
    start, boxes = jnp.zeros((4, 8, 6, 3)), np.tile(np.array([[0, 0, 8, 6]], np.int32), (4, 1))
    fill = jax.jit(lambda x, b, k: images.fill_boxes(x, b, "noise", k))
    alone = fill(start, boxes, jax.random.key(0))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    shared = fill(jax.device_put(start, split), jax.device_put(boxes, split), jax.random.key(0))
    assert len(shared.sharding.device_set) == 4
    np.testing.assert_array_equal(shared, alone)


def test_patches_and_back():
    """Property 15 of AMFOR's list."""
    pictures = np.random.default_rng(0).normal(size=(2, 8, 6, 3)).astype(np.float32)
    patches = images.patchify(pictures, 2)
    assert patches.shape == (2, 12, 12)
    np.testing.assert_array_equal(patches[1, 4], pictures[1, 2:4, 2:4].ravel())  # the second of the second row
    np.testing.assert_array_equal(images.unpatchify(patches, 2, 8, 6), pictures)
    with pytest.raises(errors.UserError, match="divide into patches of 4 pixels a side, got 8 x 6"):
        images.patchify(pictures, 4)
