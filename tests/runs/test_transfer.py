"""Training on other data sets than those of the evaluation, from the config to `result.json`."""

import json

import pytest

from reid_jax import build, errors
from reid_jax import config as config_lib
from reid_jax.config import sections
from reid_jax.runs import experiment, results
from reid_jax.runs import folder as folder_lib
from tests.helpers import benchmark_folders, market_folder, tiny

pytestmark = pytest.mark.slow

SCORES = ("mAP", "mINP", "rank1", "rank5", "rank10")


@pytest.fixture
def root(tmp_path):
    """Raw folders of four data sets."""
    data = tmp_path / "data"
    market_folder.write(data / "market1501", train_identities=8, test_identities=2, height=32, width=16)
    for name in ("occluded_reid", "dukemtmc_reid", "msmt17"):
        benchmark_folders.WRITERS[name](data / name)
    return data


def _config(root, name, **overrides):
    return tiny.config(root, name, {**tiny.BOT, "train.epochs": 1.0, "evals.every_epochs": 1.0}, **overrides)


def test_training_on_one_data_set_and_evaluation_on_two_others(root, tmp_path):
    config = _config(root, "bot:occluded_reid", evals__datasets=("dukemtmc_reid",))
    built = experiment.Experiment(config)
    assert built.num_classes == 8
    folder = folder_lib.RunFolder(tmp_path / "run")
    folder.claim(config)
    # Final evaluation and evaluation during training agree, here for the untrained network.
    state = built.initial_state()
    results.finish(built, folder, state.variables, {"steps": 0}, complete=True)
    result = json.loads((folder.path / "result.json").read_text())
    assert result["dataset"] == "occluded_reid"
    assert (result["num_query"], result["num_gallery"]) == (4, 4)
    expected = {f"{name}/{score}" for name in ("occluded_reid", "dukemtmc_reid") for score in SCORES}
    assert {key for key in result if "/" in key} >= expected
    assert all(0 <= result[key] <= 1 for key in expected)
    assert not any(key.startswith("market1501/") for key in result)
    during = built.scores(state, 0)
    assert {key: during[key] for key in expected} == {key: result[key] for key in expected}
    measured = {tuple(key.split("/")[:3]) for key in built.baselines(state)}
    names = ("untrained", "raw_pixels", "hsv_histogram")
    sets = ("occluded_reid", "dukemtmc_reid")
    assert measured == {(tested, "baseline", name) for tested in sets for name in names}
    table = results.summary(result)
    assert "trained, on dukemtmc_reid" in table
    counts = f"{result['dukemtmc_reid/num_query']} queries"
    assert result["dukemtmc_reid/num_query"] > 0
    assert f"\n  dukemtmc_reid: {counts}" in table
    assert result["trained_on"] == ["market1501"]
    assert "trained on market1501 (data.sources)" in table
    # Another choice of evaluation sets keeps the run folder, other training data do not.
    assert config_lib.differences(_config(root, "bot:occluded_reid"), config) == []
    other = _config(root, "bot:occluded_reid", data__sources=("msmt17",))
    assert config_lib.differences(other, config) == ["data.sources: ['market1501'] -> ['msmt17']"]


def test_another_size_of_a_generated_data_set_has_the_cameras_of_the_training_images():
    street = sections.Data(name="synthped_street", options={"size": "demo", "seed": 3})
    assert build._of_evaluated("synthped_street_large", street)[1] == {"size": "large", "seed": 3}
    assert build._of_evaluated("synthped_large", street)[1] == {"size": "large", "seed": 0}
    assert build._of_evaluated("market1501", street) == build.of_preset("market1501")


def test_training_on_a_union_of_two_data_sets(root):
    config = _config(root, "bot:market1501", data__sources=("msmt17", "market1501"), evals__datasets=("msmt17",))
    built = experiment.Experiment(config)
    assert built.num_classes == 2 + 8
    assert built.dataset.train.name == "msmt17+market1501/train"
    assert built.dataset.train.counts()["cameras"] == 2 + 3
    # Test cameras have the indices of the training cameras.
    assert set(built.dataset.query.camids) <= set(built.dataset.train.camids)
    assert set(built.others[0].query.camids) <= set(built.dataset.train.camids)
    assert [other.name for other in built.others] == ["msmt17"]


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (
            {"data__sources": ("market15O1",)},
            r"unknown data set \(data.sources, evals.datasets\) 'market15O1'; did you",
        ),
        ({"evals__datasets": ("nothing",)}, r"unknown data set \(data.sources, evals.datasets\) 'nothing'"),
        (
            {"evals__datasets": ("market1501",)},
            "evals.datasets names 'market1501', which is evaluated anyway; remove it",
        ),
        ({"data__sources": ("occluded_reid",)}, "data set 'occluded_reid' has no train split"),
        ({"data__sources": ("market1501", "market1501")}, "market1501 and market1501 show the same people"),
        ({"data__sources": ("p_dukemtmc_reid",)}, "expected the files of data set 'p_dukemtmc_reid' in"),
    ],
)
def test_invalid_data_sets_are_reported_before_training(root, overrides, complaint):
    with pytest.raises(errors.UserError, match=complaint):
        experiment.Experiment(_config(root, "bot:market1501", **overrides))
