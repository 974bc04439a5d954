"""Scores of the user's own code, added to the evaluation report.

`evals.scores = ("my_project.scores:hit_at_3",)` names functions that take what was ranked and its ranking, and return
scores by name:

    def hit_at_3(features, result):  # a FeatureSet and a RankingResult
        scored = result.num_relevant > 0
        return {"hit_at_3": float((result.first_hit[scored] < 3).mean())}

They appear as `<dataset>/<name>` in `result.json`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reid_jax import errors
from reid_jax.data.feature_set import FeatureSet
from reid_jax.evaluation.ranking import RankingResult
from reid_jax.plugins import names

Score = Callable[[FeatureSet, RankingResult], Mapping[str, float]]


def find(paths: Sequence[str]) -> dict[str, Score]:
    """Returns the functions that the paths stand for, by path.

    Raises:
        UserError: a path leads nowhere, or to something that cannot be called.
    """
    if isinstance(paths, str):
        raise errors.UserError(f'expected a tuple of score functions, got {paths!r}; write ("{paths}",).')
    found: dict[str, Score] = {}
    for path in paths:
        if not names.is_path(path):
            raise errors.UserError(
                f"expected a score function as package.module:Name, got {path!r}; the usual scores are always there."
            )
        function = names.load("score", path)
        if not callable(function):
            raise errors.UserError(
                f"expected the score {path!r} to be a function of a FeatureSet and a RankingResult, it is a "
                f"{type(function).__name__}; name a function."
            )
        found[path] = function
    return found


def compute(paths: Sequence[str], features: FeatureSet, result: RankingResult) -> dict[str, float]:
    """Returns the scores of all functions by name.

    Args:
        paths: `package.module:Name` of each function.
        features: what was ranked, junk included.
        result: its ranking.

    Raises:
        UserError: a function is not found, fails, returns no mapping of names to finite numbers, or uses a name that
            is taken.
    """
    scores: dict[str, float] = {}
    if paths:
        features = features.gathered()  # a function of the user's own expects the whole gallery
    for path, function in find(paths).items():
        try:
            given: Any = function(features, result)
        except errors.UserError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split()) or "no message"
            raise errors.UserError(
                f"the score {path!r} failed with {type(error).__name__}: {reason}; repair that function."
            ) from error
        taken = {*result.as_dict(), *scores}
        for name, value in _checked(path, given).items():
            if name in taken:
                raise errors.UserError(f"the score {path!r} returns {name!r}, which is taken; give it another name.")
            scores[name] = value
    return scores


def _checked(path: str, given: Any) -> dict[str, float]:
    """Returns the scores as floats, or raises the error for what is no mapping of names to finite numbers."""
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise errors.UserError(
            f"expected the score {path!r} to return a mapping of names to numbers, got {type(given).__name__}; return "
            "{name: value}."
        )
    scores = {}
    for name, value in given.items():
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise errors.UserError(
                f"expected {name!r} of the score {path!r} to be a finite number, got {value!r}; repair that function."
            )
        scores[name] = number
    return scores
