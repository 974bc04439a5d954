"""Training by processes on several hosts, with faults: what happens, within how many seconds, and whether the run that
is resumed is the undisturbed one.

    python -m tests.clusters.run --output results/clusters.json

Hosts are network namespaces (`hosts`), which need root. A run of one process is the reference for those of 2, 4 and 8:
first losses agree to rounding. Then faults befall runs of two processes, and the same command again must end like the
undisturbed run of two, bit for bit. At last a run goes from four processes to one and to eight. What is finished is in
the work folder and not measured again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from reid_jax import trees
from reid_jax.benchmarks import tables
from reid_jax.data import prepare
from reid_jax.train import checkpoints, metrics
from tests.clusters.hosts import Host, network
from tests.helpers import tiny

Row = dict[str, Any]

PORT = 9876
STEPS = 60
LIMIT = 300.0  # seconds: far above the 60 after which a silent process counts as lost
TIMES = ("time", "images_per_second", "data_wait_percent")
ROUNDING = 2e-4


@dataclasses.dataclass
class Process:
    """A process of a run.

    Attributes:
        host: where it runs.
        popen: `ip netns exec`, which becomes the process itself.
        log: the file of its errors.
    """

    host: Host
    popen: subprocess.Popen[bytes]
    log: pathlib.Path

    def send(self, number: int) -> None:
        """Sends a signal."""
        self.popen.send_signal(number)

    @property
    def last_line(self) -> str:
        """The last line on its screen."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1].strip() if lines else ""


class Bench:
    """Config, data, and hosts of all runs."""

    def __init__(self, work: pathlib.Path, hosts: list[Host]) -> None:
        self.work, self.hosts = work, hosts
        work.mkdir(parents=True, exist_ok=True)
        data = work / "data"
        prepare.prepare("synthped", data, size="tiny")
        overrides = {"train__epochs": STEPS / 3, "checkpoint__every_steps": 5, "train__ema_decay": 0.0}
        slowly = {"optimizer__name": "sgd", "optimizer__epsilon": None, "optimizer__learning_rate": 1e-5}
        self.config = tiny.config(data, **overrides, **slowly)
        self.argument = tiny.write(self.config, work / "bot_tiny.py")

    def start(
        self,
        run: pathlib.Path,
        count: int,
        index: int,
        *more: str,
        argument: str = "",
        root: pathlib.Path = tiny.ROOT,
        **variables: str,
    ) -> Process:
        """Starts one process of a run of `count`, from another checkout or with further variables if need be."""
        host = self.hosts[index]
        log = run.parent / f"{run.name}-{index}-{time.monotonic_ns()}.log"
        together = [
            f"--coordinator={self.hosts[0].address}:{PORT}",
            f"--num_processes={count}",
            f"--process_id={index}",
        ]
        script = str(root / "scripts" / "main.py")
        command = [sys.executable, script, argument or self.argument, f"--workdir={run}", "--mode=train", *more]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"} | variables
        if root != tiny.ROOT:
            environment["PYTHONPATH"] = str(root)
        with log.open("wb") as file:
            popen = subprocess.Popen(
                host.command([*command, *(together if count > 1 else [])]),
                cwd=root, env=environment, stdout=subprocess.DEVNULL, stderr=file,
            )  # fmt: skip
        return Process(host, popen, log)

    def start_all(self, run: pathlib.Path, count: int, *more: str) -> list[Process]:
        """Starts all processes of a run."""
        return [self.start(run, count, index, *more) for index in range(count)]


def wait(processes: list[Process], limit: float = LIMIT) -> list[int | None]:
    """Returns the exit codes; None for a process that had to be killed after the limit."""
    end = time.monotonic() + limit
    while time.monotonic() < end and any(process.popen.poll() is None for process in processes):
        time.sleep(0.05)
    codes = [process.popen.poll() for process in processes]
    for process in processes:
        if process.popen.poll() is None:
            process.send(signal.SIGCONT)
            process.popen.kill()
            process.popen.wait()
    return codes


def wait_for_step(run: pathlib.Path, step: int, processes: list[Process]) -> None:
    """Waits until a run has made a step."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end and all(process.popen.poll() is None for process in processes):
        path = run / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        if len(lines) >= step:
            return
        time.sleep(0.01)
    raise AssertionError(f"step {step} was not reached: {processes[0].last_line}")


def outcome(run: pathlib.Path) -> tuple[list[dict[str, float]], dict[str, np.ndarray]]:
    """Returns the metrics of every step without times, and all variables of the last checkpoint."""
    lines = [{key: value for key, value in line.items() if key not in TIMES} for line in metrics.read(run)]
    variables, _ = checkpoints.restore_variables(run / "checkpoints", extra=True)
    return lines, {path: np.asarray(leaf) for path, leaf in trees.flatten(variables).items()}


def difference(run: pathlib.Path, reference: pathlib.Path) -> float:
    """Returns the largest difference of the losses of two runs, relative to the loss."""
    lines, others = outcome(run)[0], outcome(reference)[0]
    assert [line["step"] for line in lines] == [line["step"] for line in others] == list(range(1, STEPS + 1))
    return max(abs(line["loss"] - other["loss"]) / other["loss"] for line, other in zip(lines, others, strict=True))


def assert_equal(run: pathlib.Path, reference: pathlib.Path) -> None:
    """Compares metrics and variables of two runs bit for bit."""
    (lines, variables), (others, other_variables) = outcome(run), outcome(reference)
    assert lines == others, "the metrics differ from those of the undisturbed run"
    assert variables.keys() == other_variables.keys()
    for path, value in variables.items():
        assert np.array_equal(value, other_variables[path]), f"{path} differs from that of the undisturbed run"


# ---- faults: each does something to running processes, and says what should come ---------------------------------

Act = Callable[[list[Process]], None]


def _signal(index: int, number: int) -> Act:
    return lambda processes: processes[index].send(number)


def _cut(index: int, seconds: float | None) -> Act:
    def act(processes: list[Process]) -> None:
        processes[index].host.unplug()
        if seconds is not None:
            time.sleep(seconds)
            processes[index].host.plug()

    return act


def _slow(index: int, seconds: float) -> Act:
    """Lets a process run a tenth of the time."""

    def act(processes: list[Process]) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and processes[index].popen.poll() is None:
            processes[index].send(signal.SIGSTOP)
            time.sleep(0.45)
            processes[index].send(signal.SIGCONT)
            time.sleep(0.05)

    return act


@dataclasses.dataclass(frozen=True)
class Fault:
    """A fault of a run of two processes.

    Attributes:
        name: what is done.
        step: after which step.
        act: does it.
        codes: for each process, the exit codes that are right.
    """

    name: str
    step: int
    act: Act
    codes: tuple[tuple[int | None, ...], tuple[int | None, ...]]


KILLED, LOST, STOPPED, DONE = (-signal.SIGKILL,), (2,), (143,), (0,)
FROZEN = (None, *LOST)
FAULTS = (
    *(Fault(f"kill -9 of a worker at step {n}", n, _signal(1, 9), (LOST, KILLED)) for n in (1, 10, 31, 50)),
    *(Fault(f"kill -9 of the coordinator at step {n}", n, _signal(0, 9), (KILLED, LOST)) for n in (2, 20)),
    *(Fault(f"SIGTERM to a worker at step {n}", n, _signal(1, 15), (STOPPED, STOPPED)) for n in (1, 15, 45)),
    *(Fault(f"SIGTERM to process 0 at step {n}", n, _signal(0, 15), (STOPPED, STOPPED)) for n in (3, 30)),
    Fault("a worker frozen (SIGSTOP)", 12, _signal(1, signal.SIGSTOP), (LOST, FROZEN)),
    Fault("the coordinator frozen (SIGSTOP)", 12, _signal(0, signal.SIGSTOP), (FROZEN, LOST)),
    Fault("a worker's cable pulled for good", 14, _cut(1, None), (LOST, LOST)),
    Fault("the coordinator's cable pulled for good", 14, _cut(0, None), (LOST, LOST)),
    *(Fault(f"a worker's cable pulled for {s} s", 16, _cut(1, s), (DONE, DONE)) for s in (1, 5)),
    Fault("a worker at a tenth of its speed for 8 s", 8, _slow(1, 8), (DONE, DONE)),
    Fault("the coordinator at a tenth of its speed for 8 s", 8, _slow(0, 8), (DONE, DONE)),
)


def befall(bench: Bench, fault: Fault, run: pathlib.Path, reference: pathlib.Path) -> Row:
    """Runs two processes until the fault, then the same command again, and returns a row."""
    row: Row = {"fault": fault.name, "wrong": ""}
    processes = bench.start_all(run, 2)
    try:
        wait_for_step(run, fault.step, processes)
        began = time.monotonic()
        fault.act(processes)
        # A frozen process ends when it goes on, at the latest when the others are gone.
        awake = [each for each, codes in zip(processes, fault.codes, strict=True) if codes != FROZEN]
        wait(awake)
        row["seconds"] = round(time.monotonic() - began, 1)
        row["codes"] = codes = wait(processes, 5)
        ended = [each for each, code in zip(processes, codes, strict=True) if code not in (0, -9, None)]
        row["sentence"] = ended[0].last_line if ended else ""
        for code, right in zip(codes, fault.codes, strict=True):
            assert code in right, f"exit codes {codes}, expected {fault.codes}"
        for process in processes:
            process.host.plug()
        again = bench.start_all(run, 2)
        resumed = wait(again)
        assert resumed == [0, 0], f"resumed: {resumed}: {again[0].last_line} / {again[1].last_line}"
        assert_equal(run, reference)
    except AssertionError as error:
        row["wrong"] = str(error)[:300]
        wait(processes, 0)
    finally:
        for process in processes:
            process.host.plug()
    return row


def refused(bench: Bench, what: str, words: str, right: tuple[int, ...] = (2, 2), **second: Any) -> Row:
    """Returns the row of two processes that differ: the same sentence on each.

    Args:
        bench: the hosts.
        what: how they differ.
        words: what both say.
        right: the exit codes.
        **second: options of `Bench.start` for process 1.
    """
    began = time.monotonic()
    run = bench.work / "refused"
    processes = [bench.start(run, 2, 0), bench.start(run, 2, 1, **second)]
    row: Row = {"fault": what, "codes": wait(processes)}
    row |= {"seconds": round(time.monotonic() - began, 1), "sentence": processes[0].last_line}
    same = all(words in process.last_line for process in processes)
    return {**row, "wrong": "" if same and row["codes"] == list(right) else f"also: {processes[1].last_line}"}


def different_configs(bench: Bench) -> Row:
    """Returns the row of processes with different configs."""
    other = tiny.write(tiny.config(bench.work / "data", seed=5), bench.work / "other.py")
    words = "the config differs between process 0 and process 1"
    return refused(bench, "processes with different configs", words, argument=other)


def different_code(bench: Bench) -> Row:
    """Returns the row of processes with different code of this package."""
    other = bench.work / "other-code"
    shutil.rmtree(other, ignore_errors=True)
    for folder in ("reid_jax", "scripts", "datasets", "configs"):
        shutil.copytree(tiny.ROOT / folder, other / folder)
    with (other / "reid_jax" / "errors.py").open("a") as file:
        file.write("# changed\n")
    words = "the code of reid_jax differs between process 0"
    return refused(bench, "processes with different code", words, root=other)


def different_devices(bench: Bench) -> Row:
    """Returns the row of processes with different numbers of devices."""
    words = "the number of devices differs between process 0 (1) and process 1 (2)"
    return refused(bench, "processes with 1 and 2 devices", words, JAX_NUM_CPU_DEVICES="2")


def clock_off(bench: Bench) -> Row:
    """Returns the row of a process whose clock is an hour ahead."""
    folder = bench.work / "clock"
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text("import time\nnow = time.time\ntime.time = lambda: now() + 3600\n")
    words = "s ahead of that of process 0, where 60 s are allowed"
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return refused(bench, "a clock that is an hour ahead", words, PYTHONPATH=path)


def dying_coordinator(bench: Bench) -> Row:
    """Returns the row of a coordinator that dies before the first step."""
    run = bench.work / "refused"
    processes = bench.start_all(run, 2)
    end = time.monotonic() + LIMIT
    while "process(es)" not in processes[0].log.read_text(errors="replace") and time.monotonic() < end:
        time.sleep(0.05)
    began = time.monotonic()
    processes[0].send(signal.SIGKILL)
    row: Row = {"fault": "kill -9 of the coordinator before step 1", "codes": wait(processes)}
    row |= {"seconds": round(time.monotonic() - began, 1), "sentence": processes[1].last_line}
    right = row["codes"] == [-9, 2] and "another process of the run failed" in row["sentence"]
    return {**row, "wrong": "" if right else "another end"}


REFUSALS = (different_configs, different_code, different_devices, clock_off, dying_coordinator)


def taken_port(bench: Bench) -> Row:
    """Returns the row of a coordinator whose port another program holds."""
    holding = _HOLD.format(host=bench.hosts[0].address, port=PORT)
    with subprocess.Popen(bench.hosts[0].command([sys.executable, "-c", holding]), stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        began = time.monotonic()
        processes = bench.start_all(bench.work / "refused", 2)
        # The second one reaches the other program, which does not answer as a coordinator would.
        row: Row = {"fault": "the port is taken", "codes": wait(processes, 2 * LIMIT)}
        row |= {"seconds": round(time.monotonic() - began, 1), "sentence": processes[0].last_line}
        holder.kill()
    second = processes[1].last_line
    right = "choose a free port" in row["sentence"] and "of the run (flags) met at" in second
    return {**row, "wrong": "" if right and row["codes"] == [2, 2] else f"also: {second}"}


_HOLD = """
import socket, time
taken = socket.create_server(("{host}", {port}))
print("held", flush=True)
time.sleep(600)
"""


def sizes(bench: Bench, reference: pathlib.Path, counts: tuple[int, ...]) -> list[Row]:
    """Returns rows of undisturbed runs of several processes, compared with that of one."""
    rows = []
    for count in counts:
        run = bench.work / f"of-{count}"
        codes = [0] * count if (run / "result.json").exists() else wait(bench.start_all(run, count))
        row: Row = {"processes": count, "codes": codes}
        if not any(codes):
            row["loss_difference"] = float(f"{difference(run, reference):.2g}")
        row["wrong"] = "" if not any(codes) and row["loss_difference"] < ROUNDING else "the losses differ"
        rows.append(row)
    return rows


def elastic(bench: Bench, reference: pathlib.Path, counts: tuple[int, ...] = (4, 1, 8)) -> Row:
    """Returns the row of a run that goes on with other numbers of processes, by SIGTERM to one of them."""
    run = bench.work / "elastic"
    shutil.rmtree(run, ignore_errors=True)
    row: Row = {"processes": " -> ".join(map(str, counts)), "codes": [], "wrong": ""}
    try:
        for place, count in enumerate(counts):
            processes = bench.start_all(run, count)
            last = place == len(counts) - 1
            if not last:
                wait_for_step(run, STEPS * (place + 1) // len(counts), processes)
                processes[-1].send(signal.SIGTERM)
            codes = wait(processes)
            row["codes"].append(codes)
            assert set(codes) == {0 if last else 143}, f"{codes}: {processes[0].last_line}"
        row["loss_difference"] = float(f"{difference(run, reference):.2g}")
        assert row["loss_difference"] < ROUNDING, "the losses differ"
    except AssertionError as error:
        row["wrong"] = str(error)[:300]
    return row


def _shown(row: Row) -> Row:
    """Returns a row of the table; exit codes of several runs are divided by arrows, None is a process still frozen."""
    runs = row["codes"] if isinstance(row["codes"][0], list) else [row["codes"]]
    return {
        "what": row.get("fault", f"undisturbed: {row.get('processes')} processes"),
        "seconds": row.get("seconds"),
        "exit_codes": " -> ".join(", ".join(map(str, codes)) for codes in runs),
        "loss_difference": row.get("loss_difference"),
        "sentence": row.get("sentence", "").removeprefix("error: "),
        "wrong": row["wrong"],
    }


def main() -> int:
    """Runs everything that is not finished and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("runs/clusters"), help="folder of the runs")
    parser.add_argument("--output", help="file of the results")
    parser.add_argument("--only", nargs="+", help="parts of the names of faults and refusals")
    parser.add_argument("--network", default="reid:10.77.0", help="name and subnet of the hosts")
    args = parser.parse_args()
    kept = args.work / "rows.json"
    done: dict[str, Row] = json.loads(kept.read_text()) if kept.exists() else {}

    def wanted(name: str) -> bool:
        return not args.only or any(part in name for part in args.only)

    def note(key: str, row: Row) -> None:
        done[key] = row
        kept.write_text(json.dumps(done, indent=1))
        print(f"{key}: {row}", flush=True)

    with network(8, *args.network.split(":")) as hosts:
        bench = Bench(args.work.absolute(), hosts)
        one, two = bench.work / "of-1", bench.work / "of-2"
        if "sizes" not in done and wanted("sizes"):
            for row in sizes(bench, one, (1, 2, 4, 8)):
                note(f"{row['processes']} processes", row)
                assert not row["wrong"], "the undisturbed runs must be right before faults mean anything"
            note("sizes", {})
        for fault in FAULTS:
            if fault.name not in done and wanted(fault.name):
                run = bench.work / fault.name.replace(" ", "-").replace("'", "")
                shutil.rmtree(run, ignore_errors=True)
                note(fault.name, befall(bench, fault, run, two))
                shutil.rmtree(run, ignore_errors=True)
        for refusal in (*REFUSALS, taken_port):
            if refusal.__name__ not in done and wanted(refusal.__name__):
                note(refusal.__name__, refusal(bench))
        if "elastic" not in done and wanted("elastic"):
            note("elastic", elastic(bench, one))
    rows = [row for key, row in done.items() if row]
    wrong = [row for row in rows if row.get("wrong")]
    print(f"{len(rows)} runs, {len(wrong)} wrong")
    if args.output:
        about = tables.about("python -m tests.clusters.run --output results/clusters.json")
        print(tables.write(args.output, {"clusters": [_shown(row) for row in rows]}, about))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
