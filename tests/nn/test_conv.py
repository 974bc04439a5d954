"""The convolution layer's shapes, padding and initial values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reid_jax.nn import conv, initializers


@pytest.mark.parametrize(
    ("fields", "kernel", "output"),
    [
        ({"kernel_size": 7, "strides": 2}, (7, 7, 6, 8), (2, 5, 4, 8)),
        ({"kernel_size": (1, 3)}, (1, 3, 6, 8), (2, 9, 7, 8)),
        ({"kernel_size": 3, "padding": 0}, (3, 3, 6, 8), (2, 7, 5, 8)),
        ({"kernel_size": 3, "dilation": 2}, (3, 3, 6, 8), (2, 9, 7, 8)),
        ({"kernel_size": 3, "groups": 2}, (3, 3, 3, 8), (2, 9, 7, 8)),
    ],
)
def test_shapes(fields, kernel, output):
    model = conv.Conv(8, **fields)
    value, variables = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), jnp.zeros((2, 9, 7, 6))))
    assert variables["params"]["kernel"].shape == kernel
    assert set(variables["params"]) == {"kernel"}
    assert value.shape == output


def test_bias_and_compute_dtype():
    model = conv.Conv(3, use_bias=True, bias_init=initializers.torch_default_bias(4), dtype=jnp.bfloat16)
    images = jnp.ones((1, 2, 2, 4))
    variables = model.init(jax.random.key(0), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    value = model.apply(variables, images)
    assert value.dtype == jnp.bfloat16
    expected = variables["params"]["kernel"][0, 0].sum(0) + variables["params"]["bias"]
    np.testing.assert_allclose(value[0, 1, 1].astype(jnp.float32), expected, atol=0.05)


def test_initial_values_have_pytorch_spread():
    key = jax.random.key(0)
    shape = (3, 3, 32, 64)
    assert float(initializers.kaiming_fan_out(key, shape).std()) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)
    assert float(initializers.kaiming_fan_in(key, shape).std()) == pytest.approx((2 / (9 * 32)) ** 0.5, rel=0.02)
    for normal in (initializers.kaiming_fan_out, initializers.kaiming_fan_in):
        assert float(jnp.abs(normal(key, shape)).max() / normal(key, shape).std()) > 3.5  # not truncated
    bound = (9 * 32) ** -0.5
    uniform = initializers.torch_default(key, shape)
    assert float(jnp.abs(uniform).max()) == pytest.approx(bound, rel=0.01)
    assert float(uniform.std()) == pytest.approx(bound / 3**0.5, rel=0.02)
    bias = initializers.torch_default_bias(100)(key, (5000,))
    assert float(jnp.abs(bias).max()) == pytest.approx(0.1, rel=0.01)
    assert float(initializers.classifier(key, (500, 50)).std()) == pytest.approx(0.001, rel=0.02)
