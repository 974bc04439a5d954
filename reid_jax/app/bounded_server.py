"""An HTTP server with bounds: connections, seconds and bytes of a request, all of which a stranger chooses.

One request per connection, so that no two programs can disagree about where one request ends and the next begins. A
request that is too large is answered before its body is read; the rest of it is thrown away for a moment, so that the
client sees the answer and not a broken connection.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import http.client
import http.server
import io
import json
import re
import select
import socket
import socketserver
import ssl
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from reid_jax import errors, file_io
from reid_jax.app.web_request import RefusedError, Request

Buffer = Any  # what `readinto` fills

# Sent with every answer; a page has a content security policy of its own.
SAFETY = {
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), interest-cohort=()",
    "Cache-Control": "no-store",
}


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one client may cost.

    Attributes:
        body: bytes of a body.
        head: bytes of the request line and the headers.
        head_seconds: until the headers have arrived.
        body_seconds: until the body has arrived.
        answer_seconds: until the answer has been taken.
        drain_seconds: for which the rest of a refused body is thrown away.
        connections: at a time.
        per_address: of them from one address.
        turn_seconds: that a request waits for the one before; see `search_api`.
    """

    body: int = 10 << 20
    head: int = 32 << 10
    head_seconds: float = 10.0
    body_seconds: float = 60.0
    answer_seconds: float = 60.0
    drain_seconds: float = 2.0
    connections: int = 32
    per_address: int = 24
    turn_seconds: float = 60.0


@dataclasses.dataclass(frozen=True)
class Response:
    """An answer.

    Attributes:
        body: its bytes.
        kind: of its content.
        status: of HTTP.
        headers: further ones.
    """

    body: bytes
    kind: str = "application/json"
    status: HTTPStatus = HTTPStatus.OK
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def of_json(
        cls, value: Any, status: HTTPStatus = HTTPStatus.OK, headers: Mapping[str, str] | None = None
    ) -> Response:
        """Returns a JSON value as an answer."""
        text = json.dumps(value, allow_nan=False)
        return cls(text.encode(), "application/json", status, headers or {})


def refusal(error: RefusedError) -> Response:
    """Returns the answer to a request that is refused: its sentence."""
    return Response.of_json({"error": str(error)}, error.status, error.headers)


class _DeadlineReader(io.RawIOBase):
    """Reads a socket up to a moment and a number of bytes."""

    def __init__(self, connection: socket.socket, seconds: float, size: int) -> None:
        self._connection = connection
        self.allow(seconds, size)

    def allow(self, seconds: float, size: int) -> None:
        """Sets the bounds of what is read from now on."""
        self._end, self._left = time.monotonic() + seconds, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if self._left <= 0:
            raise http.client.LineTooLong("request")
        self._connection.settimeout(left)
        count = self._connection.recv_into(memoryview(buffer)[: self._left])
        self._left -= count
        return count


class BoundedServer(socketserver.TCPServer):
    """Answers each connection in a thread of its own, up to a number of them; more are turned away at once.

    Args:
        place: host and port; port 0 takes a free one.
        answer: from a request to its answer; may raise a `RefusedError`. What else it raises is printed here, and the
            client gets one sentence.
        limits: see `Limits`.
        tls: certificate and key for https, or None.

    Raises:
        UserError: the address cannot be used, or the port is taken.
    """

    allow_reuse_address = True
    request_queue_size = 64

    def __init__(
        self,
        place: tuple[str, int],
        answer: Callable[[Request], Response],
        limits: Limits | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.answer, self.limits, self.tls = answer, limits or Limits(), tls
        self._open: collections.Counter[str] = collections.Counter()
        self._counting = threading.Lock()
        if ":" in place[0]:
            self.address_family = socket.AF_INET6
        try:
            super().__init__(place, _Handler)
        except (OSError, OverflowError, UnicodeError) as error:
            where = file_io.shown(f"{place[0]}:{place[1]}")
            raise errors.UserError(
                f"cannot listen at {where} ({errors.reason(error)}); give another host or port."
            ) from error

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Hands a connection to a thread, or turns it away."""
        address = str(client_address[0])
        with self._counting:
            full = self._open.total() >= self.limits.connections or self._open[address] >= self.limits.per_address
            if not full:
                self._open[address] += 1
        if full:
            _turn_away(request)
            self.shutdown_request(request)
            return
        thread = threading.Thread(target=self._serve, args=(request, client_address, address), daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no thread to be had
            self._leave(address)
            self.shutdown_request(request)

    def _serve(self, request: Any, client_address: Any, address: str) -> None:
        try:
            self.finish_request(request, client_address)
        except Exception:
            self.handle_error(request, client_address)
        finally:
            with contextlib.suppress(OSError):
                self.shutdown_request(request)
            self._leave(address)

    def _leave(self, address: str) -> None:
        with self._counting:
            self._open[address] -= 1
            if not self._open[address]:
                del self._open[address]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Prints a defect; clients that went away are none."""
        if not isinstance(sys.exception(), (OSError, TimeoutError)):
            traceback.print_exc()


def _encrypted(connection: socket.socket, tls: ssl.SSLContext, seconds: float) -> ssl.SSLSocket:
    """Returns a connection after the handshake of https, which has to end within some seconds."""
    end = time.monotonic() + seconds
    connection.setblocking(False)
    secure = tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
    try:
        while True:
            try:
                secure.do_handshake()
                return secure
            except ssl.SSLWantReadError:
                reading, writing = [secure], []
            except ssl.SSLWantWriteError:
                reading, writing = [], [secure]
            if not any(select.select(reading, writing, [], max(0.0, end - time.monotonic()))):
                raise TimeoutError
    except BaseException:
        secure.close()
        raise


def _turn_away(connection: socket.socket) -> None:
    """Sends the refusal of a full server without waiting for anything."""
    text = json.dumps({"error": "the server is at its limit of connections; try again in a moment."}).encode()
    head = f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n"
    with contextlib.suppress(OSError):
        connection.settimeout(0.0)
        connection.send(f"{head}Retry-After: 1\r\nConnection: close\r\n\r\n".encode() + text)


class _Handler(http.server.BaseHTTPRequestHandler):
    """Reads one request, has it answered, and closes the connection."""

    server: BoundedServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "reid_jax", ""
    default_request_version = "HTTP/1.1"  # answers have a head in any case
    command, requestline, request_version = "", "", "HTTP/1.1"

    def setup(self) -> None:
        limits = self.server.limits
        self.request.settimeout(limits.head_seconds)
        if self.server.tls is not None:
            # Here and not in the thread that accepts: a client may take its time with the handshake.
            self.request = _encrypted(self.request, self.server.tls, limits.head_seconds)
        super().setup()
        self.rfile.close()
        self._source = _DeadlineReader(self.connection, limits.head_seconds, limits.head)
        self.rfile = io.BufferedReader(self._source)
        self._unread = False

    def finish(self) -> None:
        super().finish()
        if self.server.tls is not None:
            self.request.close()  # the server knows the connection below alone

    def handle(self) -> None:
        """Answers the request."""
        try:
            self.raw_requestline = self.rfile.readline()
            if self.raw_requestline.strip() and self.parse_request():
                self._send(self._answered())
        except http.client.LineTooLong:
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        except (TimeoutError, ConnectionError, ssl.SSLError):
            pass  # too slow, or gone
        self._drain()

    def handle_expect_100(self) -> bool:
        """Leaves it to `_read` to ask for the body, once it is known to be wanted."""
        return True

    def _answered(self) -> Response:
        values: dict[str, list[str]] = {}
        for name, value in self.headers.items():
            values.setdefault(name.lower(), []).append(value)
        request = Request(self.command, self.path.partition("?")[0], values, lambda: self._read(request))
        self._unread = "content-length" in values or "transfer-encoding" in values
        try:
            return self.server.answer(request)
        except RefusedError as error:
            return refusal(error)
        except (TimeoutError, ConnectionError):
            raise
        except Exception:
            traceback.print_exc()
            text = "the server failed to answer this request; details are in its terminal."
            return Response.of_json({"error": text}, HTTPStatus.INTERNAL_SERVER_ERROR)

    def _read(self, request: Request) -> bytes:
        """Returns the body, counted while it is read."""
        limits = self.server.limits
        if request.header("Transfer-Encoding") is not None:
            raise RefusedError(HTTPStatus.LENGTH_REQUIRED, "expected a body with a Content-Length; send it whole.")
        text = request.header("Content-Length") or "0"
        if not re.fullmatch(r"[0-9]{1,18}", text):
            raise RefusedError(HTTPStatus.BAD_REQUEST, "expected the Content-Length as a number of bytes.")
        size = int(text)
        if size > limits.body:
            error = file_io.too_large("the upload", "an image", "give another file", limits.body)
            raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(error))
        if (request.header("Expect") or "").lower() == "100-continue":
            self.send_response_only(HTTPStatus.CONTINUE)
            self.end_headers()
        self._source.allow(limits.body_seconds, size)
        try:
            data = self.rfile.read(size)
        except TimeoutError:
            raise RefusedError(
                HTTPStatus.REQUEST_TIMEOUT,
                f"the body has not arrived within {limits.body_seconds:g} seconds; send it again.",
            ) from None
        if len(data) < size:
            raise ConnectionError
        self._unread = False
        return bytes(data)

    def _send(self, response: Response) -> None:
        self.connection.settimeout(self.server.limits.answer_seconds)
        self.send_response_only(response.status)
        head = {**SAFETY, **response.headers, "Content-Type": response.kind, "Content-Length": str(len(response.body))}
        for name, value in {**head, "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)

    def _drain(self) -> None:
        """Throws the rest of a body away for a moment."""
        if not self._unread:
            return
        end = time.monotonic() + self.server.limits.drain_seconds
        with contextlib.suppress(OSError, ValueError):
            self.connection.shutdown(socket.SHUT_WR)
            while (left := end - time.monotonic()) > 0:
                self.connection.settimeout(left)
                if not self.connection.recv(1 << 16):
                    break

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answers a request that is no HTTP, without a word of it."""
        status = HTTPStatus(code)
        text = _MALFORMED.get(status, "expected a request of HTTP/1.1; send another.")
        self.command = self.command or ""
        self._unread = True  # what follows the part that was read
        with contextlib.suppress(OSError):
            self._send(Response.of_json({"error": text}, status))

    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing: who asked what stands in the audit log, and addresses in no log."""


_MALFORMED = {
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "the headers of the request are too long; send fewer.",
    HTTPStatus.HTTP_VERSION_NOT_SUPPORTED: "expected a request of HTTP/1.1; send another.",
}
