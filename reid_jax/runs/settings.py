"""Typed settings of a run: made once from its config, with the checks that need the tables of other rooms.

What a constructor or a name table knows (models, losses, samplers, schedules, optimizers) is checked there. This file
holds what would otherwise show late, such as a metric that is looked up after hours of training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from reid_jax import config as config_lib
from reid_jax import errors
from reid_jax.config import phases
from reid_jax.evaluation import distance_blocks, ranking

DTYPES = ("auto", "float32", "bfloat16", "float16")


def of(config: ConfigDict | Mapping[str, Any]) -> config_lib.Settings:
    """Returns the settings of a resolved config, checked phase by phase.

    Raises:
        UserError: for the first value that cannot be meant; the sentence names its key.
    """
    settings = config_lib.Settings.of(config_lib.to_dict(config))
    distance_blocks.check_metric(settings.evals.metric)
    if settings.evals.ap not in ranking.AP_RULES:
        raise errors.unknown("AP rule (evals.ap)", str(settings.evals.ap), ranking.AP_RULES)
    if settings.dtype not in DTYPES:
        raise errors.unknown("dtype", str(settings.dtype), DTYPES)
    _check_text(settings)
    phases.resolve(settings)
    return settings


def _check_text(settings: config_lib.Settings) -> None:
    """Prompts are fitted to frozen encoders: both must have learned something before."""
    init = settings.init
    if settings.model.get("text_source") == "clip" and not (init.weights and init.text_weights):
        raise errors.UserError(
            "model.text_source='clip' fits prompts to a frozen image encoder and to CLIP's text transformer; give the "
            "files of both, init.weights and init.text_weights, or set model.text_source='learned'."
        )
