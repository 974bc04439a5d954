"""Equal parts of a network as one computation that the program calls, so that a program of many small layers is short.

XLA writes every call of a function out in place, unless an attribute forbids it. Compiling and reading a program takes
longer than in proportion to its length: operations in one computation are compared with each other, and where a program
is read, each matrix product is searched among all of them. Called, equal layers are traced once, their kernels are
equal and compiled once, and each call is a short computation of its own.

The compiler cannot decide across a call what the backward pass reads from memory and what it computes again. So the
function does: what passes `keep` is kept, all else is computed again.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from jax import ad_checkpoint
from jax.experimental import xla_metadata
from jax.extend import core

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

    plain, lean = _called(_keeping(function)), _called(_lean(_keeping(forward)))
    transposed = _called(_keeping(lambda backward, gradient: backward(gradient)[0]))

    def with_residuals(*arguments: Any) -> Any:
        return lean(*arguments).results(arguments)

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


@functools.partial(jax.tree_util.register_dataclass, data_fields=["values"], meta_fields=["places", "tree"])
@dataclasses.dataclass(frozen=True)
class _Made:
    """Results of a call without those that are its arguments, which it would copy.

    Attributes:
        values: the other ones.
        places: for each result, its place among the arguments, None for one of `values`.
        tree: structure of the results.
    """

    values: tuple[Any, ...]
    places: tuple[int | None, ...]
    tree: Any

    def results(self, arguments: Any) -> Any:
        """Returns all results."""
        values, given = iter(self.values), jax.tree.leaves(arguments)
        return jax.tree.unflatten(self.tree, [next(values) if at is None else given[at] for at in self.places])


def _lean(function: Callable[..., Any]) -> Callable[..., _Made]:
    """Returns a function that makes the same results without copies of what it keeps.

    `jax.checkpoint` rounds every kept array to the precision that it has, so that no compiler joins both passes; a call
    separates them anyway, and the rounding costs a kernel and a copy each.
    """

    def call(*arguments: Any) -> _Made:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
        equations, outputs = _without_rounding(closed.jaxpr)
        given = {variable: place for place, variable in enumerate(closed.jaxpr.invars)}
        places = tuple(None if isinstance(each, core.Literal) else given.get(each) for each in outputs)
        rest = closed.jaxpr.replace(
            eqns=equations,
            outvars=[each for each, place in zip(outputs, places, strict=True) if place is None],
            debug_info=closed.jaxpr.debug_info._replace(result_paths=None),
        )
        values = core.jaxpr_as_fun(core.ClosedJaxpr(rest, closed.consts))(*jax.tree.leaves(arguments))
        return _Made(tuple(values), places, jax.tree.structure(shapes))

    return call


def _without_rounding(jaxpr: Any) -> tuple[list[Any], list[Any]]:
    """Returns equations and outputs of a program without roundings of arrays to their own precision."""
    instead: dict[Any, Any] = {}
    equations = []

    def now(variable: Any) -> Any:
        return variable if isinstance(variable, core.Literal) else instead.get(variable, variable)

    for equation in jaxpr.eqns:
        operands = [now(variable) for variable in equation.invars]
        if equation.primitive.name == "reduce_precision" and _is_own_precision(equation):
            instead[equation.outvars[0]] = operands[0]
        else:
            equations.append(equation.replace(invars=operands))
    return equations, [now(variable) for variable in jaxpr.outvars]


def _is_own_precision(rounding: Any) -> bool:
    finfo: Any = jnp.finfo  # untyped
    kind = finfo(rounding.invars[0].aval.dtype)
    return bool((rounding.params["exponent_bits"], rounding.params["mantissa_bits"]) == (kind.nexp, kind.nmant))


def _keeping(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function in which `keep` acts."""

    def call(*arguments: Any) -> Any:
        token = _outlining.set(True)
        try:
            return function(*arguments)
        finally:
            _outlining.reset(token)

    return call
