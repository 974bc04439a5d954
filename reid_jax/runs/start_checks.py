"""Checks at the start of a new run: cheap ones first, all of them before data is prepared or a program is compiled.

The order is that of their cost: names and ranges of the config, presence of weights, folders of data sets, download of
weights and their fit to the model's shapes, and, where a data set would be prepared first, a trace of the losses on a
stand-in for it.
"""

from __future__ import annotations

from typing import Any

import jax
from ml_collections import ConfigDict

from reid_jax import build
from reid_jax import config as config_lib
from reid_jax.data import records, samplers
from reid_jax.federated import phase as federated_phase
from reid_jax.runs import config_checks, experiment, initial_weights, stand_in, start_files, starting_point
from reid_jax.runs import settings as settings_lib
from reid_jax.runtime import processes
from reid_jax.train import metrics


def check(config: ConfigDict) -> None:
    """Checks everything of a new run that can be checked without its data. A collective.

    Raises:
        UserError: a mistake in the config, or weights that are missing or do not fit.
    """
    settings = settings_lib.of(config)
    config_checks.check(settings)
    start_files.look(settings)
    if processes.is_main():
        build.check_data(settings)
    initial_weights.fetch(settings)
    starting_point.check(settings)
    if jax.process_count() == 1 and (drawn := stand_in.dataset(settings)) is not None:
        _rehearse(config, settings, drawn)


def _rehearse(config: ConfigDict, settings: config_lib.Settings, drawn: records.ReIDDataset) -> None:
    """Traces the losses of every phase on a stand-in for the data set, without the log lines, which the run repeats."""
    # Further data sets would be prepared.
    changes: dict[str, Any] = {"evals.datasets": (), "data.sources": ()}
    if federated_phase.is_federated(settings):
        labels, _ = records.train_labels(drawn.split("train"))
        sampler = settings.data.sampler
        samplers.build(sampler, labels, settings.seed)
        # Clients follow from the data; the losses are the same on a batch that any number of devices can share.
        fitting = {"name": "identity_groups", "identities": jax.device_count(), "images": sampler.get("images", 2)}
        changes |= {"train.mode": "joint", "data.sampler": fitting}
    config = config.copy_and_resolve_references()
    config_lib.override(config, changes)
    with metrics.unlogged():
        experiment.Experiment(config, drawn).outline()
