"""The server over real sockets, with a model of NumPy: answers, and every refusal."""

import contextlib
import dataclasses
import http.client
import json
import random
import re
import socket
import stat
import time
import zlib

import numpy as np
import pytest

from reid_jax import errors
from reid_jax.app import access, bounded_server, retention, serving
from reid_jax.gallery import entries, gallery
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


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A server for tests that change nothing."""
    folder = tmp_path_factory.mktemp("secret place")
    with drawn_gallery.made(folder / "people.gallery") as opened, served(opened) as client:
        yield client


@pytest.fixture
def fresh(tmp_path):
    with drawn_gallery.made(tmp_path / "people.gallery") as opened, served(opened) as client:
        yield client


def image(seed, kind="PNG"):
    return drawn_gallery.file(drawn_gallery.picture(seed), kind)


# ---- answers


def test_the_page_loads_nothing_and_may_do_nothing_else(shared):
    response, data = shared.send("GET", "/")
    page = data.decode()
    assert response.status == 200
    policy = response.headers["Content-Security-Policy"]
    for part in ("default-src 'none'", "script-src 'sha256-", "style-src 'sha256-", "connect-src 'self'"):
        assert part in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert (response.headers["X-Frame-Options"], response.headers["Referrer-Policy"]) == ("DENY", "no-referrer")
    assert (response.headers["X-Content-Type-Options"], response.headers["Cache-Control"]) == ("nosniff", "no-store")
    assert response.headers["Server"] is None
    assert not re.search(r"https?://|//cdn|innerHTML|outerHTML|document\.write|eval\(| style=| on\w+=\"", page)
    assert "a first place is no identification" in page.lower()
    assert "people.gallery" not in page
    assert shared.send("HEAD", "/")[1] == b""


def test_info_names_no_person_and_no_path(shared):
    response, data = shared.send("GET", "/api/info")
    info = json.loads(data)
    assert (response.status, info["gallery"], info["entries"], info["who"]) == (200, "people.gallery", 12, "kim")
    assert (info["cameras"], info["reason_needed"]) == (["door", "hall"], {"search": True, "other": False})
    assert "Ann" not in data.decode()
    assert "secret" not in data.decode()


def test_an_image_finds_its_person_and_the_log_has_it(shared):
    status, answer = shared.post("search", image(1, "JPEG"), top=3, why="lost+child")
    assert (status, answer["nobody"], answer["looked_at"], answer["query"]) == (200, False, 12, "upload")
    assert [hit["id"] for hit in answer["hits"][:2]] == [2, 8]
    hit = answer["hits"][0]
    assert (hit["identity"], hit["camera"], hit["accepted"]) == ("Ann", "hall", True)
    assert hit["similarity"] == pytest.approx(1 - hit["distance"])
    assert hit["picture"].startswith("data:image/webp;base64,")
    assert "folder" not in hit
    assert "of comparisons of two different people, 1 in 100" in answer["threshold_text"]
    line = shared.gallery.log.lines()[-1]
    assert (line["event"], line["who"], line["why"]) == ("query", "kim", "lost child")
    assert line["answers"][0]["ids"] == [hit["id"] for hit in answer["hits"]]


def test_filters_groups_and_a_search_from_a_result(shared):
    found = lambda **given: [hit["id"] for hit in shared.post("search", **WHY, **given)[1]["hits"]]
    assert found(entry=2)[0] == 8  # and not itself
    assert set(found(entry=2, camera="door")) == {1, 4, 7, 10}
    assert set(found(entry=2, other_camera="door")) == {3, 5, 6, 8, 9, 11, 12}
    assert set(found(entry=2, known="no")) == {4, 5, 6, 10, 11, 12}
    assert set(found(entry=2, since="2001-09-09T01:46:50")) == {11, 12}
    assert len(found(entry=2, per="identity")) == 3 + 6  # those without an identity stand for themselves
    assert found(entry=2, identity="Bo", rerank="yes")
    frame = np.zeros((100, 100, 3), np.uint8)
    frame[20:84, 10:42] = drawn_gallery.picture(1)
    status, answer = shared.post("search", drawn_gallery.file(frame), box="10,20,42,84", **WHY)
    assert (status, answer["hits"][0]["id"]) == (200, 2)
    status, answer = shared.post("search", drawn_gallery.file(255 - drawn_gallery.picture(1)), **WHY)
    assert (status, answer["nobody"]) == (200, True)


def test_explanations(shared):
    status, found = shared.post("explain", image(1), entry=2, why="look")
    assert (status, found["similarity"], found["picture"]) == (200, 0.5, "thumbnail")
    assert found["query"].startswith("data:image/png;base64,")
    assert shared.gallery.log.lines()[-1]["event"] == "explain"
    assert shared.post("explain", entry=2, query_entry=3)[0] == 200
    assert shared.post("explain", entry=2)[0] == 400
    assert shared.post("explain", entry=99, query_entry=3) == (
        404,
        {"error": "there is no entry 99 in the gallery; search again."},
    )


def test_adding_and_removing(fresh):
    status, added = fresh.post(
        "add", image(50), identity="Cleo+%C3%A9", camera="door", time="2026-11-28T10:00", why="new"
    )
    assert (status, added) == (200, {"id": 13, "entries": 13})
    entry = fresh.gallery.entry(13)
    assert (entry.identity, entry.camera, entry.folder) == ("Cleo é", "door", None)
    assert fresh.gallery.thumbnail(13) is not None
    assert fresh.post("add", image(50))[0] == 409
    status, answer = fresh.post("search", image(50), **WHY)
    assert (status, answer["hits"][0]["id"]) == (200, 13)
    status, refused = fresh.post("remove", identity="Ann", expected=1)
    assert status == 409
    assert "(expected=2 for identity Ann), got 1; nothing was removed" in refused["error"]
    assert fresh.post("remove", identity="Ann", expected=2, why="erasure") == (200, {"removed": 2, "entries": 11})
    assert fresh.post("remove", id=13, expected=1)[0] == 200
    assert fresh.post("remove", id=13, expected=1)[0] == 409
    assert fresh.post("search", entry=13, **WHY)[0] == 404
    events = [(line["event"], line["why"]) for line in fresh.gallery.log.lines()][2:]
    assert [event for event, _ in events] == ["add", "query", "remove", "remove"]
    assert events[2] == ("remove", "erasure")
    fresh.gallery.log.check()


def test_retention_is_kept_while_serving(fresh):
    assert fresh.post("add", image(51), keep="1s")[0] == 200
    assert fresh.gallery.snapshot().count == 13
    end = time.monotonic() + 5
    while fresh.gallery.store.details([13]) and time.monotonic() < end:
        time.sleep(0.05)
    assert fresh.gallery.store.details([13]) == []
    line = fresh.gallery.log.lines()[-1]
    assert (line["event"], line["who"], line["ids"]) == ("expire", retention.WHO, [[13, 13]])


def test_expired_entries_are_swept_at_the_start(tmp_path):
    with drawn_gallery.made(tmp_path / "people.gallery") as opened:
        new = drawn_gallery.described(["old"], [drawn_gallery.picture(60)]).entries()
        opened.add(new, drawn_gallery.BINDING, keep=-1.0)
        with served(opened, sweep=60.0) as client:
            assert opened.store.details([13]) == []
            assert client.post("search", image(60), **WHY)[1]["looked_at"] == 12


# ---- refusals


@pytest.mark.parametrize(
    ("action", "given", "status", "message"),
    [
        ("search", {"entry": 2}, 400, "expected the reason (why), got none"),
        ("search", {"why": "x"}, 400, "expected an image as the body, or entry=NUMBER"),
        ("search", {"entry": 2, "why": "x", "body": "image"}, 400, "one of the two"),
        ("search", {"entry": 0, "why": "x"}, 400, "expected entry as a whole number from 1"),
        ("search", {"entry": "9" * 5000, "why": "x"}, 400, "expected entry as at most 500"),
        ("search", {"entry": 2, "top": 101, "why": "x"}, 400, "whole number from 1 to 100"),
        ("search", {"entry": 2, "per": "people", "why": "x"}, 400, "unknown value of per 'people'"),
        ("search", {"entry": 2, "rerank": "maybe", "why": "x"}, 400, "expected rerank as yes or no"),
        ("search", {"entry": 2, "since": "noon", "why": "x"}, 400, "expected since such as 2026-11-28T10:30"),
        ("search", {"entry": 2, "path": "/etc/passwd", "why": "x"}, 400, "unknown parameter 'path'"),
        ("search", {"entry": 2, "why": "a&why=b"}, 400, "expected why once, got it 2 times"),
        ("search", {"entry": 2, "why": "%ff"}, 400, "percent-encoded UTF-8"),
        ("search", {"entry": 2, "why": "a%0ab"}, 400, "printable characters on one line"),
        ("search", {"entry": 2, "camera": "roof", "why": "x"}, 400, "passes the filter (camera roof)"),
        ("search", {"why": "x", "body": "text"}, 400, "the upload is not an image that can be read (JPEG, PNG"),
        ("search", {"why": "x", "body": "cut"}, 400, "the upload is cut off or damaged"),
        ("search", {"why": "x", "body": "bomb"}, 400, "the upload is too large: 60000 x 60000 are 3600.0 million"),
        ("search", {"why": "x", "body": "large"}, 413, "expected an image of at most 200000 bytes at the upload"),
        ("search", {"why": "x", "body": "image", "box": "1,2,3"}, 400, "expected box as left,top,right,bottom"),
        ("search", {"why": "x", "body": "image", "box": "90,90,95,95"}, 400, "box"),
        ("search", {"why": "x" * 9000}, 431, "headers of the request are too long"),
        ("add", {}, 400, "expected an image as the body, got none"),
        ("add", {"body": "image", "keep": "long"}, 400, "expected a span of time such as 72h"),
        ("add", {"body": "image", "identity": "x" * 501}, 400, "expected identity as at most 500"),
        ("add", {"body": "text"}, 400, "not an image"),
        ("remove", {}, 400, "expected one way to choose what is removed"),
        ("remove", {"id": 1, "identity": "Ann"}, 400, "expected one way"),
        ("remove", {"id": 1}, 409, "removed (expected=1 for entry 1), got none; nothing was removed"),
        ("remove", {"id": 1, "expected": 1, "body": "image"}, 400, "expected no body"),
        ("nothing", {}, 404, "there is nothing at this address"),
        ("../etc/passwd", {}, 404, "there is nothing at this address"),
    ],
)
def test_mistakes_are_one_sentence(shared, action, given, status, message):
    bomb = bytearray(drawn_gallery.file(np.zeros((1, 1, 3), np.uint8)))
    bomb[16:24] = (60000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    bodies = {
        "image": image(1),
        "text": b"hello\n" * 50,
        "cut": image(1)[:-30],
        "bomb": bytes(bomb),
        "large": b"x" * 200_001,
    }
    given = dict(given)
    found, answer = shared.post(action, bodies.get(given.pop("body", ""), b""), **given)
    assert (found, list(answer)) == (status, ["error"])
    assert message in answer["error"]
    assert len(answer["error"]) < 800
    assert "secret" not in answer["error"]
    assert shared.gallery.snapshot().count == 12


def test_other_hosts_other_sites_and_forms_are_refused(shared):
    ask = lambda headers, host=None: shared.send("POST", "/api/search", image(1), headers, host)[0].status
    given = {"X-ReID-Search": "why=test"}
    port = shared.server.port
    assert ask(given) == 200
    assert ask(given, host=f"localhost:{port}") == 200
    assert ask(given, host="[::1]:9") == 200  # an SSH tunnel has another port
    for host in ("evil.example", f"127.0.0.1.evil.example:{port}", "192.168.0.7", "a b", "", "127.0.0.1:x"):
        assert ask(given, host=host or " ") == 421, host
    assert shared.send("GET", "/", host="evil.example")[0].status == 421
    assert ask({}) == 403  # a form
    assert ask({"Content-Type": "multipart/form-data; boundary=x"}) == 403
    assert ask({**given, "Origin": "http://evil.example"}) == 403
    assert ask({**given, "Origin": "null"}) == 403
    assert ask({**given, "Origin": f"http://127.0.0.1:{port}"}) == 200
    assert ask({**given, "Sec-Fetch-Site": "cross-site"}) == 403
    assert ask({**given, "Sec-Fetch-Site": "same-origin"}) == 200
    info = {"Sec-Fetch-Site": "cross-site"}
    assert shared.send("GET", "/api/info", headers=info)[0].status == 403
    for method in ("GET", "PUT", "DELETE", "OPTIONS", "TRACE", "X" * 50):
        response, _ = shared.send(method, "/api/search", headers=given)
        assert (response.status, response.headers["Allow"]) == (405, "POST")
        assert "Access-Control-Allow-Origin" not in response.headers
    twice = f"POST /api/search HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\nX-ReID-Search: {port}\r\n\r\n"
    assert b"expected one header Host, got 2" in shared.raw(twice.encode())


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
        time.sleep(0.1)
        answer = shared.raw(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert answer[:12] in (b"HTTP/1.1 503", b"")  # as many as it takes; a reset may lose the words
        slow[1].settimeout(5)
        assert slow[1].recv(10) == b""
        assert time.monotonic() - began < 3
    end = time.monotonic() + 3
    while shared.server._open.total() and time.monotonic() < end:
        time.sleep(0.02)
    assert shared.send("GET", "/")[0].status == 200


def test_one_inference_at_a_time(shared):
    assert shared.server.answer._api._turn.acquire()
    try:
        status, answer = shared.post("search", image(1), **WHY)
    finally:
        shared.server.answer._api._turn.release()
    assert (status, answer["error"]) == (503, "others have been asking for 0.3 seconds; try again.")


def test_a_defect_shows_no_traceback_to_the_client(shared, capsys):
    shared.gallery.store.thumbnail, before = (
        lambda id: drawn_gallery.file(np.zeros((8, 4, 3), np.uint8)),
        shared.gallery.store.thumbnail,
    )
    try:
        status, answer = shared.post("explain", drawn_gallery.file(np.zeros((8, 4, 3), np.uint8)), entry=2)
    finally:
        shared.gallery.store.thumbnail = before
    assert status == 500
    assert answer == {
        "error": "the server failed at this request; what happened stands in the terminal that it runs in."
    }
    assert "ValueError: a defect" in capsys.readouterr().err


def test_messages_name_no_folder(shared, monkeypatch):
    def fail(*_, **__):
        place = shared.gallery.name
        raise errors.UserError(f"cannot write the gallery {place} or /home/kim/x.log (no space); see http://a/b/c.")

    monkeypatch.setattr(shared.gallery, "query", fail)
    status, answer = shared.post("search", image(1), **WHY)
    assert (status, answer["error"]) == (
        400,
        "cannot write the gallery people.gallery or x.log (no space); see http://a/b/c.",
    )


def test_a_server_that_changes_nothing_and_wants_reasons(tmp_path):
    opened = drawn_gallery.made(tmp_path / "open.gallery", audited=False, threshold=None)
    with opened, served(opened, read_only=True, require_reason=True) as client:
        assert client.post("add", image(1), why="x")[0] == 403
        assert client.post("remove", id=1, expected=1, why="x")[0] == 403
        assert client.post("search", entry=1)[0] == 400
        assert client.post("search", entry=1, why="x")[1]["nobody"] is None


# ---- tokens


def test_beyond_this_machine_a_token_is_needed(tmp_path):
    token = access.new_token()
    with drawn_gallery.made(tmp_path / "people.gallery") as opened:
        missing = pytest.raises(errors.UserError, match=r"other machines reach 0\.0\.0\.0: expected a token, got none")
        with missing, served(opened, host="0.0.0.0"):
            pass
        tokens = {"ann": token, "bo": access.new_token()}
        with served(opened, host="0.0.0.0", tokens=tokens, names=("Search.example",)) as client:
            for given in (
                {},
                {"Authorization": "Bearer "},
                {"Authorization": f"Bearer {token[:-1]}"},
                {"Authorization": f"Basic {token}"},
            ):
                status, answer = client.post("search", headers=given, entry=1, **WHY)
                assert (status, answer["error"][:38]) == (401, "expected a token of this server (Autho")
                assert client.send("GET", "/api/info", headers=given)[0].status == 401
            assert client.post("search", headers={"Authorization": f"Bearer {token}"}, entry=1, **WHY)[0] == 200
            assert opened.log.lines()[-1]["who"] == "ann"
            right = {"Authorization": f"bearer {token}"}
            assert client.send("GET", "/api/info", headers=right, host="search.EXAMPLE:80")[0].status == 200
            assert client.send("GET", "/api/info", headers=right, host="10.0.0.7")[0].status == 200
            assert client.send("GET", "/api/info", headers=right, host="evil.example")[0].status == 421
            assert client.send("GET", "/")[0].status == 200  # the page, which holds nothing
        assert [line["event"] for line in opened.log.lines()] == ["add", "serve", "query", "stop serving"]


def test_files_of_tokens(tmp_path):
    path = tmp_path / "tokens"
    good = "a" * 30

    def read(text, mode=stat.S_IRUSR):
        path.unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return access.read_tokens(path)

    assert read(f"# people\n\nann {good}\nbo  {good}b\n") == {"ann": good, "bo": f"{good}b"}
    for text, message in (
        ("", "is empty; add a line"),
        ("ann short", "on line 1 of .* got another"),
        (f"ann {good}\nann {good}b", "line 2 of .* repeats a name or a token"),
        (f"ann {good}\nbo {good}", "repeats"),
        (f"ann {good}é", "ASCII"),
    ):
        with pytest.raises(errors.UserError, match=message):
            read(text)
    with pytest.raises(errors.UserError, match="other users may read the tokens"):
        read(f"ann {good}", 0o644)


def test_a_port_that_is_taken(shared, tmp_path):
    with drawn_gallery.made(tmp_path / "people.gallery", audited=False) as opened:
        taken = pytest.raises(errors.UserError, match="expected a free address of this machine at 127")
        with taken, served(opened, port=shared.server.port):
            pass
    with gallery.Gallery.open(tmp_path / "people.gallery") as again:
        assert again.snapshot().looked_at(entries.Filter(), time.time()).sum() == 12


# ---- malformed requests


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
