"""An HTTP server on localhost with files whose delivery can be disturbed, as a stand-in for the publishers' servers."""

from __future__ import annotations

import contextlib
import http.server
import re
import threading
from collections.abc import Iterator


class Server:
    """Files by path, and what happens to the next requests.

    Attributes:
        files: content by path, such as "/weights.pth".
        etags: version by path; "" sends none.
        headers: further headers by path.
        cuts: numbers of bytes after which the next answers end early, one for each answer.
        codes: codes that the next requests are answered with instead.
        redirects: path to (place, headers).
        ranges: whether `Range` is honored.
        requests: (path, value of `Range` or "") of each request.
        tokens: value of `Authorization` or "" of each request.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.files: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}
        self.headers: dict[str, dict[str, str]] = {}
        self.cuts: list[int] = []
        self.codes: list[int] = []
        self.redirects: dict[str, tuple[str, dict[str, str]]] = {}
        self.ranges = True
        self.requests: list[tuple[str, str]] = []
        self.tokens: list[str] = []


class _Handler(http.server.BaseHTTPRequestHandler):
    state: Server

    def do_GET(self) -> None:
        state, path = self.state, self.path
        asked = self.headers.get("Range") or ""
        state.requests.append((path, asked))
        state.tokens.append(self.headers.get("Authorization") or "")
        if state.codes:
            self.send_error(state.codes.pop(0))
            return
        if path in state.redirects:
            place, headers = state.redirects[path]
            self._head(302, {"Location": place, "Content-Length": "0", **headers})
            return
        if path not in state.files:
            self.send_error(404)
            return
        content, etag = state.files[path], state.etags.get(path, '"one"')
        same = self.headers.get("If-Range") in (None, etag)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and same and state.ranges else 0
        if start and start >= len(content):
            self.send_error(416)
            return
        headers = {"Content-Length": str(len(content) - start), "Content-Type": "application/octet-stream"}
        headers |= {"ETag": etag} if etag else {}
        headers |= {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
        self._head(206 if start else 200, headers | state.headers.get(path, {}))
        body = content[start:]
        self.wfile.write(body[: state.cuts.pop(0)] if state.cuts else body)

    def _head(self, code: int, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """Starts a server on a free port of localhost and stops it at the end."""
    handler = type("Handler", (_Handler,), {})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        handler.state = Server(server.server_port)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield handler.state
        finally:
            server.shutdown()
            thread.join()
