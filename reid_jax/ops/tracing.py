"""Tracing a repeated operation once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax

Function = TypeVar("Function", bound=Callable[..., Any])


def once(*, static: tuple[int, ...] = ()) -> Callable[[Function], Function]:
    """Decorates a function of arrays so that it is traced once per shape and written out in place at every call.

    A network repeats its layers, and tracing is half of what a program costs before its first step. The program itself
    does not change.

    Args:
        static: positions of arguments that are no arrays (hashable).
    """

    def decorate(function: Function) -> Function:
        return cast(Function, jax.jit(function, static_argnums=static, inline=True))

    return decorate
