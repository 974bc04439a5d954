"""`materialize` is the identity, and the compiler does not see through it on CPU."""

import jax
import jax.numpy as jnp
import numpy as np

from reid_jax.ops import fusion, platforms


def test_value_and_gradient_are_those_of_the_identity():
    x = jnp.asarray([[1.0, -2.0, jnp.nan, jnp.inf]])
    np.testing.assert_array_equal(jax.jit(fusion.materialize)(x), x)
    gradient = jax.grad(lambda x: (fusion.materialize(x) * jnp.arange(4.0)[None]).sum())(jnp.ones((1, 4)))
    np.testing.assert_array_equal(gradient, [[0.0, 1.0, 2.0, 3.0]])


def test_loop_survives_compilation_on_cpu_and_is_not_there_elsewhere():
    def program():
        return jax.jit(lambda x: fusion.materialize(jnp.maximum(2 * x, 0)).sum()).trace(jnp.ones((8, 8)))

    assert " while(" in program().lower().compile().as_text()
    with platforms.tracing_for("cuda"):
        assert "while" not in program().lower(lowering_platforms=("cuda",)).as_text()
