"""The actions over real sockets, with a model of NumPy: answers, and mistakes in one sentence."""

import json
import re
import zlib

import numpy as np
import pytest

from reid_jax import errors
from tests.app import drawn_gallery
from tests.app.client import WHY, image, served


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
    events = [(line["event"], line["why"]) for line in fresh.gallery.log.lines()][3:]
    assert [event for event, _ in events] == ["add", "query", "remove", "remove"]
    assert events[2] == ("remove", "erasure")
    fresh.gallery.log.check()


@pytest.mark.parametrize(
    ("action", "given", "status", "message"),
    [
        ("search", {"entry": 2}, 400, "expected a reason (why) for the audit log, got none"),
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


def test_one_inference_at_a_time(shared):
    assert shared.server.answer._api._turn.acquire()
    try:
        status, answer = shared.post("search", image(1), **WHY)
    finally:
        shared.server.answer._api._turn.release()
    assert (status, answer["error"]) == (503, "the server is busy with other requests; try again.")


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
    assert answer == {"error": "the server failed to answer this request; details are in its terminal."}
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
