"""A request as it came in, its parameters, and why it is refused.

Parameters travel in the header `X-ReID-Search`, as in the query of an address (`camera=door&top=5`): forms and images
of other sites cannot send it, and no proxy writes it into its log as it does with addresses. The body is the image.
"""

from __future__ import annotations

import dataclasses
import re
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus

from reid_jax import errors
from reid_jax.config import rules

HEADER = "X-ReID-Search"
LONGEST_PARAMETERS = 8192  # characters
MOST_PARAMETERS = 100
LONGEST_REASON = 500  # characters of a reason: it stands in every line of the log
_TRUE, _FALSE = ("yes", "true", "1"), ("no", "false", "0", "")


class RefusedError(errors.UserError):
    """A request that is not answered; the message goes to the client.

    Attributes:
        status: of HTTP, 4xx or 503.
        headers: further headers of the response.
    """

    def __init__(self, status: HTTPStatus, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})


@dataclasses.dataclass(frozen=True)
class Request:
    """A request whose body has not been read yet.

    Attributes:
        method: such as "GET".
        path: of the address, without its query.
        headers: values by name in lower case; a name may come several times.
        read: reads and returns the whole body, or raises a `RefusedError`.
    """

    method: str
    path: str
    headers: Mapping[str, Sequence[str]]
    read: Callable[[], bytes]

    def header(self, name: str) -> str | None:
        """Returns the only value of a header, None where there is none.

        Raises:
            RefusedError: it came more than once, so that two programs could read it differently.
        """
        values = self.headers.get(name.lower(), ())
        if len(values) > 1:
            raise RefusedError(HTTPStatus.BAD_REQUEST, f"expected one header {name}, got {len(values)}; send one.")
        return values[0] if values else None

    def parameters(self) -> Parameters:
        """Returns the parameters of an action.

        Raises:
            RefusedError: the header is missing or is no list of parameters.
        """
        text = self.header(HEADER)
        if text is None:
            raise RefusedError(
                HTTPStatus.FORBIDDEN,
                f"expected the header {HEADER}, which the pages of other sites cannot send; send it with the "
                f"parameters, such as {HEADER}: top=5.",
            )
        return Parameters.parse(text)


@dataclasses.dataclass(frozen=True)
class Parameters:
    """Parameters of an action; every mistake is a `UserError` that names the parameter.

    Attributes:
        values: texts by name.
    """

    values: Mapping[str, Sequence[str]]

    @classmethod
    def parse(cls, text: str) -> Parameters:
        """Returns the parameters of `name=value&name=value`, percent-encoded UTF-8."""
        if len(text) > LONGEST_PARAMETERS:
            raise RefusedError(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                f"expected at most {LONGEST_PARAMETERS} characters of parameters, got {len(text)}; send fewer.",
            )
        try:
            pairs = urllib.parse.parse_qsl(
                text.strip(),
                keep_blank_values=True,
                strict_parsing=bool(text.strip()),
                errors="strict",
                max_num_fields=MOST_PARAMETERS,
            )
        except ValueError:  # of which UnicodeError is one
            raise errors.UserError(
                f"expected at most {MOST_PARAMETERS} parameters as name=value&name=value in percent-encoded UTF-8, got "
                f"{rules.plain(text[:80])!r}."
            ) from None
        values: dict[str, list[str]] = {}
        for name, value in pairs:
            values.setdefault(name, []).append(value)
        return cls(values)

    def only(self, *known: str) -> None:
        """Raises a `UserError` for a parameter that is not known."""
        for name in self.values:
            if name not in known:
                raise errors.unknown("parameter", rules.plain(name[:80]), known)

    def text(self, name: str, longest: int = LONGEST_REASON) -> str:
        """Returns a text, "" where there is none."""
        values = self.values.get(name, ())
        if len(values) > 1:
            raise errors.UserError(f"expected {name} once, got it {len(values)} times; give it once.")
        text = values[0].strip() if values else ""
        if len(text) > longest or not text.isprintable():
            raise errors.UserError(
                f"expected {name} as at most {longest} printable characters on one line, got {len(text)}; shorten it."
            )
        return text

    def texts(self, name: str) -> tuple[str, ...]:
        """Returns all texts that are not empty."""
        return tuple(value for value in self.values.get(name, ()) if value)

    def whole(self, name: str, low: int, high: int, default: int | None = None) -> int | None:
        """Returns a whole number in a range, both ends included."""
        text = self.text(name)
        if not text:
            return default
        return _whole(name, text, low, high)

    def wholes(self, name: str, low: int, high: int) -> tuple[int, ...]:
        """Returns all whole numbers of a name."""
        return tuple(_whole(name, text, low, high) for text in self.texts(name))

    def flag(self, name: str) -> bool | None:
        """Returns yes or no, None where the parameter is missing."""
        if name not in self.values:
            return None
        text = self.text(name)
        if text not in (*_TRUE, *_FALSE):
            raise errors.UserError(f"expected {name} as yes or no, got {rules.plain(text[:80])!r}.")
        return text in _TRUE

    def choice(self, name: str, known: Sequence[str]) -> str:
        """Returns one of some words, the first where the parameter is missing."""
        text = self.text(name)
        if text and text not in known:
            raise errors.unknown(f"value of {name}", rules.plain(text[:80]), known)
        return text or known[0]


def _whole(name: str, text: str, low: int, high: int) -> int:
    # `int` reads other scripts' digits, too, and takes quadratic time for very long numbers.
    if not re.fullmatch(r"-?[0-9]{1,19}", text) or not low <= int(text) <= high:
        raise errors.UserError(
            f"expected {name} as a whole number from {low} to {high}, got {rules.plain(text[:80])!r}."
        )
    return int(text)
