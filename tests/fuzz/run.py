"""Reads malformed inputs of every kind and counts what ends otherwise than in a result or one sentence: `make fuzz`.

    python -m tests.fuzz.run --seconds 60
    python -m tests.fuzz.run --inputs 50000 --seed 3 --failures DIR --output results/fuzz.json
    python -m tests.fuzz.run --kind torch --replay DIR/torch-17.bin

A process that has imported everything forks one worker after another; a worker reads some hundred inputs and is ended
where one takes more than five seconds of a processor. An input is a pure function of seed, kind and number.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import importlib
import io
import json
import os
import pathlib
import pkgutil
import shutil
import signal
import sys
import tempfile
import time
import warnings

import reid_datasets

import reid_jax
from reid_jax import errors, file_io
from reid_jax.runtime import provenance
from tests.fuzz import kinds, worker

# Seconds of a processor for one input; on the clock, where other processes use it too, a multiple.
HANG = 5.0
_CLOCK = 12
_BATCH = 400
FAILURES = ("traceback", "hang", "crash", "memory", "code run", "long message")


@dataclasses.dataclass
class Tally:
    """Counts of one kind."""

    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    megabytes: float = 0.0
    seconds: float = 0.0
    next: int = 0

    @property
    def inputs(self) -> int:
        """Inputs read so far."""
        return sum(self.counts.values())


def batch(name: str, seed: int, first: int, last: int, tally: Tally, failures: pathlib.Path | None) -> int:
    """Reads inputs in a forked worker, adds to the tally, and returns the number after the last one that was read."""
    progress = worker.Progress()
    progress.set(first)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reading)
            worker.run(name, seed, first, last, progress, writing)
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    lines, status = _wait(child, reading, progress)
    number, grown, accepted, refused = progress.get()
    tally.megabytes = max(tally.megabytes, grown / 2**20)
    failed = [json.loads(line) for line in lines.splitlines() if line.endswith("}")]
    if number < last:
        outcome = "hang" if status == "hang" else "crash"
        failed.append({"number": number, "outcome": outcome, "detail": f"the worker ended with {status}"})
    for entry in failed:
        tally.counts[entry["outcome"]] += 1
        _report(name, seed, entry, failures)
    tally.counts.update({"accepted": accepted, "refused": refused})
    return min(number + 1, last)


def _wait(child: int, reading: int, progress: worker.Progress) -> tuple[str, str]:
    """Returns what a worker wrote and how it ended; ends it after a hang."""
    os.set_blocking(reading, False)
    written, status = b"", ""
    while not status:
        done, code = os.waitpid(child, os.WNOHANG)
        if done:
            status = f"code {code}"
        elif _hangs(child, progress):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            status = "hang"
        else:
            time.sleep(0.01)
        with contextlib.suppress(BlockingIOError):
            while part := os.read(reading, 1 << 16):
                written += part
    os.close(reading)
    return written.decode("utf-8", "replace"), status


def _hangs(child: int, progress: worker.Progress) -> bool:
    clock, processor = progress.seconds(child)
    return processor > HANG or clock > _CLOCK * HANG


def _report(name: str, seed: int, entry: dict[str, str], failures: pathlib.Path | None) -> None:
    print(
        f"{name} {entry['number']} {entry['outcome']}: {entry['detail'].strip().splitlines()[-1][:300]}",
        file=sys.stderr,
    )
    if failures is not None:
        failures.mkdir(parents=True, exist_ok=True)
        place = failures / f"{name}-{entry['number']}"
        place.with_suffix(".bin").write_bytes(kinds.KINDS[name].input(name, seed, int(entry["number"])))
        place.with_suffix(".txt").write_text(entry["detail"])


def warm_up(names: list[str]) -> None:
    """Loads this package and reads some inputs of each kind in this process: after the fork nothing is imported."""
    for package in (reid_datasets, reid_jax):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith("__main__"):
                with contextlib.suppress(ImportError):  # of packages that an extra brings
                    importlib.import_module(found.name)
    home = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        os.chdir(scratch)
        scratch_path = pathlib.Path(scratch)
        nothing = io.StringIO()
        with contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing):
            for name in names:
                for number in range(25):
                    with contextlib.suppress(Exception, SystemExit):
                        kinds.KINDS[name].read(kinds.KINDS[name].input(name, -1, number), scratch_path)
        os.chdir(home)


def campaign(
    names: list[str], seed: int, inputs: int, seconds: float, failures: pathlib.Path | None
) -> dict[str, Tally]:
    """Reads inputs, kind by kind in turns, until there are enough or the time is over."""
    tallies = {name: Tally() for name in names}
    shares = sum(kinds.KINDS[name].share for name in names)
    wanted = {name: -(-inputs * kinds.KINDS[name].share // shares) for name in names}
    started = time.monotonic()
    while any(tallies[name].inputs < wanted[name] for name in names):
        for name, tally in tallies.items():
            left = wanted[name] - tally.inputs
            if left <= 0:
                continue
            if time.monotonic() - started > seconds:
                return tallies
            began = time.monotonic()
            size = min(left, _BATCH // 8 if name in ("folders", "configs", "arguments") else _BATCH)
            tally.next = batch(name, seed, tally.next, tally.next + size, tally, failures)
            tally.seconds += time.monotonic() - began
    return tallies


def table(tallies: dict[str, Tally]) -> str:
    """Returns the counts, a line per kind."""
    head = ("kind", "inputs", "accepted", "refused", *FAILURES, "MB", "s")
    rows = [
        (
            name,
            *(f"{n:,}" for n in (tally.inputs, tally.counts["accepted"], tally.counts["refused"])),
            *(str(tally.counts[failure]) for failure in FAILURES),
            f"{tally.megabytes:.0f}",
            f"{tally.seconds:.0f}",
        )
        for name, tally in tallies.items()
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in (head, *rows))


def main(arguments: list[str]) -> int:
    """Runs the campaign; exit code 1 where an input failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    parser.add_argument("--inputs", type=int, default=50_000, help="inputs of all kinds together (default: 50000)")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs (default: 0)")
    parser.add_argument("--kind", nargs="+", default=list(kinds.KINDS), choices=list(kinds.KINDS), help="only these")
    parser.add_argument("--failures", type=pathlib.Path, help="folder for inputs that fail and what they did")
    parser.add_argument("--output", type=pathlib.Path, help="write the counts as JSON")
    parser.add_argument("--replay", type=pathlib.Path, help="read this input with the first --kind, without a worker")
    options = parser.parse_args(arguments)
    if options.replay:
        scratch = pathlib.Path(tempfile.mkdtemp(prefix="fuzz-"))
        content = options.replay.read_bytes()
        os.chdir(scratch)
        try:
            kinds.KINDS[options.kind[0]].read(content, scratch)
        except errors.UserError as error:
            print(error)
        finally:
            shutil.rmtree(scratch)
        return 0
    warnings.simplefilter("ignore")
    sys.setrecursionlimit(1000)
    started = time.monotonic()
    # The commit and the device first: the device starts threads, which a fork would lose.
    commit = provenance.commit()
    warm_up(options.kind)
    tallies = campaign(options.kind, options.seed, options.inputs, options.seconds, options.failures)
    print(table(tallies))
    failed = sum(tally.counts[failure] for tally in tallies.values() for failure in FAILURES)
    total = sum(tally.inputs for tally in tallies.values())
    print(f"{total:,} inputs in {time.monotonic() - started:.0f} s, {failed} failures")
    if options.output:
        rows = {
            name: {
                "inputs": tally.inputs,
                **{key: tally.counts[key] for key in ("accepted", "refused", *FAILURES)},
                "megabytes": round(tally.megabytes),
                "seconds": round(tally.seconds),
            }
            for name, tally in tallies.items()
        }
        about = {"seed": options.seed, "inputs": total, "seconds": round(time.monotonic() - started), "commit": commit}
        about |= {"device": provenance.device_name(), "hang_seconds": HANG, "memory_bytes": worker.MEMORY}
        file_io.write_json(options.output, {**about, "kinds": rows})
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
