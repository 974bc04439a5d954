"""Ctrl-C and SIGTERM at any moment: one sentence, exit code 130 or 143, and no traceback of a library.

After `install` a signal raises `Interrupted` in the main thread, so that files and folders are left in order on the way
out. Where that is not enough, because the main thread is inside a compiler or a library swallows the exception, a
watching thread ends the process after `GRACE` seconds; a second signal ends it at once. Training asks for a `notice`
instead, so that it can save first.

Only the standard library is imported here: the handlers are in place before anything that takes time.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, NoReturn

CODES = {int(signal.SIGINT): 130, int(signal.SIGTERM): 143}
GRACE = 5.0
_SENTENCES = {int(signal.SIGINT): "interrupted", int(signal.SIGTERM): "terminated"}


class Interrupted(KeyboardInterrupt):
    """Raised in the main thread by a signal of `CODES`."""

    def __init__(self, number: int) -> None:
        super().__init__(_SENTENCES[number])
        self.number = number


class _State:
    """What has been received, and what the process wants.

    Attributes:
        received: the signal that ends this process.
        handled: when the handler last ran, which is late where the main thread runs no Python code.
        notice: callback for the first signal; `began` is the time from which that is counted.
        at_once: whether a signal ends the process without an exception.
    """

    received: int | None = None
    handled = -math.inf
    notice: Callable[[int], None] | None = None
    began = -math.inf
    noticed = False
    at_once = False


_state = _State()
_ending = threading.Lock()


def install() -> None:
    """Installs the handlers; call it first thing in a command's main thread. A second call has no effect."""
    if signal.getsignal(signal.SIGTERM) is _handle or threading.current_thread() is not threading.main_thread():
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading,), name="signals", daemon=True).start()
    for number in CODES:
        signal.signal(number, _handle)
    sys.excepthook = _uncaught
    threading.excepthook = _quiet(threading.excepthook)
    sys.unraisablehook = _quiet(_of_main_thread(sys.unraisablehook))


def received() -> int | None:
    """Returns the signal that is ending this process, `None` if there is none."""
    return _state.received


@contextlib.contextmanager
def notice(callback: Callable[[int], None]) -> Iterator[None]:
    """Calls a function on the first signal instead of interrupting the block; a second signal interrupts it.

    Where `install` has not been called (a notebook), this holds for SIGTERM only. Outside the main thread, which alone
    receives signals, it has no effect.

    Args:
        callback: takes the number of the signal; called in the main thread between two instructions, so it should
            only set a flag.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, _handle)
    _state.notice, _state.noticed, _state.began = callback, False, time.monotonic()
    try:
        yield
    finally:
        _state.notice = None
        signal.signal(signal.SIGTERM, before)


def sentence(number: int) -> str:
    """Returns what the user reads at the end of an interrupted command."""
    return f"{_SENTENCES[number]}; run the same command again to continue."


def end(number: int) -> NoReturn:
    """Prints the sentence, once, and ends the process without waiting for other threads."""
    if _ending.acquire(blocking=False):
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        with contextlib.suppress(OSError):
            os.write(2, f"\n{sentence(number)}\n".encode())
    os._exit(CODES[number])


def end_at_once() -> None:
    """From now on a signal ends the process at once; call it when there is nothing left to put in order."""
    _state.at_once = True


def _handle(number: int, frame: FrameType | None) -> None:
    """Handler in the main thread."""
    _state.handled = time.monotonic()
    if _state.notice is not None and not _state.noticed:
        _state.noticed = True
        _state.notice(number)
        return
    if _state.received is not None or _state.at_once:
        end(number)
    _state.received = number
    # What libraries report about the interruption is not news.
    logging.disable(logging.CRITICAL)
    raise Interrupted(number)


def _watch(reading: int) -> None:
    """Reads the signals as they arrive, also while the main thread runs no Python code."""
    arrivals: list[float] = []
    while True:
        for number in os.read(reading, 16):
            if number in CODES:
                arrivals.append(time.monotonic())
                late = threading.Timer(GRACE, _end_if_late, (number, tuple(arrivals)))
                late.daemon = True
                late.start()


def _end_if_late(number: int, arrivals: tuple[float, ...]) -> None:
    """Ends the process `GRACE` seconds after a signal, unless the signal was a notice or still is to become one."""
    if _state.received is None:
        if _state.handled >= arrivals[-1] - 1.0:
            return
        if _state.notice is not None and not _state.noticed:
            waiting = [arrival for arrival in arrivals if arrival > _state.began]
            if len(waiting) == 1:
                return
    end(number)


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Hook for what leaves the main thread, such as an interruption during an import; other threads: see below."""
    if threading.current_thread() is not threading.main_thread():
        return
    if _state.received is not None:
        end(_state.received)
    sys.__excepthook__(kind, error, trace)


def _of_main_thread(hook: Callable[[Any], object]) -> Callable[[Any], object]:
    """Returns a hook that says nothing of other threads.

    A library in another language reports there what its own threads met (tensorstore after a failed write, at any time
    up to the end of the process); its caller in the main thread gets an error, too.
    """
    return lambda event: hook(event) if threading.current_thread() is threading.main_thread() else None


def _quiet(hook: Callable[[Any], object]) -> Callable[[Any], object]:
    """Returns a hook for errors of threads and finalizers that says nothing while the process is being interrupted."""
    return lambda event: None if _state.received is not None else hook(event)
