"""The sections of a config as frozen, typed objects: every key with its default, its meaning and its check.

`Settings()` holds the defaults, `Settings.of(config)` a resolved config, checked. The rest of the package reads
settings from these objects alone; configs and the command line write the `ConfigDict` of `reid_jax.config.defaults`.
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
        default: value where the config is silent; dictionaries are copied.
        rule: what a value must be, in words, and the test of it.
    """
    metadata = {"rule": rule}
    if isinstance(default, Mapping):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class Section:
    """Base of all sections: construction from a mapping."""

    @classmethod
    def of(cls, values: Options, prefix: str = "") -> Self:
        """Returns the section of a config, checked.

        Args:
            values: the section's keys; those that are absent have their defaults.
            prefix: path of the section ("train."), for errors.

        Raises:
            UserError: an unknown key, or a value that its rule refuses.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]  # all are dataclasses
        for name, value in values.items():
            if name not in fields:
                raise errors.unknown("config key", f"{prefix}{name}", [f"{prefix}{one}" for one in fields])
            rule = fields[name].metadata.get("rule")
            if rule is not None and not rule[1](value):
                raise errors.UserError(
                    f"{prefix}{name} must be {rule[0]}, but is {value!r}; change it in the config or with "
                    f"--config.{prefix}{name}=..."
                )
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        """Returns the keys and values, as keyword arguments of a constructor."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class Data(Section):
    """Images: which, how they are sampled, transformed and cached.

    Attributes:
        name: data set, or `package.module:name` of one's own.
        root: folder of raw and prepared data sets.
        options: of the data set.
        sources: presets of data sets to train on in place of the data set's own training images.
        height: rows of the network's input.
        width: columns.
        interpolation: of resizing; "bilinear", "bicubic", "area" or "nearest".
        test_interpolation: of test images, where it differs; None is `interpolation`.
        maps: further arrays of an image that are loaded with it, such as "parts".
        cache: "auto" keeps decoded images in memory where they fit; "memory", "disk", "none".
        workers: processes of the input pipeline; 0 uses threads alone.
        threads: of each process.
        sampler: `name` and options.
        views: by name; each further view is {"augment": {...}}, the same image through a chain of its own, emitted as
            `image_<name>`.
        augment: transforms by name with their options, in order.
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
    """The one place where images are normalized.

    Attributes:
        mean: per channel, of images in [0, 1].
        std: per channel.
        erase_fill: what erased boxes are filled with, a mode of `reid_jax.ops.images.fill_boxes`.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    erase_fill: str = "mean_raw"


@dataclasses.dataclass(frozen=True)
class Init(Section):
    """Where the variables start.

    Attributes:
        weights: file; "" is a random start.
        allow_missing: patterns of our paths that the file may lack, such as classifiers of other identities.
        text_weights: file of a text transformer, for models that have one.
    """

    weights: str = ""
    allow_missing: tuple[str, ...] = ("classifier",)
    text_weights: str = ""


@dataclasses.dataclass(frozen=True)
class Optimizer(Section):
    """The optimizer and its parameter groups, see `reid_jax.train.optimizer`.

    Attributes:
        name: of the optimizer.
        learning_rate: base rate.
        learning_rate_multipliers: (pattern of paths, factor), the first match counts.
        weight_decays: (pattern of paths, decay), the first match counts.
        frozen: patterns of paths that are not trained.
        clip_norm: greatest norm of the gradient; None does not clip.
        b1, b2, epsilon, momentum, nesterov, decay: options of single optimizers; None is the optimizer's own default.
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
    """How long and in which way to train.

    Attributes:
        epochs: length of the run or phase; a fraction is allowed.
        accumulate: micro-batches whose mean gradient makes one update.
        ema_decay: of an averaged copy of the variables that is evaluated in their place; 0 keeps none.
        mode: "joint", or "federated": rounds of clients, see the section `fed`.
        turns: names of objectives that take turns on a batch, an update each; loss terms say theirs as `turn`.
    """

    epochs: float = key(120.0, POSITIVE)
    accumulate: int = key(1, COUNT)
    ema_decay: float = key(0.0, SHARE)
    mode: str = "joint"
    turns: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Evals(Section):
    """What is measured during and after training.

    Attributes:
        every_epochs: between scores during training; 0 scores at the end alone.
        metric: "euclidean", "cosine", or `package.module:name`.
        ap: rule of average precision, "step" or "trapezoid".
        rerank: at the end also after k-reciprocal re-ranking.
        verification: at the end also ROC, AUC and EER with thresholds.
        flip: descriptors are averaged with those of the mirror image.
        batch_size: images at a time.
        same_camera_filter: images of the query's person and camera leave the gallery.
        baselines: at the start also the untrained network and features without learning.
        ranked_lists: queries on the page of ranked lists; 0 writes none.
        corruption_rounds: at the end also corrupted images on either side or both, drawn anew this many times.
        datasets: presets of data sets to be scored on as well.
        scores: `package.module:name` of one's own scores, `(FeatureSet, RankingResult) -> {name: value}`.
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


@dataclasses.dataclass(frozen=True)
class Checkpoint(Section):
    """When checkpoints are written.

    Attributes:
        every_steps: between checkpoints; 0 counts epochs.
        every_epochs: between checkpoints.
        keep_best: number of checkpoints with the best mAP that are kept beside the newest.
    """

    every_steps: int = key(0, COUNT_OR_NONE)
    every_epochs: float = key(5.0, NOT_NEGATIVE)
    keep_best: int = key(1, COUNT_OR_NONE)


@dataclasses.dataclass(frozen=True)
class Log(Section):
    """What is logged.

    Attributes:
        every_steps: between lines of `metrics.jsonl`; 0 logs none.
    """

    every_steps: int = key(50, COUNT_OR_NONE)


@dataclasses.dataclass(frozen=True)
class Settings(Section):
    """A whole config.

    Attributes:
        system: name of the config file's system.
        preset: name of the preset.
        variants: names of the variants applied to it.
        notes: free text.
        code: modules of `package.module:Name` entries, where they were found and their hashes, see
            `reid_jax.plugins.record`.
        seed: of all randomness.
        dtype: of activations; "auto" is bfloat16 on GPU and TPU, float32 on CPU. Parameters, statistics and losses are
            float32 everywhere.
        data, preprocess, init, optimizer, train, evals, checkpoint, log: sections.
        model: `name` and its fields.
        passes: by name, the forward passes of a step, see `reid_jax.train.objective.Pass`.
        losses: by name, the weighted terms: `loss`, `on`, `weight` (1.0), `labels` ("batch/label"), `turn` (all turns)
            and options of the loss, see `reid_jax.losses.terms`.
        monitors: terms that are logged and not trained on.
        extras: by name, what the step updates beside the model, see `reid_jax.train.extras`.
        schedule: `name` and options, see `reid_jax.train.schedules`.
        start_from: variables that training starts from: "" continues with those at hand, "extra/<name>" takes those
            that an extra holds, "model/<method>" takes what that method of the model makes of them.
        fed: of federated training, see `reid_jax.federated.federation_options.Options`; empty for systems without it.
        phase_order: named phases in order.
        phases: by name, sections that replace or refine the ones above while the phase lasts.
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
    phase_order: tuple[str, ...] = ()
    phases: Mapping[str, Options] = key({})
    evals: Evals = Evals()
    checkpoint: Checkpoint = Checkpoint()
    log: Log = Log()

    @classmethod
    def of(cls, values: Options, prefix: str = "") -> Self:
        """Returns the settings of a resolved config, checked.

        Args:
            values: nested plain dictionaries, see `reid_jax.config.to_dict`.
            prefix: path of the phase ("phases.align."), for errors.

        Raises:
            UserError: an unknown key, or a value that its rule refuses.
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
    """Returns sections and mappings as nested plain dictionaries, what a config is made of."""
    if isinstance(value, Section):
        return {name: plain(each) for name, each in value.as_dict().items()}
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    return value
