"""A demo whose run folder and data are in an emulated bucket: killed three times, with faults, against a local run.

    python -m tests.stores.run --output results/stores.json            # both stores
    python -m tests.stores.run --output results/stores.json --part s3  # one part; the others stay as they are

See `tests.stores.emulators` for what to install; a script, because it takes a quarter of an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

import fsspec
import numpy as np

from reid_jax import file_io
from reid_jax.benchmarks import tables
from reid_jax.cli import check_resume
from reid_jax.runs import folder as folder_lib
from reid_jax.stores import mirror
from reid_jax.train import checkpoints, metrics
from tests.stores import bad_input, emulators, two_hosts
from tests.stores.faulty_proxy import Proxy

PARTS = ("gs", "s3", "bad", "hosts")
# Every so-many-th request meets a fault; primes, so that they meet all kinds of requests.
EVERY = {"busy": 11, "cut": 7, "lost": 29}
SILENT = 53  # this request of each start is never answered
EPOCHS, STEPS_PER_SAVE = 4, 12


class Steps:
    """Faults of one start, and what is to happen at a request: the process is killed there.

    Args:
        kill_at: end of the object's name at whose upload the process is killed; "" for none.
        after: seconds between that request and the kill.
        quiet_from: object after whose upload nothing fails any more, and counting starts anew.
    """

    def __init__(self, proxy: Proxy, kill_at: str = "", after: float = 0.0, quiet_from: str = "") -> None:
        self.proxy, self.kill_at, self.after, self.quiet_from = proxy, kill_at, after, quiet_from
        self.reached: float | None = None
        self.quiet = False
        self._first: int | None = None
        proxy.fault = self

    def __call__(self, number: int, method: str, path: str, size: int) -> str:
        self._first = number if self._first is None else self._first
        name = path.replace("%2F", "/")
        is_put = method in ("PUT", "POST") and size > 0
        if self.quiet_from and is_put and self.quiet_from in name:
            self.quiet = True
            self.proxy.counts.clear()
        if self.kill_at and is_put and self.kill_at in name and self.reached is None:
            self.reached = time.monotonic()
            return "" if self.after else "silent"
        if self.quiet:
            return ""
        count = number - self._first
        if count == SILENT:
            return "silent"
        found = next((fault for fault, every in EVERY.items() if count % every == every - 1), "")
        return "" if found == "cut" and not is_put else found


def start(arguments: list[str], log: pathlib.Path) -> subprocess.Popen[bytes]:
    """Starts `main.py` with the demo of this script."""
    command = [sys.executable, "scripts/main.py", "--config", "configs/bot.py", f"--config.train.epochs={EPOCHS}"]
    with log.open("ab") as output:
        return subprocess.Popen([*command, *arguments], stdout=output, stderr=output)


def local_run(work: pathlib.Path) -> pathlib.Path:
    """Returns the folder of the undisturbed run on the disk."""
    folder = work / "local"
    log = work / "local.log"
    assert start([f"--workdir={folder}", f"--config.data.root={work / 'data'}"], log).wait() == 0, log
    return folder


def killed_run(scheme: str, work: pathlib.Path, local: pathlib.Path) -> dict[str, Any]:
    """Returns what happened to a run in a bucket that is killed three times and resumed."""
    with emulators.started(scheme, work / "emulator.log") as proxy:
        fsspec.filesystem(scheme).put(str(work / "data" / "prepared"), "bucket/data/", recursive=True)
        proxy.take()
        url, log = f"{scheme}://bucket/runs/demo", work / f"{scheme}.log"
        arguments = [f"--workdir={url}", f"--config.data.root={scheme}://bucket/data"]
        arguments.append(f"--config.checkpoint.every_steps={STEPS_PER_SAVE}")
        first, second = f"checkpoints/{STEPS_PER_SAVE}", f"checkpoints/{2 * STEPS_PER_SAVE}"
        kills = [
            ("3 s after the first checkpoint", Steps(proxy, f"{first}/files.json", after=3.0)),
            ("in the upload of a checkpoint", Steps(proxy, f"{second}/state/")),
            ("at the object that makes it count", Steps(proxy, f"{second}/files.json")),
        ]
        for what, steps in kills:
            proxy.fault = steps
            process = start(arguments, log)
            while process.poll() is None and (steps.reached is None or time.monotonic() < steps.reached + steps.after):
                time.sleep(0.02)
            assert process.poll() is None, f"{what}: ended by itself, see {log}"
            process.kill()
            process.wait()
            print(f"{scheme}: killed {what}; requests {proxy.take()}", flush=True)
        steps = Steps(proxy, quiet_from=f"checkpoints/{4 * STEPS_PER_SAVE}/files.json")
        assert start(arguments, log).wait() == 0, log
        quiet = proxy.take()
        proxy.fault = lambda number, method, path, size: ""
        return {"kills": len(kills), **compared(url, local), **requests(quiet, proxy)}


def compared(url: str, local: pathlib.Path) -> dict[str, Any]:
    """Returns whether parameters, metrics and scores of a run in a bucket equal those of the local one."""
    copy = mirror.Mirror(url)
    copy.join()
    remote = folder_lib.RunFolder(url)
    ours, theirs = (checkpoints.restore_arrays(one) for one in (local / "checkpoints", remote.checkpoints))
    lines = [
        [{key: value for key, value in line.items() if key not in check_resume.TIMES} for line in metrics.read(one)]
        for one in (local, copy.path)
    ]
    scores = [_scores(one) for one in (local / "result.json", copy.path / "result.json")]
    return {
        "arrays": len(ours),
        "arrays_equal": _yes(set(ours) == set(theirs) and all(_same(ours[name], theirs[name]) for name in ours)),
        "metric_lines": len(lines[0]),
        "metrics_equal": _yes(lines[0] == lines[1]),
        "scores_equal": _yes(scores[0] == scores[1]),
        "steps": int(ours["step"]),
    }


def _yes(equal: bool) -> str:
    return "yes" if equal else "NO"


def _scores(path: pathlib.Path) -> dict[str, Any]:
    values = json.loads(path.read_text())
    return {key: value for key, value in values.items() if "/" in key and "seconds" not in key}


def _same(first: np.ndarray, second: np.ndarray) -> bool:
    return first.dtype == second.dtype and first.tobytes() == second.tobytes()


def requests(quiet: dict[str, int], proxy: Proxy) -> dict[str, Any]:
    """Returns the requests of the undisturbed end of a run, by step."""
    steps = (EPOCHS * 24) - 4 * STEPS_PER_SAVE
    kinds = {kind: quiet.get(kind, 0) for kind in ("write", "list", "read", "remove")}
    per_step = {f"{kind}_per_step": round(count / steps, 2) for kind, count in kinds.items()}
    return {**per_step, "faults": ", ".join(f"{count} {fault}" for fault, count in sorted(proxy.faults.items()))}


def main() -> int:
    """Runs the parts and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=pathlib.Path, default="results/stores.json")
    scratch = pathlib.Path(tempfile.gettempdir()) / "reid_jax_stores"
    parser.add_argument("--work", type=pathlib.Path, default=scratch, help="scratch folder")
    parser.add_argument("--part", choices=PARTS, nargs="+", default=PARTS)
    args = parser.parse_args()
    work = file_io.make_folder(args.work.absolute())
    os.environ["REID_JAX_STORE_CACHE"] = str(work / "cache")
    local = work / "local"
    if not (local / "result.json").exists() and {"gs", "s3"} & set(args.part):
        local_run(work)
    for part in args.part:
        if part == "bad":
            _keep(args.output.with_name(f"{args.output.stem}_errors.json"), bad_input.rows(work))
        elif part == "hosts":
            _keep(args.output, two_hosts.rows(work))
        else:
            _keep(args.output, [{"store": part, **killed_run(part, work, local)}])
    return 0


def _keep(path: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    """Writes rows to a file of tables in place of those of the same stores."""
    before = json.loads(path.read_text())["tables"]["stores"] if path.exists() else []
    stores = {row["store"] for row in rows}
    about = tables.about("python -m tests.stores.run --output results/stores.json", device="CPU")
    tables.write(path, {"stores": [row for row in before if row["store"] not in stores] + rows}, about)


if __name__ == "__main__":
    sys.exit(main())
