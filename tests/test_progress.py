"""Progress: bars and lines, the line that counts seconds, and silence where nobody asked for it."""

import doctest
import io
import logging
import re

import pytest

from reid_jax import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def shown():
    progress.show()
    yield
    progress.show(False)


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_library_is_silent(capfd):
    with progress.bar("reading", 3, "images") as advance, progress.waiting("compiling"):
        advance(3)
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("shown")
def test_lines_say_how_much_is_left_and_how_long_it_took(clock, capfd):
    with progress.bar("features of the gallery", 2000, "images") as advance:
        for at, count in ((5.0, 100), (14.0, 900), (19.0, 500), (24.5, 500)):
            clock[0] = at
            advance(count)
    lines = capfd.readouterr().err.splitlines()
    # The first 100 may have waited for the compiler: 900 in 9 s after them.
    assert lines == [
        "features of the gallery 1,000/2,000 images (~10 s left)",
        "features of the gallery 2,000/2,000 images",
        "features of the gallery 2,000/2,000 images in 24 s",
    ]
    with progress.bar("short", 5, "images") as advance:
        advance(5)
    with progress.bar("a file", None, "B") as advance:
        clock[0] += 20
        advance(12_345_678)
    assert capfd.readouterr().err.splitlines() == ["a file 12 MB"]


@pytest.mark.usefixtures("shown")
def test_lines_of_a_run_go_to_its_log(clock, caplog, capfd):
    with caplog.at_level(logging.INFO), progress.bar("reading", 10, "images") as advance:
        clock[0] = 30.0
        advance(9)
    assert [record.message for record in caplog.records] == ["reading 9/10 images"]
    assert "reading" not in capfd.readouterr().err.replace(caplog.text, "")


def test_a_bar_of_a_terminal():
    stream = Terminal()
    bar = progress.Bar("reading", 10, "images", shown=True, stream=stream, stays=True)
    for _ in range(10):
        bar.advance()
    bar.close()
    assert re.search(r"reading 10/10 \|.*\| 00:00<00:00", stream.getvalue())
    closed = io.StringIO()
    closed.close()
    assert not progress.is_terminal(closed)


@pytest.mark.usefixtures("shown")
@pytest.mark.parametrize("terminal", [True, False])
def test_waiting_counts_the_seconds(monkeypatch, terminal):
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(progress.sys, "stderr", stream)
    monkeypatch.setattr(progress, "PATIENCE", 0.02)
    with progress.waiting("compiling the model"):
        progress.time.sleep(0.2)
    shown = stream.getvalue()
    if terminal:
        assert "compiling the model ... 0 s" in shown
    else:
        assert shown.startswith("compiling the model ...\n")
    assert re.search(r"compiling the model: 0\.\d s\n", shown)


def test_durations():
    assert doctest.testmod(progress).failed == 0
    assert progress.duration(125) == "2 min 05 s"
