"""The lock of a run folder: the second is refused, a killed owner's lock is free, and an owner elsewhere is watched."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from reid_jax.errors import UserError
from reid_jax.runtime import folder_lock

OWNER = """
import sys, time
from reid_jax.runtime import folder_lock
with folder_lock.held(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_second_is_refused_and_a_killed_owner_is_no_owner(tmp_path):
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="is in use by process") as caught, folder_lock.held(tmp_path):
            pass
        sentence = str(caught.value)
        assert f"process {owner.pid} on {socket.gethostname()} since 2" in sentence
        assert str(tmp_path) in sentence
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.communicate()
    with folder_lock.held(tmp_path), folder_lock.held(tmp_path):
        assert json.loads((tmp_path / folder_lock.FILE).read_text())["pid"] == os.getpid()
    assert (tmp_path / folder_lock.FILE).read_text() == ""


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """A folder on a file system of several hosts, locked by process 7 of another one."""
    monkeypatch.setattr(folder_lock, "_file_system", lambda path: "nfs4")
    monkeypatch.setattr(folder_lock, "WATCH", 0.05)
    (tmp_path / folder_lock.FILE).write_text(json.dumps({"pid": 7, "host": "node2", "since": "today"}))
    return tmp_path


def test_an_owner_elsewhere_that_no_longer_renews_loses_its_lock(shared):
    with folder_lock.held(shared):
        assert json.loads((shared / folder_lock.FILE).read_text())["host"] == socket.gethostname()


def test_an_owner_elsewhere_that_renews_keeps_its_lock(shared, monkeypatch):
    monkeypatch.setattr(folder_lock.time, "sleep", lambda seconds: os.utime(shared / folder_lock.FILE))
    before = (shared / folder_lock.FILE).read_text()
    with pytest.raises(UserError, match="in use by process 7 on node2 since today"), folder_lock.held(shared):
        pass
    assert (shared / folder_lock.FILE).read_text() == before


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b'{"pid": 1e999}', b"\xff\xfe", b'{"pid": "x", "host": "HERE"}']
)
def test_damaged_information_is_no_owner(shared, content):
    (shared / folder_lock.FILE).write_bytes(content.replace(b"HERE", socket.gethostname().encode()))
    with folder_lock.held(shared):
        pass


def test_a_file_system_without_locks(shared, monkeypatch):
    def refuse(descriptor, operation):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(folder_lock.fcntl, "flock", refuse)
    (shared / folder_lock.FILE).write_text(json.dumps({"pid": 2**22 + 1, "host": socket.gethostname()}))
    with folder_lock.held(shared):
        pass


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="cannot write the lock of the run folder"), folder_lock.held(tmp_path / "no"):
        pass


def test_file_systems_are_known(tmp_path):
    assert folder_lock._file_system(tmp_path)
    assert folder_lock._file_system("/proc") == "proc"
