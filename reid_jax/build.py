"""Construction from resolved settings: model, preprocessing, initial variables, data sets."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from reid_jax import config as config_lib
from reid_jax import errors, models
from reid_jax.config import sections
from reid_jax.data import catalog, fewer_people, index_copy, pool, prepare, records, union
from reid_jax.ops import grouping
from reid_jax.ops import images as image_ops
from reid_jax.plugins import names as names_lib
from reid_jax.runtime import processes
from reid_jax.stores import objects

LOG = logging.getLogger(__name__)
OWN = "own"  # in `data.sources`: the data set of `data.name`, of which a share is trained on

Variables = Mapping[str, Any]


def compute_dtype(name: str) -> Any:
    """Returns the data type of activations.

    Args:
        name: "float32", "bfloat16", "float16", or "auto": bfloat16 on GPU and TPU, float32 on CPU, where bfloat16 is
            not faster.
    """
    if name == "auto":
        return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    return jnp.dtype(name).type


def build_model(settings: config_lib.Settings, num_classes: int, num_cameras: int = 0) -> Any:
    """Returns the model of a config.

    Args:
        settings: `model`, `dtype` and the image size are used.
        num_classes: number of training identities.
        num_cameras: number of training cameras, for models with camera embeddings; `model.num_cameras` takes
            precedence.
    """
    options = dict(settings.model)
    name = options.pop("name")
    known = {
        "num_classes": num_classes,
        "num_cameras": num_cameras,
        "image_size": (settings.data.height, settings.data.width),
        "dtype": compute_dtype(settings.dtype),
    }
    return models.build(name, **{**models.accepted(name, known), **options})


def make_preprocess(settings: sections.Preprocess) -> Callable[..., dict[str, jax.Array]]:
    """Returns the function that normalizes images from uint8 [B, H, W, 3] to float32 and fills erased boxes.

    Images are normalized nowhere else.

    Args:
        settings: `mean` and `std` per channel for images in [0, 1], `erase_fill` (a mode of `ops.images.fill_boxes`).

    Returns:
        `(batch, key) -> batch`, applied to every view (`image`, `image_<name>`). Boxes are filled only if a key is
        given, which is the case in training.
    """

    def preprocess(batch: Mapping[str, jax.Array], key: jax.Array | None = None) -> dict[str, jax.Array]:
        processed = dict(batch)
        for index, name in enumerate(sorted(name for name in batch if name == "image" or name.startswith("image_"))):
            images = image_ops.normalize(batch[name], settings.mean, settings.std)
            boxes = batch.get(name.replace("image", "erase_box", 1))
            if key is not None and boxes is not None:
                images = image_ops.fill_boxes(images, boxes, settings.erase_fill, jax.random.fold_in(key, index))
            processed[name] = images
        return processed

    return preprocess


def initializer(model: Any, settings: config_lib.Settings, batch: Mapping[str, Any]) -> grouping.Grouped:
    """Returns the compiled function from a random key to initial variables, `model.init` with draws of one kind as one.

    Its `layout` has the shapes without compiling, and that trace serves the first call as well.

    Args:
        model: the model.
        settings: `preprocess` is used.
        batch: a batch of one image, for shapes; shapes suffice.
    """
    preprocess = make_preprocess(settings.preprocess)

    def init(key: jax.Array) -> Any:
        params_key, dropout_key = jax.random.split(key)
        zeros = {name: jnp.zeros(value.shape, value.dtype) for name, value in batch.items()}
        return model.init({"params": params_key, "dropout": dropout_key}, preprocess(zeros), train=False)

    # Hundreds of random draws that run once: optimizing the program would dominate the start-up of a small run.
    quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return grouping.grouped(init, quick)


def init_variables(
    model: Any,
    settings: config_lib.Settings,
    batch: Mapping[str, Any],
    initialize: Callable[[jax.Array], Any] | None = None,
) -> dict[str, Any]:
    """Returns randomly initialized variables; they depend on the seed and not on the number of devices.

    Args:
        model: the model.
        settings: `seed` and `preprocess` are used.
        batch: a batch of one image, for shapes.
        initialize: `initializer` of these; None makes one.

    Raises:
        UserError: the model has variables in an unknown collection.
    """
    initialize = initialize or initializer(model, settings, batch)
    return collections(initialize(jax.random.key(settings.seed)))


def variable_shapes(
    model: Any,
    settings: config_lib.Settings,
    batch: Mapping[str, Any],
    initialize: grouping.Grouped | None = None,
) -> dict[str, Any]:
    """Returns the shapes of the variables of `init_variables`, by tracing alone."""
    key = jax.eval_shape(lambda: jax.random.key(settings.seed))
    return collections((initialize or initializer(model, settings, batch)).layout(key).shapes)


def collections(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of a model's variables that a state keeps.

    Raises:
        UserError: a variable in an unknown collection.
    """
    # Intermediates that a module sowed are not part of the state.
    unknown = set(variables) - {"params", "batch_stats", "constants", "intermediates"}
    if unknown:
        raise errors.UserError(
            "expected a model to keep its variables in the collections params, batch_stats and constants, got "
            f"{', '.join(sorted(unknown))} as well; keep what no step changes in constants."
        )
    kept = {"batch_stats": {}, **variables}
    return {name: kept[name] for name in ("params", "batch_stats", "constants") if name in kept}


def open_data(data: sections.Data) -> records.ReIDDataset:
    """Returns the data set of a config's `data` section; `data.sources` replaces its training images.

    Raises:
        UserError: the data set is unknown or cannot be prepared.
    """
    if len(data.sources) > 1 and any(of_pool(name) for name in data.sources):
        raise errors.UserError("expected a pool as the only one of data.sources, got others beside it; name one.")
    dataset = _open(data.name, data.root, data.options)
    sources = [dataset if _is_own(name) else _open_preset(name, data.root) for name in data.sources]
    if not sources:
        return dataset
    return union.transfer(dataset, sources, [_people_of(name) for name in data.sources])


def open_own(data: sections.Data) -> records.ReIDDataset:
    """Returns the data set of `data.name` with its own training images, whatever `data.sources` names.

    Raises:
        UserError: the data set is unknown or cannot be prepared.
    """
    return _open(data.name, data.root, data.options, log_warnings=False)


def open_others(settings: config_lib.Settings) -> list[records.ReIDDataset]:
    """Returns the further data sets to evaluate on (`evals.datasets`), named by their presets.

    Raises:
        UserError: a data set is unknown, is evaluated anyway, or shares its name with another.
    """
    data, names = settings.data, settings.evals.datasets
    if not names:
        return []
    _check_others(settings)
    # `open_data` has logged the warnings of these data sets.
    trained_on = [
        open_own(data) if _is_own(name) else _open_preset(name, data.root, log_warnings=False) for name in data.sources
    ]
    trained_on = trained_on or [_open(data.name, data.root, data.options, log_warnings=False)]
    opened = [(name, union.transfer(_open_other(name, data), trained_on)) for name in names]
    # Scores are named after the preset; those of a user's data set after the name that it gives itself.
    dataset_names = [dataset.name if names_lib.is_path(name) else name for name, dataset in opened]
    if len(set(dataset_names)) < len(dataset_names):
        raise errors.UserError(
            f"evals.datasets has data sets of the same name ({', '.join(dataset_names)}); rename one."
        )
    return [dataclasses.replace(dataset, name=name, train=None) for name, (_, dataset) in zip(dataset_names, opened)]


def check_data(settings: config_lib.Settings) -> None:
    """Checks that every data set of a config exists where it is expected, before any of them is prepared.

    Raises:
        UserError: an unknown data set, or one whose files are not there.
    """
    data = settings.data
    _check_others(settings)
    prepare.check_source(data.name, data.root, **data.options)
    for name in data.sources:
        known, options = (name, {}) if names_lib.is_path(name) else of_source(name, data)
        if known == pool.NAME:
            pool.check(data.root, options)
        else:
            prepare.check_source(known, data.root, **options)
    for name in settings.evals.datasets:
        known, options = (name, {}) if names_lib.is_path(name) else _of_evaluated(name, data)
        prepare.check_source(known, data.root, **options)


def _check_others(settings: config_lib.Settings) -> None:
    if settings.data.name in settings.evals.datasets:
        raise errors.UserError(f"evals.datasets names {settings.data.name!r}, which is evaluated anyway; remove it.")


def of_source(name: str, data: sections.Data) -> tuple[str, Mapping[str, Any]]:
    """Returns name and options of a data set in `data.sources`: a preset, or "own", the config's data set itself."""
    if not _is_own(name):
        return of_preset(name)
    if set(_options_of(name)) - {fewer_people.OPTION}:
        raise errors.UserError(
            f"expected no option but {fewer_people.OPTION} of {OWN!r} in data.sources, got {name[:100]!r}; set "
            "data.options."
        )
    return data.name, data.options


def _is_own(name: str) -> bool:
    return name.partition("@")[0] == OWN


def of_preset(name: str) -> tuple[str, Mapping[str, Any]]:
    """Returns name and options of the data set that a preset means.

    Args:
        name: a preset, or a data set that is one of no preset, such as `unlabelled`; options follow behind "@":
            "synthped_large@seed=1" or "unlabelled@title=street". The option `identities` is a share of the people that
            are trained on and no option of the data set.

    Raises:
        UserError: an unknown preset.
    """
    base, given = name.partition("@")[0], _options_of(name)
    given.pop(fewer_people.OPTION, None)
    if base in config_lib.DATASETS:
        preset = config_lib.DATASETS[base]
        return preset["data.name"], {**preset.get("data.options", {}), **given}
    if base not in (pool.NAME, *catalog.entries()):
        known = [*config_lib.DATASETS, pool.NAME, "package.module:Name"]
        raise errors.unknown("data set (data.sources, evals.datasets)", str(name), known)
    return base, given


def _options_of(name: str) -> dict[str, str]:
    """Returns the options behind "@" in the name of a preset."""
    return dict(pair.partition("=")[::2] for pair in name.partition("@")[2].split(",") if pair)


def _of_evaluated(name: str, data: sections.Data) -> tuple[str, Mapping[str, Any]]:
    """Returns name and options of a preset to evaluate on.

    Another size of a generated data set is drawn from the seed of the training data, so that it has the same cameras.
    """
    known, options = of_preset(name)
    if "seed" in options and "seed" in data.options and catalog.related(known, data.name, "cameras"):
        options = {**options, "seed": data.options["seed"]}
    return known, options


def _open_other(name: str, data: sections.Data) -> records.ReIDDataset:
    """Returns a data set of `evals.datasets`."""
    if names_lib.is_path(name):
        return _open(name, data.root, {})
    known, options = _of_evaluated(name, data)
    return _open(known, data.root, options)


def _people_of(name: str) -> float:
    """Returns the share of the identities of a data set in `data.sources`, 1 unless it is said."""
    given = {} if names_lib.is_path(name) or of_pool(name) else _options_of(name)
    return fewer_people.share_of(given.get(fewer_people.OPTION))


def of_pool(name: str) -> bool:
    """Returns whether a name in `data.sources` is that of an unlabelled pool."""
    return name.partition("@")[0] == pool.NAME


def _open_preset(name: str, root: str, log_warnings: bool = True) -> records.ReIDDataset:
    """Returns the data set of a preset or of the user's own code."""
    if names_lib.is_path(name):
        return _open(name, root, {}, log_warnings)
    known, options = of_preset(name)
    return pool.open_pool(root, options) if known == pool.NAME else _open(known, root, options, log_warnings)


def _open(name: str, root: str, options: Mapping[str, Any], log_warnings: bool = True) -> records.ReIDDataset:
    """Returns a data set; the main process prepares it first if necessary and logs the warnings of its preparation.

    It reads the index for all, so that many processes do not ask the file system for the same lists.
    """
    packed = b""
    if processes.is_main():
        dataset = prepare.ensure(name, root, **options)
        for warning in prepare.warnings_of(name, dataset, root, **options) if log_warnings else ():
            LOG.warning("warning: %s", warning)
        packed = index_copy.pack(dataset) if processes.process_count() > 1 else b""
    packed = processes.broadcast_bytes(packed)
    if not processes.is_main():
        if packed and not objects.is_remote(root):
            return index_copy.unpack(packed, records.prepared_folder(name, root, **options))
        dataset = prepare.open_prepared(name, root, **options)
    return dataset


def data_of(settings: config_lib.Settings, dataset: str | None = None) -> tuple[str, dict[str, Any]]:
    """Returns name and options of the data set that `evaluation_data` opens."""
    if dataset in (None, settings.data.name):
        return settings.data.name, dict(settings.data.options)
    name = str(dataset)
    known, options = (name, {}) if names_lib.is_path(name) else _of_evaluated(name, settings.data)
    return known, dict(options)


def evaluation_data(settings: config_lib.Settings, dataset: str | None = None) -> records.ReIDDataset:
    """Returns the data set for the evaluation of a run.

    Args:
        settings: settings of the run.
        dataset: a preset or `package.module:name`; None is the run's own data set.
    """
    if dataset in (None, settings.data.name):
        return open_data(settings.data)
    return open_others(dataclasses.replace(settings, evals=dataclasses.replace(settings.evals, datasets=(dataset,))))[0]
