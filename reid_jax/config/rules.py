"""Rules of config keys: what a value may be, in words and as a test.

Every typed key has one. Ranges are wide: they keep out what cannot be meant (no number, a negative count, a batch of
10^12 images), not what is unusual.
"""

from __future__ import annotations

import dataclasses
import math
import re
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

from reid_jax import errors


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a value may be.

    Attributes:
        text: description that completes "must be ...".
        accepts: whether a value may be.
        known: all values of a choice, for the nearest one in the message.
    """

    text: str
    accepts: Callable[[Any], bool]
    known: tuple[str, ...] = ()

    def check(self, key: str, value: Any, how: str = "") -> None:
        """Raises a `UserError` unless the value may be.

        Args:
            key: the full key, for the message.
            value: its value.
            how: how to change it, a clause without a full stop; "" for a key of a config.
        """
        if self.accepts(value):
            return
        if self.known and isinstance(value, str):
            raise errors.unknown(f"value of {key}", plain(value), self.known)
        how = how or f"change it in the config or with --config.{key}=..."
        raise errors.UserError(f"{key} must be {self.text}, but is {shorten(value)}; {how}")


def plain(text: str) -> str:
    """Returns a text for a message: printable letters only, at most 80."""
    printable = "".join(letter if letter.isprintable() else "?" for letter in text[:81])
    return printable if len(printable) <= 80 else f"{printable[:77]}..."


def shorten(value: Any) -> str:
    """Returns a value for a message as Python shows it, at most about 80 characters."""
    short = reprlib.Repr()
    short.maxother = short.maxlong = short.maxstring = 80
    return short.repr(plain(value) if isinstance(value, str) else value)


def is_number(value: Any) -> bool:
    """Returns whether a value is a finite number; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: Any) -> bool:
    """Returns whether a value is a whole number."""
    return is_number(value) and value == int(value)


def whole(low: int, high: int) -> Rule:
    """Returns the rule of whole numbers in a range, both ends included."""
    text = f"a whole number of at least {low} and at most {high:,}"
    return Rule(text, lambda value: isinstance(value, int) and is_whole(value) and low <= value <= high)


def number(low: float, high: float = 1e6) -> Rule:
    """Returns the rule of numbers in a range, both ends included."""
    text = f"a number of at least {low:g} and at most {high:g}"
    return Rule(text, lambda value: is_number(value) and low <= value <= high)


def choice(*known: str) -> Rule:
    """Returns the rule of one of some names."""
    return Rule(f"one of {', '.join(known)}", lambda value: isinstance(value, str) and value in known, known)


def optional(rule: Rule) -> Rule:
    """Returns a rule that allows None as well."""
    return Rule(f"None or {rule.text}", lambda value: value is None or rule.accepts(value), rule.known)


def either(first: Rule, second: Rule) -> Rule:
    """Returns the rule of values that one of two rules allows."""
    known = first.known or second.known
    return Rule(f"{first.text}, or {second.text}", lambda value: first.accepts(value) or second.accepts(value), known)


def sequence(rule: Rule, text: str, lengths: tuple[int, int] = (0, 10_000)) -> Rule:
    """Returns the rule of tuples whose items obey a rule.

    Args:
        rule: of the items.
        text: description of the tuple.
        lengths: smallest and largest number of items.
    """

    def accepts(value: Any) -> bool:
        fits = isinstance(value, tuple | list) and lengths[0] <= len(value) <= lengths[1]
        return fits and all(rule.accepts(item) for item in value)

    return Rule(text, accepts)


def _is_pattern(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        re.compile(value)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2 and _is_pattern(value[0]) and FACTOR.accepts(value[1])


POSITIVE = Rule("a number above 0 and at most 1e+06", lambda value: is_number(value) and 0 < value <= 1e6)
NOT_NEGATIVE = number(0)
SHARE = Rule("a number from 0 to below 1", lambda value: is_number(value) and 0 <= value < 1)
FLAG = Rule("True or False", lambda value: isinstance(value, bool))
TEXT = Rule("text", lambda value: isinstance(value, str))
NAME = Rule("text that is not empty", lambda value: isinstance(value, str) and bool(value.strip()))
OPTIONS = Rule("a dictionary", _is_mapping)
ENTRIES = Rule(
    "a dictionary of dictionaries",
    lambda value: _is_mapping(value) and all(each is None or _is_mapping(each) for each in value.values()),
)
TEXTS = sequence(Rule("a name", lambda value: NAME.accepts(value) and len(value) <= 200), "a tuple of names")
PATTERNS = sequence(Rule("a pattern", _is_pattern), "a tuple of regular expressions")
FACTOR = number(0)
PAIRS = sequence(Rule("a pair", _is_pair), "a tuple of (regular expression, number of at least 0) pairs")
