"""The training loop.

Order of events after each step: log, evaluate, save. Metrics leave the device only when they are logged; a loss that is
not finite stops the run with the number of its step, before anything is saved.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from reid_jax import errors, progress
from reid_jax.runtime import interruption, processes
from reid_jax.runtime import mesh as mesh_lib
from reid_jax.train import checkpoints as checkpoints_lib
from reid_jax.train import clock as clock_lib
from reid_jax.train import metrics as metrics_lib
from reid_jax.train import profiling, step_line
from reid_jax.train import state as state_lib

LOG = logging.getLogger(__name__)

# Steps dispatched ahead of the device: enough to hide the host's work, few enough for an accurate progress bar.
RUN_AHEAD = 2
# Consecutive log lines with a triplet loss at its margin after which the embedding counts as collapsed.
COLLAPSE_PATIENCE = 3
_NOTHING = contextlib.nullcontext()


class Batches(Protocol):
    """A closable iterator of NumPy batches, see `reid_jax.data.pipeline.train_batches`."""

    def __iter__(self) -> Iterator[Mapping[str, np.ndarray]]: ...

    def close(self) -> None:
        """Closes the stream."""


@dataclasses.dataclass(frozen=True)
class Phase:
    """Consecutive steps with one objective, one optimizer and one input stream.

    Attributes:
        name: name in logs; empty for a run of one phase.
        first_step, last_step: the phase covers the steps [first_step, last_step).
        steps_per_epoch, batch_size: of its input stream; `batch_size` counts the images of the global batch.
        begin: returns the initial state of the phase from the final state of the previous one.
        step: the compiled `(state, batch) -> (state, metrics)`.
        open_batches: opens the input stream at a step of this phase (0 = its beginning).
        learning_rates: returns the rates by parameter group at a step of this phase.
        margins: by metric name (`loss/<term>`), the value of a triplet loss that indicates a collapsed embedding.
        about: numbers for the run's result.
        example: reads a batch of this process's share, for its shapes.
        prepare: completes the state after `begin` where that takes data, such as features of all images; not called
            when a run resumes inside the phase.
    """

    name: str
    first_step: int
    last_step: int
    steps_per_epoch: int
    batch_size: int
    begin: Callable[[state_lib.TrainState], state_lib.TrainState]
    step: Callable[[state_lib.TrainState, Any], tuple[state_lib.TrainState, dict[str, jax.Array]]]
    open_batches: Callable[[int], Batches]
    learning_rates: Callable[[int], Mapping[str, float]]
    margins: Mapping[str, float] = dataclasses.field(default_factory=dict)
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    example: Callable[[], Mapping[str, np.ndarray]] | None = None
    prepare: Callable[[state_lib.TrainState], state_lib.TrainState] | None = None


@dataclasses.dataclass(frozen=True)
class Every:
    """Intervals in steps between events; 0 means at the end of the run only.

    Attributes:
        log, evaluate, save: the intervals.
        save_minutes: interval of checkpoints by the clock, in addition; 0 asks for none.
    """

    log: int
    evaluate: int
    save: int
    save_minutes: float = 0.0


class NonFiniteLoss(errors.UserError):
    """Error of a step whose loss is not finite."""


@dataclasses.dataclass
class _Window:
    """Losses and times since the last event."""

    losses: list[tuple[int, jax.Array]] = dataclasses.field(default_factory=list)
    images: int = 0
    waited: float = 0.0
    began: float = dataclasses.field(default_factory=time.perf_counter)

    def check(self) -> None:
        """Fetches the losses since the last check and raises an error at the first that is not finite."""
        values = jax.device_get([loss for _, loss in self.losses])
        for (step, _), value in zip(self.losses, values, strict=True):
            if not math.isfinite(value):
                raise NonFiniteLoss(
                    f"expected a finite loss, got {value} at step {step}; nothing was saved after it: lower the "
                    "learning rate or lengthen the warm-up, and run again from the last checkpoint."
                )
        self.losses.clear()

    @property
    def seconds(self) -> float:
        """Wall time since the window began; of its steps alone after `check`, which waits for them."""
        return time.perf_counter() - self.began


class Loop:
    """Runs the phases of a run; see the module's docstring.

    Args:
        mesh: devices.
        phases: all phases in order, covering all steps without a gap.
        every: intervals of logging, evaluation and saving.
        writer: metrics file of the run (on the main process).
        checkpoints: checkpoints of the run; None saves nothing.
        evaluate: `(state, step) -> {name: fraction}`, the same on every process; None disables evaluation.
        meta: returns what a checkpoint stores in addition to the state; called at each.
        profile: records some steps; None records none.
        pace: images and seconds of the steps before a resume; counts on.
    """

    def __init__(
        self,
        mesh: jax.sharding.Mesh,
        phases: Sequence[Phase],
        every: Every,
        *,
        writer: metrics_lib.MetricWriter,
        checkpoints: checkpoints_lib.Checkpoints | None,
        evaluate: Callable[[state_lib.TrainState, int], dict[str, float]] | None = None,
        meta: Callable[[], dict[str, Any]] = dict,
        profile: profiling.Profile | None = None,
        pace: step_line.Pace | None = None,
    ) -> None:
        self.mesh, self.phases, self.every = mesh, phases, every
        self.writer, self.checkpoints, self.evaluate = writer, checkpoints, evaluate
        self.meta, self.profile = meta, profile
        self.pace = step_line.Pace() if pace is None else pace
        self.last_step = phases[-1].last_step
        self._at_margin: dict[str, int] = {}
        self._clock = clock_lib.Clock(every.save_minutes if checkpoints is not None else 0)
        self._terminate: int | None = None

    def run(self, state: state_lib.TrainState, first_step: int) -> state_lib.TrainState:
        """Trains from `first_step` to the end and returns the final state."""
        line = step_line.StepLine(self.last_step, initial=first_step)
        try:
            with self._saving_on_termination():
                for phase in self.phases:
                    if first_step < phase.last_step:
                        state = self._run_phase(phase, state, max(first_step, phase.first_step), line)
        except (RuntimeError, ValueError, OSError) as error:
            # No waiting here: after the failure of a peer the last checkpoint cannot be completed.
            raise processes.peer_failure(error) or error from error
        except errors.UserError:
            self._finish_saving()
            raise
        finally:
            line.close()
            if self.profile is not None:
                self.profile.close()
        self._finish_saving()
        return state

    def _finish_saving(self) -> None:
        if self.checkpoints is not None:
            self.checkpoints.wait()

    def _run_phase(
        self, phase: Phase, state: state_lib.TrainState, first_step: int, line: step_line.StepLine
    ) -> state_lib.TrainState:
        if first_step == phase.first_step:
            state = mesh_lib.place(phase.begin(state), self.mesh)
            state = state if phase.prepare is None else phase.prepare(state)
        window = _Window()
        with contextlib.closing(phase.open_batches(first_step - phase.first_step)) as batches:
            stream = iter(batches)
            for step in range(first_step + 1, phase.last_step + 1):
                asked = time.perf_counter()
                batch = next(stream)
                window.waited += time.perf_counter() - asked
                window.images += phase.batch_size
                first = step == first_step + 1
                with progress.waiting(f"compiling the train step{_of(phase)}", end=False) if first else _NOTHING:
                    state, metrics = self._step(phase, state, batch, step)
                    window.losses.append((step, metrics["loss"]))
                    if len(window.losses) > RUN_AHEAD:
                        jax.block_until_ready(window.losses[-1 - RUN_AHEAD][1])
                    if first:
                        # The first step here compiles, after a resume as well; timing starts after it.
                        window.check()
                if first:
                    LOG.info("first step%s compiled and done in %.1f s", _of(phase), window.seconds)
                    window = _Window()
                window = self._after_step(phase, state, step, metrics, window, line)
        return state

    def _step(self, phase: Phase, state: state_lib.TrainState, batch: Mapping[str, np.ndarray], step: int) -> Any:
        """Returns state and metrics after one step, perhaps before the device is done with it."""
        if self.profile is not None:
            self.profile.before_step(step)
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            state, metrics = phase.step(state, mesh_lib.to_global(batch, self.mesh))
        if self.profile is not None:
            self.profile.after_step(step, metrics)
        return state, metrics

    def _after_step(
        self,
        phase: Phase,
        state: state_lib.TrainState,
        step: int,
        metrics: dict[str, jax.Array],
        window: _Window,
        line: step_line.StepLine,
    ) -> _Window:
        """Logs, evaluates and saves, in this order and if due; returns the window to continue with."""
        if processes.asked_to_stop(step):
            self._terminate = signal.SIGTERM
        last = step == self.last_step
        due = {name: _due(step, getattr(self.every, name), last) for name in ("log", "evaluate", "save")}
        due["save"] = self._clock.due(step) or due["save"]
        if not any(due.values()) and not self._terminate:
            line.update(step)
            return window
        window.check()
        self.pace.add(window.images, window.seconds)
        if due["log"]:
            self._log(phase, step, metrics, window, line)
        line.update(step)
        scores: dict[str, float] = {}
        if due["evaluate"] and self.evaluate is not None:
            scores = self.evaluate(state, step)
            self.writer.write(step, scores)
        if self.checkpoints is not None and (due["save"] or self._terminate):
            self.checkpoints.save(step, state, {**self.meta(), "phase": phase.name}, scores or None)
            self._clock.saved(step)
        elif due["log"]:
            self._clock.plan(step)
        if self._terminate:
            sentence = f"asked to stop at step {step}; saved there, the same command continues from it."
            raise errors.Stopped(sentence, self._terminate)
        return _Window()

    def _log(
        self,
        phase: Phase,
        step: int,
        metrics: dict[str, jax.Array],
        window: _Window,
        line: step_line.StepLine,
    ) -> None:
        fetched = {name: float(value) for name, value in jax.device_get(metrics).items()}
        rates = phase.learning_rates(step - phase.first_step - 1)
        timing: dict[str, float] = {}
        if (speed := self.pace.images_per_second) is not None:
            timing["images_per_second"] = speed
        if window.images:
            timing["data_wait_percent"] = 100 * window.waited / window.seconds
        record = {
            "epoch": (step - phase.first_step) / phase.steps_per_epoch,
            **fetched,
            **rates,
            **timing,
        }
        self.writer.write(step, record)
        line.show(step, record)
        self._watch_collapse(phase, step, fetched)

    def _watch_collapse(self, phase: Phase, step: int, metrics: Mapping[str, float]) -> None:
        """Warns once per term when a triplet loss stays at its margin, the sign of equal embeddings."""
        for name, margin in phase.margins.items():
            stuck = abs(metrics.get(name, math.inf) - margin) < 0.005 * margin
            self._at_margin[name] = self._at_margin.get(name, 0) + 1 if stuck else 0
            if self._at_margin[name] == COLLAPSE_PATIENCE:
                LOG.warning(
                    "%s stays at its margin %.3f (step %d): the embedding has probably collapsed to a point; "
                    "lower the learning rate, lengthen the warm-up, or start from pretrained weights.",
                    *(name, margin, step),
                )

    @contextlib.contextmanager
    def _saving_on_termination(self) -> Iterator[None]:
        """Saves after the current step on SIGTERM (preemption by a scheduler) or Ctrl-C in a run of a single process.

        Processes of a run of several agree on a step after SIGTERM, which their runtime receives; Ctrl-C ends them.
        """
        if processes.process_count() > 1:
            yield
            return
        with interruption.notice(self._stop):
            yield

    def _stop(self, number: int) -> None:
        self._terminate = number
        # Not by logging: the signal may have come in the middle of a log line.
        if number == signal.SIGINT:
            os.write(
                2,
                b"\nstopping after at most three steps under way, which are saved; Ctrl-C again stops at once.\n",
            )


def _due(step: int, every: int, last: bool) -> bool:
    return last or (every > 0 and step % every == 0)


def _of(phase: Phase) -> str:
    return f" of phase {phase.name}" if phase.name else ""
