"""Kills and signals at random moments, and two runs in one folder."""

from __future__ import annotations

import pathlib
import shutil
import signal
import time

from tests.faults import processes
from tests.faults.runs import SIGNALED, Bench

MOMENTS = ("start", "training", "saving", "training", "saving", "evaluation")


def kills(bench: Bench, chains: int) -> None:
    """SIGKILL, again and again on one run; in the end it equals the undisturbed run."""
    for chain in range(chains):
        _chain(bench, f"kill{chain}", "kill -9", [int(signal.SIGKILL)])


def signals(bench: Bench, chains: int) -> None:
    """SIGTERM and SIGINT likewise, each with its exit code and one sentence."""
    for chain in range(chains):
        _chain(bench, f"signal{chain}", "signal", [int(signal.SIGTERM), int(signal.SIGINT)])


def _chain(bench: Bench, name: str, kind: str, numbers: list[int]) -> None:
    run = bench.work / name
    for place, moment in enumerate(MOMENTS):
        chance = bench.chance(name, place)
        number = numbers[place % len(numbers)]
        # A process that is started afresh also meets the signal while it imports.
        fresh = moment == "start"
        with bench.fault(kind, f"{signal.Signals(number).name} at {moment} ({name})") as fault:
            command = bench.start(bench.train(run), fresh=fresh)
            if fresh:
                time.sleep(0.3)  # the interpreter itself starts before any handler can be there
            hit = processes.wait_for(moment, command, run, chance, bench.last_step)
            command.send(number)
            ended = command.wait()
            if not hit:
                bench.judge(fault, ended, {0})
                fault.ended += " (before the signal)"
            elif number == signal.SIGKILL:
                fault.ended = "killed"
                assert ended.code == -signal.SIGKILL, ended.err[-600:]
            elif fresh and ended.code == -number and not ended.err:
                fault.ended = "ended before the command began"  # no handler can be there yet
            else:
                # A signal in the last instant finds a finished command.
                bench.judge(fault, ended, SIGNALED | {0})
            if place == len(MOMENTS) - 1:
                bench.resume(fault, run)
    shutil.rmtree(run, ignore_errors=True)


def preparations(bench: Bench, count: int) -> None:
    """Signals while a data set is prepared; the next preparation removes what was left."""
    for number in range(count):
        chance = bench.chance("preparation", number)
        sent = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)[number % 3]
        root = bench.work / f"prepared{number}"
        arguments = ["prepare-dataset", "synthped", f"--root={root}", "--option", "size=tiny"]
        with bench.fault("preparation", f"{sent.name} while a data set is prepared") as fault:
            command = bench.start(arguments)
            time.sleep(chance.uniform(0.05, 1.0))
            command.send(sent)
            ended = command.wait()
            if ended.code == -signal.SIGKILL:
                fault.ended = "killed"
            else:
                bench.judge(fault, ended, SIGNALED | {0})
            again = bench.run(arguments)
            assert again.code == 0, again.err[-600:]
            left = [path.name for path in root.rglob("*") if ".incomplete" in path.name]
            assert not left, f"left over: {left}"
        shutil.rmtree(root, ignore_errors=True)


def two_runs(bench: Bench) -> None:
    """A second run in the folder of one that trains is refused; the first goes on. A dead owner's lock is free."""
    run = bench.work / "twice"
    for stop in (False, True):
        with bench.fault(
            "two runs", "the second is refused" + (", after a kill -9 of the first it runs" * stop)
        ) as fault:
            first = bench.start(bench.train(run))
            assert processes.wait_for("training", first, run, bench.chance("twice", stop), bench.last_step)
            ended = bench.run(bench.train(run))
            bench.judge(fault, ended, {2})
            assert f"in use by process {first.pid}" in ended.err, ended.err[-600:]
            if stop:
                first.send(signal.SIGKILL)
                first.wait()
                bench.resume(fault, run)
            else:
                ended = first.wait()
                assert ended.code == 0, ended.err[-600:]
                bench.compare(run)
        shutil.rmtree(run, ignore_errors=True)
    with bench.fault("two runs", "both start at once") as fault:
        both = [bench.start(bench.train(run)) for _ in range(2)]
        ends = [one.wait() for one in both]
        refused = [end for end in ends if end.code]
        assert len(refused) == 1, [end.code for end in ends]
        bench.judge(fault, refused[0], {2})
        bench.compare(run)
    _remove(run)


def _remove(run: pathlib.Path) -> None:
    shutil.rmtree(run, ignore_errors=True)
