"""The training run that the faults befall, and what it must be in the end."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import random
import shutil
from collections.abc import Callable, Iterator
from typing import Any

from tests.faults import processes
from tests.faults.processes import Command, Ended
from tests.helpers import tiny

# Columns of metrics.jsonl and entries of result.json that depend on the machine and the moment.
TIMES = {"time", "images_per_second", "data_wait_percent"}
ABOUT = {"train_seconds", "images_per_second", "extract_images_per_second", "commit", "device"}
# Exit codes of a command that a signal has ended.
SIGNALED = {130, 143}


@dataclasses.dataclass
class Fault:
    """One fault and how it ended.

    Attributes:
        kind: the table's row.
        name: what was done.
        ended: exit code, or "killed".
        sentence: the last line on the screen.
        wrong: what should not have been, empty if all is well.
    """

    kind: str
    name: str
    ended: str = ""
    sentence: str = ""
    wrong: str = ""


class Bench:
    """Folders, config and the undisturbed run.

    Args:
        work: a new folder for everything.
        seed: of the random moments.
    """

    def __init__(self, work: pathlib.Path, seed: int) -> None:
        self.work, self.seed = work, seed
        self.data, self.whole = work / "data", work / "whole"
        self.faults: list[Fault] = []
        work.mkdir(parents=True)
        config = tiny.config(
            self.data,
            "bot:synthped",
            tiny.BOT
            | {
                # Long enough to be interrupted in the middle.
                "model.size": "resnet50",
                "model.depths": (1, 1, 1, 1),
                "data.options": {"size": "tiny", "seed": 0},
                "train.epochs": 6.0,
                "checkpoint.every_steps": 2,
                "evals.baselines": False,
            },
        )
        self.last_step = 36
        self.config = tiny.write(config, work / "bot_tiny.py")
        # Everything in processes of their own: what has used a device or a data set must not be forked.
        self.features = self.work / "features.npz"
        for arguments in (
            ["prepare-dataset", "synthped", f"--root={self.data}", "--option", "size=tiny"],
            self.train(self.whole),
            ["extract", f"--run={self.whole}", f"--output={self.features}"],
        ):
            ended = self.run(arguments)
            assert ended.code == 0, ended.err
        assert processes.newest(self.whole) == self.last_step

    def chance(self, *name: object) -> random.Random:
        """Returns the random numbers of one fault."""
        return random.Random(f"{self.seed}/{name}")

    def train(self, run: pathlib.Path, *more: str) -> list[str]:
        """Returns the arguments of the training run in a folder."""
        return ["train", self.config, f"--workdir={run}", *more]

    def start(self, arguments: list[str], **options: Any) -> Command:
        """Starts a command."""
        return Command(self.work / "logs", arguments, **options)

    def run(self, arguments: list[str], **options: Any) -> Ended:
        """Runs a command to its end."""
        return self.start(arguments, **options).wait()

    def copy(self, name: str) -> pathlib.Path:
        """Returns a copy of the undisturbed run, complete."""
        return pathlib.Path(shutil.copytree(self.whole, self.work / name))

    def unfinished(self, name: str) -> pathlib.Path:
        """Returns a copy of the undisturbed run as it was before its last save: one newer and one older checkpoint."""
        run = self.copy(name)
        (run / "result.json").unlink()
        return run

    @contextlib.contextmanager
    def fault(self, kind: str, name: str) -> Iterator[Fault]:
        """Records a fault; an exception of the block is what went wrong."""
        fault = Fault(kind, name)
        try:
            yield fault
        except AssertionError as error:
            fault.wrong = fault.wrong or str(error) or "an assertion failed"
        self.faults.append(fault)
        mark = "WRONG " + fault.wrong[:300] if fault.wrong else "ok"
        print(f"{kind}: {name}: {fault.ended}: {fault.sentence[:160]}  [{mark}]", flush=True)

    # ---- judgments ---------------------------------------------------------------------------------------------------

    def judge(self, fault: Fault, ended: Ended, codes: set[int]) -> None:
        """Notes how a command ended; it must be one of the exit codes, in one sentence and without a traceback."""
        fault.ended = f"exit {ended.code}" if ended.code >= 0 else f"signal {-ended.code}"
        fault.sentence = ended.last_line
        assert ended.in_time, "it did not end"
        assert ended.code in codes, f"exit code {ended.code}, expected one of {sorted(codes)}; {ended.err[-600:]}"
        assert "Traceback" not in ended.err, ended.err[-1500:]
        assert "Exception ignored" not in ended.err, ended.err[-1500:]
        if ended.code > 0:
            said = [line for line in ended.err.splitlines() if line.startswith("error: ")]
            notice = ended.last_line.endswith("run the same command again to continue.")
            assert len(said) == 1 or notice, f"no sentence: {ended.err[-600:]}"

    def resume(self, fault: Fault, run: pathlib.Path, **options: Any) -> None:
        """Runs the same command again; it must end like the undisturbed run, bit for bit."""
        ended = self.run(self.train(run), **options)
        assert ended.code == 0, f"the run is lost: {ended.err[-800:]}"
        assert "Traceback" not in ended.err, ended.err[-1500:]
        self.compare(run)

    def compare(self, run: pathlib.Path) -> None:
        """Compares arrays, metrics and scores with those of the undisturbed run."""
        answer = in_fork(lambda: differences(self.whole, run))
        assert answer == [], f"differs from the undisturbed run: {answer}"


def differences(whole: pathlib.Path, run: pathlib.Path) -> list[str]:
    """Returns what differs in two complete runs: arrays of the last checkpoint, lines of metrics, scores."""
    from reid_jax.train import checkpoints, metrics

    expected, got = (checkpoints.restore_arrays(folder / "checkpoints") for folder in (whole, run))
    found = [path for path in expected | got if path not in got or path not in expected]
    found += [path for path in expected if path in got and expected[path].tobytes() != got[path].tobytes()]
    lines = [
        [{key: value for key, value in line.items() if key not in TIMES} for line in metrics.read(folder)]
        for folder in (whole, run)
    ]
    if lines[0] != lines[1]:
        found.append(f"metrics.jsonl ({len(lines[0])} and {len(lines[1])} lines)")
    scores = [json.loads((folder / "result.json").read_text()) for folder in (whole, run)]
    found += [key for key in scores[0] | scores[1] if key not in ABOUT and scores[0].get(key) != scores[1].get(key)]
    left = [path.name for path in run.iterdir() if path.name.startswith(".incomplete")]
    return found + left


def in_fork(function: Callable[[], Any]) -> Any:
    """Returns a function's JSON value from a forked process, since a device must not be touched before a fork."""
    import os
    import traceback

    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            answer = json.dumps(function())
        except BaseException:
            answer = json.dumps([traceback.format_exc()[-1500:]])
        with os.fdopen(writing, "w") as file:
            file.write(answer)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        text = file.read()
    os.waitpid(pid, 0)
    return json.loads(text or '["the process died"]')
