"""The audit log: a chain that shows changes, lines that expire, and torn lines of a killed process."""

import json
import os
import threading

import pytest

from reid_jax import errors, file_io
from reid_jax.gallery import audit


@pytest.fixture
def log(tmp_path):
    made = audit.Log(tmp_path / "g.audit.jsonl")
    for number in range(5):
        made.add("query", "kim", "test", ids=[number])
    return made


def test_a_changed_missing_or_moved_line_is_found(log):
    assert log.check() == 5
    lines = log.path.read_bytes().splitlines(keepends=True)
    changed = lines.copy()
    changed[2] = changed[2].replace(b"kim", b"bob")
    for broken in (changed, lines[:1] + lines[2:], lines[1:], [lines[1], lines[0], *lines[2:]], lines[:2] + lines[1:]):
        log.path.write_bytes(b"".join(broken))
        with pytest.raises(errors.UserError, match=r"line \d of the audit log .* changed by hand"):
            log.check()
    log.path.write_bytes(b"".join([*lines[:4], b"nonsense\n"]))
    with pytest.raises(errors.UserError, match="expected an audit log"):
        log.check()


def test_old_lines_are_cut_and_the_chain_goes_on(log):
    entries = [json.loads(line) for line in log.path.read_text().splitlines()]
    for number, entry in enumerate(entries):
        entry["time"] = f"2026-01-0{number + 1}T00:00:00Z"
    log.path.write_bytes(b"")
    previous = ""
    with log.path.open("ab") as file:
        for entry in entries:
            plain = {key: value for key, value in entry.items() if key not in ("hash", "previous")}
            line, previous = audit._chained(plain, previous)
            file.write(line)
    kept = log.path.read_bytes().splitlines(keepends=True)[2:]
    third = 1767398400.0  # 3 January 2026
    assert log.expire(third) == 2
    assert log.expire(third) == 0
    assert log.path.read_bytes().splitlines(keepends=True)[1:] == kept  # unchanged
    assert log.check() == 4
    log.add("query", "kim", "test")
    assert log.check() == 5
    assert log.expire(third + 30 * 86_400) == 5  # two that were cut before, and three
    log.add("query", "kim", "test")
    assert [line["event"] for line in log.lines()] == ["cut", "query", "query"]
    assert log.check() == 3


def test_a_part_of_a_line_is_cut_off(log):
    with log.path.open("ab") as file:
        file.write(b'{"event": "query", "who"')
    assert len(log.lines()) == 5
    log.add("query", "kim", "y" * 200_000)  # longer than what is read at once
    log.add("query", "kim", "z")
    assert log.check() == 7


def test_a_full_disk_leaves_the_log_as_it_was(log, monkeypatch):
    before = log.path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(file_io, "_to_disk", full)
    with pytest.raises(errors.UserError, match=r"cannot write the audit log .*\(No space left on device\)"):
        log.add("query", "kim", "test")
    assert log.path.read_bytes() == before
    monkeypatch.undo()
    with pytest.raises(errors.UserError, match="cannot write the audit log"):
        audit.Log(log.path.parent / "none" / "x").add("query", "kim", "test")


def test_threads_and_a_replaced_file(log):
    threads = [threading.Thread(target=lambda: [log.add("query", "a", "b") for _ in range(5)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.check() == 25
    assert oct(os.stat(log.path).st_mode)[-3:] == "600"
