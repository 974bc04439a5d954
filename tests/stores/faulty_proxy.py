"""A proxy of HTTP before an emulator on this machine: counts requests by kind, and makes some of them fail.

Faults by number of the request: `busy` answers 503, `cut` closes the connection in the middle of a request with a
body (an upload), `lost` passes the request on and closes the connection without its
answer, `silent` answers nothing until the client gives up, `denied` answers 403.
"""

from __future__ import annotations

import collections
import contextlib
import http.client
import http.server
import re
import socket
import threading
from collections.abc import Callable

FAULTS = ("busy", "cut", "lost", "silent", "denied")
# Hop by hop, or set anew by the server of this proxy.
_OWN = {"connection", "transfer-encoding", "keep-alive", "date", "server", "content-length"}
_MOST_SILENT = 120.0  # seconds; clients give up before


class Proxy:
    """A running proxy; `fault(number, method, path, size)` returns a name of `FAULTS` or "".

    Args:
        upstream: port of the emulator on localhost.
    """

    def __init__(self, upstream: int, port: int = 0) -> None:
        self.upstream = upstream
        self.fault: Callable[[int, str, str, int], str] = lambda number, method, path, size: ""
        self.counts: collections.Counter[str] = collections.Counter()
        self.faults: collections.Counter[str] = collections.Counter()
        self.sent = self.received = 0
        self._lock = threading.Lock()
        self._number = 0
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *about: None  # type: ignore[method-assign]  # of clients that have gone
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """The address for clients."""
        return f"http://127.0.0.1:{self.port}"

    def take(self) -> dict[str, int]:
        """Returns the counts of requests by kind and of bytes since the last call."""
        with self._lock:
            counts = {**self.counts, "bytes_up": self.sent, "bytes_down": self.received}
            self.counts.clear()
            self.sent = self.received = 0
        return counts

    def note(self, method: str, path: str, size: int) -> str:
        """Counts a request and returns its fault."""
        with self._lock:
            self._number += 1
            self.counts[_kind(method, path)] += 1
            self.sent += size
            chosen = self.fault(self._number, method, path, size)
            if chosen:
                self.faults[chosen] += 1
        return chosen

    def close(self) -> None:
        """Stops listening."""
        self._server.shutdown()
        self._server.server_close()


def _kind(method: str, path: str) -> str:
    """Returns what a request is billed as: a listing, another write, a read, or a removal (which is free)."""
    if method == "GET" and ("list-type=" in path or path.partition("?")[0].endswith("/o")):
        return "list"
    return {"GET": "read", "HEAD": "read", "DELETE": "remove"}.get(method, "write")


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: Proxy

    def log_message(self, *arguments: object) -> None:
        """Says nothing."""

    def _answer(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        fault = self.owner.note(self.command, self.path + self._name(size), size)
        if fault == "cut" and size:
            self.rfile.read(size // 2)
            return self._close()
        body = self._body(size)
        if fault == "silent":
            self.connection.settimeout(_MOST_SILENT)
            with contextlib.suppress(OSError):
                self.rfile.read(1)  # ends when the client closes the connection
            return self._close()
        if fault in ("busy", "denied"):
            return self._send(503 if fault == "busy" else 403, {}, b"")
        connection = http.client.HTTPConnection("127.0.0.1", self.owner.upstream, timeout=120)
        try:
            headers = {key: value for key, value in self.headers.items() if key.lower() not in _OWN | {"expect"}}
            headers["Content-Length"] = str(len(body))
            connection.request(self.command, self.path, body=body, headers=headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if fault == "lost":
            return self._close()
        length = {"Content-Length": answer.getheader("Content-Length", "0")} if self.command == "HEAD" else {}
        with self.owner._lock:
            self.owner.received += len(content)
        kept = [(key, value) for key, value in answer.getheaders() if key.lower() not in _OWN]
        return self._send(answer.status, dict(kept) | length, content)

    def _name(self, size: int) -> str:
        """Returns the object's name of an upload to Google's store that has it in its body."""
        if "uploadType=multipart" not in self.path or not size:
            return ""
        found = re.search(rb'"name": ?"([^"]*)"', self.rfile.peek(1024))  # type: ignore[attr-defined]
        return f"&name={found[1].decode()}" if found else ""

    def _body(self, size: int) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(size)
        whole = b""
        while length := int(self.rfile.readline().split(b";")[0], 16):
            whole += self.rfile.read(length)
            self.rfile.readline()
        self.rfile.readline()
        return whole

    def _send(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response_only(status)
        for key, value in headers.items():
            self.send_header(key, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _close(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = _answer
