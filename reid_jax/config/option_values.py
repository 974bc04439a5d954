"""Checks of options that are no typed keys: keyword arguments of models, losses, samplers, extras and the like.

What a value may be follows from the annotation of the parameter, and for names that mean the same everywhere
("..._width", "dropout", "temperature") from a range. Functions of the user without annotations are not checked.
"""

from __future__ import annotations

import collections.abc
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from reid_jax import errors
from reid_jax.config import rules

_ANY = rules.Rule("anything", lambda value: True)
_SIZE = rules.whole(1, 65_536)
# Ranges by the name of an option; the first match applies to numbers, and to the items of tuples.
_RANGES: tuple[tuple[str, rules.Rule], ...] = (
    (r"(.*_)?(width|depth|heads|rows|hidden|stripes|reduction)|head_width|num_classes", _SIZE),
    (r"(.*_)?(patch|stride|slots|parts|images|identities|batch_size|tries|shift|shuffle_groups|expansion)", _SIZE),
    (r"(.*_)?depths", rules.whole(0, 1024)),
    (r"dropout|attention_dropout|drop_path|label_smoothing|decay|(.*_)?ratio", rules.SHARE),
    (r"(.*_)?probability", rules.number(0, 1)),
    (r"temperature|scale", rules.POSITIVE),
    (r"margin|learning_rate|gamma|alpha", rules.number(0)),
)


def check(owner: str, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Checks the values of options against the annotations of a function or class.

    Args:
        owner: path of the options in the config ("model", "losses.ce"), for the message.
        function: what takes the options; names that it does not have are not checked here.
        options: the options.

    Raises:
        UserError: a value of another type, or out of range.
    """
    annotations = _annotations(function)
    for name, value in options.items():
        if name in annotations:
            rule = _rule(annotations[name], _range(name))
            rule.check(f"{owner}.{name}", value, "change it in the config, the row or the option")


def check_finite(values: Any, path: str = "") -> None:
    """Checks that every number of a config is finite and not absurdly large.

    Raises:
        UserError: such a number; the message names its key.
    """
    if isinstance(values, Mapping):
        for key, value in values.items():
            check_finite(value, f"{path}.{key}" if path else str(key))
    elif isinstance(values, tuple | list):
        for value in values:
            check_finite(value, path)
    elif _is_absurd(values):
        raise errors.UserError(
            f"{path} must be a finite number of at most {_LARGEST:g}, but is {rules.shorten(values)}; change it in the "
            "config."
        )


def _is_absurd(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and (not rules.is_number(value) or abs(value) > _LARGEST)


_LARGEST = 1e15


def _annotations(function: Callable[..., Any]) -> dict[str, Any]:
    """Returns the annotations of the parameters of a function or class; {} where they cannot be read."""
    try:
        target = function.__init__ if inspect.isclass(function) and "__init__" in vars(function) else function
        hints = typing.get_type_hints(target)
        return {name: hint for name, hint in hints.items() if name not in ("return", "parent", "name", "dtype")}
    except Exception:  # annotations of the user's own code may name anything
        return {}


def _range(name: str) -> rules.Rule | None:
    return next((rule for pattern, rule in _RANGES if re.fullmatch(pattern, name)), None)


def _rule(annotation: Any, in_range: rules.Rule | None) -> rules.Rule:
    """Returns the rule of an annotation; numbers obey the range of the option's name, where there is one."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in (int, float):
        return in_range or (rules.whole(-(10**9), 10**9) if annotation is int else rules.number(-1e9, 1e9))
    if annotation is bool:
        return rules.FLAG
    if annotation is str:
        return rules.TEXT
    if annotation is types.NoneType:
        return rules.Rule("None", lambda value: value is None)
    if origin in (typing.Union, types.UnionType):
        return _any_of([_rule(each, in_range) for each in arguments])
    if origin in (tuple, collections.abc.Sequence, list) and arguments:
        item = _rule(arguments[0], in_range)
        return rules.sequence(item, f"a tuple, each item {item.text}")
    return _ANY


def _any_of(options: list[rules.Rule]) -> rules.Rule:
    texts = dict.fromkeys(rule.text for rule in options)
    return rules.Rule(" or ".join(texts), lambda value: any(rule.accepts(value) for rule in options))
