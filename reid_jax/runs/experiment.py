"""One experiment: the only place that knows everything and turns a config into objects.

    experiment = Experiment(config)
    experiment.run(workdir)

Order of a run: open the data and check that it can be evaluated, build the model, resume or load weights or start
from scratch, train, evaluate, write `result.json` and the page of ranked lists.
"""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from reid_jax import build, errors, losses, models, trees
from reid_jax import config as config_lib
from reid_jax.config import phases
from reid_jax.data import checks, feature_set, pipeline, records, samplers
from reid_jax.evaluation import ranking, robustness, suite
from reid_jax.federated import phase as phase_lib
from reid_jax.inference import extractor
from reid_jax.inference import features as features_lib
from reid_jax.runs import baselines as baselines_lib
from reid_jax.runs import drawn_patches, results
from reid_jax.runs import folder as folder_lib
from reid_jax.runs import settings as settings_lib
from reid_jax.runtime import mesh, processes, provenance
from reid_jax.train import checkpoints, extras, loop, metrics, objective, optimizer, state, step

LOG = logging.getLogger(__name__)


class Experiment:
    """A resolved config with its data and model.

    Args:
        config: see `reid_jax.config.defaults`.
        dataset: opened data set; None opens (or prepares) the one the config names.

    Raises:
        UserError: for every mistake in config or data, before anything is trained.
    """

    def __init__(self, config: ConfigDict, dataset: records.ReIDDataset | None = None) -> None:
        self.config = config
        self.settings: dict[str, Any] = config_lib.to_dict(config)
        settings_lib.check(self.settings)
        self.mesh = mesh.create_mesh()
        self.dataset = build.open_data(self.settings["data"]) if dataset is None else dataset
        processes.agree("the data set", self.dataset.index_hash())
        LOG.info("%s", self.dataset.describe())
        self.others = build.open_others(self.settings)
        for tested in (self.dataset, *self.others):
            checks.check_protocol(
                tested.split("query"), tested.split("gallery"), self.settings["evals"]["same_camera_filter"]
            )
        self.labels, classes = records.train_labels(self.dataset.split("train"))
        self.num_classes = len(classes)
        self.num_cameras = int(self.dataset.split("train").camids.max()) + 1
        self.model = build.build_model(self.settings, self.num_classes, self.num_cameras)
        self.preprocess = build.make_preprocess(self.settings["preprocess"])
        self.extractor = extractor.Extractor(self.model, self.settings, self.mesh)

    # ---- training ---------------------------------------------------------------------------------------------------

    def initial_state(self, *, weights: bool = True) -> state.TrainState:
        """Random variables from the config's seed, then (unless the run is resumed) the weights the config names."""
        variables = build.init_variables(self.model, self.settings, self.extractor.example_batch())
        path = self.settings["init"]["weights"]
        if path and weights:
            variables = self._load(variables, path)
        if weights:
            variables = self._load_parts(variables)
        return state.create(mesh.replicate(variables, self.mesh))

    def _load(self, variables: Mapping[str, Any], path: str) -> dict[str, Any]:
        """The model's variables with those of a weights file."""
        name, allowed = self.settings["model"]["name"], self.settings["init"]["allow_missing"]
        filled, outcome = models.load_weights(name, variables, path, model=self.model, allow_missing=allowed)
        LOG.info("weights from %s:\n%s", path, outcome)
        return filled

    def _load_parts(self, variables: dict[str, Any]) -> dict[str, Any]:
        """The variables with parts that have files of their own, such as a text transformer."""
        for key, read in models.part_loaders(self.settings["model"]["name"]).items():
            path = self.settings["init"].get(key, "")
            if path:
                variables, outcome = read(variables, path)
                LOG.info("%s from %s:\n%s", key.replace("_", " "), path, outcome)
        return variables

    def phases(self, variables: build.Variables) -> list[loop.Phase]:
        """The config's phases as compiled steps and input streams, covering all steps of the run."""
        built: list[loop.Phase] = []
        first_step = 0
        for index, (name, settings) in enumerate(phases.phase_configs(self.settings)):
            phase = self._phase(index, name, settings, variables, first_step)
            built.append(phase)
            first_step = phase.last_step
        return built

    def _phase(
        self, index: int, name: str, settings: Mapping[str, Any], variables: build.Variables, first_step: int
    ) -> loop.Phase:
        if phase_lib.is_federated(settings):
            return phase_lib.phase(
                settings,
                self.dataset.split("train"),
                self.labels,
                self._objective(settings, settings["losses"]),
                self.model.describe,
                variables,
                self.mesh,
                self._open_batches,
                self._example,
                _margins(settings["losses"]),
            )
        params = variables["params"]
        # Each phase reads its own stream of batches.
        seed = settings["seed"] + 1000 * index
        sampler = samplers.build(settings["data"]["sampler"], self.labels, seed)
        if sampler.batch_size % self.mesh.size:
            raise errors.UserError(
                f"a batch of {sampler.batch_size} images does not divide evenly over {self.mesh.size} devices; change "
                "data.sampler so that the batch is a multiple of their number, or use fewer devices."
            )
        steps_per_epoch = sampler.batches_per_epoch
        total = max(1, round(settings["train"]["epochs"] * steps_per_epoch))
        turns = tuple(settings["train"].get("turns", ()))
        # Schedules count updates, of which a step makes one for each turn.
        updates = max(1, len(turns))
        transformation, groups = optimizer.build(
            settings["optimizer"], settings["schedule"], params, total * updates, steps_per_epoch * updates
        )
        LOG.info("parameter groups%s:\n%s", f" of phase {name}" if name else "", groups.describe())
        owned = extras.build(self._extras(settings), num_classes=self.num_classes, load=self._load)
        goals = [self._objective(settings, losses.of_turn(settings["losses"], turn, turns)) for turn in turns or ("",)]
        train_step = step.make_train_step(
            goals,
            transformation,
            owned,
            seed=settings["seed"],
            mesh=self.mesh,
            accumulate=settings["train"]["accumulate"],
            group_size=settings["data"]["sampler"].get("images", 1),
        )
        key = jax.random.fold_in(jax.random.key(settings["seed"]), 2**20 + index)
        return loop.Phase(
            name=name,
            first_step=first_step,
            last_step=first_step + total,
            steps_per_epoch=steps_per_epoch,
            begin=lambda old: state.begin_phase(
                old, transformation, owned, key, settings.get("start_from", ""), self.model
            ),
            step=train_step,
            open_batches=functools.partial(self._open_batches, settings["data"], seed),
            batch_size=sampler.batch_size,
            learning_rates=lambda at: groups.learning_rates(at * updates),
            margins=_margins(settings["losses"]),
            example=functools.partial(self._example, settings["data"], seed),
        )

    def _objective(self, settings: Mapping[str, Any], terms: Mapping[str, Any]) -> objective.Objective:
        return objective.Objective(
            apply=self.model.apply,
            preprocess=self.preprocess,
            passes={key: objective.Pass(**each) for key, each in settings["passes"].items()},
            terms=terms,
            monitors=settings["monitors"],
        )

    def rehearse(self, initial: state.TrainState, schedule: list[loop.Phase], first_step: int = 0) -> None:
        """Traces what is left to train on shapes and reads one batch of each phase: a mistake in a later phase, in a
        loss term or in an augmentation is told now.

        The traced programs are kept by jit: the first real step does not trace again.
        """
        sharded, replicated = mesh.sharded(self.mesh), mesh.replicated(self.mesh)
        abstract = initial
        for phase in schedule:
            abstract = jax.eval_shape(phase.begin, abstract)
            if phase.last_step <= first_step or phase.example is None:
                continue
            shares = jax.process_count()
            batch = {
                name: jax.ShapeDtypeStruct((shares * len(value), *value.shape[1:]), value.dtype, sharding=sharded)
                for name, value in phase.example().items()
            }
            abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated), abstract)
            jax.eval_shape(phase.step, abstract, batch)

    def _example(self, data: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """The first batch of a stream, read without threads or caches."""
        with self._open_batches({**data, "workers": 0, "threads": 0, "cache": "none"}, seed, 0) as batches:
            return next(batches)

    def _extras(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        decay = settings["train"]["ema_decay"]
        average = {"average": {"kind": "moving_average", "decay": decay}} if decay else {}
        return {**settings["extras"], **average}

    def _open_batches(self, data: Mapping[str, Any], seed: int, start_step: int) -> pipeline.TrainBatches:
        return pipeline.train_batches(
            self.dataset.split("train"),
            self.labels,
            sampler=data["sampler"],
            augment=data["augment"],
            views=data["views"],
            maps=data["maps"],
            height=data["height"],
            width=data["width"],
            interpolation=data["interpolation"],
            cache=data["cache"],
            cache_folder=self.dataset.path / "decoded" if self.dataset.path else None,
            workers=data["workers"],
            threads=data["threads"],
            seed=seed,
            start_step=start_step,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    # ---- evaluation -------------------------------------------------------------------------------------------------

    def features(self, variables: build.Variables) -> feature_set.FeatureSet:
        """Test features of query and gallery."""
        return features_lib.describe_dataset(
            self.extractor, variables, self.dataset, features_lib.feature_meta(self.settings)
        )

    def rank(self, features: feature_set.FeatureSet) -> ranking.RankingResult:
        """Ranks with the protocol of the config."""
        return results.rank(features, self.settings["evals"])

    def scores(self, train_state: state.TrainState, at_step: int) -> dict[str, float]:
        """Scores during training, by name; the same on every process."""
        began = time.perf_counter()
        variables = evaluated_variables(train_state)
        named = self.rank(self.features(variables)).scores(self.dataset.name)
        shown = ", ".join(f"{name.split('/', 1)[1]} {100 * value:.2f} %" for name, value in named.items())
        LOG.info("step %d: %s (%.1f s)", at_step, shown, time.perf_counter() - began)
        for other in self.others:
            features = features_lib.describe_dataset(
                self.extractor, variables, other, features_lib.feature_meta(self.settings)
            )
            named |= self.rank(features).scores(other.name)
        return named

    def baselines(self, initial: state.TrainState) -> dict[str, float]:
        """What any trained model must beat: the untrained network, raw pixels and a color histogram."""
        ranked = {"untrained": self.rank(self.features(initial.variables))}
        for name, describe in baselines_lib.SIMPLE_FEATURES.items():
            ranked[name] = self.rank(baselines_lib.extract_simple(describe, self.dataset, self.extractor.size))
        prefix = f"{self.dataset.name}/baseline"
        return {
            key: value for name, result in ranked.items() for key, value in result.scores(f"{prefix}/{name}").items()
        }

    # ---- the run ----------------------------------------------------------------------------------------------------

    def run(self, folder: folder_lib.RunFolder, *, train: bool = True, evaluate: bool = True) -> dict[str, Any] | None:
        """Resumes or starts, trains to the end, evaluates, and writes the result.

        Args:
            folder: claimed by this config.
            train: False evaluates the newest checkpoint only.
            evaluate: False stops after training.

        Returns:
            The content of `result.json`, None without evaluation.
        """
        saved = checkpoints.Checkpoints(
            folder.checkpoints,
            best_metric=f"{self.dataset.name}/mAP",
            keep_best=self.settings["checkpoint"]["keep_best"],
        )
        initial = self.initial_state(weights=saved.latest_step() is None)
        LOG.info("%s", trees.parameter_overview(initial.params, depth=1))
        schedule = self.phases(initial.variables)
        if train:
            self.rehearse(initial, schedule, saved.latest_step() or 0)
        train_state, meta = self._resume(saved, initial, schedule)
        if not train and not meta["step"]:
            raise errors.UserError(
                f"expected a checkpoint in {folder.checkpoints} to evaluate, found none; train first."
            )
        if self.settings["evals"]["baselines"] and not meta["step"]:
            meta["baselines"] = self.baselines(initial)
        parameters = trees.count_parameters(initial.params)
        del initial
        if train and meta["step"] < schedule[-1].last_step:
            train_state = self._train(folder, saved, schedule, train_state, meta)
        saved.close()
        if not evaluate:
            return None
        steps = int(jax.device_get(train_state.step))
        about = {
            **meta["baselines"],
            "steps": steps,
            **{key: value for phase in schedule for key, value in phase.about.items()},
            "parameters": parameters,
            "train_seconds": round(meta["train_seconds"], 1),
            "images_per_second": round(_images_until(steps, schedule) / max(meta["train_seconds"], 1e-9), 1),
        }
        return self._finish(folder, evaluated_variables(train_state), about, complete=steps == schedule[-1].last_step)

    def first_meta(self) -> dict[str, Any]:
        """What a checkpoint says beside the state, at the beginning of a run."""
        return {
            "step": 0,
            "train_seconds": 0.0,
            "num_classes": self.num_classes,
            "num_cameras": self.num_cameras,
            "index_hash": self.dataset.index_hash(),
            "config_hash": config_lib.config_hash(self.config),
            "baselines": {},
        }

    def _resume(
        self, saved: checkpoints.Checkpoints, initial: state.TrainState, schedule: list[loop.Phase]
    ) -> tuple[state.TrainState, dict[str, Any]]:
        """The newest checkpoint and what it says, or the initial state at step 0."""
        latest = saved.latest_step()
        if latest is None:
            return initial, self.first_meta()
        abstract = jax.eval_shape(functools.partial(_state_at, schedule=schedule, at_step=latest), initial)
        replicated = mesh.replicated(self.mesh)
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated), abstract)
        restored, meta = saved.restore(abstract, latest)
        if meta["index_hash"] != self.dataset.index_hash():
            raise errors.UserError(
                f"expected the data this run was trained on (index {meta['index_hash'][:12]}), got "
                f"{self.dataset.index_hash()[:12]}; restore the data set, or start a new --workdir."
            )
        LOG.info("resumed at step %d of %d", latest, schedule[-1].last_step)
        return restored, {**meta, "step": latest}

    def _train(
        self,
        folder: folder_lib.RunFolder,
        saved: checkpoints.Checkpoints,
        schedule: list[loop.Phase],
        train_state: state.TrainState,
        meta: dict[str, Any],
    ) -> state.TrainState:
        """Trains to the end; `meta` then knows the seconds it took."""
        began, before = time.perf_counter(), meta["train_seconds"]

        def current_meta() -> dict[str, Any]:
            return {**meta, "train_seconds": before + time.perf_counter() - began}

        writer = metrics.MetricWriter(folder.path, resume_step=meta["step"], active=processes.is_main())
        trainer = loop.Loop(
            self.mesh,
            schedule,
            self._every(schedule[0].steps_per_epoch),
            writer=writer,
            checkpoints=saved,
            evaluate=self.scores if self.settings["evals"]["every_epochs"] else None,
            meta=current_meta,
        )
        try:
            train_state = trainer.run(train_state, meta["step"])
        finally:
            writer.close()
        meta.update(current_meta())
        return train_state

    def _every(self, steps_per_epoch: int) -> loop.Every:
        evals, checkpoint = self.settings["evals"], self.settings["checkpoint"]
        return loop.Every(
            log=self.settings["log"]["every_steps"],
            evaluate=round(evals["every_epochs"] * steps_per_epoch),
            save=checkpoint["every_steps"] or round(checkpoint["every_epochs"] * steps_per_epoch),
        )

    def _finish(
        self, folder: folder_lib.RunFolder, variables: build.Variables, about: Mapping[str, Any], *, complete: bool
    ) -> dict[str, Any]:
        """The final scores, the page of ranked lists, and (its presence says so) `result.json` of a complete run."""
        began = time.perf_counter()
        features = self.features(variables)
        seconds = time.perf_counter() - began
        drawn = drawn_patches.evaluate(self.model, variables, self.dataset, self.settings)
        drawn_scores = {} if drawn is None else drawn.scores()
        measured = suite.run(self.dataset.name, features, results.protocol(self.settings["evals"]))
        result = {
            "dataset": self.dataset.name,
            **self._corrupted(variables, features),
            **measured.flat(),
            **results.measure_others(self.extractor, variables, self.others, self.settings),
            **{f"{self.dataset.name}/reconstruction/{name}": value for name, value in drawn_scores.items()},
            **about,
            "extract_images_per_second": round((features.num_query + features.num_gallery) / seconds, 1),
            "seed": self.settings["seed"],
            "config_hash": config_lib.config_hash(self.config),
            "index_hash": self.dataset.index_hash(),
            "device": provenance.device_name(),
            "commit": provenance.commit(),
        }
        if processes.is_main():
            queries = self.settings["evals"]["ranked_lists"]
            if queries:
                results.write_page(folder.ranked_lists, measured, self.dataset, queries)
            if drawn is not None:
                drawn.write(folder.reconstructions)
            if complete:
                folder.write_result(result)
            else:
                LOG.warning("evaluated after %d steps: training is not complete, so no result.json.", about["steps"])
        return result

    def _corrupted(self, variables: build.Variables, clean: feature_set.FeatureSet) -> dict[str, Any]:
        """Scores of corrupted images, where the config asks for them; the clean features are not made again."""
        evals = self.settings["evals"]
        if not evals["corruption_rounds"]:
            return {}
        meta = features_lib.feature_meta(self.settings)
        return robustness.evaluate(
            lambda data: (
                clean if data is self.dataset else features_lib.describe_dataset(self.extractor, variables, data, meta)
            ),
            self.dataset,
            rounds=evals["corruption_rounds"],
            train_corruption=features_lib.train_corruption(self.settings),
            progress=LOG.info,
            **{key: evals[key] for key in ("metric", "ap", "same_camera_filter")},
        ).as_dict()


def evaluated_variables(train_state: state.TrainState) -> build.Variables:
    """What is evaluated: the moving average where the config keeps one, else the trained variables."""
    return train_state.extra.get("average", train_state.variables)


def _state_at(initial: state.TrainState, schedule: list[loop.Phase], at_step: int) -> state.TrainState:
    """The shape of the state after `at_step` updates: every phase begun until then has added its part."""
    train_state = initial
    for phase in schedule:
        if phase.first_step < at_step:
            train_state = phase.begin(train_state)
    return train_state


def _images_until(steps: int, schedule: list[loop.Phase]) -> int:
    """Training images seen in the first `steps` updates."""
    return sum(max(0, min(steps, phase.last_step) - phase.first_step) * phase.batch_size for phase in schedule)


def _margins(terms: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The value of each triplet term when all embeddings are one point."""
    return {
        f"loss/{name}": math.log(2) if term.get("margin") == "soft" else float(term.get("margin", 0.3))
        for name, term in terms.items()
        if term and term.get("loss") == "triplet"
    }
