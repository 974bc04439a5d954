"""Two processes without a shared disk train in one bucket; one is killed, and both resume."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import time
from typing import Any

from tests.helpers import tiny
from tests.stores import emulators
from tests.stores.faulty_proxy import Proxy

_PORT = 29_871


def _start(number: int, workdir: str, config: str, root: str, work: pathlib.Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "scripts/main.py", config, f"--workdir={workdir}", f"--config.data.root={root}"]
    command += [f"--coordinator=127.0.0.1:{_PORT}", "--num_processes=2", f"--process_id={number}"]
    own = {"JAX_NUM_CPU_DEVICES": "1", "REID_JAX_STORE_CACHE": str(work / f"disk{number}")}
    with (work / f"host{number}.log").open("ab") as output:
        return subprocess.Popen(command, env=os.environ | own, stdout=output, stderr=output)


def _both(workdir: str, config: str, root: str, work: pathlib.Path) -> list[subprocess.Popen[bytes]]:
    return [_start(number, workdir, config, root, work) for number in (0, 1)]


def rows(work: pathlib.Path) -> list[dict[str, Any]]:
    """Returns a row: the run in a bucket against one of two processes in a folder of the disk."""
    from tests.stores import run

    made = tiny.config(work / "data", checkpoint__every_steps=3)
    config = tiny.write(made, work / "two_hosts_config.py")
    local = work / "local2"
    assert [process.wait() for process in _both(str(local), config, str(work / "data"), work)] == [0, 0]
    with emulators.started("gs", work / "emulator.log") as proxy:
        url = "gs://bucket/runs/two"
        code = _kill_the_second(proxy, url, config, work)
        proxy.take()
        assert [process.wait() for process in _both(url, config, str(work / "data"), work)] == [0, 0]
        row = run.compared(url, local)
    return [{"store": "gs, two processes, no shared disk", "kills": 1, "first_ended_with": code, **row}]


def _kill_the_second(proxy: Proxy, url: str, config: str, work: pathlib.Path) -> int:
    """Kills process 1 at the first checkpoint that counts, and returns the exit code with which process 0 ends."""
    reached: list[float] = []

    def note(number: int, method: str, path: str, size: int) -> str:
        if size and "files.json" in path.replace("%2F", "/"):
            reached.append(time.monotonic())
        return ""

    proxy.fault = note
    first, second = _both(url, config, str(work / "data"), work)
    while not reached and second.poll() is None:
        time.sleep(0.01)
    second.kill()
    second.wait()
    return first.wait()
