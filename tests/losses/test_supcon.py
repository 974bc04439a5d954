"""Contrast of images and texts: a slow numpy version, and degenerate batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reid_jax.losses.supcon import supcon


def slow(anchors, others, labels, temperature):
    total = 0.0
    for anchor, own in zip(anchors, labels):
        products = others @ anchor / temperature
        log_sum = products.max() + np.log(np.exp(products - products.max()).sum())
        positives = [products[j] - log_sum for j in range(len(labels)) if labels[j] == own]
        total -= sum(positives) / len(positives)
    return total / len(labels)


@pytest.mark.parametrize("temperature", [1.0, 0.1])
@pytest.mark.parametrize("labels", [[0, 0, 1, 2, 2, 2], [0, 1, 2, 3, 4, 5], [3] * 6], ids=["mixed", "single", "one"])
def test_it_is_the_slow_version(labels, temperature):
    anchors, others = np.random.default_rng(0).normal(size=(2, 6, 7)).astype(np.float32)
    labels = np.array(labels)
    value, gradient = jax.value_and_grad(supcon)(anchors, others, labels=labels, temperature=temperature)
    expected = slow(anchors.astype(np.float64), others.astype(np.float64), labels, temperature)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert np.isfinite(gradient).all()


def test_equal_features_give_the_logarithm_of_the_batch():
    ones = jnp.ones((8, 3))
    np.testing.assert_allclose(supcon(ones, ones, labels=jnp.arange(8) // 2), np.log(8), rtol=1e-6)


def test_large_products_stay_finite():
    features = 100.0 * jnp.eye(4)
    value = supcon(features, features, labels=jnp.arange(4))
    assert np.isfinite(value)
    assert value < 1e-3
