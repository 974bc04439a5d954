"""A barrier against the compiler's fusion of operations."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from reid_jax.ops import platforms, tracing


def materialize(x: jax.Array) -> jax.Array:
    """Returns the array itself, written to memory once instead of recomputed by every reader; likewise its gradient.

    XLA on CPU fuses a residual network's running sum into each of its readers, forward and backward, and so computes
    the chain of all earlier blocks repeatedly (a fifth of a ResNet-50's train step, a quarter of a ViT-B's). It offers
    no option against that: optimization barriers are removed before fusion. It does not fuse across a loop, so the
    array passes through a loop of zero iterations whose bound such a barrier hides from the simplifier. On other
    platforms this is the identity.

    Wrap the sum that ends a residual block in it.
    """
    return _materialize(x) if platforms.target() == "cpu" else x


@jax.custom_vjp
def _materialize(x: jax.Array) -> jax.Array:
    return _through_empty_loop(x)


@tracing.once()
def _through_empty_loop(x: jax.Array) -> jax.Array:
    turns = lax.optimization_barrier(jnp.int32(0))
    return lax.while_loop(lambda state: state[0] < turns, lambda state: (state[0] + 1, -state[1]), (jnp.int32(0), x))[1]


def _forward(x: jax.Array) -> tuple[jax.Array, None]:
    return _materialize(x), None


def _backward(_: None, gradient: jax.Array) -> tuple[jax.Array]:
    return (_materialize(gradient),)


_materialize.defvjp(_forward, _backward)
