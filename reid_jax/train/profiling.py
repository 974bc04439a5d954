"""Records some steps of a run with the profiler of JAX, through clu."""

from __future__ import annotations

import dataclasses
import logging
import os
import pathlib
from typing import Any

import jax
from clu import profiler

from reid_jax import errors

LOG = logging.getLogger(__name__)

FOLDER = "profile"
# The first step compiles and the second waits for what the first left behind.
WARM_UP = 2


@dataclasses.dataclass(frozen=True)
class Steps:
    """Consecutive steps of a run, counted from 1 as in its log.

    Attributes:
        first, last: both are recorded.
    """

    first: int
    last: int


def after_warm_up(count: int, begun: int) -> Steps | None:
    """Returns `count` steps after the first two of a start, None for none.

    Args:
        count: steps to record.
        begun: steps that were done before this start.
    """
    first = begun + WARM_UP + 1
    return Steps(first, first + count - 1) if count else None


def check(steps: Steps, begun: int, end: int) -> None:
    """Checks that the steps to record lie in a run.

    Args:
        steps: the steps.
        begun: steps that were done before this start.
        end: last step of the run.

    Raises:
        UserError: some are outside.
    """
    if not begun < steps.first <= steps.last <= end:
        done = f" ({begun} are done)" if begun else ""
        raise errors.UserError(
            f"expected --profile within the steps {begun + 1} to {end} of this run{done}, got "
            f"{steps.first}:{steps.last}; give others, two or more after the first."
        )


class Profile:
    """Traces consecutive steps of a run into `<workdir>/profile`, for TensorBoard or Perfetto.

    Args:
        workdir: the run folder.
        steps: the steps to record; None records none.
    """

    def __init__(self, workdir: str | os.PathLike[str], steps: Steps | None) -> None:
        self.folder = pathlib.Path(workdir) / FOLDER
        self._steps = steps
        self._recording = False

    def before_step(self, step: int) -> None:
        """Starts the recording before its first step, with its number from 1."""
        if self._steps is not None and not self._recording and self._steps.first <= step <= self._steps.last:
            profiler.start(str(self.folder))
            self._recording = True

    def after_step(self, step: int, outputs: Any) -> None:
        """Ends the recording after its last step.

        Args:
            step: number of the step, from 1.
            outputs: arrays that the step computes; the recording ends when the device has computed them.
        """
        if self._recording and self._steps is not None and step >= self._steps.last:
            jax.block_until_ready(outputs)
            self.close()

    def close(self) -> None:
        """Ends a recording that has not ended, at the end of a run shorter than the recording."""
        if self._recording:
            profiler.stop()
            self._recording, self._steps = False, None
            LOG.info("the profile is in %s; view it with tensorboard --logdir %s", self.folder, self.folder)
