"""Products of half precision with a float32 result, and their gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reid_jax.benchmarks import program_counts
from reid_jax.ops import products

PATTERN = "bhqd,bhkd->bhqk"


def operands(dtype: jnp.dtype, rows: int = 2) -> tuple[jax.Array, jax.Array]:
    random = np.random.default_rng(0)
    shapes = ((rows, 2, 5, 8), (2, 2, 7, 8))
    return tuple(jnp.asarray(random.normal(size=shape), dtype) for shape in shapes)


def gradients(product, first, second):
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(2, 2, 5, 7)), jnp.float32)
    return jax.grad(lambda a, b: (product(PATTERN, a, b) * weights).sum(), argnums=(0, 1))(first, second)


def plain(pattern, first, second):
    return jnp.einsum(pattern, first, second, preferred_element_type=jnp.float32)


@pytest.mark.parametrize("rows", [2, 1], ids=["same", "one row for all"])
def test_float32_is_the_plain_product_and_half_precision_is_close(rows):
    first, second = operands(jnp.float32, rows)
    np.testing.assert_array_equal(products.float32_product(PATTERN, first, second), plain(PATTERN, first, second))
    for ours, theirs in zip(
        gradients(products.float32_product, first, second), gradients(plain, first, second), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    half = operands(jnp.bfloat16, rows)
    assert products.float32_product(PATTERN, *half).dtype == jnp.float32
    np.testing.assert_array_equal(products.float32_product(PATTERN, *half), plain(PATTERN, *half))
    exact = gradients(plain, *(x.astype(jnp.float32) for x in half))
    for ours, theirs in zip(gradients(products.float32_product, *half), exact, strict=True):
        assert ours.dtype == jnp.bfloat16
        np.testing.assert_allclose(ours.astype(jnp.float32), theirs, atol=0.02 * float(jnp.abs(theirs).max()))


def test_no_product_of_the_gradient_has_a_float32_operand():
    half = operands(jnp.bfloat16)
    share = lambda product: program_counts.products(
        program_counts.used(jax.make_jaxpr(lambda a, b: gradients(product, a, b))(*half))
    )["bfloat16_share"]
    assert share(products.float32_product) == 1.0
    assert share(plain) < 0.5  # what it is there to avoid
