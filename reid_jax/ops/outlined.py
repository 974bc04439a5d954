"""Equal parts of a network as one computation that the program calls, so that a program of many small layers is short.

XLA writes every call of a function out in place, unless an attribute forbids it. Compiling and reading a program takes
longer than in proportion to its length: operations in one computation are compared with each other, and where a program
is read, each matrix product is searched among all of them. Called, equal layers are traced once, their kernels are
equal and compiled once, and each call is a short computation of its own.

The compiler cannot decide across a call what the backward pass reads from memory and what it computes again. So the
function does: what passes `keep` is kept, all else is computed again.
"""

from __future__ import annotations

from collections.abc import Callable
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

    plain, with_residuals = _called(_keeping(function)), _called(_keeping(forward))
    transposed = _called(_keeping(lambda backward, gradient: backward(gradient)[0]))

    @jax.custom_vjp
    def call(given: Any, fixed: Any) -> tuple[jax.Array, Any]:
        result: tuple[jax.Array, Any] = plain(given, fixed)
        return result

    # Gradients of what is not differentiated are zero, whatever it is.
    call.defvjp(with_residuals, lambda backward, gradients: (transposed(backward, gradients[0]), None))
    return call


def _called(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that is traced once per shapes and stays a call in the program.

    The result is not to be differentiated: operations of its gradient would have the attribute as well. It is meant for
    small layers: the gradient of a whole OSNet takes 3.5 times as long on a CPU when it is called.
    """

    def body(*arguments: Any) -> Any:
        with xla_metadata.set_xla_metadata(**_WITHIN):
            return function(*arguments)

    traced = jax.jit(body)

    def call(*arguments: Any) -> Any:
        with xla_metadata.set_xla_metadata(**_CALLED):
            return traced(*arguments)

    return call


def _keeping(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function in which `keep` acts."""

    def call(*arguments: Any) -> Any:
        token = _outlining.set(True)
        try:
            return function(*arguments)
        finally:
            _outlining.reset(token)

    return call
