"""What the section `evals` of a config hands to each evaluation."""

import dataclasses
import types

import numpy as np

from reid_jax.config import sections
from reid_jax.data.feature_set import FeatureSet
from reid_jax.runs import experiment, results

EVALS = sections.Evals(metric="cosine", ap="trapezoid", same_camera_filter=False, rerank=True, corruption_rounds=3)
RULE = {"metric": "cosine", "ap": "trapezoid", "same_camera_filter": False}


def test_every_evaluation_follows_the_rule_of_the_config(monkeypatch):
    protocol = dataclasses.asdict(results.protocol(EVALS))
    assert {key: protocol[key] for key in (*RULE, "rerank")} == {**RULE, "rerank": True}
    asked = []

    def record(*arguments, **options):
        asked.append(options)
        return types.SimpleNamespace(as_dict=dict)

    monkeypatch.setattr(results.ranking, "evaluate", record)
    monkeypatch.setattr(results.robustness, "evaluate", record)
    monkeypatch.setattr(results.features_lib, "feature_meta", lambda settings: {})
    monkeypatch.setattr(results.features_lib, "train_corruption", lambda settings: "augmix")
    clean = FeatureSet(np.zeros((1, 2)), np.zeros((1, 2)), [1], [1], [0], [1])
    results.rank(clean, EVALS)
    run = types.SimpleNamespace(settings=types.SimpleNamespace(evals=EVALS), dataset=None)
    results.corrupted_scores(run, {}, clean)
    assert asked[0] == RULE
    assert {key: asked[1][key] for key in (*RULE, "rounds", "train_corruption")} == {
        **RULE, "rounds": 3, "train_corruption": "augmix",
    }  # fmt: skip


def test_the_average_is_evaluated_where_there_is_one():
    state = types.SimpleNamespace(extra={"teacher": {"params": 0}}, variables={"params": 1})
    assert experiment.evaluated_variables(state) == {"params": 1}
    state.extra["average"] = {"params": 2}
    assert experiment.evaluated_variables(state) == {"params": 2}
