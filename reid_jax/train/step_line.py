"""The step line of a run: losses, accuracy and speed, behind the bar of a terminal or in the log.

step 120/2960 (~1 h 02 min left)  loss 6.743 (ce 6.441, tri 0.3022)  accuracy 12.5 %  19.2 images/s
data wait 0 %  lr 3.50e-04
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TextIO

from reid_jax import progress

# Before the first values, the seconds between two lines without a terminal grow by this factor.
RARER = 3

# With more loss terms than this, those of one family (`ce_g1`, `ce_g2`, ...) are shown as their mean.
TERMS_SHOWN = 4


@dataclasses.dataclass
class Pace:
    """Speed of a run: all its timed steps so far, those before a resume included.

    The first step after a start, and of each phase, is not timed: it compiles. Neither is what happens between steps:
    evaluation, checkpoints, and the waits that they cause. The wait for data is part of a step.

    Attributes:
        images: training images of the timed steps.
        seconds: their wall time.
    """

    images: int = 0
    seconds: float = 0.0

    def add(self, images: int, seconds: float) -> None:
        """Counts some timed steps; without an image, nothing was timed."""
        if images:
            self.images += images
            self.seconds += seconds

    @property
    def images_per_second(self) -> float | None:
        """Training images per second, None before the first timed step."""
        return self.images / self.seconds if self.images and self.seconds else None


class StepLine:
    """Progress of a run through its steps.

    Args:
        total: the last step.
        initial: the step it starts from.
        shown: whether this process shows anything; None asks `progress.is_shown`.
        every_seconds: without a terminal, least time between two lines.
        stream: where the bar goes, standard error when None.
    """

    def __init__(
        self,
        total: int,
        initial: int = 0,
        *,
        shown: bool | None = None,
        every_seconds: float = 10.0,
        stream: TextIO | None = None,
    ) -> None:
        self._bar = progress.Bar(
            "step", total, initial=initial, shown=shown, stream=stream, every_seconds=every_seconds, stays=True
        )
        self._total, self._initial, self._every_seconds = total, initial, every_seconds
        self._first = True

    def update(self, step: int) -> None:
        """Records that `step` is done; before the first values, a line says how long the rest will take."""
        self._bar.advance(step - self._bar.done, line=False)
        # The first step compiles and says nothing of the others.
        if self._first and step > self._initial + 1 and self._bar.line():
            self._bar.every_seconds *= RARER

    def show(self, step: int, values: Mapping[str, Any]) -> None:
        """Shows the values of a step: behind the bar, or in a line of the log when one is due.

        Args:
            step: number of steps so far.
            values: what is written to `metrics.jsonl` for this step.
        """
        self._bar.advance(step - self._bar.done, line=False)
        self._bar.line("  ".join(text(values)), last=self._first or step >= self._total)
        self._first, self._bar.every_seconds = False, self._every_seconds

    def close(self) -> None:
        """Ends the bar and its line."""
        self._bar.close()


def text(values: Mapping[str, Any]) -> list[str]:
    """Returns the parts of a step line, the most important first."""
    formats = {
        "monitor/accuracy": ("accuracy {:.1f} %", 100),
        "images_per_second": ("{:.4g} images/s", 1),
        "data_wait_percent": ("data wait {:.0f} %", 1),
        "learning_rate": ("lr {:.2e}", 1),
    }
    parts = []
    if values.get("loss") is not None:
        terms = _terms(values)
        parts.append(f"loss {float(values['loss']):#.4g}{f' ({terms})' if terms else ''}")
    for name, (form, scale) in formats.items():
        if values.get(name) is not None:
            parts.append(form.format(scale * float(values[name])))
    return parts


def _terms(values: Mapping[str, Any]) -> str:
    """Returns the loss terms as text; many of them as the mean of each family with its size."""
    terms = {name.removeprefix("loss/"): float(value) for name, value in values.items() if name.startswith("loss/")}
    terms = {name: value for name, value in terms.items() if "/" not in name}  # a term's own metrics
    families: dict[str, list[float]] = {}
    for name, value in terms.items():
        families.setdefault(name.split("_")[0] if len(terms) > TERMS_SHOWN else name, []).append(value)
    return ", ".join(
        f"{name} {sum(found) / len(found):#.4g}{f' x{len(found)}' if len(found) > 1 else ''}"
        for name, found in families.items()
    )
