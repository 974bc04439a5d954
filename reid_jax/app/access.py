"""Who may ask: names of hosts, pages of other sites, tokens.

A page of another site can make a browser send requests to a server on the same machine. Three things stand against it:
the name in the `Host` header must be one of this server's (a foreign name that was made to point here is refused), a
request that a browser marks as another site's is refused, and each action needs a header that such pages cannot send.
Beyond one's own machine a token is needed as well.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import ipaddress
import os
import pathlib
import re
import secrets
import stat
from collections.abc import Mapping
from http import HTTPStatus

from reid_jax import errors, file_io
from reid_jax.app.web_request import RefusedError, Request

LEAST_TOKEN = 20  # characters
_LONGEST_TOKEN = 200
_MOST_BYTES = 1 << 20
_FILE = ("a file of tokens, a line NAME TOKEN for each person", "correct it")


@dataclasses.dataclass(frozen=True)
class Access:
    """The rules of one server.

    Attributes:
        user: who asks, for the audit log, where no token is needed.
        tokens: SHA-256 of the token of each person; empty where none is needed.
        names: names of this server that may stand in the `Host` header, in lower case.
        local: whether the server listens on the own machine only, so that of addresses only its own may stand there.
    """

    user: str
    tokens: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    names: frozenset[str] = frozenset()
    local: bool = True

    def check_host(self, request: Request) -> None:
        """Raises a `RefusedError` for a request that was sent to another name."""
        host = _host(request.header("Host") or "")
        if host is None or not self._is_own(host):
            raise RefusedError(
                HTTPStatus.MISDIRECTED_REQUEST,
                "the request is addressed to another host name; use the address that the server printed, or start it "
                "with this name (--name NAME).",
            )

    def _is_own(self, host: str) -> bool:
        if host in self.names or host == "localhost":
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        # No foreign name is behind an address: what is typed as a number leads here.
        return address.is_loopback or not self.local

    def check_site(self, request: Request) -> None:
        """Raises a `RefusedError` for a request that a page of another site makes."""
        site, origin = request.header("Sec-Fetch-Site"), request.header("Origin")
        own = origin is None or origin.partition("://")[2].lower() == (request.header("Host") or "").lower()
        if site not in (None, "same-origin", "none") or not own:
            raise RefusedError(HTTPStatus.FORBIDDEN, "the request comes from a page of another site; use this one's.")

    def who(self, request: Request) -> str:
        """Returns the name of the person who asks.

        Raises:
            RefusedError: a token is needed, and none or a wrong one came.
        """
        if not self.tokens:
            return self.user
        kind, _, token = (request.header("Authorization") or "").partition(" ")
        given = _digest(token.strip() if kind.lower() == "bearer" else "")
        # All are compared, in constant time, so that the time tells nothing of a token.
        found = [name for name, digest in self.tokens.items() if hmac.compare_digest(digest, given)]
        if not found:
            raise RefusedError(
                HTTPStatus.UNAUTHORIZED,
                "expected a token of this server (Authorization: Bearer TOKEN); ask the person who runs it.",
                {"WWW-Authenticate": "Bearer"},
            )
        return found[0]


def _host(text: str) -> str | None:
    """Returns the name in a `Host` header in lower case, None for what is none.

    >>> _host("Localhost:8000"), _host("[::1]:8000"), _host("a b")
    ('localhost', '::1', None)
    """
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:.]{2,45})\]|([A-Za-z0-9._-]{1,253}))(?::[0-9]{1,5})?", text)
    return (found[1] or found[2]).lower().rstrip(".") if found else None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def is_local(host: str) -> bool:
    """Returns whether a server that listens at this address is reached from its own machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def new_token() -> str:
    """Returns a new token: 256 random bits."""
    return secrets.token_urlsafe(32)


def digests(tokens: Mapping[str, str]) -> dict[str, bytes]:
    """Returns what `Access` compares with: the tokens themselves are not kept."""
    return {name: _digest(token) for name, token in tokens.items()}


def read_tokens(path: str | pathlib.Path) -> dict[str, str]:
    """Returns the tokens by name of a file with a line `NAME TOKEN` for each person; `#` begins a comment.

    A file, because what stands on a command line is seen by every user of the machine.

    Raises:
        UserError: no such file, others may read it, a short token, or a name or token twice.
    """
    shown = file_io.shown(path)
    text = file_io.read_text(path, *_FILE, limit=_MOST_BYTES)
    if os.stat(path).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise errors.UserError(f"other users may read the tokens in {shown}; forbid it (chmod 600).")
    tokens: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, token = line.strip().partition(" ")
        token = token.strip()
        if not LEAST_TOKEN <= len(token) <= _LONGEST_TOKEN or not re.fullmatch(r"[\x21-\x7e]+", token):
            raise errors.UserError(
                f"expected NAME TOKEN with a token of {LEAST_TOKEN} to {_LONGEST_TOKEN} ASCII characters on line "
                f"{number} of {shown}, got another; python -c 'import secrets; print(secrets.token_urlsafe(32))' "
                "makes one."
            )
        if name in tokens or token in tokens.values():
            raise errors.UserError(f"line {number} of {shown} repeats a name or a token; give each person their own.")
        tokens[name] = token
    if not tokens:
        raise errors.UserError(f"expected {_FILE[0]}, {shown} is empty; add a line.")
    return tokens
