"""Starting from weights files and other runs: their variables as initial values, by name (`init`)."""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from reid_jax import build, errors, models, trees
from reid_jax import config as config_lib
from reid_jax.config import sections
from reid_jax.runs import folder as folder_lib
from reid_jax.runs import initial_weights, start_files
from reid_jax.train import checkpoints
from reid_jax.weights import convert, hub, input_normalization, weight_tables

LOG = logging.getLogger(__name__)


def fill(
    variables: Mapping[str, Any], settings: config_lib.Settings, model: Any, *, log: int = logging.INFO
) -> dict[str, Any]:
    """Returns variables with everything that `init` names in place of the initial values. A collective.

    Args:
        variables: initial variables of the model; shapes suffice for a check.
        settings: settings of the run.
        model: the model.
        log: level of the report of every key.

    Raises:
        UserError: a file or run that cannot be read or does not fit; the message names the first name that does not.
    """
    init, filled = settings.init, dict(variables)
    if not hub.is_scratch(init.weights) and not start_files.is_run(init.weights):
        filled = load_file(filled, settings, model, init.weights, log=log)
    for run in start_files.runs(init):
        filled, report = load_run(filled, run, init)
        LOG.log(log, "variables of the run %s:\n%s", run, report)
    for key, read in models.part_loaders(settings.model["name"]).items():
        if text := getattr(init, key):
            path = initial_weights.file(text)
            filled, report = read(filled, path)
            LOG.log(log, "%s from %s:\n%s", key.replace("_", " "), path, report)
    return filled


def load_file(
    variables: Mapping[str, Any], settings: config_lib.Settings, model: Any, text: str, *, log: int = logging.INFO
) -> dict[str, Any]:
    """Returns variables with those of a weights file, or of published weights by name. A collective."""
    path, init = initial_weights.file(text), settings.init
    filled, report = models.load_weights(
        settings.model["name"], variables, path, model=model, allow_missing=init.allow_missing, ignore=init.ignore
    )
    LOG.log(log, "weights from %s:\n%s", path, report)
    return _for_our_images(filled, settings, path, log)


def _for_our_images(
    variables: dict[str, Any], settings: config_lib.Settings, path: pathlib.Path, log: int
) -> dict[str, Any]:
    """Returns variables with patch embeddings for this run's normalization, where the file names another one."""
    init = settings.init
    if (init.pixel_mean is None) != (init.pixel_std is None):
        raise errors.UserError("expected init.pixel_mean and init.pixel_std together, got one of them; set both.")
    if not _is_concrete(variables):
        return variables
    if init.pixel_mean is not None and init.pixel_std is not None:
        source = (list(init.pixel_mean), list(init.pixel_std))
    else:
        meta = input_normalization.meta_of(path) if path.suffix.lower() in weight_tables.ENDINGS else {}
        if "mean" not in meta or "std" not in meta:
            return variables
        source = (meta["mean"], meta["std"])
    ours = (list(settings.preprocess.mean), list(settings.preprocess.std))
    if source == ours:
        return variables
    LOG.log(
        log, "trained with mean %s and std %s, whose difference from preprocess goes into the patch embedding", *source
    )
    return input_normalization.fold(variables, source, ours)


def _is_concrete(variables: Mapping[str, Any]) -> bool:
    """Returns whether variables are arrays, not shapes."""
    return all(isinstance(leaf, np.ndarray | jax.Array) for leaf in jax.tree.leaves(variables))


def load_run(variables: Mapping[str, Any], run: str, init: sections.Init) -> tuple[dict[str, Any], convert.Report]:
    """Returns variables with those of a run in place of the initial ones, and the outcome for every name.

    Args:
        variables: initial variables of the model.
        run: the run folder; its newest checkpoint counts, with averaged variables where it has them.
        init: `allow_missing` and `ignore` say by pattern what it may lack and what of it is left out.

    Raises:
        UserError: no run folder with a checkpoint, or variables that do not fit; the message names them.
    """
    folder = folder_lib.RunFolder(run)
    folder.read_config()
    trained, _ = checkpoints.restore_variables(folder.checkpoints, extra=bool(init.network), average="average")
    if init.network and run == init.trained:
        trained = _extra(trained["extra"], init.network, run, "init.network")
    trained.pop("extra", None)
    ignored = (*convert.IGNORED, *((pattern, "left out on request") for pattern in init.ignore))
    try:
        return convert.load_into(variables, trees.flatten(trained), ignore=ignored, allow_missing=init.allow_missing)
    except convert.ConversionError as error:
        advice = "or name what differs in init.allow_missing and init.ignore"
        raise convert.ConversionError(f"{run}: {str(error).rstrip('.')}, {advice}.", error.report) from error


def extras(init: sections.Init) -> dict[str, Any]:
    """Returns the extras that a run takes over from the run it starts from (`init.extras`), by name, as numpy.

    Raises:
        UserError: no run to start from, or it has no such extra.
    """
    if not init.trained and (init.extras or init.network):
        raise errors.UserError("expected init.trained, the run of init.extras and init.network, it is empty; set it.")
    if not init.extras:
        return {}
    trained, _ = checkpoints.restore_variables(folder_lib.RunFolder(init.trained).checkpoints, extra=True)
    return {name: _extra(trained["extra"], name, init.trained, "init.extras") for name in init.extras}


def _extra(found: Mapping[str, Any], name: str, run: str, key: str) -> Any:
    if name not in found:
        raise errors.unknown(f"extra of {run} ({key})", name, found)
    return found[name]


def check(settings: config_lib.Settings) -> None:
    """Checks that everything that `init` names fits the model, by shapes: nothing is computed or compiled.

    The numbers of identities and cameras are those of the file or run, for the data is not read yet. A collective.

    Raises:
        UserError: as `fill`.
    """
    init = settings.init
    if hub.is_scratch(init.weights) and not init.trained and not init.text_weights:
        return
    counts = {"num_classes": 2, "num_cameras": 2}
    if runs := start_files.runs(init):
        meta = checkpoints.newest_meta(folder_lib.RunFolder(runs[-1]).checkpoints)
        counts |= {key: meta[key] for key in counts if meta.get(key)}
    elif not hub.is_scratch(init.weights):
        path = initial_weights.file(init.weights)
        found = models.options_of_weights(settings.model["name"], path)
        counts |= {key: found[key] for key in counts if found.get(key)}
    model = build.build_model(settings, counts["num_classes"], counts["num_cameras"])
    size = (settings.data.height, settings.data.width)
    batch = {"image": jax.ShapeDtypeStruct((1, *size, 3), np.uint8)}
    batch |= {name: jax.ShapeDtypeStruct((1,), np.int32) for name in ("camid", "label")}
    fill(build.variable_shapes(model, settings, batch), settings, model, log=logging.DEBUG)
