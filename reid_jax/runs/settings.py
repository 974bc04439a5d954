"""Numbers and names of a resolved config that can be judged before any data is read.

What a constructor or a name table knows (models, losses, samplers, schedules, optimizers) is checked there. This file
holds what would otherwise show late: a metric looked up after hours of training, or not at all: a learning rate that
is no number, a run of no epochs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from reid_jax import errors
from reid_jax.config import phases
from reid_jax.evaluation import distance_blocks, ranking

Rule = tuple[str, Callable[[Any], bool]]

POSITIVE: Rule = ("a number above 0", lambda value: _is_number(value) and value > 0)
NOT_NEGATIVE: Rule = ("a number of at least 0", lambda value: _is_number(value) and value >= 0)
SHARE: Rule = ("a number from 0 to below 1", lambda value: _is_number(value) and 0 <= value < 1)
COUNT: Rule = ("a whole number of at least 1", lambda value: _is_whole(value) and value >= 1)
COUNT_OR_NONE: Rule = ("a whole number of at least 0", lambda value: _is_whole(value) and value >= 0)

OF_RUN: dict[str, Rule] = {
    "seed": ("a whole number", lambda value: _is_whole(value)),
    "evals.every_epochs": NOT_NEGATIVE,
    "evals.batch_size": COUNT,
    "evals.ranked_lists": COUNT_OR_NONE,
    "evals.corruption_rounds": COUNT_OR_NONE,
    "checkpoint.every_steps": COUNT_OR_NONE,
    "checkpoint.every_epochs": NOT_NEGATIVE,
    "checkpoint.keep_best": COUNT_OR_NONE,
    "log.every_steps": COUNT_OR_NONE,
}
OF_PHASE: dict[str, Rule] = {
    "train.epochs": POSITIVE,
    "train.accumulate": COUNT,
    "train.ema_decay": SHARE,
    "optimizer.learning_rate": NOT_NEGATIVE,
    "data.height": COUNT,
    "data.width": COUNT,
}
DTYPES = ("auto", "float32", "bfloat16", "float16")


def check(settings: Mapping[str, Any]) -> None:
    """Looks at a resolved config, phase by phase.

    Raises:
        UserError: for the first value that cannot be meant; the sentence names its key.
    """
    _check_rules(OF_RUN, settings, "")
    evals = settings["evals"]
    distance_blocks.check_metric(evals["metric"])
    if evals["ap"] not in ranking.AP_RULES:
        raise errors.unknown("AP rule (evals.ap)", str(evals["ap"]), ranking.AP_RULES)
    if settings["dtype"] not in DTYPES:
        raise errors.unknown("dtype", str(settings["dtype"]), DTYPES)
    _check_text(settings)
    for name, resolved in phases.phase_configs(settings):
        _check_rules(OF_PHASE, resolved, f"phases.{name}." if name else "")


def _check_text(settings: Mapping[str, Any]) -> None:
    """Prompts are fitted to frozen encoders: both must have learned something before."""
    init = settings["init"]
    if settings["model"].get("text_source") == "clip" and not (init["weights"] and init.get("text_weights")):
        raise errors.UserError(
            "model.text_source='clip' fits prompts to a frozen image encoder and to CLIP's text transformer; give the "
            "files of both, init.weights and init.text_weights, or set model.text_source='learned'."
        )


def _check_rules(rules: Mapping[str, Rule], settings: Mapping[str, Any], prefix: str) -> None:
    for key, (wanted, holds) in rules.items():
        section, _, leaf = key.rpartition(".")
        value = (settings[section] if section else settings)[leaf]
        if not holds(value):
            raise errors.UserError(
                f"{prefix}{key} must be {wanted}, but is {value!r}; change it in the config or with --config.{key}=..."
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return _is_number(value) and value == int(value)
