"""Construction of a run's typed settings, with the checks that need other parts of the package.

Constructors and name tables check models, losses, samplers, schedules and optimizers. The checks here find errors that
would otherwise appear late, such as an unknown metric after hours of training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from reid_jax import config as config_lib
from reid_jax import errors
from reid_jax.config import option_values, phases
from reid_jax.evaluation import distance_blocks, own_scores
from reid_jax.weights import hub


def of(config: ConfigDict | Mapping[str, Any]) -> config_lib.Settings:
    """Returns the validated settings of a resolved config and checks those of each phase.

    Raises:
        UserError: invalid value; the message names its key.
    """
    values = config_lib.to_dict(config)
    settings = config_lib.Settings.of(values)
    option_values.check_finite(values)
    distance_blocks.check_metric(settings.evals.metric)
    own_scores.find(settings.evals.scores)
    _check_text(settings)
    phases.resolve(settings)
    return settings


def _check_text(settings: config_lib.Settings) -> None:
    """Raises a `UserError` if prompts would be learned for encoders without pretrained weights."""
    init = settings.init
    if settings.model.get("text_source") == "clip" and (hub.is_scratch(init.weights) or not init.text_weights):
        raise errors.UserError(
            "model.text_source='clip' learns prompts for a frozen image encoder and CLIP's text transformer; give the "
            "weights of both, init.weights and init.text_weights, or set model.text_source='learned'."
        )
