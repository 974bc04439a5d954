"""The start of a run from the programs that an earlier start of the same config kept, see `runtime.kept_starts`.

What the earlier start has compiled, it has traced and checked before: the initial variables, and the train step of the
phase in which it began with all phases after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from reid_jax import config as config_lib
from reid_jax.data import records
from reid_jax.runtime import compilation, kept_starts, loaded_code
from reid_jax.train import loop, step


class KeptStart:
    """What is kept of earlier starts, and what this one adds.

    Args:
        config: resolved config of the run.
        dataset: its data set.
        mesh: its devices.
        first_devices: their number when the run began.
    """

    def __init__(
        self, config: ConfigDict, dataset: records.ReIDDataset, mesh: jax.sharding.Mesh, first_devices: int
    ) -> None:
        self._key, self._devices = "", list(mesh.devices.flat)
        # Own code may read or import what no hash here knows.
        if compilation.starts(make=True) is None or jax.process_count() > 1 or config.get("code", ()):
            return
        if loaded_code.own_files() is None or loaded_code.edited_since_start():
            return
        origin = {"config": config_lib.to_json(config), "first_devices": first_devices}
        origin |= {"mesh": [device.id for device in self._devices]}
        self._key = kept_starts.key(origin | {"data": (dataset.index_hash(), dataset.content)})

    def initial(self) -> kept_starts.Kept | None:
        """Returns the program of the initial variables with its layout; None if it is not kept."""
        return kept_starts.load(f"{self._key}-initial", jax.devices()[:1]) if self._key else None

    def adopt(self, schedule: Sequence[loop.Phase], first_step: int) -> bool:
        """Gives the phase in which a run begins its kept train step; returns whether there is one.

        Args:
            schedule: all phases.
            first_step: steps that are done.
        """
        index = _begins_in(schedule, first_step)
        name = f"{self._key}-step{index}"
        if index is None or not self._key or not kept_starts.has(name):
            return False

        train_step: Any = schedule[index].step
        train_step.adopt(lambda: kept_starts.load(name, self._devices))
        return True

    def keep(
        self,
        initial: kept_starts.Kept,
        schedule: Sequence[loop.Phase],
        first_step: int,
        program: kept_starts.Begun,
    ) -> None:
        """Gives the programs of this start the name of their origin, as soon as the train step is compiled.

        Args:
            initial: program of the initial variables.
            schedule: all phases.
            first_step: steps that are done.
            program: the train step to be of the phase in which the run begins.
        """
        index = _begins_in(schedule, first_step)
        if index is None or not self._key:
            return

        def name(done: kept_starts.Begun) -> None:
            found = done.result() if done.exception() is None else None
            if found is not None and not loaded_code.edited_since_start():  # while it was traced
                kept_starts.give_name(initial, f"{self._key}-initial")
                kept_starts.give_name(found, f"{self._key}-step{index}")

        program.add_done_callback(name)


def _begins_in(schedule: Sequence[loop.Phase], first_step: int) -> int | None:
    """Returns the index of the first phase with steps left; None if it has no train step to keep."""
    for index, phase in enumerate(schedule):
        if phase.last_step > first_step:
            return index if isinstance(phase.step, step.TrainStep) else None
    return None
