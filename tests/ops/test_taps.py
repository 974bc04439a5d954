"""Taps: nothing in a program unless they are watched."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from reid_jax.ops import distances, taps


def network(x):
    x = taps.tap("first", 2 * x, grid=(1, 3), leading=1, cut=True)
    return taps.tap("first", x + 1)


def test_a_tap_leaves_nothing_in_a_program():
    plain = jax.make_jaxpr(lambda x: 2 * x + 1)(jnp.zeros((2, 4)))
    assert str(jax.make_jaxpr(network)(jnp.zeros((2, 4)))) == str(plain)
    assert not taps.watched()


def test_watched_arrays_have_names_and_marks():
    with taps.watching() as found:
        assert taps.watched()
        network(np.ones((2, 4)))
    assert list(found) == ["first", "first#2"]
    np.testing.assert_array_equal(found["first#2"].value, np.full((2, 4), 3))
    assert (found["first"].grid, found["first"].leading, found["first"].cut) == ((1, 3), 1, True)


def test_a_replaced_array_goes_on_in_its_dtype():
    with taps.watching({"first": np.full((2, 4), 5.0)}) as found:
        result = network(np.ones((2, 4), np.float32))
    np.testing.assert_array_equal(result, np.full((2, 4), 6.0))
    assert found["first"].value.dtype == np.float32


def test_lengths_can_be_fixed():
    rows = jnp.asarray([[3.0, 4.0]])
    with taps.watching({"length": jnp.full((1, 1), 2.0)}):
        np.testing.assert_allclose(distances.normalize_rows(rows), [[1.5, 2.0]])
    np.testing.assert_allclose(distances.normalize_rows(rows), [[0.6, 0.8]])
