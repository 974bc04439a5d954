"""An experiment: data, model, and the order of events of a run.

    experiment = Experiment(config)
    experiment.run(folder)

Order of events: open the data and check that it can be evaluated, build the model, restore a checkpoint or initialize
the variables, train, evaluate, write the results.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from reid_jax import build, errors, losses, progress, trees
from reid_jax import config as config_lib
from reid_jax.config import phases
from reid_jax.data import checks, feature_set, pool, records
from reid_jax.inference import extractor as extractor_lib
from reid_jax.inference import features as features_lib
from reid_jax.ops import grouping
from reid_jax.runs import (
    baselines,
    config_checks,
    encoder_files,
    extension,
    further_descriptors,
    initial_weights,
    kept_start,
    plan,
    pretraining,
    results,
    starting_point,
)
from reid_jax.runs import folder as folder_lib
from reid_jax.runs import settings as settings_lib
from reid_jax.runtime import kept_starts, mesh, processes
from reid_jax.train import checkpoints, loop, metrics, overview, profiling, state, step_line
from reid_jax.weights import hub

LOG = logging.getLogger(__name__)


class Experiment:
    """A resolved config with its data and model.

    Args:
        config: see `reid_jax.config.defaults`.
        dataset: opened data set; None opens or prepares the config's data set.

    Raises:
        UserError: invalid config or data, before any training.
    """

    def __init__(self, config: ConfigDict, dataset: records.ReIDDataset | None = None) -> None:
        self.config = config
        self.settings = settings_lib.of(config)
        # A mistake is reported before a data set is prepared, which can take minutes.
        config_checks.check(self.settings)
        self.mesh = mesh.create_mesh()
        self.dataset = build.open_data(self.settings.data) if dataset is None else dataset
        processes.agree("the data set", self.dataset.index_hash() + self.dataset.content)
        LOG.info("%s", self.dataset.describe())
        self.others = build.open_others(self.settings)
        if self.dataset.name in [other.name for other in self.others]:
            raise errors.UserError(
                f"evals.datasets names a data set that goes by the run's own name, {self.dataset.name!r}; rename one."
            )
        for tested in (self.dataset, *self.others):
            checks.check_protocol(
                tested.split("query"), tested.split("gallery"), self.settings.evals.same_camera_filter
            )
        self.overlap = pool.refuse_leaks(self.dataset.split("train"), (self.dataset, *self.others))
        labels, classes = records.train_labels(self.dataset.split("train"))
        self.num_classes = len(classes)
        self.num_cameras = int(self.dataset.split("train").camids.max()) + 1
        self.model = build.build_model(self.settings, self.num_classes, self.num_cameras)
        self.preprocess = build.make_preprocess(self.settings.preprocess)
        self.extractor = extractor_lib.Extractor(self.model, self.settings, self.mesh)
        self._initialize = build.initializer(self.model, self.settings, self.extractor.example_batch())
        self._drawn_by: kept_starts.Kept | None = None
        self._compiling: kept_starts.Begun | None = None  # first step
        self.kept = kept_start.KeptStart(config, self.dataset, self.mesh, self.mesh.size)
        self._last_step = 0
        self._kept: dict[str, results.Evaluation] = {}  # of the last step, by data set
        self.pretraining: pretraining.Pretraining | None = None
        if pretraining.is_pretraining(self.model):
            self.pretraining = pretraining.Pretraining(self.model, self.settings, self.dataset, self.extractor)
        self._folder: folder_lib.RunFolder | None = None  # of the run in progress
        self._schedule: list[loop.Phase] = []
        self.further = further_descriptors.extractors(self.settings, self.num_classes, self.num_cameras, self.mesh)
        self.plan = plan.Plan(
            self.settings,
            self.dataset,
            labels,
            self.num_classes,
            self.model,
            self.preprocess,
            self._load,
            self.mesh,
        )

    # ---- initial state ----------------------------------------------------------------------------------------------

    def initial_state(self, *, weights: bool = True) -> state.TrainState:
        """Returns the state before the first step.

        Args:
            weights: whether to load the weights that the config names; False if a checkpoint is restored afterwards.
        """
        with progress.waiting("drawing the initial variables"):
            example = self.extractor.example_batch()
            drawn_by = self._initial_program()
            program = grouping.Program(drawn_by.programs[0], drawn_by.about)
            variables = build.init_variables(self.model, self.settings, example, program)
        if weights:
            variables = starting_point.fill(variables, self.settings, self.model)
        carried = mesh.place(starting_point.extras(self.settings.init), self.mesh)
        return state.create(mesh.place(variables, self.mesh)).replace(extra=carried)

    def _initial_program(self) -> kept_starts.Kept:
        """Returns the compiled program of the initial variables, with its layout."""
        if self._drawn_by is None:
            key = jax.eval_shape(lambda: jax.random.key(0))
            layout = self._initialize.layout(key)
            self._drawn_by = self.kept.initial() or kept_starts.compiled(
                [self._initialize.lower(key)], jax.devices()[:1], layout
            )
        return self._drawn_by

    def initial_shapes(self) -> state.TrainState:
        """Returns the shapes of `initial_state`; nothing is computed, and with a kept start nothing traced."""
        if self._drawn_by is None:
            variables = build.variable_shapes(
                self.model, self.settings, self.extractor.example_batch(), self._initialize
            )
        else:
            variables = build.collections(self._drawn_by.about.shapes)
        carried = jax.eval_shape(lambda: starting_point.extras(self.settings.init))
        shapes: state.TrainState = jax.eval_shape(state.create, variables).replace(extra=carried)
        return shapes

    def rehearse(self, first_step: int = 0) -> list[loop.Phase]:
        """Returns the phases after tracing the train step of each that remains, see `plan.Plan.rehearse`.

        Where an earlier start has kept that step, it is read in the background, and nothing is traced.

        Raises:
            UserError: settings that do not fit each other, the model, the data or the devices.
        """
        self.plan.check_batches()
        self._drawn_by = self.kept.initial()
        shapes = self.initial_shapes()
        schedule = self.phases(shapes.variables)
        if self.kept.adopt(schedule, first_step):
            LOG.info("an earlier start of this config has kept its programs: nothing is traced")
            return schedule
        with progress.waiting("tracing the train step"):
            self._compiling = self.plan.rehearse(shapes, schedule, first_step)
        return schedule

    def outline(self) -> None:
        """Traces the losses of every phase, see `plan.Plan.outline`.

        Raises:
            UserError: as `rehearse`, but for what only gradients and updates can find.
        """
        self.plan.check_batches()
        shapes = self.initial_shapes()
        self.plan.outline(shapes, self.phases(shapes.variables))

    def _load(self, variables: Mapping[str, Any], text: str) -> dict[str, Any]:
        """Returns the variables after loading a weights file, or published weights by name."""
        return starting_point.load_file(variables, self.settings, self.model, text)

    def phases(self, variables: build.Variables) -> list[loop.Phase]:
        """Returns the phases of the run, see `plan.Plan.phases`."""
        return self.plan.phases(variables)

    # ---- evaluation -------------------------------------------------------------------------------------------------

    def features(self, variables: build.Variables, dataset: records.ReIDDataset) -> feature_set.FeatureSet:
        """Returns the features of query and gallery of a data set."""
        meta = features_lib.feature_meta(self.settings)
        return features_lib.describe_dataset(self.extractor, variables, dataset, meta)

    def evaluation(self, variables: build.Variables, dataset: records.ReIDDataset) -> results.Evaluation:
        """Returns features and ranking of a data set; those of the last step are kept, see `scores`."""
        if dataset.name not in self._kept:
            features = self.features(variables, dataset)
            return results.Evaluation(features, results.rank(features, self.settings.evals))
        return self._kept.pop(dataset.name)

    def scores(self, train_state: state.TrainState, at_step: int) -> dict[str, float]:
        """Returns the scores of an evaluation during training by name, identical on every process.

        Args:
            train_state: current state.
            at_step: its step, for the log.
        """
        started = time.perf_counter()
        variables = evaluated_variables(train_state)
        named: dict[str, float] = {}
        for tested in (self.dataset, *self.others):
            evaluated = self.evaluation(variables, tested)
            if at_step == self._last_step:
                # The final evaluation is this one; features of earlier steps would only take memory.
                self._kept[tested.name] = evaluated
            scores = evaluated.ranking.scores(tested.name)
            shown = ", ".join(f"{name.split('/', 1)[1]} {100 * value:.2f} %" for name, value in scores.items())
            on = f" on {tested.name}" if tested is not self.dataset else ""
            LOG.info("step %d%s: %s (%.1f s)", at_step, on, shown, time.perf_counter() - started)
            named |= scores
            if self.pretraining is not None and tested is self.dataset and at_step != self._last_step:
                named |= self.pretraining.during(variables, evaluated.features)
                self._keep_encoder(variables, at_step)
        return named

    def _keep_encoder(self, variables: build.Variables, at_step: int) -> None:
        """Writes the encoder of pretraining at a step into the run folder, `encoder_<epoch>.npz`."""
        if self.pretraining is not None and self._folder is not None:
            meta = self.pretraining.meta(at_step, plan.images_until(at_step, self._schedule))
            epoch = round(at_step / self._schedule[0].steps_per_epoch)
            encoder_files.write(self._folder.path, variables, meta, f"encoder_{epoch}.npz")

    @property
    def _from_scratch(self) -> bool:
        """Whether the run starts from random variables, which its seed alone decides."""
        return hub.is_scratch(self.settings.init.weights) and not self.settings.init.trained

    def baselines(self, initial: state.TrainState) -> dict[str, float]:
        """Returns the scores of the baselines by name: the network at the start, raw pixels, color histogram.

        Every data set that the run is evaluated on has them.
        """
        evals = self.settings.evals
        named: dict[str, float] = {}
        start = "untrained" if self._from_scratch else "start"
        for tested in (self.dataset, *self.others):
            prefix = f"{tested.name}/baseline"
            features = self.features(initial.variables, tested)
            named |= results.rank(features, evals).scores(f"{prefix}/{start}")
            if self.pretraining is not None and tested is self.dataset:
                named |= self.pretraining.baselines(initial.variables, start, features)
            for name, describe in baselines.SIMPLE_FEATURES.items():
                ranking = results.rank(baselines.extract_simple(describe, tested, self.extractor.size), evals)
                named |= ranking.scores(f"{prefix}/{name}")
        return named

    # ---- the run ----------------------------------------------------------------------------------------------------

    def run(
        self,
        folder: folder_lib.RunFolder,
        *,
        train: bool = True,
        evaluate: bool = True,
        profile: profiling.Steps | None = None,
    ) -> dict[str, Any] | None:
        """Trains from the newest checkpoint or the initial state, evaluates, and writes the results.

        Args:
            folder: run folder that this config has claimed.
            train: whether to train; False evaluates the newest checkpoint only.
            evaluate: whether to evaluate at the end.
            profile: steps that the profiler records; None for `log.profile_steps`.

        Returns:
            The content of `result.json`, None without evaluation.

        Raises:
            UserError: there is no checkpoint to evaluate, it was trained on other data, there is nothing to learn, or
                the steps to record are not among those of the run.
        """
        if train:
            self._check_identities()
        saved = checkpoints.Checkpoints(
            folder.checkpoints,
            best_metric=f"{self.dataset.name}/mAP",
            keep_best=self.settings.checkpoint.keep_best,
            remote=folder.remote_checkpoints,
        )
        # By shapes first: what does not fit is found before anything is compiled.
        begun = saved.latest_step() or 0
        if train and any(phase.train.accumulate == "auto" for _, phase in phases.resolve(self.settings)):
            first = folder.first_devices(self.mesh.size) if processes.is_main() else 0
            self.plan.first_devices = processes.number_of_main(first)
            self.kept = kept_start.KeptStart(self.config, self.dataset, self.mesh, self.plan.first_devices)
        schedule = self.rehearse(begun) if train else None
        if schedule is not None and profile is not None:
            profiling.check(profile, begun, schedule[-1].last_step)
        initial = self.initial_state(weights=saved.latest_step() is None)
        if schedule is not None and self._compiling is not None:
            self.kept.keep(self._initial_program(), schedule, begun, self._compiling)
        LOG.info("%s", overview.parameter_overview(initial.params))
        schedule = schedule or self.phases(initial.variables)
        self._last_step, self._schedule, self._folder = schedule[-1].last_step, schedule, folder
        train_state, meta = self._resume(saved, initial, schedule)
        meta["extended"] = self._extensions(folder, initial.variables, schedule)
        if not train and not meta["step"]:
            raise errors.UserError(
                f"expected a checkpoint in {folder.checkpoints} to evaluate, found none; train first."
            )
        # Random variables can be drawn again, so their baseline does not delay the first step.
        if self.settings.evals.baselines and not self._from_scratch and not meta["step"]:
            meta["baselines"] = self.baselines(initial)
        parameters = trees.count_parameters(initial.params)
        if train and not meta["step"]:
            self._keep_encoder(initial.variables, 0)
        del initial
        if train and meta["step"] < schedule[-1].last_step:
            recorded = profile or profiling.after_warm_up(self.settings.log.profile_steps, meta["step"])
            train_state = self._train(folder, saved, schedule, train_state, meta, recorded)
        saved.close()
        if not evaluate:
            return None
        if self.settings.evals.baselines and self._from_scratch and not meta["baselines"]:
            meta["baselines"] = self.baselines(self.initial_state())
        history = {**_history(train_state, schedule, meta), "parameters": parameters}
        networks = {name: train_state.extra[name] for name in self.settings.evals.networks if name in train_state.extra}
        history |= further_descriptors.network_scores(networks, self.extractor, self.dataset)
        if self.pretraining is not None:
            history["images_seen"] = plan.images_until(history["steps"], schedule)
            history |= {} if self.overlap is None else {"pool_overlap": self.overlap}
        complete = history["steps"] == schedule[-1].last_step
        return results.finish(self, folder, evaluated_variables(train_state), history, complete=complete)

    def _extensions(
        self, folder: folder_lib.RunFolder, variables: build.Variables, schedule: list[loop.Phase]
    ) -> list[str]:
        """Returns a sentence for each time that the run was given more epochs, and logs it."""
        entries = extension.read(folder)
        sentences = []
        for index, entry in enumerate(entries):
            with metrics.unlogged():
                shorter = self.plan.with_settings(extension.before(self.config, entries, index)).phases(variables)
            difference = extension.first_difference(shorter, schedule, entry["step"])
            sentences.append(extension.sentence(entry["step"], difference))
            LOG.info("%s", sentences[-1])
        return sentences

    def _check_identities(self) -> None:
        """Raises a `UserError` where the losses compare identities and there is one only."""
        if self.num_classes < 2 and any(losses.read_labels(phase.losses) for _, phase in phases.resolve(self.settings)):
            raise errors.UserError(
                f"expected two or more training identities in {self.dataset.split('train').name}, got one, so that "
                "there is nothing to tell apart; add images of other people to the training split."
            )

    def first_meta(self) -> dict[str, Any]:
        """Returns the meta data of a checkpoint at the start of a run."""
        return {
            "step": 0,
            "train_seconds": 0.0,
            "timed_images": 0,
            "num_classes": self.num_classes,
            "num_cameras": self.num_cameras,
            "index_hash": self.dataset.index_hash(),
            "content_hash": self.dataset.content,
            "config_hash": config_lib.config_hash(self.config),
            "baselines": {},
            "started_from": initial_weights.description(self.settings),
            **initial_weights.cost(self.settings.init),
        }

    def _resume(
        self, saved: checkpoints.Checkpoints, initial: state.TrainState, schedule: list[loop.Phase]
    ) -> tuple[state.TrainState, dict[str, Any]]:
        """Returns state and meta data of the newest readable checkpoint, or the initial state at step 0."""

        def abstract_at(at_step: int) -> state.TrainState:
            shapes = jax.eval_shape(functools.partial(plan.state_at, schedule=schedule, at_step=at_step), initial)
            abstract: state.TrainState = mesh.abstract(shapes, self.mesh)
            return abstract

        found = saved.restore_newest(abstract_at, lambda meta: _check_same_data(meta, self.dataset))
        if found is None:
            meta = self.first_meta()
            LOG.info("start: %s", meta["started_from"])
            if advice := initial_weights.scratch_advice(self.settings):
                LOG.info("%s", advice)
            return initial, meta
        at_step, restored, meta = found
        began = f"; the run began from {meta['started_from']}" if "started_from" in meta else ""
        LOG.info("resumed at step %d of %d%s", at_step, schedule[-1].last_step, began)
        return restored, {**meta, "step": at_step}

    def _train(
        self,
        folder: folder_lib.RunFolder,
        saved: checkpoints.Checkpoints,
        schedule: list[loop.Phase],
        train_state: state.TrainState,
        meta: dict[str, Any],
        recorded: profiling.Steps | None,
    ) -> state.TrainState:
        """Returns the state after training; adds images and seconds of the timed steps to `meta`."""
        # Checkpoints of earlier versions have no count of timed images.
        images = meta.get("timed_images", plan.images_until(meta["step"], schedule))
        pace = step_line.Pace(images, meta["train_seconds"])

        def current_meta() -> dict[str, Any]:
            return {**meta, "train_seconds": pace.seconds, "timed_images": pace.images}

        writer = metrics.MetricWriter(folder.path, resume_step=meta["step"], active=processes.is_main())
        trainer = loop.Loop(
            self.mesh,
            schedule,
            self._every(schedule[0].steps_per_epoch),
            writer=writer,
            checkpoints=saved,
            evaluate=self.scores if self.settings.evals.every_epochs else None,
            meta=current_meta,
            profile=profiling.Profile(folder.path, recorded),
            pace=pace,
        )
        try:
            train_state = trainer.run(train_state, meta["step"])
        finally:
            writer.close()
        meta.update(current_meta())
        return train_state

    def _every(self, steps_per_epoch: int) -> loop.Every:
        """Returns the intervals of logging, evaluation and checkpoints in steps."""
        checkpoint = self.settings.checkpoint
        return loop.Every(
            log=self.settings.log.every_steps,
            evaluate=round(self.settings.evals.every_epochs * steps_per_epoch),
            save=checkpoint.every_steps or round(checkpoint.every_epochs * steps_per_epoch),
            save_minutes=checkpoint.every_minutes,
        )


def _check_same_data(meta: Mapping[str, Any], dataset: records.ReIDDataset) -> None:
    """Raises a `UserError` where a checkpoint was trained on other data.

    Args:
        meta: meta data of the checkpoint.
        dataset: the data set now; other names, identities or cameras, or other images under the same names, are other
            data.
    """
    if meta["index_hash"] != dataset.index_hash():
        raise errors.UserError(
            f"expected the data this run was trained on (index {meta['index_hash'][:12]}), got "
            f"{dataset.index_hash()[:12]}; restore the data set, or start a new --workdir."
        )
    before = meta.get("content_hash", "")  # unknown for runs of earlier versions and data sets in memory
    if before and dataset.content and before != dataset.content:
        raise errors.UserError(
            f"expected the images this run was trained on (content {before[:12]}), got other images under the same "
            f"names ({dataset.content[:12]}); restore the data set, or start a new --workdir."
        )


def evaluated_variables(train_state: state.TrainState) -> build.Variables:
    """Returns the variables to evaluate: the moving average if the config has one, else the trained variables."""
    average: build.Variables = train_state.extra.get("average", train_state.variables)
    return average


def _history(train_state: state.TrainState, schedule: list[loop.Phase], meta: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the entries of `result.json` that describe the training."""
    steps, seconds = int(jax.device_get(train_state.step)), meta["train_seconds"]
    images = meta.get("timed_images", plan.images_until(steps, schedule))
    speed = step_line.Pace(images, seconds).images_per_second
    # Checkpoints of earlier versions do not say what their run started from.
    start = {"started_from": meta["started_from"]} if "started_from" in meta else {}
    start |= {key: meta[key] for key in initial_weights.COST if key in meta}
    start |= {"extended": meta["extended"]} if meta.get("extended") else {}
    return {
        **meta["baselines"],
        **start,
        "steps": steps,
        **{key: value for phase in schedule for key, value in phase.about.items()},
        "train_seconds": round(seconds, 1),
        "images_per_second": None if speed is None else round(speed, 1),
    }
