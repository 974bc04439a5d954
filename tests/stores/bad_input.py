"""What a store answers to a mistake or an outage: one sentence, exit code 2, and within how many seconds."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from tests.stores import emulators
from tests.stores.faulty_proxy import Proxy

NONE = {"gs": "gs://nobody/run", "s3": "s3://nobody/run"}
_VARIABLE = {"gs": "STORAGE_EMULATOR_HOST", "s3": "AWS_ENDPOINT_URL"}
_LIMIT = 600


def rows(work: pathlib.Path, schemes: Sequence[str] = ("gs", "s3")) -> list[dict[str, Any]]:
    """Returns a row for each mistake and store.

    Args:
        work: folder with the prepared data.
        schemes: of the stores.
    """
    found = []
    for scheme in schemes:
        with emulators.started(scheme, work / "emulator.log") as proxy:
            for what, fault, url, variables in _mistakes(scheme, work):
                proxy.fault = lambda number, method, path, size, fault=fault: fault  # type: ignore[misc]
                found.append({"store": scheme, "what": what, **_tried(url, work, proxy, variables)})
                print(found[-1], flush=True)
    return found


def _mistakes(scheme: str, work: pathlib.Path) -> list[tuple[str, str, str, dict[str, str]]]:
    """Returns what is wrong, a fault of the proxy, `--workdir`, and variables."""
    url = f"{scheme}://bucket/runs/bad"
    library = {"gs": "gcsfs", "s3": "s3fs"}[scheme]
    absent = work / "absent"
    absent.mkdir(exist_ok=True)
    (absent / f"{library}.py").write_text("raise ImportError\n")
    path = os.pathsep.join([str(absent), os.environ.get("PYTHONPATH", "")])
    return [
        ("no rights", "denied", url, {}),
        ("no such bucket", "", NONE[scheme], {}),
        ("extra not installed", "", url, {"PYTHONPATH": path}),
        ("nobody listens", "", url, {_VARIABLE[scheme]: "http://127.0.0.1:9"}),
        ("never answers", "silent", url, {}),
        ("always busy", "busy", url, {}),
    ]


def _tried(url: str, work: pathlib.Path, proxy: Proxy, variables: dict[str, str]) -> dict[str, Any]:
    command = [sys.executable, "scripts/main.py", "--config", "configs/bot.py", f"--workdir={url}"]
    command.append(f"--config.data.root={work / 'data'}")
    started = time.monotonic()
    ended = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=_LIMIT)
    said = [line for line in ended.stderr.splitlines() if line.startswith("error:")]
    return {
        "exit_code": ended.returncode,
        "seconds": round(time.monotonic() - started, 1),
        "sentences": len(said),
        "sentence": said[0].removeprefix("error: ").replace(proxy.url, "http://localhost")[:300] if said else "",
    }
