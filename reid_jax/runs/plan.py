"""The training plan of a run: its phases, with compiled train steps and streams of batches."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from reid_jax import config as config_lib
from reid_jax import errors, losses, models
from reid_jax.config import phases as phases_lib
from reid_jax.config import sections
from reid_jax.data import pipeline, records, samplers
from reid_jax.federated import phase as federated_phase
from reid_jax.ops import batch_parts
from reid_jax.runs import image_features
from reid_jax.runtime import kept_starts
from reid_jax.runtime import mesh as mesh_lib
from reid_jax.train import extras, loop, micro_batches, objective, optimizer, state, step

LOG = logging.getLogger(__name__)

Variables = Mapping[str, Any]
# Offset of the keys of phases, to separate them from the keys of steps, which are derived from the same seed.
_KEY_OF_PHASES = 2**20


class Plan:
    """The phases of a run.

    Args:
        settings: settings of the run.
        dataset: data set with a training split.
        labels: int [N], class of each training image.
        num_classes: number of training identities.
        model: the model.
        preprocess: `(batch, key) -> batch`, see `reid_jax.build.make_preprocess`.
        load: `(variables, path) -> variables`, loads a weights file.
        mesh: devices.
        first_devices: number of devices when the run began; None for those of `mesh`.
    """

    def __init__(
        self,
        settings: config_lib.Settings,
        dataset: records.ReIDDataset,
        labels: np.ndarray,
        num_classes: int,
        model: Any,
        preprocess: Callable[..., Any],
        load: extras.Load,
        mesh: jax.sharding.Mesh,
        first_devices: int | None = None,
    ) -> None:
        self.first_devices = mesh.size if first_devices is None else first_devices
        self.settings, self.dataset, self.labels, self.num_classes = settings, dataset, labels, num_classes
        self.model, self.preprocess, self.load, self.mesh = model, preprocess, load, mesh

    def with_settings(self, settings: config_lib.Settings) -> Plan:
        """Returns the plan of other settings for the same model and data."""
        parts = (self.dataset, self.labels, self.num_classes, self.model, self.preprocess, self.load, self.mesh)
        return Plan(settings, *parts, self.first_devices)

    def phases(self, variables: Variables) -> list[loop.Phase]:
        """Returns the phases in order; together they cover all steps of the run.

        Args:
            variables: variables of the model; shapes suffice.

        Raises:
            UserError: settings that are incompatible with each other, the data or the devices.
        """
        built: list[loop.Phase] = []
        first_step = 0
        for index, (name, settings) in enumerate(phases_lib.resolve(self.settings)):
            _check_statistics(settings, bool(variables.get("batch_stats")))
            phase = self._phase(index, name, settings, variables, first_step)
            built.append(phase)
            first_step = phase.last_step
        return built

    def _phase(
        self, index: int, name: str, settings: config_lib.Settings, variables: Variables, first_step: int
    ) -> loop.Phase:
        """Returns a joint or federated phase."""
        if federated_phase.is_federated(settings):
            return federated_phase.phase(
                settings,
                self.dataset.split("train"),
                self.labels,
                self.objective_of(settings, settings.losses),
                self.model.describe,
                variables,
                self.mesh,
                self.open_batches,
                self.example,
                margins(settings.losses),
            )
        return self._joint_phase(index, name, settings, variables["params"], first_step)

    def _joint_phase(
        self, index: int, name: str, settings: config_lib.Settings, params: Any, first_step: int
    ) -> loop.Phase:
        """Returns a phase of ordinary training."""
        seed = samplers.derived_seed(settings.seed, "phase", index)
        sampler = samplers.build(settings.data.sampler, self.labels, seed)
        self._check_batch(sampler.batch_size)
        steps_per_epoch = sampler.batches_per_epoch
        total = max(1, round(settings.train.epochs * steps_per_epoch))
        turns = settings.train.turns
        # Schedules count updates; a step has one update for each turn.
        updates = max(1, len(turns))
        transformation, groups = optimizer.build(
            settings.optimizer.as_dict(), settings.schedule, params, total * updates, steps_per_epoch * updates
        )
        LOG.info("parameter groups%s:\n%s", f" of phase {name}" if name else "", groups.describe())
        images = len(self.dataset.split("train"))
        owned = extras.build(_extras(settings), num_classes=self.num_classes, num_images=images, load=self.load)
        terms = [losses.of_turn(settings.losses, turn, turns) for turn in turns or ("",)]
        train_step = step.make_train_step(
            [self.objective_of(settings, each) for each in terms],
            transformation,
            owned,
            seed=settings.seed,
            mesh=self.mesh,
            accumulate=self._micro_batches(settings, sampler.batch_size),
        )
        return loop.Phase(
            name=name,
            first_step=first_step,
            last_step=first_step + total,
            steps_per_epoch=steps_per_epoch,
            begin=lambda old: state.begin_phase(
                old,
                transformation,
                owned,
                # Two programs, which a phase without extras does not compile.
                jax.random.fold_in(jax.random.key(settings.seed), _KEY_OF_PHASES + index) if owned else None,
                settings.start_from,
                self.model,
            ),
            step=train_step,
            open_batches=functools.partial(self.open_batches, settings.data, seed),
            batch_size=sampler.batch_size,
            learning_rates=lambda at: groups.learning_rates(at * updates),
            margins=margins(settings.losses),
            example=functools.partial(self.example, settings.data, seed),
            prepare=lambda begun: image_features.fill(
                begun,
                owned,
                self.model,
                self.preprocess,
                self.dataset.split("train"),
                settings.data,
                self.mesh,
                -(-settings.evals.batch_size // self.mesh.size) * self.mesh.size,
            ),
        )

    def check_batches(self) -> None:
        """Checks that the sampler of every phase fits the data and the devices, without tracing anything.

        Raises:
            UserError: more identities or images than there are, or a batch that cannot be split evenly.
        """
        if federated_phase.is_federated(self.settings):
            return
        for _, settings in phases_lib.resolve(self.settings):
            sampler = samplers.build(settings.data.sampler, self.labels, settings.seed)
            self._check_batch(sampler.batch_size)
            self._micro_batches(settings, sampler.batch_size)

    def _micro_batches(self, settings: config_lib.Settings, images: int) -> int:
        """Returns the number of micro-batches of a phase, see `train.accumulate`.

        Raises:
            UserError: the batch cannot be divided into so many equal parts.
        """
        at_once = settings.train.device_batch or -(-images // self.first_devices)
        return micro_batches.count(settings.train.accumulate, images, self.mesh.size, at_once)

    def _check_batch(self, images: int) -> None:
        """Raises a `UserError` if the batch cannot be split evenly over the devices."""
        if images % self.mesh.size:
            raise errors.UserError(
                f"a batch of {images} images does not divide evenly over {self.mesh.size} devices; change data.sampler "
                "so that the batch is a multiple of their number, or use fewer devices."
            )

    def objective_of(self, settings: config_lib.Settings, terms: Mapping[str, Any]) -> objective.Objective:
        """Returns the objective of some loss terms, with the passes and monitors of a phase's settings."""
        passes = {name: objective.Pass(**fields) for name, fields in settings.passes.items()}
        for each in passes.values():
            models.check_mode(self.model, each.mode)
        functions: tuple[Callable[..., Any], ...] = (self.model.apply, batch_parts.join, batch_parts.separate)
        if not federated_phase.is_federated(settings):
            # The clients of a federation train each on its own.
            parts = batch_parts.Parts(self.mesh, settings.train.batch_statistics)
            functions = tuple(batch_parts.applied(each, parts) for each in functions)
        apply, join, separate = functions
        return objective.Objective(
            apply=apply,
            preprocess=self.preprocess,
            passes=passes,
            terms=terms,
            monitors=settings.monitors,
            join=join,
            separate=separate,
        )

    # ---- batches ----------------------------------------------------------------------------------------------------

    def open_batches(self, data: sections.Data, seed: int, start_step: int) -> pipeline.TrainBatches:
        """Returns a stream of training batches.

        Args:
            data: section `data` of the phase.
            seed: seed of sampler and augmentation.
            start_step: index of the first batch.
        """
        return pipeline.train_batches(
            self.dataset.split("train"),
            self.labels,
            sampler=data.sampler,
            augment=data.augment,
            views=data.views,
            maps=data.maps,
            height=data.height,
            width=data.width,
            interpolation=data.interpolation,
            cache=data.cache,
            cache_folder=self.dataset.path / "decoded" if self.dataset.path else None,
            workers=data.workers,
            threads=data.threads,
            seed=seed,
            start_step=start_step,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def example(self, data: sections.Data, seed: int) -> dict[str, Any]:
        """Returns the first batch of a stream, without worker processes, threads or caches."""
        plain = dataclasses.replace(data, workers=0, threads=0, cache="none")
        with self.open_batches(plain, seed, 0) as batches:
            return next(batches)

    # ---- before the first step --------------------------------------------------------------------------------------

    def rehearse(
        self, initial: state.TrainState, schedule: list[loop.Phase], first_step: int = 0
    ) -> kept_starts.Begun | None:
        """Traces the train step of every remaining phase on shapes, after loading one batch of each.

        Errors in later phases, loss terms or augmentations are thus reported at the start. The first of them is
        compiled in the background from here on, where there is one process; what is traced is not traced again.

        Args:
            initial: state before the first step.
            schedule: all phases.
            first_step: phases that end at or before this step are not traced.

        Returns:
            The program that is being compiled; None where there is none.

        Raises:
            UserError: such an error.
        """
        sharded = mesh_lib.sharded(self.mesh)
        abstract = initial
        program, first = None, jax.process_count() == 1
        for phase in schedule:
            abstract = jax.eval_shape(phase.begin, abstract)
            if phase.last_step <= first_step or phase.example is None:
                continue
            shares = jax.process_count()
            batch = {
                name: jax.ShapeDtypeStruct((shares * len(value), *value.shape[1:]), value.dtype, sharding=sharded)
                for name, value in phase.example().items()
            }
            abstract = mesh_lib.abstract(abstract, self.mesh)
            if first and isinstance(phase.step, step.TrainStep):
                program = phase.step.begin(abstract, batch)
            else:
                jax.eval_shape(phase.step, abstract, batch)
            first = False
        return program

    def outline(self, initial: state.TrainState, schedule: list[loop.Phase]) -> None:
        """Traces the losses of every joint phase alone, half the time of `rehearse` and with most of its errors.

        Args:
            initial: shapes of the state before the first step.
            schedule: all phases.

        Raises:
            UserError: an output, a view or an array of the batch that a loss or a pass names and that does not exist.
        """
        abstract, key = initial, jax.eval_shape(lambda: jax.random.key(0))
        for phase, (_, settings) in zip(schedule, phases_lib.resolve(self.settings), strict=True):
            abstract = jax.eval_shape(phase.begin, abstract)
            if phase.example is None:
                continue
            batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), phase.example())
            for turn in settings.train.turns or ("",):
                terms = losses.of_turn(settings.losses, turn, settings.train.turns)
                jax.eval_shape(self.objective_of(settings, terms), abstract.variables, abstract.extra, batch, key)


def state_at(initial: state.TrainState, schedule: list[loop.Phase], at_step: int) -> state.TrainState:
    """Returns the state with the structure that it has after some steps: every started phase has added its part.

    Args:
        initial: state before the first step; shapes suffice.
        schedule: all phases.
        at_step: number of steps.
    """
    train_state = initial
    for phase in schedule:
        if phase.first_step < at_step:
            train_state = phase.begin(train_state)
    return train_state


def images_until(steps: int, schedule: list[loop.Phase]) -> int:
    """Returns the number of training images seen in the first `steps` steps."""
    return sum(max(0, min(steps, phase.last_step) - phase.first_step) * phase.batch_size for phase in schedule)


def _check_statistics(settings: config_lib.Settings, normalizes: bool) -> None:
    """Checks what batch normalization means for micro-batches.

    Args:
        settings: of a phase.
        normalizes: whether the model has batch normalization.

    Raises:
        UserError: it would mean another thing on another number of devices.
    """
    train = settings.train
    if not normalizes or train.accumulate == 1:
        return
    if train.accumulate == micro_batches.AUTO and train.batch_statistics == "global":
        raise errors.UserError(
            "expected train.batch_statistics='device' with train.accumulate='auto', got 'global': this model has batch "
            "normalization, whose statistics cannot be those of a batch that is not on the devices at once; set it for "
            "the whole run, or set train.accumulate=1."
        )
    if train.batch_statistics == "global":
        LOG.warning(
            "train.accumulate=%s: batch normalization takes the statistics of each micro-batch", train.accumulate
        )


def margins(terms: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Returns the value of each triplet term for collapsed embeddings: the margin, or log 2 for a soft margin."""
    return {
        f"loss/{name}": math.log(2) if term.get("margin") == "soft" else float(term.get("margin", 0.3))
        for name, term in terms.items()
        if term and term.get("loss") == "triplet"
    }


def _extras(settings: config_lib.Settings) -> dict[str, Any]:
    """Returns the extras of a phase, the moving average included."""
    decay = settings.train.ema_decay
    average = {"average": {"kind": "moving_average", "decay": decay}} if decay else {}
    return {**settings.extras, **average}
