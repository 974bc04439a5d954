"""Initial arrays made without compiling."""

from __future__ import annotations

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from reid_jax.train import extras, initial_arrays, optimizer

# Shapes that no other test of this process has.
PARAMS = {
    "a": {"kernel": np.ones((3, 29), np.float32), "bias": np.ones(31, np.float32)},
    "b": jnp.ones(2, jnp.bfloat16),
}


@pytest.fixture
def compiled():
    names: list[str] = []

    def note(name: str, *_: float, **__: object) -> None:
        if "backend_compile" in name:
            names.append(name)

    jax.monitoring.register_event_duration_secs_listener(note)
    yield names
    jax.monitoring.unregister_event_duration_listener(note)


@pytest.mark.parametrize(
    "transformation",
    [
        optimizer.amsgrad(),
        optimizer.sgd(momentum=0.9),
        optax.chain(optax.masked(optax.trace(0.5), {"a": True, "b": False})),
    ],
    ids=["amsgrad", "sgd", "masked"],
)
def test_state_of_an_optimizer_is_filled_without_compiling(compiled, transformation):
    params = jax.device_put(PARAMS)
    made = initial_arrays.evaluated(transformation.init, params)
    assert not compiled
    expected = transformation.init(params)
    assert jax.tree.structure(made) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(made), jax.tree.leaves(expected), strict=True):
        assert isinstance(one, jax.Array)
        assert one.aval == other.aval
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("function", [lambda x: {"y": x}, lambda x: x + 1.0, lambda x: jnp.full_like(x, 2.0) * x])
def test_other_functions_are_called(function):
    x = jnp.arange(3.0)
    jax.tree.map(np.testing.assert_array_equal, initial_arrays.evaluated(function, x), function(x))
    jax.tree.map(
        np.testing.assert_array_equal, jax.jit(lambda x: initial_arrays.evaluated(function, x))(x), function(x)
    )


def test_copies_share_no_memory_and_compile_nothing(compiled):
    given = jax.device_put(PARAMS)
    copies = extras.copied(given)
    assert not compiled
    for one, other in zip(jax.tree.leaves(copies), jax.tree.leaves(given), strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.unsafe_buffer_pointer() != other.unsafe_buffer_pointer()
