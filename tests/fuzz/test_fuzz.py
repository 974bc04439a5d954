"""The harness itself: inputs repeat, every kind is read, and each sort of failure is seen."""

import os
import signal
import time

import pytest

from reid_jax import errors
from tests.fuzz import kinds, run


@pytest.mark.parametrize("name", ["torch", "npz", "safetensors", "features", "images"])
def test_inputs_repeat_and_end_in_a_result_or_a_sentence(name, tmp_path):
    kind = kinds.KINDS[name]
    refused = 0
    for number in range(40):
        content = kind.input(name, 7, number)
        assert content == kind.input(name, 7, number)
        try:
            kind.read(content, tmp_path)
        except errors.UserError:
            refused += 1
    assert refused > 0


def _misbehave(content, folder):
    number = int(content)
    if number == 1:
        raise errors.UserError("refused")
    if number == 2:
        raise KeyError("x")
    if number == 3:
        os.system("true")
    if number == 4:
        (folder.parent / "fuzz-foreign").unlink(missing_ok=True)
    if number == 5:
        time.sleep(60)
    if number == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 7:
        try:
            bytearray(4 << 30)
        except MemoryError as error:
            raise errors.UserError("too large") from error
    if number == 8:
        raise errors.UserError("x " * 5000)


def test_every_sort_of_failure_is_seen(monkeypatch, tmp_path, capsys):
    class Numbered(kinds.Kind):
        def input(self, name, seed, number):
            return str(number).encode()

    monkeypatch.setitem(kinds.KINDS, "planted", Numbered(None, _misbehave))
    monkeypatch.setattr(run, "HANG", 0.2)
    tally = run.campaign(["planted"], 0, 9, 60, tmp_path)["planted"]
    assert tally.counts == {
        "accepted": 1,
        "refused": 1,
        "traceback": 1,
        "code run": 2,
        "hang": 1,
        "crash": 1,
        "memory": 1,
        "long message": 1,
    }
    assert (tmp_path / "planted-2.bin").read_bytes() == b"2"
    assert "KeyError" in (tmp_path / "planted-2.txt").read_text()
    assert "planted 6 crash" in capsys.readouterr().err
