"""Records some steps of a run with the profiler of JAX, through clu."""

from __future__ import annotations

import logging
import os
import pathlib
from typing import Any

import jax
from clu import profiler

LOG = logging.getLogger(__name__)

FOLDER = "profile"
# The first step compiles and the second waits for what the first left behind.
WARM_UP = 2


class Profile:
    """Traces consecutive steps of a run into `<workdir>/profile`, for TensorBoard or Perfetto.

    Args:
        workdir: the run folder.
        steps: number of steps to record, after the first two steps of this start; 0 records none.
    """

    def __init__(self, workdir: str | os.PathLike[str], steps: int) -> None:
        self.folder = pathlib.Path(workdir) / FOLDER
        self._left = steps
        self._before = WARM_UP
        self._recording = False

    def before_step(self) -> None:
        """Starts the recording when the steps before it are done."""
        if self._recording or not self._left:
            return
        if self._before:
            self._before -= 1
            return
        profiler.start(str(self.folder))
        self._recording = True

    def after_step(self, outputs: Any) -> None:
        """Counts a step, and ends the recording after the last.

        Args:
            outputs: arrays that the step computes; the recording ends when the device has computed them.
        """
        if not self._recording:
            return
        self._left -= 1
        if not self._left:
            jax.block_until_ready(outputs)
            self.close()

    def close(self) -> None:
        """Ends a recording that has not ended, at the end of a run shorter than the recording."""
        if self._recording:
            profiler.stop()
            self._recording, self._left = False, 0
            LOG.info("the profile is in %s; view it with tensorboard --logdir %s", self.folder, self.folder)
