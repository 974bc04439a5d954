"""Notices of clouds, from a metadata server on localhost."""

import http.server
import json
import os
import signal
import threading

import pytest

from reid_jax.errors import UserError
from reid_jax.runtime import spot_notices


@pytest.fixture
def answers(monkeypatch):
    """Answers of a metadata server by path; a request without the header that its cloud asks for is refused."""
    given = {}
    header = {"/gce": "Metadata-Flavor", "/aws/api": "X-aws-ec2-metadata-token-ttl-seconds", "/azure": "Metadata"}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            needed = next((name for path, name in header.items() if self.path.startswith(path)), "")
            body = given.get(self.path)
            wrong_token = self.path.startswith("/aws/meta") and self.headers.get("X-aws-ec2-metadata-token") != "token"
            refused = (needed and needed not in self.headers) or wrong_token
            self.send_response(403 if refused else 404 if body is None else 200)
            self.end_headers()
            self.wfile.write((body or "").encode())

        do_PUT = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    place = f"http://127.0.0.1:{server.server_port}"
    for name, path in (("GCE", "/gce/"), ("AWS", "/aws/"), ("AZURE", "/azure")):
        monkeypatch.setattr(spot_notices, name, place + path)
    yield given
    server.shutdown()
    server.server_close()


QUIET = {
    "gce": {"/gce/preempted": "FALSE", "/gce/maintenance-event": "NONE"},
    "aws": {"/aws/api/token": "token"},
    "azure": {"/azure": json.dumps({"Events": [{"EventType": "Freeze"}]})},
}


@pytest.mark.parametrize(
    ("source", "notice"),
    [
        ("gce", {"/gce/preempted": "TRUE"}),
        ("gce", {"/gce/maintenance-event": "TERMINATE_ON_HOST_MAINTENANCE"}),
        ("aws", {"/aws/meta-data/spot/instance-action": '{"action": "terminate"}'}),
        ("azure", {"/azure": json.dumps({"Events": [{"EventType": "Freeze"}, {"EventType": "Preempt"}]})}),
    ],
)
def test_a_notice_becomes_a_signal(source, notice, answers, monkeypatch):
    sent, arrived = [], threading.Event()
    monkeypatch.setattr(os, "kill", lambda pid, number: (sent.append((pid, number)), arrived.set()))
    answers.update(QUIET[source])
    spot_notices.watch(source, interval=0.02)
    assert not arrived.wait(0.1)
    answers.update(notice)
    assert arrived.wait(5)
    assert sent == [(os.getpid(), signal.SIGTERM)]


def test_a_file_is_a_notice(tmp_path, monkeypatch):
    arrived = threading.Event()
    monkeypatch.setattr(os, "kill", lambda pid, number: arrived.set())
    spot_notices.watch(str(tmp_path / "leave"), interval=0.02)
    assert not arrived.wait(0.06)
    (tmp_path / "leave").touch()
    assert arrived.wait(5)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("azur", "expected gce, aws, azure or the path of a file .* got 'azur'"),
        ("{there}/none/leave", "expected a folder for the file"),
        ("{there}/old", "exists already.*or the run stops at once"),
    ],
)
def test_a_notice_that_could_not_arrive_is_refused(source, sentence, tmp_path):
    (tmp_path / "old").touch()
    with pytest.raises(UserError, match=sentence):
        spot_notices.watch(source.format(there=tmp_path))


@pytest.mark.parametrize(
    "answer", [{}, {"/azure": "no JSON"}, {"/azure": "[]"}], ids=["nothing there", "text", "another form"]
)
def test_a_server_that_gives_no_notices_is_refused_at_once(answer, answers, monkeypatch):
    answers.update(answer)
    source = "azure" if answer else "gce"
    if not answer:
        monkeypatch.setattr(spot_notices, "GCE", "http://127.0.0.1:1/")
    with pytest.raises(UserError, match=f"expected the metadata server of {source} .* leave the flag out"):
        spot_notices.watch(source)
