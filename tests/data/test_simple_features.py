"""Raw pixels and color histograms on constructed images, and color conversion compared with the standard library."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest

from reid_jax.data import simple_features


def test_raw_pixels_are_block_means():
    images = np.zeros((2, 4, 4, 3), np.uint8)
    images[1, :2, :2] = 100
    images[1, 0, 0] = 200
    features = simple_features.raw_pixels(images, height=2, width=2)
    assert features.shape == (2, 12)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features[1, :3], 125 / 255, rtol=1e-6)
    assert not features[1, 3:].any()
    assert not features[0].any()


def test_raw_pixels_need_a_grid_that_divides():
    with pytest.raises(ValueError, match="3x3 grid does not divide 4x4"):
        simple_features.raw_pixels(np.zeros((1, 4, 4, 3), np.uint8), height=3, width=3)


def test_hsv_equals_the_standard_library():
    rng = np.random.default_rng(0)
    colors = np.concatenate([rng.integers(0, 256, (60, 3)), np.eye(3) * 255, np.ones((1, 3)) * 7, np.zeros((1, 3))])
    colors = colors.astype(np.uint8)
    expected = [colorsys.rgb_to_hsv(*(color / 255.0)) for color in colors]
    np.testing.assert_allclose(simple_features.hsv(colors), expected, atol=1e-6)


def test_histogram_is_a_distribution_per_third():
    rng = np.random.default_rng(1)
    features = simple_features.hsv_histogram(rng.integers(0, 256, (3, 24, 8, 3)).astype(np.uint8))
    assert features.shape == (3, 3 * 12 * 6 * 6)
    np.testing.assert_allclose((features.reshape(3, 3, -1) ** 2).sum(-1), 1.0, rtol=1e-5)


def test_histogram_sees_the_place_of_a_color_and_no_border():
    images = np.zeros((4, 24, 8, 3), np.uint8)
    images[1, :8] = (255, 0, 0)
    images[2, 16:] = (255, 0, 0)
    images[3, :, :2] = images[3, :, 6:] = (0, 255, 0)
    black, top, bottom, border = simple_features.hsv_histogram(images)
    assert np.abs(top - bottom).max() > 0.5
    np.testing.assert_array_equal(black, border)
    same = np.linalg.norm(top.reshape(3, -1)[1] - black.reshape(3, -1)[1])
    assert same == 0


def test_table_of_names():
    images = np.random.default_rng(2).integers(0, 256, (2, 128, 64, 3)).astype(np.uint8)
    for feature in simple_features.SIMPLE_FEATURES.values():
        values = feature(np.stack(list(images)))
        assert values.shape[0] == 2
        assert np.isfinite(values).all()
