"""Equal parts of a network as one computation that the program calls, so that a program of many small layers is short.

XLA writes every call of a function out in place, unless an attribute forbids it. Compiling and reading a program takes
longer than in proportion to its length, because a scheduler compares its operations with each other, so that a network
of hundreds of equal layers pays for each of them again. Called, they are traced once and compiled from equal kernels.

The compiler cannot decide across a call what the backward pass reads from memory and what it computes again. So the
function does: what passes `keep` is kept, all else is computed again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import jax
from jax import ad_checkpoint
from jax.experimental import xla_metadata

KEPT = "kept"

_CALLED = {"inlineable": "false"}  # read by XLA's pass that writes calls out in place
_WITHIN: dict[str, Any] = dict.fromkeys(_CALLED)  # operations of the function itself do not have the attribute

Function = Callable[[Any, Any], tuple[jax.Array, Any]]

_outlining: ContextVar[bool] = ContextVar("outlining", default=False)


def outlining() -> bool:
    """Returns whether the function that is being traced is an outlined one."""
    return _outlining.get()


def keep(x: jax.Array) -> jax.Array:
    """Returns the array itself; inside an outlined function it is kept for the backward pass.

    Operations that read the result are meant: one whose derivative needs its own result computes that again.
    """
    return ad_checkpoint.checkpoint_name(x, KEPT) if outlining() else x


def outlined(function: Function) -> Function:
    """Returns a function with the same results, whose forward and backward pass are computations that are called.

    Keep it and call it again where the computation is the same: each call of another one is traced by itself. It has
    first-order gradients in reverse mode only.

    Args:
        function: of a tree that is differentiated and a tree that is not, with a result that is differentiated and
            others that are not.
    """
    kept = jax.checkpoint(function, policy=jax.checkpoint_policies.save_only_these_names(KEPT), prevent_cse=False)

    def forward(given: Any, fixed: Any) -> Any:
        result, backward, others = jax.vjp(lambda given: kept(given, fixed), given, has_aux=True)
        return (result, others), backward

    plain, with_residuals = _called(function), _called(forward)
    transposed = _called(lambda backward, gradient: backward(gradient)[0])

    @jax.custom_vjp
    def call(given: Any, fixed: Any) -> tuple[jax.Array, Any]:
        result: tuple[jax.Array, Any] = plain(given, fixed)
        return result

    # Gradients of what is not differentiated are zero, whatever it is.
    call.defvjp(with_residuals, lambda backward, gradients: (transposed(backward, gradients[0]), None))
    return call


def _called(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that is traced once per shapes and stays a call in the program."""

    def body(*arguments: Any) -> Any:
        with xla_metadata.set_xla_metadata(**_WITHIN), _within():
            return function(*arguments)

    traced = jax.jit(body)

    def call(*arguments: Any) -> Any:
        with xla_metadata.set_xla_metadata(**_CALLED):
            return traced(*arguments)

    return call


@contextlib.contextmanager
def _within() -> Iterator[None]:
    token = _outlining.set(True)
    try:
        yield
    finally:
        _outlining.reset(token)
