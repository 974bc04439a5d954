"""Time and memory of a block of code, on a machine that may be busy.

The resident memory of the process is sampled in a thread while the block runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax.monitoring


def resident_bytes() -> int:
    """Returns the resident memory of this process."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@dataclasses.dataclass
class Cost:
    """Time and memory of a block of code.

    Attributes:
        seconds: wall time.
        core_seconds: processor time of all cores together.
        extra_bytes: peak of the resident memory beyond that at the start.
        peak_bytes: peak of the resident memory.
    """

    seconds: float = 0.0
    core_seconds: float = 0.0
    extra_bytes: int = 0
    peak_bytes: int = 0


@contextlib.contextmanager
def measured() -> Iterator[Cost]:
    """Times a block and samples its memory; the cost is complete when the block ends."""
    gc.collect()
    result, stop = Cost(), threading.Event()
    before = peak = resident_bytes()

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.005):
            peak = max(peak, resident_bytes())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    started, core = time.perf_counter(), time.process_time()
    try:
        yield result
    finally:
        result.seconds, result.core_seconds = time.perf_counter() - started, time.process_time() - core
        stop.set()
        thread.join()
        result.peak_bytes = max(peak, resident_bytes())
        result.extra_bytes = result.peak_bytes - before


_compile_seconds: list[float] = []


def _note_compilation(event: str, duration_secs: float, **_: Any) -> None:
    if event.startswith("/jax/core/compile"):
        _compile_seconds.append(duration_secs)


@functools.cache
def _listen_for_compilation() -> None:
    jax.monitoring.register_event_duration_secs_listener(_note_compilation)


def compiled(work: Callable[[], Any], repeats: int) -> tuple[Any, Cost, float]:
    """Returns the result of a function, its cost, and its seconds of compilation.

    The time is that of the fastest of `repeats` calls after the first, the memory the largest of all calls. Seconds of
    compilation are those that jax reports for the first call (tracing, lowering and compiling): the difference of two
    calls would include the load of other programs.
    """
    _listen_for_compilation()
    _compile_seconds.clear()
    with measured() as first:
        result = work()
    compile_seconds = sum(_compile_seconds)
    extra, peak = first.extra_bytes, first.peak_bytes
    best = first
    for number in range(repeats):
        with measured() as again:
            result = work()
        extra, peak = max(extra, again.extra_bytes), max(peak, again.peak_bytes)
        if number == 0 or again.seconds < best.seconds:
            best = again
    best.extra_bytes, best.peak_bytes = extra, peak
    return result, best, compile_seconds
