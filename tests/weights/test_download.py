"""Downloads from a server on localhost: whole, cut, resumed, changed, wrong."""

import hashlib
import threading

import numpy as np
import pytest

from reid_jax import errors
from reid_jax.weights import download
from tests.helpers import file_server

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PATH = "/weights.pth"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "_PAUSE", 0.0)
    monkeypatch.setattr(download, "_BLOCK", 1 << 14)
    with file_server.serving() as state:
        state.files[PATH] = CONTENT
        yield state


@pytest.fixture
def target(tmp_path):
    return tmp_path / "weights.pth"


def left(target):
    """Names in the folder of the target."""
    return sorted(path.name for path in target.parent.iterdir())


def test_a_file_arrives_whole_and_alone(server, target):
    download.fetch(server.url + PATH, target, sha256=SHA256[:8])
    assert target.read_bytes() == CONTENT
    assert left(target) == ["weights.pth"]
    assert server.requests == [(PATH, "")]


def test_a_cut_transfer_continues_where_it_ended(server, target):
    server.cuts = [100_000, 0, 50_000]
    download.fetch(server.url + PATH, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == ["", "bytes=100000-", "bytes=100000-", "bytes=150000-"]


def test_the_next_process_continues_an_unfinished_file(server, target):
    server.cuts, server.codes = [100_000], []
    stop = lambda _: server.codes.append(404)  # the server goes away after the cut
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(download.time, "sleep", stop)
        with pytest.raises(download.TransferError, match="404"):
            download.fetch(server.url + PATH, target)
    assert left(target) == [".weights.pth.part", ".weights.pth.part.version"]
    download.fetch(server.url + PATH, target, sha256=SHA256)
    assert server.requests[-1] == (PATH, "bytes=100000-")
    assert target.read_bytes() == CONTENT
    assert left(target) == ["weights.pth"]


@pytest.mark.parametrize("case", ["other version", "no ranges", "no version", "longer than the file"])
def test_unfinished_bytes_that_do_not_belong_are_dropped(server, target, case):
    part = target.with_name(".weights.pth.part")
    part.write_bytes(b"x" * (1000 if case != "longer than the file" else 400_000))
    version = {"other version": '"older"', "no version": ""}.get(case, '"one"')
    part.with_name(part.name + ".version").write_text(version)
    server.ranges = case != "no ranges"
    download.fetch(server.url + PATH, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert left(target) == ["weights.pth"]


@pytest.mark.parametrize("sha256", ["0" * 64, "12345678"])
def test_another_file_than_the_published_one_is_refused(server, target, sha256):
    with pytest.raises(download.TransferError, match="another file than the published one"):
        download.fetch(server.url + PATH, target, sha256=sha256)
    assert ".weights.pth.part" not in left(target)
    assert not target.exists()


def test_the_hash_that_comes_with_a_redirect_is_compared(server, target):
    server.redirects["/hub"] = (PATH, {"X-Linked-Etag": f'"{"0" * 64}"'})
    with pytest.raises(download.TransferError, match="another file"):
        download.fetch(server.url + "/hub", target)
    server.redirects["/hub"] = (PATH, {"X-Linked-Etag": f'"{SHA256}"'})
    server.cuts = [100_000]
    download.fetch(server.url + "/hub", target)
    assert target.read_bytes() == CONTENT
    assert ("/hub", "bytes=100000-") in server.requests


def test_a_busy_server_is_asked_again(server, target):
    server.codes = [503, 429]
    download.fetch(server.url + PATH, target, sha256=SHA256)
    assert len(server.requests) == 3
    server.codes = [503] * 9
    with pytest.raises(download.TransferError, match="503"):
        download.fetch(server.url + PATH, target.with_name("other.pth"))


def test_what_cannot_be_had_says_why(server, target):
    with pytest.raises(download.TransferError, match=r"127\.0\.0\.1:\d+ answers 404"):
        download.fetch(server.url + "/absent.pth", target)
    with file_server.serving() as gone:
        url = gone.url
    with pytest.raises(download.TransferError, match="cannot be reached"):
        download.fetch(url + PATH, target)
    assert not target.exists()


def test_a_web_page_in_place_of_the_file_is_refused(server, target, monkeypatch):
    monkeypatch.setattr(file_server._Handler, "send_header", _html(file_server._Handler.send_header))
    with pytest.raises(download.TransferError, match="web page"):
        download.fetch(server.url + PATH, target)
    assert not target.exists()


def _html(send):
    return lambda self, name, value: send(self, name, "text/html" if name == "Content-Type" else value)


def test_too_many_bytes_are_refused(server, target, monkeypatch):
    monkeypatch.setattr(download, "_LARGEST", 200_000)
    with pytest.raises(download.TransferError, match="more than any published weights"):
        download.fetch(server.url + PATH, target)


def test_two_that_want_the_same_file_fetch_it_once(server, target):
    threads = [
        threading.Thread(target=download.fetch, args=(server.url + PATH, target), kwargs={"sha256": SHA256})
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_bytes() == CONTENT
    assert len(server.requests) == 1
    assert left(target) == ["weights.pth"]


def test_a_folder_that_is_absent_is_one_sentence(server, tmp_path):
    with pytest.raises(errors.UserError, match="cannot write the weights file"):
        download.fetch(server.url + PATH, tmp_path / "absent" / "weights.pth")
