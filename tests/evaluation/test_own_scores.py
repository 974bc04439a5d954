"""Scores of the user's own functions in the report and on the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest

from reid_jax import errors
from reid_jax.cli import command_line, evaluate
from reid_jax.config import files
from reid_jax.data.feature_set import FeatureSet
from reid_jax.evaluation import own_scores, suite
from reid_jax.runs import settings

MODULE = """
import numpy as np


def hit_at_3(features, result):
    scored = result.num_relevant > 0
    return {"hit_at_3": np.mean(result.first_hit[scored] < 3), "queries": features.num_query}


def again(features, result):
    return {"hit_at_3": 0.0}


def usual(features, result):
    return {"mAP": 1.0}


def not_finite(features, result):
    return {"share": np.float32("nan")}


def bare(features, result):
    return 0.5


def broken(features, result):
    return features.no_such_array


number = 3
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Prefix of the paths into a module outside the package."""
    folder = tmp_path_factory.mktemp("own_scores")
    (folder / "own_score_functions.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield "own_score_functions:"


@pytest.fixture(scope="module")
def features():
    generator = np.random.default_rng(0)
    ids = generator.integers(1, 6, 20), generator.integers(1, 6, 90)
    arrays = [generator.standard_normal((len(one), 4)).astype(np.float32) for one in ids]
    return FeatureSet(*arrays, *ids, *(generator.integers(0, 3, len(one)) for one in ids), meta={"dataset": "shop"})


def test_scores_join_the_report(own, features):
    usual = suite.run("shop", features, suite.Protocol())
    got = suite.run("shop", features, suite.Protocol(scores=(own + "hit_at_3",)))
    expected = float(np.mean(usual.plain.first_hit[usual.plain.num_relevant > 0] < 3))
    assert got.flat() == usual.flat() | {"shop/hit_at_3": expected, "shop/queries": 20.0}
    assert f"shop, own scores (not in per cent): hit_at_3 {expected:.4g}, queries 20" in suite.table([got])


def test_command(own, features, tmp_path, capsys):
    features.save(tmp_path / "features.npz")
    command = ["--features", str(tmp_path / "features.npz"), "--output", str(tmp_path / "result.json")]
    assert evaluate.main([*command, "--score", own + "hit_at_3"]) == 0
    assert json.loads((tmp_path / "result.json").read_text())["shop/queries"] == 20
    assert "own scores" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("not_finite",), "'share' of the score .* to be a finite number"),
        (("bare",), "a mapping of names to numbers, got float"),
        (("broken",), "failed with AttributeError: .*no_such_array"),
        (("usual",), "returns 'mAP', which is taken"),
        (("hit_at_3", "again"), "returns 'hit_at_3', which is taken"),
        (("number",), "to be a function of a FeatureSet and a RankingResult, it is a int"),
        (("absent",), "unknown score in the module 'own_score_functions'"),
    ],
)
def test_bad_functions_are_one_sentence(own, features, names, message):
    with pytest.raises(errors.UserError, match=message) as caught:
        suite.run("shop", features, suite.Protocol(scores=tuple(own + name for name in names)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (("mAP",), "expected a score function as package.module:Name, got 'mAP'"),
        ("a.b:c", "expected a tuple of score functions"),
        (("no_such_project:score",), "expected the module 'no_such_project' of the score"),
    ],
)
def test_bad_paths(paths, message):
    with pytest.raises(errors.UserError, match=message):
        own_scores.find(paths)


def test_a_bad_score_is_refused_before_the_file_is_read(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["evaluate.py", "--features", "absent.npz", "--score", "no_such_project:score"])
    with pytest.raises(SystemExit) as ended:
        command_line.run(evaluate.main)
    assert ended.value.code == command_line.USER_MISTAKE
    assert "no_such_project" in capsys.readouterr().err


def test_a_bad_score_in_a_config_is_refused_before_training(own):
    config = files.load_config("mfv:demo")
    config.evals.scores = (own + "hit_at_3",)
    assert settings.of(config).evals.scores == (own + "hit_at_3",)
    config.evals.scores = (own + "absent",)
    with pytest.raises(errors.UserError, match="unknown score in the module 'own_score_functions'"):
        settings.of(config)
