"""Tracing a repeated operation once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax

from reid_jax.ops import outlined, platforms

Function = TypeVar("Function", bound=Callable[..., Any])


def once(*, static: tuple[int, ...] = ()) -> Callable[[Function], Function]:
    """Decorates a function of arrays so that it is traced once per shape and written out in place at every call.

    A network repeats its layers, and tracing is half of what a program costs before its first step. The program itself
    does not change.

    Args:
        static: positions of arguments that are no arrays (hashable).
    """

    def decorate(function: Function) -> Function:
        def on(platform: str, outlining: bool, *arguments: Any) -> Any:
            return function(*arguments)

        # Both are part of the cache's key: formulations are chosen for the platform, and `outlined.keep` acts inside.
        traced = jax.jit(on, static_argnums=(0, 1, *(position + 2 for position in static)), inline=True)

        @functools.wraps(function)
        def call(*arguments: Any) -> Any:
            return traced(platforms.target(), outlined.outlining(), *arguments)

        return cast(Function, call)

    return decorate
