"""Typed settings: the sections of a config as frozen dataclasses, with default, meaning and check of every key.

`Settings()` has the defaults; `Settings.of(config)` validates a resolved config. The package reads settings from these
objects only; config files and the command line modify the `ConfigDict` of `reid_jax.config.defaults`.
"""

# ruff: noqa: RUF009  (`key` returns a dataclass field)

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from reid_jax import errors
from reid_jax.config import rules

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Options = Mapping[str, Any]

# Names of other parts of the package, which are not imported here: a config is read before the libraries are loaded.
INTERPOLATIONS = ("bilinear", "bicubic", "area", "nearest")
CACHES = ("auto", "memory", "disk", "none")
ERASE_FILLS = ("mean_raw", "mean", "zero", "noise")
AP_RULES = ("step", "trapezoid")
DTYPES = ("auto", "float32", "bfloat16", "float16")

SIZE = rules.whole(1, 16_384)  # of an image in pixels
COUNT = rules.whole(1, 65_536)
COUNT_OR_NONE = rules.whole(0, 10**9)
TRIPLE = rules.sequence(rules.number(-1e3, 1e3), "three numbers", (3, 3))


def key(default: Any, rule: rules.Rule = rules.OPTIONS) -> Any:
    """Returns the dataclass field of a config key.

    Args:
        default: value if the config does not set the key; dictionaries are copied.
        rule: what a value may be; a dictionary unless given.
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
        if not isinstance(values, Mapping):
            raise errors.UserError(
                f"{prefix.rstrip('.') or 'the config'} must be a section of keys, but is {rules.shorten(values)}; "
                "set its keys one by one."
            )
        fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]  # all are dataclasses
        for name, value in values.items():
            if name not in fields:
                raise errors.unknown("config key", f"{prefix}{name}", [f"{prefix}{field}" for field in fields])
            rule = fields[name].metadata.get("rule")
            if rule is not None:
                rule.check(f"{prefix}{name}", value)
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

    name: str = key("synthped", rules.TEXT)  # "" for a model without a data set
    root: str = key("data", rules.NAME)
    options: Options = key({})
    sources: tuple[str, ...] = key((), rules.TEXTS)
    height: int = key(256, SIZE)
    width: int = key(128, SIZE)
    interpolation: str = key("bilinear", rules.choice(*INTERPOLATIONS))
    test_interpolation: str | None = key(None, rules.optional(rules.choice(*INTERPOLATIONS)))
    maps: tuple[str, ...] = key((), rules.TEXTS)
    cache: str = key("auto", rules.choice(*CACHES))
    workers: int = key(0, rules.whole(0, 1024))
    threads: int = key(2, rules.whole(0, 1024))
    sampler: Any = key({"name": "identity_groups", "identities": 16, "images": 4})
    views: Mapping[str, Options] = key({}, rules.ENTRIES)
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

    mean: tuple[float, ...] = key(IMAGENET_MEAN, TRIPLE)
    std: tuple[float, ...] = key(IMAGENET_STD, rules.sequence(rules.POSITIVE, "three numbers above 0", (3, 3)))
    erase_fill: str | tuple[float, ...] = key("mean_raw", rules.either(rules.choice(*ERASE_FILLS), TRIPLE))


@dataclasses.dataclass(frozen=True)
class Init(Section):
    """Initial values of the variables.

    Attributes:
        weights: weights file, or name of published weights (`reid_jax.weights.hub`); "scratch" or "" initializes
            randomly.
        trained: run folder whose newest checkpoint is loaded after `weights`, by the names of its variables: a system
            that starts from another one.
        network: extra of the run `trained`, such as its teacher, whose variables are loaded in place of its own.
        extras: extras of the run `trained`, such as its teacher, that are there from the start.
        allow_missing: patterns of parameter paths that may be missing in the file or run, or have another shape there,
            such as classifiers of other identities.
        ignore: patterns of names in the file or run that are left out, such as modules that the model does not have.
        text_weights: file, or name, of weights of the text transformer, for models that have one.
        pixel_mean: mean of each channel that the weights were trained with, of images in [0, 1]; with `pixel_std`, the
            difference from `preprocess` goes into the patch embedding. None is what the file says of itself, and
            nothing where it does not.
        pixel_std: standard deviation of each channel, likewise.
    """

    weights: str = key("", rules.TEXT)
    trained: str = key("", rules.TEXT)
    network: str = key("", rules.TEXT)
    extras: tuple[str, ...] = key((), rules.TEXTS)
    allow_missing: tuple[str, ...] = key(("classifier",), rules.PATTERNS)
    ignore: tuple[str, ...] = key((), rules.PATTERNS)
    text_weights: str = key("", rules.TEXT)
    pixel_mean: tuple[float, ...] | None = key(None, rules.optional(TRIPLE))
    pixel_std: tuple[float, ...] | None = key(None, rules.optional(TRIPLE))


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

    name: str = key("adam", rules.NAME)
    learning_rate: float = key(3.5e-4, rules.NOT_NEGATIVE)
    learning_rate_multipliers: tuple[tuple[str, float], ...] = key(((".*", 1.0),), rules.PAIRS)
    weight_decays: tuple[tuple[str, float], ...] = key(((".*", 5e-4),), rules.PAIRS)
    frozen: tuple[str, ...] = key((), rules.PATTERNS)
    clip_norm: float | None = key(None, rules.optional(rules.NOT_NEGATIVE))
    b1: float | None = key(None, rules.optional(rules.SHARE))
    b2: float | None = key(None, rules.optional(rules.SHARE))
    epsilon: float | None = key(None, rules.optional(rules.NOT_NEGATIVE))
    momentum: float | None = key(None, rules.optional(rules.SHARE))
    nesterov: bool | None = key(None, rules.optional(rules.FLAG))
    decay: float | None = key(None, rules.optional(rules.SHARE))


@dataclasses.dataclass(frozen=True)
class Train(Section):
    """Length and mode of training.

    Attributes:
        epochs: length of the run or phase; fractions are allowed.
        accumulate: number of micro-batches in which the network works through a batch, to need less memory; the losses
            are those of the whole batch. "auto" is as many as it takes for no device to hold more than `device_batch`
            images at once, so that a run goes on with the same batches on fewer devices.
        device_batch: images on a device at once, for `accumulate="auto"`; 0 is what they were when the run began.
        ema_decay: decay of an exponential moving average of the variables, which is evaluated in their place; 0 keeps
            no average.
        mode: "joint", or "federated" (see the section `fed`).
        turns: names of objectives that are applied to each batch in turn, with an update each; a loss term names its
            objective as `turn`.
        batch_statistics: over what batch normalization computes its statistics on several devices: "global" for the
            whole batch, so that the number of devices changes nothing, or "device" for each device's part, as most
            published recipes do on several GPUs; running statistics are then means over the devices.
    """

    epochs: float = key(120.0, rules.POSITIVE)
    accumulate: int | str = key(1, rules.either(COUNT, rules.choice("auto")))
    device_batch: int = key(0, rules.whole(0, 65_536))
    ema_decay: float = key(0.0, rules.SHARE)
    mode: str = key("joint", rules.choice("joint", "federated"))
    turns: tuple[str, ...] = key((), rules.TEXTS)
    batch_statistics: str = key("global", rules.choice("global", "device"))


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
        baselines: whether the network at its start and features without learning are evaluated as well.
        ranked_lists: maximum number of queries on the page of ranked lists, the worst among them; 0 writes no page.
        corruption_rounds: rounds of the final evaluation with randomly corrupted queries, gallery, or both; 0 skips it.
        datasets: presets of further data sets to evaluate on.
        scores: `package.module:name` of the user's own scores, `(FeatureSet, RankingResult) -> {name: value}`.
        descriptors: further descriptors that the final evaluation scores, in one more pass each: by name, model options
            that change `describe` alone.
        networks: extras that are networks, such as a teacher, which the final evaluation scores as well.
    """

    every_epochs: float = key(0.0, rules.NOT_NEGATIVE)
    metric: str = key("euclidean", rules.NAME)
    ap: str = key("step", rules.choice(*AP_RULES))
    rerank: bool = key(False, rules.FLAG)
    verification: bool = key(True, rules.FLAG)
    flip: bool = key(False, rules.FLAG)
    batch_size: int = key(64, COUNT)
    same_camera_filter: bool = key(True, rules.FLAG)
    baselines: bool = key(False, rules.FLAG)
    ranked_lists: int = key(5_000, rules.whole(0, 100_000))
    corruption_rounds: int = key(0, rules.whole(0, 10_000))
    datasets: tuple[str, ...] = key((), rules.TEXTS)
    scores: tuple[str, ...] = key((), rules.TEXTS)
    descriptors: Mapping[str, Options] = key({}, rules.ENTRIES)
    networks: tuple[str, ...] = key((), rules.TEXTS)


@dataclasses.dataclass(frozen=True)
class Checkpoint(Section):
    """Interval and number of checkpoints.

    Attributes:
        every_steps: interval in steps; 0 uses `every_epochs`.
        every_epochs: interval in epochs.
        every_minutes: interval by the clock, in addition; 0 saves by steps alone.
        keep_best: number of checkpoints with the best mAP that are kept in addition to the newest.
    """

    every_steps: int = key(0, COUNT_OR_NONE)
    every_epochs: float = key(5.0, rules.NOT_NEGATIVE)
    every_minutes: float = key(0.0, rules.NOT_NEGATIVE)
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

    system: str = key("", rules.TEXT)
    preset: str = key("demo", rules.TEXT)
    variants: tuple[str, ...] = key((), rules.TEXTS)
    notes: str = key("", rules.TEXT)
    code: tuple[Mapping[str, str], ...] = key((), rules.sequence(rules.OPTIONS, "a tuple of records"))
    seed: int = key(0, rules.whole(-(2**31), 2**32 - 1))
    dtype: str = key("auto", rules.choice(*DTYPES))
    data: Data = Data()
    preprocess: Preprocess = Preprocess()
    model: Options = key({"name": ""})
    init: Init = Init()
    passes: Mapping[str, Options] = key(
        {"main": {"view": "", "network": "params", "train": True, "prefix": ""}}, rules.ENTRIES
    )
    losses: Mapping[str, Options] = key({}, rules.ENTRIES)
    monitors: Mapping[str, Options] = key({}, rules.ENTRIES)
    extras: Mapping[str, Options] = key({}, rules.ENTRIES)
    optimizer: Optimizer = Optimizer()
    schedule: Options = key({"name": "constant"})
    train: Train = Train()
    start_from: str = key("", rules.TEXT)
    fed: Options = key({})
    corruption: Options = key({})
    phase_order: tuple[str, ...] = key((), rules.TEXTS)
    phases: Mapping[str, Options] = key({}, rules.ENTRIES)
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
