"""Objects from a resolved config: model, preprocessing, initial variables, data set."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from reid_jax import config as config_lib
from reid_jax import errors, models
from reid_jax.config import sections
from reid_jax.data import prepare, records, union
from reid_jax.ops import images as image_ops
from reid_jax.plugins import names as names_lib
from reid_jax.runtime import processes

LOG = logging.getLogger(__name__)


Variables = Mapping[str, Any]


def compute_dtype(name: str) -> Any:
    """The dtype of activations: "auto" is bfloat16 on GPU and TPU and float32 on CPU, where bfloat16 gains nothing."""
    if name == "auto":
        return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    return jnp.dtype(name).type


def build_model(settings: config_lib.Settings, num_classes: int, num_cameras: int = 0) -> Any:
    """The model of a resolved config.

    Args:
        settings: read are `model`, `dtype` and the images' size.
        num_classes: training identities.
        num_cameras: cameras of the training data, for models that tell them apart; `model.num_cameras` overrules it.
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
    """The one place where images are normalized: uint8 [B, H, W, 3] to float32, then boxes to erase are filled.

    Args:
        settings: `mean` and `std` per channel for images in [0, 1], `erase_fill` (a mode of `ops.images.fill_boxes`).

    Returns:
        `(batch, key) -> batch`; every view (`image`, `image_<name>`) is treated alike. Boxes are filled when a key is
        given, that is in training.
    """

    def preprocess(batch: Mapping[str, jax.Array], key: jax.Array | None = None) -> dict[str, jax.Array]:
        done = dict(batch)
        for index, name in enumerate(sorted(name for name in batch if name == "image" or name.startswith("image_"))):
            images = image_ops.normalize(batch[name], settings.mean, settings.std)
            boxes = batch.get(name.replace("image", "erase_box", 1))
            if key is not None and boxes is not None:
                images = image_ops.fill_boxes(images, boxes, settings.erase_fill, jax.random.fold_in(key, index))
            done[name] = images
        return done

    return preprocess


def init_variables(model: Any, settings: config_lib.Settings, batch: Mapping[str, Any]) -> dict[str, Any]:
    """Random variables, the same for a seed on any number of devices."""
    preprocess = make_preprocess(settings.preprocess)

    def init(key: jax.Array) -> Any:
        params_key, dropout_key = jax.random.split(key)
        return model.init({"params": params_key, "dropout": dropout_key}, preprocess(batch), train=False)

    # A hundred random draws that run once: optimizing them would take most of a small run's start-up.
    quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    variables = jax.jit(init, compiler_options=quick)(jax.random.key(settings.seed))
    # What `sow` leaves behind is no state.
    unknown = set(variables) - {"params", "batch_stats", "constants", "intermediates"}
    if unknown:
        raise errors.UserError(
            "expected a model to keep its variables in the collections params, batch_stats and constants, got "
            f"{', '.join(sorted(unknown))} as well; keep what no step changes in constants."
        )
    kept = {"batch_stats": {}, **variables}
    return {name: kept[name] for name in ("params", "batch_stats", "constants") if name in kept}


def open_data(data: sections.Data) -> records.ReIDDataset:
    """Opens the data set a config's `data` section names, with the training images of others where it says so."""
    dataset = _open(data.name, data.root, data.options)
    sources = [_open_preset(name, data.root) for name in data.sources]
    return union.transfer(dataset, sources) if sources else dataset


def open_others(settings: config_lib.Settings) -> list[records.ReIDDataset]:
    """The further data sets that a config asks to be scored on (`evals.datasets`), under their presets' names."""
    data, names = settings.data, settings.evals.datasets
    if not names:
        return []
    if data.name in names:
        raise errors.UserError(f"evals.datasets names {data.name!r}, which is scored anyway; take it out.")
    # `open_data` has told what is odd about these.
    trained_on = [_open_preset(name, data.root, tell=False) for name in data.sources]
    trained_on = trained_on or [_open(data.name, data.root, data.options, tell=False)]
    opened = [(name, union.transfer(_open_preset(name, data.root), trained_on)) for name in names]
    # A preset's scores stand under its name, those of a user's data set under the name that it has itself.
    called = [dataset.name if names_lib.is_path(name) else name for name, dataset in opened]
    if len(set(called)) < len(called):
        raise errors.UserError(f"evals.datasets names data sets that go by one name ({', '.join(called)}); rename one.")
    return [dataclasses.replace(dataset, name=name, train=None) for name, (_, dataset) in zip(called, opened)]


def _open_preset(name: str, root: str, tell: bool = True) -> records.ReIDDataset:
    if names_lib.is_path(name):
        return _open(name, root, {}, tell)
    if name not in config_lib.DATASETS:
        raise errors.unknown(
            "data set (data.sources, evals.datasets)", str(name), [*config_lib.DATASETS, "package.module:Name"]
        )
    preset = config_lib.DATASETS[name]
    return _open(preset["data.name"], root, preset.get("data.options", {}), tell)


def _open(name: str, root: str, options: Mapping[str, Any], tell: bool = True) -> records.ReIDDataset:
    """Opens a data set; the main process prepares it first where it is not, and tells what is odd about it."""
    if processes.is_main():
        dataset = prepare.ensure(name, root, **options)
        for warning in _warnings_of(dataset) if tell else ():
            LOG.warning("warning: %s", warning)
    processes.barrier("data prepared")
    if not processes.is_main():
        dataset = prepare.open_prepared(name, root, **options)
    return dataset


def _warnings_of(dataset: records.ReIDDataset) -> list[str]:
    """What preparation found odd: told at every start, for training may have prepared the data by itself."""
    report = dataset.path / records.REPORT_FILE if dataset.path else None
    return json.loads(report.read_text(encoding="utf-8"))["warnings"] if report and report.is_file() else []


def evaluation_data(settings: config_lib.Settings, dataset: str | None = None) -> records.ReIDDataset:
    """The data set a run is tested on: its own, or another preset's under that name."""
    if dataset in (None, settings.data.name):
        return open_data(settings.data)
    return open_others(dataclasses.replace(settings, evals=dataclasses.replace(settings.evals, datasets=(dataset,))))[0]
