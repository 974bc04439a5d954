"""Progress of long work: a bar with the time left on a terminal, elsewhere a line every few seconds.

    with progress.bar("features of the gallery", len(split), "images") as advance:
        for batch in batches:
            ...
            advance(len(batch))

    with progress.waiting("compiling the train step"):
        ...

Commands and runs call `show`; a program that uses the package as a library sees nothing unless it does so, too. Updates
are limited in rate, so that they cost nothing.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TextIO

import tqdm

LOG = logging.getLogger(__name__)

# Work that takes fewer seconds is not worth a bar or a line.
PATIENCE = 1.0

_shown = False


def show(shown: bool = True) -> None:
    """Switches progress on, or off; it is off until a command or a run begins, and in processes other than the main."""
    global _shown
    _shown = shown


def is_shown() -> bool:
    """Returns whether progress is switched on."""
    return _shown


class Bar:
    """Progress of work of known length.

    Args:
        what: noun in front of the counts ("features of the gallery"); empty for none.
        total: the number of units; None where it is not known.
        unit: plural noun behind the counts ("images"); empty for none.
        initial: the number of units that were done before.
        shown: whether to show anything; None asks `is_shown`.
        stream: where the bar goes; None is standard error. Where it is no terminal, lines are logged.
        every_seconds: without a terminal, least time between two lines.
        stays: whether the bar of a terminal stays on the screen when it is closed.
        scaled: whether large numbers of units are shortened (12.3M); bytes, the unit "B", always are.
    """

    def __init__(
        self,
        what: str,
        total: int | None,
        unit: str = "",
        *,
        initial: int = 0,
        shown: bool | None = None,
        stream: TextIO | None = None,
        every_seconds: float = 10.0,
        stays: bool = False,
        scaled: bool = False,
    ) -> None:
        self.what, self.total, self.unit, self.every_seconds = what, total, unit, every_seconds
        self.done = self._first = initial
        self.shown = _shown if shown is None else shown
        self._began: float | None = None
        self._last_line = self._created = time.monotonic()
        self._lines, self._stays = 0, stays
        self._bar: tqdm.tqdm | None = None
        stream = sys.stderr if stream is None else stream
        if self.shown and is_terminal(stream):
            self._bar = tqdm.tqdm(
                total=total,
                initial=initial,
                desc=what or None,
                unit=unit if unit == "B" else f" {unit}" if unit else "it",
                unit_scale=scaled or unit == "B",
                file=stream,
                smoothing=0,  # the estimate follows all of the work, pauses included
                dynamic_ncols=True,
                leave=stays,
                # With values behind it, the bar has to be short, and a rate of steps is one number too many.
                bar_format="{desc} {n_fmt}/{total_fmt} |{bar:4}| {elapsed}<{remaining}{postfix}" if stays else None,
                delay=0 if stays else PATIENCE,
            )

    def advance(self, count: int = 1, *, line: bool = True) -> None:
        """Counts units that are done.

        Args:
            count: how many.
            line: whether a line may be logged now; a caller with values to show calls `line` itself.
        """
        self.done += count
        if self._began is None:
            # The first units often wait for a compiler; the estimate starts after them.
            self._began, self._first = time.monotonic(), self.done
            if self._bar is not None:
                self._bar.update(count)
                self._bar.initial, self._bar.start_t = self._bar.n, self._bar.last_print_t
        elif self._bar is not None:
            self._bar.update(count)
        if line:
            self.line()

    def line(self, values: str = "", *, last: bool = False) -> bool:
        """Shows values beside the counts: behind the bar, or without a terminal in a line if one is due.

        Args:
            values: text behind the counts.
            last: whether a line is due in any case.

        Returns:
            Whether there was a line.
        """
        if not self.shown:
            return False
        if self._bar is not None:
            if values:
                self._bar.set_postfix_str(values, refresh=False)
            return False
        now = time.monotonic()
        if now - self._last_line >= self.every_seconds or last:
            self._last_line, self._lines = now, self._lines + 1
            say("  ".join(text for text in (self._counts(now), values) if text))
            return True
        return False

    def _counts(self, now: float) -> str:
        counts = (self.done,) if self.total is None else (self.done, self.total)
        if self.unit == "B":
            parts = [self.what, "/".join(f"{count / 1e6:,.0f}" for count in counts), "MB"]
        else:
            parts = [self.what, "/".join(f"{count:,}" for count in counts), self.unit]
        if self.total is not None and self._began is not None and self._first < self.done < self.total:
            left = (now - self._began) / (self.done - self._first) * (self.total - self.done)
            parts.append(f"(~{duration(left)} left)")
        return " ".join(part for part in parts if part)

    def close(self) -> None:
        """Ends the bar; where lines were shown and the work is complete, says how long it took."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        elif self._lines and self.done == self.total and not self._stays:
            say(f"{self._counts(0)} in {duration(time.monotonic() - self._created)}")
        self.shown = False


@contextlib.contextmanager
def bar(
    what: str, total: int | None, unit: str, *, initial: int = 0, scaled: bool = False
) -> Iterator[Callable[[int], None]]:
    """Yields a function that counts units that are done; arguments as those of `Bar`."""
    made = Bar(what, total, unit, initial=initial, scaled=scaled)
    try:
        yield made.advance
    finally:
        made.close()


@contextlib.contextmanager
def waiting(what: str, *, end: bool = True) -> Iterator[None]:
    """Shows what the block waits for: on a terminal a line that counts the seconds, elsewhere one line when it is long.

    Args:
        what: verb and object ("compiling the train step").
        end: whether to say afterwards how long it took, where that was long.
    """
    if not _shown:
        yield
        return
    began, over = time.monotonic(), threading.Event()
    ticker = threading.Thread(target=_tick, args=(what, over, sys.stderr), name="progress", daemon=True)
    ticker.start()
    try:
        yield
    finally:
        over.set()
        ticker.join()
    seconds = time.monotonic() - began
    if end and seconds >= PATIENCE:
        say(f"{what}: {seconds:.1f} s")


def _tick(what: str, over: threading.Event, stream: TextIO) -> None:
    """Shows the seconds of `waiting` until it is over; nothing where it is short."""
    if over.wait(PATIENCE):
        return
    if not is_terminal(stream):
        say(f"{what} ...")
        over.wait()
        return
    with contextlib.suppress(OSError, ValueError):  # a terminal that has gone
        form = "{desc} ... {elapsed_s:.0f} s"
        # A delay, so that it shows nothing before the seconds are right.
        line = tqdm.tqdm(desc=what, bar_format=form, file=stream, leave=False, dynamic_ncols=True, delay=1e-9)
        line.start_t -= PATIENCE
        while True:
            line.refresh()
            if over.wait(1.0):
                break
        line.close()


def say(text: str) -> None:
    """Writes a line to the log of a run, or to standard error where there is none."""
    if LOG.isEnabledFor(logging.INFO):
        LOG.info("%s", text)
        return
    with contextlib.suppress(OSError, ValueError):
        tqdm.tqdm.write(text, file=sys.stderr)


def is_terminal(stream: TextIO) -> bool:
    """Returns whether a stream is a terminal; a closed one is none."""
    try:
        return stream.isatty()
    except ValueError:
        return False


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
