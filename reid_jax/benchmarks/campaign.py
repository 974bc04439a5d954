"""A campaign of measurements for a device that is at hand for minutes: parts in the order of their value.

    python scripts/benchmark.py campaign --minutes 12 --output campaign

This process plans and watches, and never touches the device; a worker process (`campaign_worker`) measures one part
after another and writes each result when it has it. A part that fails, crashes its process or exceeds its time is
recorded, and the next goes on in a new worker. Whatever ends the campaign, what was measured stays: the same command
measures what is missing, and tries again what failed, after all others.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from reid_jax import errors, file_io
from reid_jax.benchmarks import tables

Row = dict[str, Any]

DONE, FAILED, RUNNING = "done", "failed", "running"
# Seconds below which no part begins, and that are kept back for the tables at the end.
LEAST, RESERVE = 15.0, 5.0
# Seconds that a worker may take to load the libraries, the device's driver among them.
WORKER_START = 120.0

# Compilation on a CPU takes most of a run of a few steps.
QUICK_FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"

MODELS = ("resnet50", "mfv", "transreid", "amfor", "osnet_x1_0")


@dataclasses.dataclass(frozen=True)
class Part:
    """A measurement of a campaign.

    Attributes:
        name: name of its file; what is before the first "-" is its table.
        seconds: wall seconds that it may take.
        where: "worker" for the process that holds the device, "training" for a run in a process of its own, which takes
            the time that is left.
    """

    name: str
    seconds: float
    where: str = "worker"

    @property
    def table(self) -> str:
        """The table that its rows belong to."""
        return self.name.partition("-")[0]


def plan(quick: bool = False) -> list[Part]:
    """Returns the parts in the order of their value: what a first look at a device should know comes first.

    Args:
        quick: the same parts at sizes for a CPU; one batch size.
    """
    batches = (8,) if quick else (64, 256)
    sizes = ("tiny",) if quick else ("market1501", "msmt17")
    parts = [Part("device", 60), Part("parity", 150)]
    parts += [Part(f"speed-{model}-{batch}", 150) for batch in batches for model in MODELS]
    parts += [Part(f"rank-{size}", 60) for size in sizes]
    parts += [Part(f"rerank-{size}", 90) for size in sizes]
    parts += [Part("wait", 90), Part("profile-1", 90), Part("profile-2", 90)]
    parts += [Part(f"infer-{model}-{batches[-1]}", 90) for model in MODELS]
    return [*parts, Part("training", float("inf"), "training")]


class Folder:
    """The folder of a campaign: a file for each part, in `parts/`.

    Args:
        path: the folder; it is made.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = pathlib.Path(path)
        self.parts = file_io.make_folder(self.path / "parts", "the folder of the campaign")

    def read(self, name: str) -> dict[str, Any]:
        """Returns the record of a part: `status`, `rows`, `seconds`, `error`; empty for one that never began."""
        path = self.parts / f"{name}.json"
        if not path.is_file():
            return {}
        try:
            return file_io.read_json(path, "the record of a part", "remove it to measure that part again")
        except errors.UserError:
            return {}  # damaged: measured again

    def write(self, name: str, status: str, rows: Sequence[Row] = (), **more: Any) -> None:
        """Writes the record of a part, whole or not at all."""
        attempts = self.read(name).get("attempts", 0) + (status == RUNNING)
        record = {"status": status, "attempts": attempts, "rows": list(rows), **more}
        file_io.write_json(self.parts / f"{name}.json", record, "the record of a part")

    def open_parts(self, parts: Sequence[Part]) -> list[Part]:
        """Returns the parts that are not done: first those that never began, then the others, each in their order."""
        records = {part.name: self.read(part.name) for part in parts}
        return sorted(
            (part for part in parts if records[part.name].get("status") != DONE),
            key=lambda part: bool(records[part.name]),
        )

    def rows(self, parts: Sequence[Part]) -> dict[str, list[Row]]:
        """Returns the rows of all parts by table, those of a part that was stopped included."""
        by_table: dict[str, list[Row]] = {}
        for part in parts:
            if found := self.read(part.name).get("rows"):
                by_table.setdefault(part.table, []).extend(found)
        return by_table

    def failures(self, parts: Sequence[Part]) -> list[Row]:
        """Returns a row for each part that failed: its name and its error."""
        records = [(part.name, self.read(part.name)) for part in parts]
        return [
            {"part": name, "error": record.get("error", "")}
            for name, record in records
            if record.get("status") == FAILED
        ]


class Worker:
    """A process that measures parts in order, and says on its output when it begins and ends each.

    Args:
        command: its command; it prints `begin NAME` and `end NAME`.
        log: file for everything else that it says.
        variables: its environment.
    """

    def __init__(self, command: Sequence[str], log: pathlib.Path, variables: Mapping[str, str] | None = None) -> None:
        with log.open("ab") as errors_file:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors_file,
                env=variables,
                text=True,
                start_new_session=True,
            )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.strip())
        self._lines.put(None)

    def next_line(self, seconds: float) -> str | None:
        """Returns the next line of its output, None at its end; raises `queue.Empty` after `seconds` without."""
        return self._lines.get(timeout=max(seconds, 0.0))

    def end(self) -> None:
        """Ends the process and what it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


Start = Callable[[Sequence[Part], float], Worker]


def measure(
    folder: Folder, parts: Sequence[Part], deadline: float, start: Start, say: Callable[[str], object] = print
) -> None:
    """Measures the parts of workers that are not done, until the deadline.

    Args:
        folder: where records are written.
        parts: the plan.
        deadline: by `time.monotonic`.
        start: starts a worker with parts, in order, and the seconds that are left.
        say: is called with a line for each part that ends.
    """
    waiting = [part for part in folder.open_parts(parts) if part.where == "worker"]
    while waiting and deadline - time.monotonic() > LEAST:
        worker = start(waiting, deadline - time.monotonic() - RESERVE)
        try:
            waiting = _watch(folder, worker, waiting, deadline - RESERVE, say)
        finally:
            worker.end()


def _watch(
    folder: Folder, worker: Worker, parts: Sequence[Part], deadline: float, say: Callable[[str], object]
) -> list[Part]:
    """Waits for a worker's end, and ends it where a part takes too long; returns the parts that it left."""
    left, began, limit = list(parts), time.monotonic(), WORKER_START
    current = False  # whether the worker measures the first of `left`
    while True:
        try:
            line = worker.next_line(min(began + limit, deadline) - time.monotonic())
        except queue.Empty:
            over = time.monotonic() >= deadline
            reason = "the campaign's time was over" if over else f"it took more than its {limit:.0f} s"
            break
        word, _, name = (line or "").partition(" ")
        if line is None:
            code = worker.process.wait()
            if code == 0 and not current:
                return []  # all measured, or no time for the next
            reason, over = f"its process ended with code {code}", False
            break
        if left and name == left[0].name and word == "begin":
            current, began, limit = True, time.monotonic(), left[0].seconds
        elif left and name == left[0].name and word == "end":
            record = folder.read(name)
            seconds = time.monotonic() - began
            say(f"{name}: {record.get('status')} in {seconds:.0f} s{_colon(record.get('error', ''))}")
            left, current, began, limit = left[1:], False, time.monotonic(), WORKER_START
    if left and (current or not over):
        folder.write(left[0].name, FAILED, error=reason, seconds=round(time.monotonic() - began, 1))
        say(f"{left[0].name}: failed: {reason}")
    return [] if over else left[1:]


def _colon(text: str) -> str:
    return f": {text}" if text else ""


def start_worker(
    folder: Folder, parts: Sequence[Part], seconds: float, quick: bool, torch: bool, evidence: str = ""
) -> Worker:
    """Starts the process that measures, see `campaign_worker`; what it logs goes to `log.txt` of the folder."""
    command = [sys.executable, "-m", "reid_jax.benchmarks.campaign_worker", str(folder.path), f"{seconds:.0f}"]
    command += [",".join(part.name for part in parts), *(["quick"] if quick else []), *(["torch"] if torch else [])]
    command += [f"evidence={evidence}"] if evidence else []
    variables = environment(folder)
    if evidence and quick:  # many programs of few steps
        variables["XLA_FLAGS"] = f"{variables.get('XLA_FLAGS', '')} {QUICK_FLAGS}".strip()
    return Worker(command, folder.path / "log.txt", variables)


def environment(folder: Folder) -> dict[str, str]:
    """Returns the environment of the processes that a campaign starts.

    Programs are kept in the campaign's folder, so that a part that is measured again does not compile again, and JAX
    leaves memory of the device to PyTorch and to the training run.
    """
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder.path.absolute() / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
        **os.environ,
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }


@contextlib.contextmanager
def background(command: Sequence[str], folder: Folder) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a command beside the block, on the processor alone and with low priority, and ends it with the block."""
    hidden = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    with (folder.path / "log.txt").open("ab") as log:
        process = subprocess.Popen(
            ["nice", "-n", "15", *command],
            stdout=log,
            stderr=log,
            env=environment(folder) | hidden,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def about(folder: Folder, command: str) -> dict[str, Any]:
    """Returns what the figures are stored with; the device's name is that of the part that met it."""
    device = (folder.read("device").get("rows") or [{}])[0]
    return tables.about(command, device.get("device", "unknown device"))


def document(folder: Folder, parts: Sequence[Part]) -> dict[str, Any]:
    """Returns everything that was measured: `tables` by name, the parts that failed and those that never began."""
    return {
        "tables": folder.rows(parts),
        "failed": folder.failures(parts),
        "not_begun": [part.name for part in parts if not folder.read(part.name)],
    }


def summary(found: Mapping[str, Any]) -> str:
    """Returns one line: how much was measured, what failed, and what is missing."""
    failed = [row["part"] for row in found["failed"]]
    words = [f"{sum(map(len, found['tables'].values()))} rows measured"]
    words += [f"failed: {', '.join(failed)}"] if failed else []
    words += [f"not begun: {', '.join(found['not_begun'])}"] if found["not_begun"] else []
    return "; ".join(words)


def check_kind(folder: Folder, quick: bool, torch: bool, evidence: str = "") -> None:
    """Checks that a folder holds a campaign of the same kind, and notes the kind in a new one.

    Raises:
        UserError: its figures are of another kind.
    """
    path = folder.path / "kind.json"
    kind: Row = {"quick": quick, "torch": torch, **({"evidence": evidence} if evidence else {})}
    if not path.is_file():
        file_io.write_json(path, kind, "the campaign's kind")
        return
    found = file_io.read_json(path, "the campaign's kind", "give another --output")
    if found != kind:
        raise errors.UserError(
            f"expected a campaign like the one in {folder.path} ({json.dumps(found)}), got {json.dumps(kind)}; give "
            "another --output."
        )
