"""Options of samplers, transforms and data sets: keyword arguments of the function or class that a config names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from reid_jax import errors


def accepted(function: Callable[..., Any], positional: int = 0) -> dict[str, inspect.Parameter] | None:
    """Returns the keyword parameters of a function or class by name, None where it accepts any (`**options`).

    Args:
        function: any callable.
        positional: how many leading parameters are passed by position and are no options.
    """
    parameters = list(inspect.signature(function).parameters.values())[positional:]
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return {parameter.name: parameter for parameter in parameters if parameter.kind in kinds}


def check(
    owner: str, function: Callable[..., Any], options: Iterable[str], *, positional: int = 0, also: Iterable[str] = ()
) -> None:
    """Makes sure that a function or class accepts options by these names and misses none.

    Args:
        owner: what the options belong to, for the error, such as "sampler 'shuffle'".
        function: see `accepted`.
        options: the names given.
        positional: see `accepted`.
        also: names that the error lists beside the parameters.

    Raises:
        UserError: an option that is not accepted, or a parameter without a default that is not given.
    """
    known = accepted(function, positional)
    if known is None:
        return
    given = set(options)
    for name in options:
        if name not in known:
            raise errors.unknown(f"option of the {owner}", name, [*known, *also])
    for name, parameter in known.items():
        if parameter.default is parameter.empty and name not in given:
            raise errors.UserError(f"the {owner} needs the option {name!r}, which is not given; add it to its section.")


def defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """Returns the keyword-only parameters of a function or class that have a default, with that default."""
    parameters = inspect.signature(function).parameters.values()
    return {
        parameter.name: parameter.default
        for parameter in parameters
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is not parameter.empty
    }


def select(function: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of the options that a function accepts."""
    known = accepted(function)
    return {key: value for key, value in options.items() if known is None or key in known}
