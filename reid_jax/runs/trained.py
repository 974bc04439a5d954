"""Models of run folders: an extractor with trained variables, features, and repeated evaluation."""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Mapping
from typing import Any

from reid_jax import build
from reid_jax import config as config_lib
from reid_jax.data import feature_set as feature_set_lib
from reid_jax.data import records
from reid_jax.evaluation import robustness, suite
from reid_jax.inference import extractor as extractor_lib
from reid_jax.inference import features as features_lib
from reid_jax.plugins import record
from reid_jax.runs import folder as folder_lib
from reid_jax.runs import further_descriptors, results
from reid_jax.runs import settings as settings_lib
from reid_jax.runtime import mesh as mesh_lib
from reid_jax.train import checkpoints

LOG = logging.getLogger(__name__)


def from_run(
    path: str | pathlib.Path, *, best: bool = False, overrides: Mapping[str, Any] | None = None
) -> tuple[extractor_lib.Extractor, dict[str, Any]]:
    """Returns the extractor and the trained variables of a run folder.

    Args:
        path: a run folder (`--workdir` of a training run).
        best: whether to load the checkpoint with the best mAP in place of the newest.
        overrides: dotted overrides of the config (`evals.flip`); None keeps a value.

    Raises:
        UserError: the folder is not a run folder, has no checkpoint, or the user's modules of the run are missing or
            have changed.
    """
    folder = folder_lib.RunFolder(path)
    config = folder.read_config()
    record.restore(config.get("code", ()))
    origin = {"run": folder.path.resolve().name, "config_hash": config_lib.config_hash(config)}
    config_lib.override(config, {key: value for key, value in (overrides or {}).items() if value is not None})
    settings = settings_lib.of(config)
    step = checkpoints.best_step(folder.checkpoints) if best else checkpoints.newest_step(folder.checkpoints)
    if not folder.result.exists():
        LOG.warning("warning: the training of %s is not complete; its weights of step %s are used.", path, step)
    variables, meta = checkpoints.restore_variables(
        folder.checkpoints, "best" if best and step is None else step, average="average"
    )
    model = build.build_model(settings, meta["num_classes"], meta.get("num_cameras", 0))
    mesh = mesh_lib.create_mesh()
    return extractor_lib.Extractor(model, settings, mesh, {**origin, "step": step}), mesh_lib.replicate(variables, mesh)


def settings_of(path: str | pathlib.Path, **evals: Any) -> config_lib.Settings:
    """Returns the settings of a run folder.

    Args:
        path: run folder.
        **evals: replace keys of the config's `evals` section.

    Raises:
        UserError: the folder is not a run folder, or the user's modules of the run are missing or have changed.
    """
    config = folder_lib.RunFolder(path).read_config()
    record.restore(config.get("code", ()))
    config_lib.override(config, {f"evals.{key}": value for key, value in evals.items()})
    return settings_lib.of(config)


def evaluate_run(path: str | pathlib.Path, *, best: bool = False, **evals: Any) -> dict[str, Any]:
    """Returns the scores of a run folder with the keys of `result.json`, optionally under another protocol.

    Args:
        path: run folder.
        best: whether to evaluate the checkpoint with the best mAP in place of the newest.
        **evals: replace keys of the config's `evals` section (`metric`, `ap`, `same_camera_filter`, ...).
    """
    features, dataset = all_features_of_run(path, best=best, **evals)
    protocol = results.protocol(settings_of(path, **evals).evals)
    reports = {name: suite.run(name, one, protocol) for name, one in features.items()}
    return suite.with_descriptors(reports, dataset.name)


def features_of_run(
    path: str | pathlib.Path, *, best: bool = False, dataset: str | None = None, **evals: Any
) -> tuple[feature_set_lib.FeatureSet, records.ReIDDataset, config_lib.Settings]:
    """Returns the features of a data set by a run's model, the data set, and the settings.

    Args:
        path: run folder.
        best: whether to use the checkpoint with the best mAP in place of the newest.
        dataset: a preset of `reid_jax.config.DATASETS`; None is the run's own data set.
        **evals: replace keys of the config's `evals` section.
    """
    settings = settings_of(path, **evals)
    extractor, variables = from_run(path, best=best)
    opened = build.evaluation_data(settings, dataset)
    meta = {**features_lib.feature_meta(settings), "dataset": opened.name, "weights": extractor.origin}
    return features_lib.describe_dataset(extractor, variables, opened, meta), opened, settings


def all_features_of_run(
    path: str | pathlib.Path, *, best: bool = False, dataset: str | None = None, **evals: Any
) -> tuple[dict[str, feature_set_lib.FeatureSet], records.ReIDDataset]:
    """Returns the features by the run's descriptor and by those of `evals.descriptors`, and the data set.

    Args:
        path: run folder.
        best: whether to use the checkpoint with the best mAP in place of the newest.
        dataset: a preset of `reid_jax.config.DATASETS`; None is the run's own data set.
        **evals: replace keys of the config's `evals` section.

    Returns:
        Features by `<data set>` and `<data set>/<descriptor>`, and the data set.
    """
    settings = settings_of(path, **evals)
    extractor, variables = from_run(path, best=best)
    further = {}
    if settings.evals.descriptors:
        meta = checkpoints.newest_meta(folder_lib.RunFolder(path).checkpoints)
        sizes = meta["num_classes"], meta.get("num_cameras", 0)
        further = further_descriptors.extractors(settings, *sizes, extractor.mesh)
    opened = build.evaluation_data(settings, dataset)
    found = {}
    for name, one in {"": extractor, **further}.items():
        meta = {**features_lib.feature_meta(one.settings), "dataset": opened.name, "weights": extractor.origin}
        key = f"{opened.name}/{name}" if name else opened.name
        found[key] = features_lib.describe_dataset(one, variables, opened, meta)
    return found, opened


def evaluate_robustness(
    path: str | pathlib.Path,
    *,
    best: bool = False,
    dataset: str | None = None,
    metric: str | None = None,
    ap: str | None = None,
    same_camera_filter: bool | None = None,
    **options: Any,
) -> robustness.Robustness:
    """Returns the scores of a run's model on corrupted images.

    Args:
        path: run folder.
        best: whether to use the checkpoint with the best mAP in place of the newest.
        dataset: a preset of `reid_jax.config.DATASETS`; None is the run's own data set.
        metric: distance; None is the run's own.
        ap: rule of average precision; None is the run's own.
        same_camera_filter: whether gallery images with the query's identity and camera are excluded; None is the run's
            own setting.
        **options: of `reid_jax.evaluation.robustness.evaluate` (selection, rounds, seed, progress).
    """
    given = {"metric": metric, "ap": ap, "same_camera_filter": same_camera_filter}
    settings = settings_of(path, **{key: value for key, value in given.items() if value is not None})
    extractor, variables = from_run(path, best=best)
    meta = features_lib.feature_meta(settings)
    protocol: dict[str, Any] = {key: getattr(settings.evals, key) for key in given}
    return robustness.evaluate(
        lambda data: features_lib.describe_dataset(extractor, variables, data, meta),
        build.evaluation_data(settings, dataset),
        train_corruption=features_lib.train_corruption(settings),
        **protocol,
        **options,
    )
