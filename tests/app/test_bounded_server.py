"""What is too large, too slow, too much or no HTTP at all."""

import contextlib
import http.client
import random
import shutil
import socket
import ssl
import subprocess
import time

import pytest

from reid_jax import errors
from reid_jax.gallery import entries, gallery
from tests.app import drawn_gallery
from tests.app.client import WHY, image, served


def test_two_gigabytes_are_refused_at_once(shared):
    head = f"POST /api/search HTTP/1.1\r\nHost: 127.0.0.1\r\nX-ReID-Search: why=x\r\nContent-Length: {2 << 30}\r\n"
    began = time.monotonic()
    answer = shared.raw(head.encode() + b"\r\n" + b"x" * 3_000_000)
    assert time.monotonic() - began < 2
    assert answer.startswith(b"HTTP/1.1 413 ")
    # The sentence of `search.py query` for a file that is too large.
    assert b"expected an image of at most 200000 bytes at the upload, it is larger; give another file." in answer
    answer = shared.raw(head.encode() + b"Expect: 100-continue\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")  # and not 100 before
    small = head.replace(str(2 << 30), str(len(image(1)))) + "Expect: 100-continue\r\n\r\n"
    answer = shared.raw(small.encode() + image(1))
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", b"411"),
        ("Content-Length: -1\r\n\r\n", b"400"),
        ("Content-Length: 1e9\r\n\r\n", b"400"),
        ("Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", b"400"),
        ("Content-Length: 99999999999999999999999\r\n\r\n", b"400"),
        ("Content-Length: 500\r\n\r\nhello", b"408"),
        ("X: " + "x" * 9000 + "\r\n\r\n", b"431"),
        ("\r\n".join(f"X{n}: y" for n in range(200)) + "\r\n\r\n", b"431"),
    ],
)
def test_bodies_and_heads_out_of_bounds(shared, headers, status):
    head = "POST /api/search HTTP/1.1\r\nHost: 127.0.0.1\r\nX-ReID-Search: why=x\r\n"
    answer = shared.raw((head + headers).encode())
    assert answer.startswith(b"HTTP/1.1 " + status), answer[:200]
    assert b'{"error": "' in answer


def test_slow_clients_and_too_many_are_cut_off(shared):
    with contextlib.ExitStack() as stack:
        began = time.monotonic()
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", shared.server.port))) for _ in range(6)]
        slow[0].sendall(b"GET / HTTP/1.1\r\n")
        while shared.server._open.total() < len(slow) and time.monotonic() - began < 0.5:
            time.sleep(0.005)
        answer = shared.raw(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert answer[:12] in (b"HTTP/1.1 503", b"")  # as many as it takes; a reset may lose the words
        slow[1].settimeout(5)
        assert slow[1].recv(10) == b""
        assert time.monotonic() - began < 3
    end = time.monotonic() + 3
    while shared.server._open.total() and time.monotonic() < end:
        time.sleep(0.02)
    assert shared.send("GET", "/")[0].status == 200


def test_fuzzed_requests_end_in_an_answer_or_nothing(shared, capsys):
    """Mutated requests: never 500, never a traceback, and the server goes on."""
    chance = random.Random(0)
    words = [
        "GET",
        "POST",
        "/",
        "/api/search",
        "/api/add",
        "/api/remove",
        "//",
        "HTTP/1.1",
        "HTTP/9.9",
        "Host: 127.0.0.1",
    ]
    words += [
        "X-ReID-Search: entry=2&why=x",
        "X-ReID-Search: %00%ff&&==",
        "Content-Length: 9",
        "\r\n",
        "\0",
        "é",
        ":",
        " ",
    ]
    words += [
        "Expect: 100-continue",
        "Transfer-Encoding: chunked",
        "Connection: upgrade",
        "Authorization: Bearer",
        "\r\n\r\n",
    ]
    base = "POST /api/search HTTP/1.1\r\nHost: 127.0.0.1\r\nX-ReID-Search: entry=2&why=x\r\nContent-Length: 0\r\n\r\n"
    statuses = set()
    for _ in range(300):
        text = list(base)
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(len(text) + 1)
            text[place : place + chance.choice((0, 0, 1, 9))] = chance.choice(words)
        received = shared.raw("".join(text).encode("utf-8"), seconds=0.05)
        statuses.add(received[9:12])
    assert statuses <= {
        b"",
        b"200",
        b"400",
        b"403",
        b"404",
        b"405",
        b"411",
        b"413",
        b"421",
        b"431",
        b"503",
        b"505",
        b"204",
        b"409",
    }
    assert {b"400", b"421"} <= statuses
    assert "Traceback" not in capsys.readouterr().err
    end = time.monotonic() + 3
    while shared.server._open.total() and time.monotonic() < end:
        time.sleep(0.02)
    assert shared.post("search", entry=2, **WHY)[0] == 200
    assert shared.gallery.snapshot().count == 12


def test_a_port_that_is_taken(shared, tmp_path):
    with drawn_gallery.made(tmp_path / "people.gallery", audited=False) as opened:
        taken = pytest.raises(errors.UserError, match=r"cannot listen at 127.*give another host or port")
        with taken, served(opened, port=shared.server.port):
            pass
    with gallery.Gallery.open(tmp_path / "people.gallery") as again:
        assert again.snapshot().looked_at(entries.Filter(), time.time()).sum() == 12


if shutil.which("openssl"):

    def test_https(tmp_path):
        """A certificate of its own; a client that does not begin the handshake is cut off."""
        files = tmp_path / "cert.pem", tmp_path / "key.pem"
        words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
        names = ("-addext", "subjectAltName=DNS:localhost", "-out", files[0], "-keyout", files[1])
        subprocess.run(["openssl", *words.split(), *names], check=True, capture_output=True)
        opened = drawn_gallery.made(tmp_path / "people.gallery", audited=False)
        with opened, served(opened, certificate=str(files[0]), key=str(files[1])) as client:
            assert client.address.startswith("https://127.0.0.1:")
            context = ssl.create_default_context(cafile=str(files[0]))
            connection = http.client.HTTPSConnection("localhost", client.server.port, timeout=10, context=context)
            connection.request("POST", "/api/search", image(1), {"X-ReID-Search": "why=x"})
            assert connection.getresponse().status == 200
            connection.close()
            began = time.monotonic()
            assert client.raw(b"") == b""
            assert time.monotonic() - began < 2
        opened = gallery.Gallery.open(tmp_path / "people.gallery")
        unreadable = pytest.raises(errors.UserError, match=r"expected a certificate and its key \(PEM\) at")
        with opened, unreadable, served(opened, certificate=str(tmp_path / "people.gallery")):
            pass
