"""Products of half-precision arrays with a float32 result."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp


def float32_product(pattern: str, first: jax.Array, second: jax.Array) -> jax.Array:
    """Returns `einsum(pattern, first, second)` in float32, such as the logits of an attention.

    The gradient of a product with a wider result is, in JAX, a product of float32 with half precision, which GPUs and
    TPUs compute at their slow float32 rate. Here the incoming gradient is rounded to the operands' type first, as
    mixed-precision training in PyTorch does. For float32 operands it is the plain product.

    Args:
        pattern: of `jnp.einsum`, with two operands.
        first: array of any floating-point type.
        second: array of the same type.
    """
    if first.dtype == jnp.float32 or first.dtype != second.dtype:
        return jnp.einsum(pattern, first, second, preferred_element_type=jnp.float32)
    return _product(pattern, first, second)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(pattern: str, first: jax.Array, second: jax.Array) -> jax.Array:
    return jnp.einsum(pattern, first, second, preferred_element_type=jnp.float32)


def _forward(pattern: str, first: jax.Array, second: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _product(pattern, first, second), (first, second)


def _backward(pattern: str, operands: tuple[jax.Array, jax.Array], gradient: jax.Array) -> Any:
    _, pull = jax.vjp(functools.partial(jnp.einsum, pattern), *operands)
    return pull(gradient.astype(operands[0].dtype))


_product.defvjp(_forward, _backward)
