"""A server of a drawn gallery, and what asks it."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import socket

from reid_jax.app import bounded_server, serving
from tests.app import drawn_gallery

LIMITS = bounded_server.Limits(
    body=200_000, head=8192, head_seconds=0.4, body_seconds=0.4, drain_seconds=0.2, turn_seconds=0.3, connections=6
)
WHY = {"why": "test"}


@contextlib.contextmanager
def served(opened, **changes):
    """A server and what asks it."""
    engine = drawn_gallery.Stripes()
    settings = serving.Settings(port=0, user="kim", limits=LIMITS, sweep=0.05)
    with serving.running(opened, engine, dataclasses.replace(settings, **changes)) as (server, address):
        yield Client(server, opened, engine, address)


class Client:
    """Asks a server; each call is a connection."""

    def __init__(self, server, opened, engine, address):
        self.server, self.gallery, self.engine, self.address = server, opened, engine, address

    def send(self, method, path, body=None, headers=None, host=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=10)
        connection.request(method, path, body, {"Host": host or f"127.0.0.1:{self.server.port}", **(headers or {})})
        response = connection.getresponse()
        data = response.read()
        connection.close()
        return response, data

    def post(self, action, body=b"", headers=None, **parameters):
        text = "&".join(f"{name}={value}" for name, value in parameters.items())
        response, data = self.send("POST", f"/api/{action}", body, {"X-ReID-Search": text, **(headers or {})})
        return response.status, json.loads(data)

    def raw(self, data, seconds=3.0):
        """All that comes back for some bytes."""
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=seconds) as connection:
            with contextlib.suppress(OSError):
                connection.sendall(data)
            received = b""
            with contextlib.suppress(OSError):
                while part := connection.recv(1 << 16):
                    received += part
        return received


def image(seed, kind="PNG"):
    return drawn_gallery.file(drawn_gallery.picture(seed), kind)
