"""`search.py serve` from the command line, with a model of NumPy in place of a trained one."""

import dataclasses
import http.client
import json
import re
import socket

import pytest

from reid_jax import errors
from reid_jax.app import image_engine
from reid_jax.cli import model_choice, search, search_serve
from reid_jax.gallery import binding
from tests.app import drawn_gallery

MODEL = ("--model=bot", "--random-weights")


@pytest.fixture
def people(tmp_path):
    drawn_gallery.made(tmp_path / "people.gallery").close()
    return tmp_path / "people.gallery"


class Engine(drawn_gallery.Stripes):
    """In place of a model."""

    def __init__(self, *_):
        self.warm = False

    def warm_up(self):
        self.warm = True


@pytest.fixture
def asked(monkeypatch, capsys):
    """What a server answers that is asked for its facts at the address that it prints, and what it prints."""
    found = []

    def ask():
        out = capsys.readouterr()
        port, _, token = re.search(r"http://127\.0\.0\.1:(\d+)/(#token=)?(\S*)", out.out).groups()
        connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=10)
        connection.request("GET", "/api/info", headers={"Authorization": f"Bearer {token}"} if token else {})
        found.extend([json.loads(connection.getresponse().read()), out, token])
        connection.close()

    monkeypatch.setattr(search_serve, "_wait", ask)
    monkeypatch.setattr(model_choice, "load", lambda args: (None, {}))
    monkeypatch.setattr(image_engine, "ModelEngine", Engine)
    monkeypatch.setattr(binding.Binding, "of_extractor", lambda *_: drawn_gallery.BINDING)
    return found


def run(*words):
    return search.main([str(word) for word in words])


def test_on_this_machine_and_beyond(people, asked, capsys):
    assert run("serve", people, *MODEL, "--port=0", "--who=ann") == 0
    info, out, token = asked
    assert (info["who"], info["entries"], token, info["read_only"]) == ("ann", 12, "", False)
    assert "Ctrl-C stops it." in out.err
    assert "without https" not in out.err
    assert capsys.readouterr().out == "stopped.\n"
    asked.clear()
    assert run("serve", people, *MODEL, "--port=0", "--host=0.0.0.0", "--who=ann", "--read-only") == 0
    info, out, token = asked
    assert (info["who"], info["read_only"], len(token)) == ("ann", True, 43)
    assert "note: without https, images and tokens cross the network" in out.err


def test_a_taken_port_is_refused_before_a_model_is_loaded(people, asked, monkeypatch):
    monkeypatch.setattr(model_choice, "load", lambda args: pytest.fail("loaded"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(errors.UserError, match=f"cannot listen at 127.0.0.1:{port} .*; give another host or port"):
            run("serve", people, *MODEL, f"--port={port}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("serve",), "expected either --run DIR or --model NAME"),
        (("serve", *MODEL, "--key", __file__), "--key goes with --certificate; give both"),
        (("serve", *MODEL, "--tokens", "none"), "expected a file as --tokens, found nothing at none"),
        (("serve", *MODEL, "--top=3"), "--top goes with query, not with serve"),
        (("info", "--read-only"), "--read-only goes with serve, not with info"),
        (("serve", *MODEL, "--tokens", __file__), "other users may read the tokens in|got another"),
        (("serve", *MODEL, "--host", "no such host"), "cannot listen at no such host:8600"),
    ],
)
def test_mistakes(people, asked, words, message):
    with pytest.raises(errors.UserError, match=message):
        run(words[0], people, *words[1:])
    assert asked == []


def test_another_model_is_refused_before_anything_is_served(people, asked, monkeypatch):
    other = dataclasses.replace(drawn_gallery.BINDING, weights="b" * 64)
    monkeypatch.setattr(binding.Binding, "of_extractor", lambda *_: other)
    with pytest.raises(errors.UserError, match="the gallery was made with the weights a"):
        run("serve", people, *MODEL, "--port=0")
    assert asked == []
