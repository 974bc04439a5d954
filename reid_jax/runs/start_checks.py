"""Checks at the start of a new run: cheap ones first, all of them before data is prepared or a program is compiled.

The order is that of their cost: names and ranges of the config, presence of weights, folders of data sets, download of
weights and their fit to the model's shapes, and, where a data set would be prepared first, a trace of the losses on a
stand-in for it.
"""

from __future__ import annotations

import jax
from ml_collections import ConfigDict

from reid_jax import build
from reid_jax import config as config_lib
from reid_jax.data import records
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
        _rehearse(config, drawn)


def _rehearse(config: ConfigDict, drawn: records.ReIDDataset) -> None:
    """Traces the losses of every phase on a stand-in for the data set, without the log lines, which the run repeats."""
    # Further data sets would be prepared.
    config = config.copy_and_resolve_references()
    config_lib.override(config, {"evals.datasets": ()})
    with metrics.unlogged():
        experiment.Experiment(config, drawn).outline()
