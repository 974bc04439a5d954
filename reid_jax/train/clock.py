"""Checkpoints by the clock: every so many minutes, at a step that all processes agree on.

Clocks of several machines differ, and saving is collective. So process 0 alone looks at its clock, at steps that all
processes know, and tells the others how many steps are left until the next checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from reid_jax.runtime import processes

# Steps after which the first plan is made; the first of them compiles.
WARM_UP = 5


class Clock:
    """Says at which steps a checkpoint is due.

    Args:
        minutes: interval; 0 asks for none.
        now: returns seconds.
    """

    def __init__(self, minutes: float, now: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._now = 60 * minutes, now
        self._saved = now()
        self._first: tuple[int, float] | None = None
        self._at: int | None = None

    def due(self, step: int) -> bool:
        """Returns whether a checkpoint is due after this step; called after every step, on every process alike."""
        if not self._seconds:
            return False
        if self._first is None:
            self._first = (step, self._now())
        elif self._at is None and step >= self._first[0] + WARM_UP:
            self.plan(step)
        return self._at is not None and step >= self._at

    def saved(self, step: int) -> None:
        """Counts anew from a checkpoint, whatever it was made for."""
        self._saved = self._now()
        if self._at is not None:
            self.plan(step)

    def plan(self, step: int) -> None:
        """Plans the next checkpoint by the time that steps take now. A collective; does nothing before the warm-up."""
        if not self._seconds or self._first is None or step <= self._first[0]:
            return
        pace = (self._now() - self._first[1]) / (step - self._first[0])
        left = max(0.0, self._saved + self._seconds - self._now())
        self._first = (step, self._now())
        self._at = step + processes.number_of_main(max(1, round(left / max(pace, 1e-6))))
