"""Subjects of a speed measurement, models and configs, and the programs that are timed for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from reid_jax import build, errors
from reid_jax import config as config_lib
from reid_jax.benchmarks import input_speed, programs
from reid_jax.data import records
from reid_jax.runs import experiment
from reid_jax.runs import settings as settings_lib
from reid_jax.runtime import mesh
from reid_jax.train import loop, state
from reid_jax.weights import zoo


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model by its row of the zoo, or a config, whose whole train step is timed.

    Attributes:
        name: label in the table.
        settings: resolved config.
        config: the config whose own train step is timed (uint8 images, all losses, its optimizer); None for
            cross-entropy and SGD on normalized images.
    """

    name: str
    settings: config_lib.Settings
    config: ConfigDict | None = None


def of_model(
    name: str, options: Mapping[str, Any] | None = None, overrides: Mapping[str, Any] | None = None
) -> Subject:
    """Returns the subject of a row of the zoo, see `zoo.settings`."""
    return Subject(name, zoo.settings(name, options, overrides))


def of_config(config: ConfigDict, overrides: Mapping[str, Any] | None = None) -> Subject:
    """Returns the subject of a config with dotted overrides; None leaves a value unchanged."""
    changed = config.copy_and_resolve_references()
    config_lib.override(changed, {key: value for key, value in (overrides or {}).items() if value is not None})
    name = ":".join((changed.system, ",".join([changed.preset, *changed.variants])))
    return Subject(name, settings_lib.of(changed), changed)


def program(kind: str, subject: Subject, batch: int | None, classes: int) -> programs.Program:
    """Returns the compiled program of a subject, with random inputs.

    Args:
        kind: "train" or "infer".
        subject: what is timed.
        batch: images per call; None is the config's own batch (8 for a model).
        classes: identities of the classifiers.

    Raises:
        UserError: the batch does not fit the sampler of a config.
    """
    if kind == "train" and subject.config is not None:
        step, (begun, arrays), size = config_step(subject.config, batch, classes)
        return programs.Program.compile(step, begun, (arrays,), size, carry=lambda result: result[0])
    data = subject.settings.data
    sampler = data.sampler
    batch = batch or (8 if subject.config is None else own_batch(sampler))
    model = build.build_model(subject.settings, classes)
    arrays = programs.random_batch(batch, data.height, data.width, classes)
    return (programs.train_program if kind == "train" else programs.inference_program)(model, arrays)


def own_batch(sampler: Mapping[str, Any]) -> int:
    """Returns the images of a batch of a config's sampler."""
    return int(sampler["identities"] * sampler["images"] if "images" in sampler else sampler["batch_size"])


def config_step(config: ConfigDict, batch: int | None, classes: int) -> tuple[Callable[..., Any], tuple[Any, Any], int]:
    """Returns the train step of a run's first phase, its arguments (state, batch) and the images of a batch.

    The arguments are those of `config_phase`.
    """
    run, phase, train_state = config_phase(config, batch, classes)
    stream = phase.open_batches(0)
    try:
        arrays = mesh.to_global(next(iter(stream)), run.mesh)
    finally:
        stream.close()
    return phase.step, (train_state, arrays), phase.batch_size


def config_phase(
    config: ConfigDict, batch: int | None, classes: int
) -> tuple[experiment.Experiment, loop.Phase, state.TrainState]:
    """Returns a run of a config on generated images, its first phase, and a state of that with random variables.

    Args:
        config: the config; its data set is replaced by generated images.
        batch: images per step; None is the config's own batch.
        classes: identities of the classifiers.

    Raises:
        UserError: the batch does not fit the sampler of the config.
    """
    config = config.copy_and_resolve_references()
    if batch and "images" not in config.data.sampler:
        config.data.sampler.batch_size = batch
    elif batch:
        images = config.data.sampler.images
        if batch % images:
            raise errors.UserError(
                f"expected a batch of whole identities of {images} images, got {batch}; give a multiple of {images}."
            )
        config.data.sampler.identities = batch // images
    run = config_run(config, classes)
    example = jax.tree.map(np.asarray, run.preprocess(run.extractor.example_batch()))
    variables = programs.random_variables(run.model, example)
    train_state = state.create(mesh.replicate(variables, run.mesh))
    phase = run.phases(train_state.variables)[0]
    return run, phase, mesh.place(phase.begin(train_state), run.mesh)


def config_run(config: ConfigDict, classes: int) -> experiment.Experiment:
    """Returns a run of a config on generated images of `classes` training identities."""
    return experiment.Experiment(config, generated_dataset(classes, maps=config.data.maps))


def generated_dataset(classes: int, images: int = 4, maps: Sequence[str] = ()) -> records.ReIDDataset:
    """Returns a data set in memory with `classes` identities of `images` images each; few images are repeated.

    Args:
        classes: number of training identities.
        images: training images of each.
        maps: names of per-pixel maps, which hold eight bands from head to feet on a background of 0.
    """
    height, width = 128, 64
    bands = np.zeros((height, width), np.uint8)
    bands[8:-8, 16:-16] = 1 + np.arange(height - 16)[:, None] * 8 // (height - 16)
    stored = [
        {**element, **dict.fromkeys(maps, bands)} for element in input_speed.generated_split(64, height, width).source
    ]

    def split(name: str, people: int, each: int, camera: int) -> records.Split:
        count = people * each
        pids = (np.arange(count) // each).astype(np.int32) + 1
        source = [{**stored[index % len(stored)], "pid": int(pids[index])} for index in range(count)]
        names = tuple(f"{index:06d}.jpg" for index in range(count))
        return records.Split(f"generated/{name}", source, pids, np.full(count, camera, np.int32), names)

    return records.ReIDDataset(
        "generated", split("train", classes, images, 0), split("query", 2, 1, 0), split("gallery", 2, 2, 1)
    )
