"""Typed settings: the sections of a config as frozen dataclasses, with default, meaning and check of every key.

`Settings()` has the defaults; `Settings.of(config)` validates a resolved config. The package reads settings from these
objects only; config files and the command line modify the `ConfigDict` of `reid_jax.config.defaults`.
"""

# ruff: noqa: RUF009  (`key` returns a dataclass field)

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Self

from reid_jax import errors

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Rule = tuple[str, Callable[[Any], bool]]
Options = Mapping[str, Any]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return _is_number(value) and value == int(value)


WHOLE: Rule = ("a whole number", _is_whole)
POSITIVE: Rule = ("a number above 0", lambda value: _is_number(value) and value > 0)
NOT_NEGATIVE: Rule = ("a number of at least 0", lambda value: _is_number(value) and value >= 0)
SHARE: Rule = ("a number from 0 to below 1", lambda value: _is_number(value) and 0 <= value < 1)
COUNT: Rule = ("a whole number of at least 1", lambda value: _is_whole(value) and value >= 1)
COUNT_OR_NONE: Rule = ("a whole number of at least 0", lambda value: _is_whole(value) and value >= 0)


def key(default: Any, rule: Rule | None = None) -> Any:
    """Returns the dataclass field of a config key.

    Args:
        default: value if the config does not set the key; dictionaries are copied.
        rule: description of valid values, and the function that tests a value.
    """
    metadata = {"rule": rule}
    if isinstance(default, Mapping):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class Section:
    """Base class of all sections, with validated construction from a mapping."""

    @classmethod
    def of(cls, values: Options, prefix: str = "") -> Self:
        """Returns the validated section of a config.

        Args:
            values: the section's keys; missing keys have their defaults.
            prefix: path of the section ("train."), for error messages.

        Raises:
            UserError: unknown key, or invalid value.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]  # all are dataclasses
        for name, value in values.items():
            if name not in fields:
                raise errors.unknown("config key", f"{prefix}{name}", [f"{prefix}{field}" for field in fields])
            rule = fields[name].metadata.get("rule")
            if rule is not None and not rule[1](value):
                raise errors.UserError(
                    f"{prefix}{name} must be {rule[0]}, but is {value!r}; change it in the config or with "
                    f"--config.{prefix}{name}=..."
                )
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        """Returns the keys and values of the section."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class Data(Section):
    """Data set, sampling, transforms and caching of images.

    Attributes:
        name: data set, or `package.module:name` of the user's own.
        root: folder of raw and prepared data sets.
        options: options of the data set.
        sources: presets of data sets whose training images replace those of the data set.
        height: height of the network's input in pixels.
        width: width of the network's input in pixels.
        interpolation: resizing method: "bilinear", "bicubic", "area" or "nearest".
        test_interpolation: resizing method of test images; None is `interpolation`.
        maps: further arrays that are loaded with each image, such as "parts".
        cache: where decoded images are cached: "memory", "disk", "none", or "auto" (memory if they fit).
        workers: processes of the input pipeline; 0 uses threads only.
        threads: threads of each process.
        sampler: `name` and options.
        views: by name, further views {"augment": {...}} of the same image with their own transforms, in the batch as
            `image_<name>`.
        augment: transforms of the main view in order, by name with their options.
    """

    name: str = "synthped"
    root: str = "data"
    options: Options = key({})
    sources: tuple[str, ...] = ()
    height: int = key(256, COUNT)
    width: int = key(128, COUNT)
    interpolation: str = "bilinear"
    test_interpolation: str | None = None
    maps: tuple[str, ...] = ()
    cache: str = "auto"
    workers: int = key(0, COUNT_OR_NONE)
    threads: int = key(2, COUNT_OR_NONE)
    sampler: Any = key({"name": "identity_groups", "identities": 16, "images": 4})
    views: Mapping[str, Options] = key({})
    augment: Options = key(
        {
            "flip": {"probability": 0.5},
            "pad_crop": {"pad": 10},
            "erase": {"probability": 0.5, "area": (0.02, 0.4), "aspect": (0.3, 1 / 0.3), "tries": 100},
        }
    )


@dataclasses.dataclass(frozen=True)
class Preprocess(Section):
    """Normalization of images.

    Attributes:
        mean: per channel, for images in [0, 1].
        std: standard deviation per channel, for images in [0, 1].
        erase_fill: fill of erased boxes, a mode of `reid_jax.ops.images.fill_boxes`.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    erase_fill: str = "mean_raw"


@dataclasses.dataclass(frozen=True)
class Init(Section):
    """Initial values of the variables.

    Attributes:
        weights: weights file; "" initializes randomly.
        allow_missing: patterns of parameter paths that may be missing in the file, such as classifiers of other
            identities.
        text_weights: weights file of the text transformer, for models that have one.
    """

    weights: str = ""
    allow_missing: tuple[str, ...] = ("classifier",)
    text_weights: str = ""


@dataclasses.dataclass(frozen=True)
class Optimizer(Section):
    """The optimizer and its parameter groups, see `reid_jax.train.optimizer`.

    Attributes:
        name: optimizer.
        learning_rate: base learning rate.
        learning_rate_multipliers: (pattern of parameter paths, factor); the first match applies.
        weight_decays: (pattern of parameter paths, decay); the first match applies.
        frozen: patterns of parameter paths that are not trained.
        clip_norm: maximum norm of the gradient; None does not clip.
        b1, b2, epsilon, momentum, nesterov, decay: options of some optimizers; None is the optimizer's default.
    """

    name: str = "adam"
    learning_rate: float = key(3.5e-4, NOT_NEGATIVE)
    learning_rate_multipliers: tuple[tuple[str, float], ...] = ((".*", 1.0),)
    weight_decays: tuple[tuple[str, float], ...] = ((".*", 5e-4),)
    frozen: tuple[str, ...] = ()
    clip_norm: float | None = None
    b1: float | None = None
    b2: float | None = None
    epsilon: float | None = None
    momentum: float | None = None
    nesterov: bool | None = None
    decay: float | None = None


@dataclasses.dataclass(frozen=True)
class Train(Section):
    """Length and mode of training.

    Attributes:
        epochs: length of the run or phase; fractions are allowed.
        accumulate: number of micro-batches whose gradients are averaged for an update.
        ema_decay: decay of an exponential moving average of the variables, which is evaluated in their place; 0 keeps
            no average.
        mode: "joint", or "federated" (see the section `fed`).
        turns: names of objectives that are applied to each batch in turn, with an update each; a loss term names its
            objective as `turn`.
    """

    epochs: float = key(120.0, POSITIVE)
    accumulate: int = key(1, COUNT)
    ema_decay: float = key(0.0, SHARE)
    mode: str = "joint"
    turns: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Evals(Section):
    """Evaluation during and after training.

    Attributes:
        every_epochs: interval of evaluations during training; 0 evaluates at the end only.
        metric: distance, "euclidean", "cosine" or `package.module:name`.
        ap: rule of average precision, "step" or "trapezoid".
        rerank: whether the final evaluation includes k-reciprocal re-ranking.
        verification: whether the final evaluation includes ROC, AUC and EER with thresholds.
        flip: whether descriptors are averaged with those of the mirrored image.
        batch_size: images per batch.
        same_camera_filter: whether gallery images with the query's identity and camera are excluded.
        baselines: whether the untrained network and features without learning are evaluated before training.
        ranked_lists: number of queries on the page of ranked lists; 0 writes no page.
        corruption_rounds: rounds of the final evaluation with randomly corrupted queries, gallery, or both; 0 skips it.
        datasets: presets of further data sets to evaluate on.
        scores: `package.module:name` of the user's own scores, `(FeatureSet, RankingResult) -> {name: value}`.
        descriptors: further descriptors that the final evaluation scores, in one more pass each: by name, model options
            that change `describe` alone.
    """

    every_epochs: float = key(0.0, NOT_NEGATIVE)
    metric: str = "euclidean"
    ap: str = "step"
    rerank: bool = False
    verification: bool = True
    flip: bool = False
    batch_size: int = key(64, COUNT)
    same_camera_filter: bool = True
    baselines: bool = False
    ranked_lists: int = key(40, COUNT_OR_NONE)
    corruption_rounds: int = key(0, COUNT_OR_NONE)
    datasets: tuple[str, ...] = ()
    scores: tuple[str, ...] = ()
    descriptors: Mapping[str, Options] = key({})


@dataclasses.dataclass(frozen=True)
class Checkpoint(Section):
    """Interval and number of checkpoints.

    Attributes:
        every_steps: interval in steps; 0 uses `every_epochs`.
        every_epochs: interval in epochs.
        keep_best: number of checkpoints with the best mAP that are kept in addition to the newest.
    """

    every_steps: int = key(0, COUNT_OR_NONE)
    every_epochs: float = key(5.0, NOT_NEGATIVE)
    keep_best: int = key(1, COUNT_OR_NONE)


@dataclasses.dataclass(frozen=True)
class Log(Section):
    """Logging.

    Attributes:
        every_steps: interval of lines in `metrics.jsonl`; 0 logs nothing.
        profile_steps: number of steps that the profiler records into `<workdir>/profile`, after the first two steps;
            0 records none.
    """

    every_steps: int = key(50, COUNT_OR_NONE)
    profile_steps: int = key(0, COUNT_OR_NONE)


@dataclasses.dataclass(frozen=True)
class Settings(Section):
    """All settings of a run.

    Attributes:
        system: name of the system.
        preset: name of the preset.
        variants: names of the variants applied to the preset.
        notes: free text.
        code: records of the user's own modules that the config names, see `reid_jax.plugins.record`.
        seed: seed of all random numbers.
        dtype: data type of activations; "auto" is bfloat16 on GPU and TPU, float32 on CPU. Parameters, statistics and
            losses are always float32.
        data, preprocess, init, optimizer, train, evals, checkpoint, log: sections.
        model: `name` and fields of the model.
        passes: forward passes of a step by name, see `reid_jax.train.objective.Pass`.
        losses: weighted loss terms by name: `loss`, `on`, `weight` (1.0), `labels` ("batch/label"), `turn` (all turns)
            and options of the loss, see `reid_jax.losses.terms`.
        monitors: terms that are logged and not trained on.
        extras: further state that the step updates, by name, see `reid_jax.train.extras`.
        schedule: `name` and options, see `reid_jax.train.schedules`.
        start_from: variables that training starts from: "" keeps the current ones, "extra/<name>" takes those of an
            extra, "model/<method>" takes the result of that method of the model.
        fed: federated training, see `reid_jax.federated.federation_options.Options`; empty for systems without it.
        corruption: corruptions of training images: `policy`, `refresh` and `probability`, for references in
            `data.augment`; empty for systems without it.
        phase_order: names of the phases in order.
        phases: by name, changes of the sections above during the phase.
    """

    system: str = ""
    preset: str = "demo"
    variants: tuple[str, ...] = ()
    notes: str = ""
    code: tuple[Mapping[str, str], ...] = ()
    seed: int = key(0, WHOLE)
    dtype: str = "auto"
    data: Data = Data()
    preprocess: Preprocess = Preprocess()
    model: Options = key({"name": ""})
    init: Init = Init()
    passes: Mapping[str, Options] = key({"main": {"view": "", "network": "params", "train": True, "prefix": ""}})
    losses: Mapping[str, Options] = key({})
    monitors: Mapping[str, Options] = key({})
    extras: Mapping[str, Options] = key({})
    optimizer: Optimizer = Optimizer()
    schedule: Options = key({"name": "constant"})
    train: Train = Train()
    start_from: str = ""
    fed: Options = key({})
    corruption: Options = key({})
    phase_order: tuple[str, ...] = ()
    phases: Mapping[str, Options] = key({})
    evals: Evals = Evals()
    checkpoint: Checkpoint = Checkpoint()
    log: Log = Log()

    @classmethod
    def of(cls, values: Options, prefix: str = "") -> Self:
        """Returns the validated settings of a resolved config.

        Args:
            values: nested plain dictionaries, see `reid_jax.config.to_dict`.
            prefix: path of the phase ("phases.align."), for error messages.

        Raises:
            UserError: unknown key, or invalid value.
        """
        sections = {
            name: SECTIONS[name].of(value, f"{prefix}{name}.") if name in SECTIONS else value
            for name, value in values.items()
        }
        return super().of(sections, prefix)


SECTIONS: dict[str, type[Section]] = {
    "data": Data,
    "preprocess": Preprocess,
    "init": Init,
    "optimizer": Optimizer,
    "train": Train,
    "evals": Evals,
    "checkpoint": Checkpoint,
    "log": Log,
}


def plain(value: Any) -> Any:
    """Returns sections and mappings as nested plain dictionaries."""
    if isinstance(value, Section):
        return {name: plain(each) for name, each in value.as_dict().items()}
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    return value
