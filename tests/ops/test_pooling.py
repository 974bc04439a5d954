"""Pooling equals the plain definition, gradients included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reid_jax.ops import platforms, pooling


def _slow_max_pool(images, window, strides, padding):
    """Values, and for each output the flat position of the first maximum of its window, by plain loops."""
    padded = np.pad(images, ((0, 0), (padding,) * 2, (padding,) * 2, (0, 0)), constant_values=-np.inf)
    rows, columns = ((size - window) // strides + 1 for size in padded.shape[1:3])
    values = np.zeros((images.shape[0], rows, columns, images.shape[3]), np.float32)
    gradient = np.zeros_like(padded)
    for b, i, j, c in np.ndindex(*values.shape):
        patch = padded[b, i * strides : i * strides + window, j * strides : j * strides + window, c]
        row, column = np.unravel_index(np.argmax(patch), patch.shape)
        values[b, i, j, c] = patch[row, column]
        gradient[b, i * strides + row, j * strides + column, c] += np.cos(values.shape[2] * i + j + c)
    return values, gradient[:, padding : padding + images.shape[1], padding : padding + images.shape[2]]


@pytest.mark.parametrize(
    ("window", "strides", "padding", "size"),
    [(3, 2, 1, (6, 5)), (3, 2, 1, (7, 4)), (2, 2, 0, (6, 4)), (4, 4, 0, (8, 9)), (3, 1, 1, (4, 4))],
)
def test_max_pool_and_its_gradient_with_ties(window, strides, padding, size):
    # Few distinct values: most windows hold ties; the gradient goes to the first maximum.
    images = np.random.default_rng(1).integers(-2, 2, (2, *size, 3)).astype(np.float32)
    values, gradient = _slow_max_pool(images, window, strides, padding)
    pool = jax.jit(lambda x: pooling.max_pool(x, window, strides=strides, padding=padding))
    ours, pullback = jax.vjp(pool, jnp.asarray(images))
    np.testing.assert_array_equal(ours, values)
    _, rows, columns, channels = np.indices(values.shape)
    slope = jnp.asarray(np.cos(values.shape[2] * rows + columns + channels), jnp.float32)
    np.testing.assert_allclose(pullback(slope)[0], gradient, atol=1e-6)


def test_max_pool_is_native_on_accelerators():
    def program():
        pool = lambda x: pooling.max_pool(x, 3, strides=2, padding=1).sum()
        return jax.jit(jax.grad(pool)).trace(jnp.ones((1, 4, 4, 1)))

    assert "select_and_scatter" not in program().lower().as_text()
    with platforms.tracing_for("cuda"):
        assert "select_and_scatter" in program().lower(lowering_platforms=("cuda",)).as_text()


def test_average_pool_drops_the_remainder():
    images = jnp.arange(2 * 5 * 4 * 1, dtype=jnp.float32).reshape(2, 5, 4, 1)
    ours = pooling.average_pool(images, 2)
    assert ours.shape == (2, 2, 2, 1)
    np.testing.assert_allclose(ours[0, 1, 1, 0], np.mean([10, 11, 14, 15]))


def test_generalized_mean_lies_between_average_and_maximum():
    images = jnp.asarray(np.random.default_rng(2).uniform(0.1, 1.0, (3, 4, 5, 6)), jnp.float32)
    average, maximum = pooling.global_average(images), pooling.global_max(images)
    np.testing.assert_allclose(pooling.generalized_mean(images, jnp.ones(1)), average, rtol=1e-5)
    cubic = pooling.generalized_mean(images, jnp.full((1,), 3.0))
    np.testing.assert_allclose(cubic, np.mean(np.asarray(images) ** 3, axis=(1, 2)) ** (1 / 3), rtol=1e-5)
    assert bool(jnp.all((cubic > average) & (cubic < maximum)))
    np.testing.assert_allclose(pooling.generalized_mean(images, jnp.full((1,), 60.0)), maximum, rtol=0.06)


def test_generalized_mean_of_negative_values_has_finite_gradients():
    images = jnp.full((1, 2, 2, 3), -1.0)
    gradients = jax.grad(lambda x, p: pooling.generalized_mean(x, p).sum(), (0, 1))(images, jnp.full((1,), 3.0))
    assert all(bool(jnp.all(jnp.isfinite(one))) for one in gradients)
    np.testing.assert_allclose(pooling.generalized_mean(images, jnp.full((1,), 3.0)), 1e-6, rtol=1e-3)  # not 1
