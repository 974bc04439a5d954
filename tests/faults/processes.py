"""Commands of this package in processes of their own, forked from one that has imported everything, or new."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import itertools
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator

from reid_jax.train import checkpoints, integrity

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TIMEOUT = 180.0
_numbers = itertools.count()


@dataclasses.dataclass
class Ended:
    """A process that has ended: exit code (negative: the signal that killed it), output, and whether it was in time."""

    code: int
    out: str
    err: str
    in_time: bool = True

    @property
    def last_line(self) -> str:
        lines = [line for line in self.err.splitlines() if line.strip()]
        return lines[-1].strip() if lines else ""


class Command:
    """A command that runs.

    Args:
        folder: for the files of its output.
        arguments: of `reid-jax`.
        fresh: start Python anew, as a user does; else fork, which saves the imports.
        prepare: called in the process before the command (limits).
        cwd: working directory.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        arguments: list[str],
        *,
        fresh: bool = False,
        prepare: Callable[[], None] | None = None,
        cwd: pathlib.Path | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._out, self._err = (folder / f"{next(_numbers)}.{name}" for name in ("out", "err"))
        self._code: int | None = None
        self._out.touch()
        if fresh:
            with self._out.open("wb") as out, self._err.open("wb") as err:
                command = [sys.executable, "-m", "reid_jax.cli", *arguments]
                self.pid = subprocess.Popen(command, stdout=out, stderr=err, cwd=cwd, preexec_fn=prepare).pid
            return
        self.pid = os.fork()
        if not self.pid:
            self._become(arguments, prepare, cwd)

    def _become(self, arguments: list[str], prepare: Callable[[], None] | None, cwd: pathlib.Path | None) -> None:
        """The forked process: runs the command and never returns."""
        code = 70
        try:
            for path, descriptor in ((self._out, 1), (self._err, 2)):
                file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(file, descriptor)
                os.close(file)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            if cwd is not None:
                os.chdir(cwd)
            if prepare is not None:
                prepare()
            sys.argv = ["reid-jax", *arguments]
            from reid_jax.cli import app

            app.main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        except BaseException:
            traceback.print_exc()
            code = 1
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)

    def poll(self) -> int | None:
        """Returns the exit code, `None` while it runs."""
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def send(self, number: int) -> None:
        """Sends a signal, if the process still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait(self, timeout: float = TIMEOUT) -> Ended:
        """Waits for the end; a process that does not end is killed."""
        limit = time.monotonic() + timeout
        while self.poll() is None and time.monotonic() < limit:
            time.sleep(0.01)
        in_time = self.poll() is not None
        if not in_time:
            self.send(signal.SIGKILL)
            while self.poll() is None:
                time.sleep(0.01)
        assert self._code is not None
        texts = [path.read_text(errors="replace") if path.exists() else "" for path in (self._out, self._err)]
        return Ended(self._code, *texts, in_time)


def import_everything() -> None:
    """Imports what the commands import, so that a fork starts with it; touches no device."""
    from reid_jax.cli import app

    for module, _ in app.COMMANDS.values():
        importlib.import_module(f"reid_jax.cli.{module}")
    for name in ("reid_jax.runs.launch", "reid_jax.inference.published", "reid_jax.evaluation.report"):
        importlib.import_module(name)


# ---- moments ---------------------------------------------------------------------------------------------------------


def newest(run: pathlib.Path) -> int:
    """Returns the newest complete step of a run folder, 0 before the first."""
    with contextlib.suppress(OSError):
        return max(checkpoints.steps(run / "checkpoints"), default=0)
    return 0


def _until(command: Command, condition: Callable[[], bool]) -> bool:
    """Waits for a condition; returns whether the process still runs."""
    while command.poll() is None and not condition():
        time.sleep(0.001)
    return command.poll() is None


def wait_for(moment: str, command: Command, run: pathlib.Path, chance: random.Random, last_step: int) -> bool:
    """Waits for a moment of a training run; returns whether the process still runs then.

    Args:
        moment: "start", "training", "saving" or "evaluation".
        command: the training run.
        run: its run folder.
        chance: draws the exact time.
        last_step: the last step of training.
    """
    if moment == "start":
        time.sleep(chance.uniform(0, 2.0))
        return command.poll() is None
    if moment == "evaluation":
        running = _until(command, lambda: newest(run) >= last_step)
        time.sleep(chance.uniform(0, 0.6))
        return running and command.poll() is None
    goal = newest(run) + chance.randint(1, 6)
    running = _until(command, lambda: newest(run) >= min(goal, last_step - 1))
    if moment == "saving":
        running = running and _until(command, lambda: bool(integrity.unfinished(run / "checkpoints")))
        time.sleep(chance.uniform(0, 0.02))
    else:
        time.sleep(chance.uniform(0, 0.1))
    return running and command.poll() is None


# ---- disks -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(folder: pathlib.Path, size: int) -> Iterator[Callable[[str], None]]:
    """Mounts a disk of some bytes on a folder; yields a function that remounts it with other options."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield lambda options: subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True) and None
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)


def fill(folder: pathlib.Path) -> pathlib.Path:
    """Fills the disk of a folder with one file, and returns it."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    with path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"0")
    return path
