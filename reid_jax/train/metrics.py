"""Output of a run: `metrics.jsonl`, TensorBoard events, the progress bar, `log.txt`.

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

logger = logging.getLogger(__name__)

FILE = "metrics.jsonl"
# Libraries whose messages below ERROR do not concern the user of a run.
NOISY = ("absl", "jax", "orbax", "tensorflow_datasets", "tensorboardX", "grain", "etils", "matplotlib", "PIL", "h5py")


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
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _rewind(self.path, resume_step)
        self._file = self.path.open("a", encoding="utf-8")
        if tensorboard:
            self._events = _open_events(self.path.parent, resume_step)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes one line.

        Args:
            step: number of steps so far.
            values: numbers (of any numeric type, zero-dimensional arrays included) or short texts by name; a number
                that is not finite is written as `null`.
        """
        if self._file is None:
            return
        plain = {name: _plain(value) for name, value in values.items()}
        line = json.dumps({"step": int(step), "time": round(time.time(), 3), **plain}, allow_nan=False)
        self._file.write(line + "\n")
        self._file.flush()
        if self._events is not None:
            for name, value in plain.items():
                if isinstance(value, (int, float)):
                    self._events.add_scalar(name, value, int(step))
            self._events.flush()

    def close(self) -> None:
        """Closes the files; later writes have no effect."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._events is not None:
            self._events.close()
            self._events = None

    def __enter__(self) -> MetricWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Returns the lines of a run's `metrics.jsonl` up to the first incomplete one; none without a file."""
    path = pathlib.Path(workdir) / FILE
    return [record for record, _ in _lines(path)] if path.is_file() else []


def _lines(path: pathlib.Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            record = json.loads(line)
        except ValueError:
            return
        if not line.endswith(b"\n") or not isinstance(record, dict) or "step" not in record:
            return
        yield record, line


def _rewind(path: pathlib.Path, resume_step: int | None) -> None:
    """Drops an incomplete end and the lines beyond `resume_step`; the file is replaced atomically."""
    if not path.is_file():
        return
    limit = math.inf if resume_step is None else resume_step
    kept = b"".join(line for record, line in _lines(path) if record["step"] <= limit)
    if kept == path.read_bytes():
        return
    beside = path.with_name(path.name + ".tmp")
    beside.write_bytes(kept)
    os.replace(beside, path)


def _open_events(folder: pathlib.Path, resume_step: int | None) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the protobuf it was generated for
        import tensorboardX
    # TensorBoard hides the events of earlier files from `purge_step` on.
    purge = None if not resume_step else resume_step + 1
    # The file name contains the second of its creation: the suffix distinguishes two starts within a second.
    suffix = f".from{resume_step or 0}"
    return tensorboardX.SummaryWriter(str(folder), purge_step=purge, flush_secs=30, filename_suffix=suffix)


def _plain(value: Any) -> Any:
    """Returns the JSON value of a number of any type."""
    if value is None or isinstance(value, (str, bool)):
        return value
    number = np.asarray(value)
    if number.ndim:
        raise TypeError(f"a metric must be one number, but has the shape {number.shape}")
    plain = number.item()
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain


class Progress:
    """Progress of a run: a bar on a terminal, elsewhere a line of the log every few seconds.

    Args:
        total: the last step.
        initial: the step it starts from.
        active: whether this process shows anything.
        every_seconds: without a terminal, least time between two lines.
        stream: where the bar goes, standard error when `None`.
    """

    def __init__(
        self,
        total: int,
        initial: int = 0,
        *,
        active: bool | None = None,
        every_seconds: float = 10.0,
        stream: TextIO | None = None,
    ) -> None:
        self.total, self.every_seconds = total, every_seconds
        stream = sys.stderr if stream is None else stream
        self._active = _is_main() if active is None else active
        self._step = self._first = initial
        self._began: float | None = None
        self._shown = -math.inf
        self._bar: tqdm.tqdm | None = None
        if self._active and stream.isatty():
            # `smoothing` low: the estimate follows the whole run, evaluations included.
            self._bar = tqdm.tqdm(
                total=total, initial=initial, file=stream, unit="step", smoothing=0.05, dynamic_ncols=True, leave=True
            )

    def update(self, step: int) -> None:
        """Records that `step` is done."""
        if self._began is None:
            # The first step compiles; the estimate starts after it.
            self._began, self._first = time.monotonic(), step
        if self._bar is not None:
            self._bar.update(step - self._step)
        self._step = step

    def show(self, step: int, values: Mapping[str, Any]) -> None:
        """Shows loss, learning rate, images per second and the share of time spent waiting for data.

        Args:
            step: number of steps so far.
            values: what is written to `metrics.jsonl` for this step.
        """
        if not self._active:
            return
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(_parts(values)), refresh=False)
            return
        now = time.monotonic()
        if now - self._shown < self.every_seconds and step < self.total:
            return
        self._shown = now
        logger.info("step %d/%d%s  %s", step, self.total, self._remaining(step, now), "  ".join(_parts(values)))

    def _remaining(self, step: int, now: float) -> str:
        if self._began is None or step <= self._first or step >= self.total:
            return ""
        return f" (~{duration((now - self._began) / (step - self._first) * (self.total - step))} left)"

    def close(self) -> None:
        """Ends the bar and its line."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _parts(values: Mapping[str, Any]) -> list[str]:
    """Returns the numbers of a progress line as text."""
    formats = {
        "loss": "loss {:.4f}",
        "learning_rate": "lr {:.2e}",
        "images_per_second": "{:.0f} images/s",
        "data_wait_percent": "data wait {:.0f} %",
    }
    return [text.format(float(values[name])) for name, text in formats.items() if values.get(name) is not None]


def duration(seconds: float) -> str:
    """Returns a duration as text.

    >>> duration(42.2), duration(3700), duration(200000)
    ('42 s', '1 h 01 min', '2 d 7 h')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def _is_main() -> bool:
    from reid_jax.runtime import processes  # here, so that a reader of metrics alone starts no device

    return processes.is_main()


# ---- logging ------------------------------------------------------------------------------------------------------


class _TqdmHandler(logging.StreamHandler[TextIO]):
    """Writes a line above the progress bar rather than through it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.tqdm.write(self.format(record), file=self.stream)
            self.flush()
        except Exception:
            self.handleError(record)


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
        folder = pathlib.Path(workdir)
        folder.mkdir(parents=True, exist_ok=True)
        written = logging.FileHandler(folder / "log.txt", encoding="utf-8")
        written.setLevel(level)
        written.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        handlers.append(written)
    # absl puts a handler of its own on the root at import; two would print everything twice.
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(True)
    try:
        yield
    except BaseException as error:
        if active:
            root.removeHandler(terminal)
            root.error("ended by %s: %s", type(error).__name__, error, exc_info=True)
        raise
    finally:
        logging.captureWarnings(False)
        root.handlers[:] = before[1]
        root.setLevel(before[0])
        for handler in handlers:
            handler.close()
