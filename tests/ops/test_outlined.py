"""Outlined functions: the results and gradients of the function itself, traced once and called."""

import jax
import jax.numpy as jnp
import numpy as np

from reid_jax.ops import outlined

TRACES = []


def _layer(given, fixed):
    """Returns x tanh(x w) + shift, and a statistic of x."""
    x, weights = given
    TRACES.append(x.shape)
    hidden = jnp.tanh(outlined.keep(x @ weights))
    return x * hidden + fixed["shift"], {"mean": 0.5 * fixed["mean"] + 0.5 * hidden.mean(0)}


def _network(layer):
    def loss(weights, x):
        fixed, statistics = {"shift": jnp.float32(0.1), "mean": jnp.ones(4)}, []
        for each in weights:
            x, statistic = layer((x, each), fixed)
            statistics.append(statistic["mean"])
        return jnp.sin(x).sum(), statistics

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)


def test_values_gradients_and_statistics_are_those_of_the_function_and_equal_layers_are_traced_once():
    keys = jax.random.split(jax.random.key(0), 4)
    weights, x = [jax.random.normal(key, (4, 4)) for key in keys[:3]], jax.random.normal(keys[3], (5, 4))
    TRACES.clear()
    outside = jax.jit(_network(_layer))(weights, x)
    assert len(TRACES) == 3
    called = jax.jit(_network(outlined.outlined(_layer))).lower(weights, x)
    assert len(TRACES) <= 5
    text = called.as_text()
    assert text.count('inlineable = "false"') == 6
    # One forward, two backward; the product is kept, its tanh computed again.
    assert (text.count("stablehlo.dot_general"), text.count("stablehlo.tanh")) == (3, 2)
    assert "reduce_precision" not in text  # no copies of what is kept
    program = called.compile()
    assert program.as_text().count(" call(") >= 6
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), program(weights, x), outside)


def test_keep_is_the_identity_outside():
    assert "name" not in str(jax.make_jaxpr(outlined.keep)(1.0))


def test_a_rounding_of_the_function_itself_stays_and_arguments_are_not_results():
    def coarse(given, fixed):
        return fixed * jax.lax.reduce_precision(outlined.keep(given * given), 8, 7), given

    layer, x = outlined.outlined(coarse), jnp.linspace(1.0, 2.0, 7)
    traced = jax.jit(lambda x, y: jax.vjp(layer, x, y)[0]).lower(x, x)
    assert traced.as_text().count("reduce_precision") == 1
    # Of result, copy of the argument, and what the backward pass reads (both arguments), one is made.
    called = next(line for line in traced.as_text().splitlines() if "func.func private @body" in line)
    assert called.partition("->")[2].count("tensor<7xf32>") == 1
    np.testing.assert_array_equal(traced.compile()(x, x)[0], coarse(x, x)[0])
