"""Equal computations in one batch: the values, and how many programs are left."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reid_jax.ops import grouping


def draws(key: jax.Array, scale: jax.Array) -> dict[str, jax.Array]:
    """Returns three draws of one shape, one of another, two equal constants, and what depends on an argument."""
    found = {
        f"normal{number}": 0.5 * jax.random.normal(jax.random.fold_in(key, number), (2, 3)) for number in (7, 8, 9)
    }
    found["long"] = jax.random.normal(jax.random.fold_in(key, 7), (3, 2))
    found["twice"] = 0.25 * jax.random.normal(jax.random.fold_in(key, 7), (2, 3))
    return found | {"zeros": jnp.zeros(3), "more": jnp.zeros(3), "scaled": jax.nn.relu(scale * found["long"])}


@pytest.fixture(scope="module")
def arguments() -> tuple[jax.Array, jax.Array]:
    return jax.random.key(3), jnp.float32(-2)


def test_values_are_those_of_the_function(arguments: tuple[jax.Array, jax.Array]) -> None:
    expected, found = jax.jit(draws)(*arguments), grouping.grouped(draws)(*arguments)
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert found["zeros"].unsafe_buffer_pointer() != found["more"].unsafe_buffer_pointer()


def test_equal_draws_are_one_operation(arguments: tuple[jax.Array, jax.Array]) -> None:
    shapes = jax.eval_shape(grouping.grouped(draws), *arguments)
    assert (shapes["normal8"].shape, shapes["long"].shape) == ((2, 3), (3, 2))
    text = str(jax.make_jaxpr(grouping.grouped(draws))(*arguments))
    # Of three equal draws, another shape, another factor; "scaled" and "long" share theirs where both stand alone.
    assert text.count("name=_normal\n") == 3
