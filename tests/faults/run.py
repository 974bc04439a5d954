"""Lets faults befall a small training run and every command that writes: `make faults`.

    python -m tests.faults.run                                  # all kinds; writes results/faults.json
    python -m tests.faults.run --only kills,signals --seed 7    # some kinds, other moments; nothing is written
    python -m tests.faults.run --output faults.json

Each fault must end in one sentence or be survived: exit code 2 (130 or 143 after a signal), no traceback, nothing
half-written; the same command afterwards must end like a run that nothing has disturbed, bit for bit. Exit code 0 means
that all did. Small disks are mounted, which needs root; without it those kinds are left out, and the table says so.
"""

from __future__ import annotations

import os
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent

# Before jax is imported: platform, device count and the cache of compiled programs are read at import.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "1"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import argparse
import collections
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable

from reid_jax import file_io
from reid_jax.data import records
from tests.faults import damage, disks, interruptions, processes, runs

OUTPUT = ROOT / "results" / "faults.json"
KINDS: dict[str, Callable[[runs.Bench], None]] = {
    "kills": lambda bench: interruptions.kills(bench, 2),
    "signals": lambda bench: interruptions.signals(bench, 2),
    "preparations": lambda bench: interruptions.preparations(bench, 6),
    "two_runs": interruptions.two_runs,
    "checkpoint_files": damage.checkpoint_files,
    "checkpoint_runs": lambda bench: damage.checkpoint_runs(bench, 3),
    "run_files": damage.run_files,
    "own_code": damage.own_code,
    "memory": damage.memory,
    "full_runs": disks.full_runs,
    "full_writers": disks.full_writers,
    "vanished": disks.vanished,
}
NEED_MOUNT = ("full_runs", "full_writers", "vanished")


def can_mount() -> bool:
    """Returns whether small disks can be mounted here."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with processes.small_disk(pathlib.Path(folder), 4096):
                return True
        except (subprocess.CalledProcessError, OSError):
            return False


def table(faults: list[runs.Fault]) -> str:
    """Returns the table: for each kind the number of faults, how they ended, and how many ended wrong."""
    rows = []
    for kind in dict.fromkeys(fault.kind for fault in faults):
        mine = [fault for fault in faults if fault.kind == kind]
        ends = collections.Counter(fault.ended for fault in mine)
        text = ", ".join(f"{count} {ended}" for ended, count in ends.most_common())
        rows.append((kind, str(len(mine)), text, str(sum(bool(fault.wrong) for fault in mine))))
    rows.append(("all", str(len(faults)), "", str(sum(bool(fault.wrong) for fault in faults))))
    return str(records.format_table(("kind", "faults", "ended", "wrong"), rows))


def befall(bench: runs.Bench, kinds: list[str], jobs: int) -> None:
    """Runs some kinds at a time, each in a process and a folder of its own; the bench has all faults afterwards."""
    base, waiting, running = bench.work, list(kinds), {}
    while waiting or running:
        while waiting and len(running) < jobs:
            kind = waiting.pop(0)
            pid = os.fork()
            if not pid:
                bench.work = base / kind
                bench.work.mkdir()
                try:
                    KINDS[kind](bench)
                except BaseException:
                    bench.faults.append(runs.Fault(kind, "the script itself", wrong=traceback.format_exc()[-2000:]))
                file_io.write_json(base / f"{kind}.json", [dataclasses.asdict(fault) for fault in bench.faults])
                os._exit(0)
            running[pid] = kind
        pid, _ = os.wait()
        running.pop(pid)
    for kind in kinds:
        entries = json.loads((base / f"{kind}.json").read_text())
        bench.faults += [runs.Fault(**entry) for entry in entries]


def about() -> dict[str, object]:
    """Returns device, commit and versions, from a process of its own: a device must not be touched before a fork."""

    def ask() -> dict[str, object]:
        from reid_jax.runtime import provenance

        return {"device": provenance.device_name(), "commit": provenance.commit(), "versions": provenance.versions()}

    answer: dict[str, object] = runs.in_fork(ask)
    return answer


def main() -> int:
    """Runs the faults and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help=f"kinds, separated by commas: {', '.join(KINDS)}")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--output", help="file of the results (default: results/faults.json for all kinds)")
    parser.add_argument("--jobs", type=int, default=2, help="kinds at a time (default: 2)")
    parser.add_argument("--work", help="new folder for the runs (default: a temporary one)")
    args = parser.parse_args()
    kinds = args.only.split(",") if args.only else list(KINDS)
    unmounted = [kind for kind in kinds if kind in NEED_MOUNT and not can_mount()]
    started = time.monotonic()
    processes.import_everything()
    with tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as temporary:
        bench = runs.Bench(pathlib.Path(args.work or temporary) / "bench", args.seed)
        befall(bench, [kind for kind in kinds if kind not in unmounted], args.jobs)
    seconds = round(time.monotonic() - started)
    text = table(bench.faults)
    print(text)
    if unmounted:
        print(f"left out, for want of the right to mount: {', '.join(unmounted)}")
    wrong = [fault for fault in bench.faults if fault.wrong]
    for fault in wrong:
        print(f"WRONG {fault.kind}: {fault.name}: {fault.wrong}\n")
    output = args.output or (str(OUTPUT) if not args.only and not unmounted else None)
    if output:
        counts = collections.Counter(fault.kind for fault in bench.faults)
        summary = {
            **about(),
            "seed": args.seed,
            "seconds": seconds,
            "faults": len(bench.faults),
            "wrong": [f"{fault.kind}: {fault.name}" for fault in wrong],
            "by_kind": dict(counts),
            "ends": {
                kind: dict(collections.Counter(fault.ended for fault in bench.faults if fault.kind == kind))
                for kind in counts
            },
        }
        file_io.write_json(output, summary, "the results")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
