"""Output of a run: `metrics.jsonl`, TensorBoard events, `log.txt`.

Only the main process writes. After a kill and a resume `metrics.jsonl` equals that of an uninterrupted run: lines of
steps that are trained again are dropped first, and so is an incomplete last line. The writers of clu import TensorFlow,
so they are not used here.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import pathlib
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

import numpy as np
import tqdm

from reid_jax import errors, file_io, progress

logger = logging.getLogger(__name__)

FILE = "metrics.jsonl"
# Libraries whose messages below ERROR do not concern the user of a run.
NOISY = ("absl", "jax", "orbax", "tensorflow_datasets", "tensorboardX", "grain", "etils", "matplotlib", "PIL", "h5py")


@contextlib.contextmanager
def unlogged() -> Iterator[None]:
    """Drops log lines below errors, of a rehearsal whose lines the run repeats."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


class MetricWriter:
    """Writes numbers by step to `metrics.jsonl` and to TensorBoard event files.

    Args:
        workdir: the run folder.
        resume_step: the step from which the run continues; lines of later steps are dropped. `None` keeps all lines.
        active: whether this process writes; calls on the other processes have no effect.
        tensorboard: also write event files.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        resume_step: int | None = None,
        active: bool = True,
        tensorboard: bool = True,
    ) -> None:
        self.path = pathlib.Path(workdir) / FILE
        self._file: TextIO | None = None
        self._events: Any = None
        if not active:
            return
        file_io.make_folder(self.path.parent, "the run folder")
        _rewind(self.path, resume_step)
        with self._writing():
            self._file = self.path.open("a", encoding="utf-8")
            if tensorboard:
                self._events = _Events(self.path.parent, resume_step)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes one line.

        Args:
            step: number of steps so far.
            values: numbers (of any numeric type, zero-dimensional arrays included) or short texts by name; a number
                that is not finite is written as `null`.

        Raises:
            UserError: the disk is full, or the file cannot be written for another reason.
        """
        if self._file is None:
            return
        plain = {name: _plain(value) for name, value in values.items()}
        line = json.dumps({"step": int(step), "time": round(time.time(), 3), **plain}, allow_nan=False)
        with self._writing():
            self._check_place()
            self._file.write(line + "\n")
            self._file.flush()
            if self._events is not None:
                self._events.write(int(step), plain)

    def close(self) -> None:
        """Closes the files; later writes have no effect."""
        # Each line has been flushed; what a failed write has left is not tried again.
        for file in (self._file, self._events):
            if file is not None:
                with contextlib.suppress(OSError):
                    file.close()
        self._file = self._events = None

    def _check_place(self) -> None:
        """Raises a `UserError` if the file is no longer where it was opened; what is written to it would be lost."""
        assert self._file is not None
        try:
            there = os.path.samestat(os.fstat(self._file.fileno()), self.path.stat())
        except FileNotFoundError:
            there = False
        if not there:
            raise errors.UserError(
                f"expected {self.path}, it was removed or renamed during the run; put the run folder back, or remove "
                "what is left of it, and start the same command again."
            )

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise file_io.cannot_write(self.path, "the metrics", error) from error

    def __enter__(self) -> MetricWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Returns the lines of a run's `metrics.jsonl` up to the first incomplete one; none without a file."""
    path = pathlib.Path(workdir) / FILE
    return [record for record, _ in _lines(path)] if path.is_file() else []


def _lines(path: pathlib.Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    content = file_io.read_bytes(path, "the metrics of a run", "restore it from a copy, or remove it")
    for line in content.splitlines(keepends=True):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            return
        if not line.endswith(b"\n") or not isinstance(record, dict) or not isinstance(record.get("step"), int):
            return
        yield record, line


def _rewind(path: pathlib.Path, resume_step: int | None) -> None:
    """Drops an incomplete end and the lines beyond `resume_step`; the file is replaced atomically."""
    if not path.is_file():
        return
    limit = math.inf if resume_step is None else resume_step
    kept = b"".join(line for record, line in _lines(path) if record["step"] <= limit)
    if len(kept) != path.stat().st_size:
        file_io.write_bytes(path, kept, "the metrics")


class _Events:
    """TensorBoard event file, written in the caller's thread, where an error of the disk can be reported.

    Args:
        folder: folder of the file.
        resume_step: TensorBoard hides the events of earlier files after this step; none if it is 0 or `None`.
    """

    def __init__(self, folder: pathlib.Path, resume_step: int | None) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the protobuf it was generated for
            from tensorboardX import event_file_writer, summary
            from tensorboardX.proto import event_pb2
        self._event, self._scalar = event_pb2.Event, summary.scalar
        # The file name contains the second of its creation: the suffix distinguishes two starts within a second.
        self._writer = event_file_writer.EventsWriter(str(folder / "events"), f".from{resume_step or 0}")
        if resume_step:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._writer.write_event(event_pb2.Event(wall_time=time.time(), step=resume_step + 1, session_log=start))

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes the numbers among the values, and flushes."""
        for name, value in values.items():
            if isinstance(value, (int, float)):
                event = self._event(wall_time=time.time(), step=step, summary=self._scalar(name, value))
                self._writer.write_event(event)
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()


def _plain(value: Any) -> Any:
    """Returns the JSON value of a number of any type."""
    if value is None or isinstance(value, (str, bool)):
        return value
    number = np.asarray(value)
    if number.ndim:
        raise TypeError(f"a metric must be one number, but has the shape {number.shape}")
    plain = number.item()
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain


# ---- logging ------------------------------------------------------------------------------------------------------


class _TqdmHandler(logging.StreamHandler[TextIO]):
    """Writes a line above the progress bar rather than through it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.tqdm.write(self.format(record), file=self.stream)
            self.flush()
        except Exception:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Does nothing: a terminal that has gone is no reason to stop."""


class _FileHandler(logging.FileHandler):
    """Stops at the first line that cannot be written, with one sentence on the terminal."""

    failed = False

    def emit(self, record: logging.LogRecord) -> None:
        if not self.failed:
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Reports the error once; the run goes on without its log."""
        self.failed = True
        reason = errors.reason(sys.exc_info()[1] or OSError("unknown"))
        print(f"cannot write the log {self.baseFilename} ({reason}); going on without it.", file=sys.stderr)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


def quiet_libraries() -> None:
    """Silences messages of jax, orbax, tfds and others below ERROR, and orbax's tracebacks of errors that it raises."""
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    absl = logging.getLogger("absl")
    if _is_news not in absl.filters:
        absl.addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """Returns False for what orbax logs with a traceback: it raises the same error, which becomes a sentence."""
    return not (record.exc_info and f"{os.sep}orbax{os.sep}" in record.pathname)


@contextlib.contextmanager
def log_to(workdir: str | os.PathLike[str], active: bool = True, level: int = logging.INFO) -> Iterator[None]:
    """Sends the package's log to the terminal and to `log.txt` in the run folder while the block runs.

    An exception that leaves the block is written to the file with its traceback; on the terminal the caller shows it.

    Args:
        workdir: the run folder.
        active: whether this process logs; the others show warnings only, and write no file.
        level: lowest level on the terminal and in the file.
    """
    quiet_libraries()
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    terminal = _TqdmHandler(sys.stderr)
    terminal.setLevel(level if active else logging.WARNING)
    terminal.setFormatter(logging.Formatter("%(message)s"))
    handlers: list[logging.Handler] = [terminal]
    if active:
        folder = file_io.make_folder(workdir, "the run folder")
        try:
            written = _FileHandler(folder / "log.txt", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise file_io.cannot_write(folder / "log.txt", "the log", error) from error
        written.setLevel(level)
        written.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        handlers.append(written)
    # absl puts a handler of its own on the root at import; two would print everything twice.
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(True)
    shown = progress.is_shown()
    progress.show(active)
    try:
        yield
    except BaseException as error:
        if active:
            root.removeHandler(terminal)
            root.error("ended by %s: %s", type(error).__name__, error, exc_info=True)
        raise
    finally:
        progress.show(shown)
        logging.captureWarnings(False)
        root.handlers[:] = before[1]
        root.setLevel(before[0])
        for handler in handlers:
            handler.close()
