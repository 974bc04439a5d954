"""Pairwise distances against float64 numpy, and their gradients where vectors coincide."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reid_jax.ops import distances


@pytest.fixture(scope="module")
def vectors() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(7, 33)).astype(np.float32), rng.normal(size=(5, 33)).astype(np.float32)


def test_the_shortest_vectors_get_unit_length():
    x = np.float32([[3e-9, 4e-9], [0, 0]])
    np.testing.assert_allclose(distances.normalize_rows(x), [[0.6, 0.8], [0, 0]], rtol=1e-5)
    # The gradient moves a vector across, not along itself.
    np.testing.assert_allclose(
        jax.grad(lambda x: distances.normalize_rows(x)[0, 0])(np.float32([[3, 4]])), [[0.128, -0.096]], rtol=1e-5
    )


def test_distances_equal_numpy(vectors):
    x, y = (v.astype(np.float64) for v in vectors)
    squared = ((x[:, None] - y[None]) ** 2).sum(-1)
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y)]
    np.testing.assert_allclose(distances.pairwise_squared_euclidean(*vectors), squared, rtol=1e-5)
    np.testing.assert_allclose(distances.pairwise_euclidean(*vectors), np.sqrt(squared), rtol=1e-5)
    np.testing.assert_allclose(distances.pairwise_cosine(*vectors), 1 - unit[0] @ unit[1].T, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(distances.normalize_rows(vectors[0]), unit[0], rtol=1e-6, atol=1e-8)


def test_rounding_never_makes_a_squared_distance_negative():
    x = 1000.0 + np.random.default_rng(1).normal(size=(16, 64)).astype(np.float32)
    assert (np.asarray(distances.pairwise_squared_euclidean(x, x)) >= 0).all()


def test_equal_and_zero_vectors_have_finite_gradients():
    for x in (jnp.ones((3, 4)), jnp.zeros((3, 4))):
        for distance in (distances.pairwise_euclidean, distances.pairwise_cosine):
            assert np.isfinite(jax.grad(lambda v, d=distance: d(v, v).sum())(x)).all()
    np.testing.assert_allclose(distances.pairwise_euclidean(x, x), np.full((3, 3), 1e-6), rtol=1e-6)
    np.testing.assert_allclose(distances.pairwise_cosine(x, x), np.ones((3, 3)))


def test_half_precision_input_is_computed_in_float32(vectors):
    x, y = (jnp.asarray(v, jnp.bfloat16) for v in vectors)
    exact = ((np.asarray(x, np.float64)[:, None] - np.asarray(y, np.float64)[None]) ** 2).sum(-1)
    found = distances.pairwise_squared_euclidean(x, y)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, exact, rtol=1e-5)
