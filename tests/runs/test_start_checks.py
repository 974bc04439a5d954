"""What a new run finds before data is prepared or a program is compiled."""

import logging

import numpy as np
import pytest

from reid_jax import build, errors
from reid_jax import config as config_lib
from reid_jax.config import files
from reid_jax.data import prepare
from reid_jax.runs import config_checks, launch, stand_in
from reid_jax.runs import settings as settings_lib
from reid_jax.train import checkpoints
from tests.federated import test_federated_run
from tests.helpers import tiny

TERM = {"loss": "cross_entropy", "on": "logits/b", "weight": 1.0}


def config(root, **overrides):
    """The tiny BoT on the tiny data set, which is not prepared below this root."""
    return tiny.config(root, base={**tiny.BOT, "data.options": {"size": "tiny", "seed": 0}}, **overrides)


@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        ({"data__sampler__identities": 16}, "16 identities was asked for, but the training split has 8; lower"),
        ({"data__sampler__identities": 3}, "6 images does not divide evenly over 8 devices"),
        ({"train__accumulate": 3}, "expected a batch divisible into 3 micro-batches"),
        (
            {"losses__ce": {**TERM, "on": "logits/t1"}, "evals__datasets": ("synthped_occluded",)},
            "unknown output 'logits/t1'.*logits/b",
        ),
        ({"optimizer__weight_decays": ((".*/bias", 0.0),)}, "leaves .* parameters without a value"),
        ({"data__options": {"size": "tinny"}}, "did you mean 'tiny'"),
        ({"data__options": {"sizes": "tiny"}}, "did you mean 'size'"),
        ({"data__sources": ("market15O1",)}, "did you mean 'market1501'"),
        ({"evals__datasets": ("market15O1",)}, "did you mean 'market1501'"),
        ({"evals__datasets": ("msmt17",)}, "expected the files of data set 'msmt17' in"),
        ({"evals__datasets": ("synthped",)}, "which is evaluated anyway"),
        (
            {"data__sources": ("synthped_occluded",), "data__sampler__identities": 400},
            "400 identities was asked for, but the training split has 96",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_a_mistake_is_found_before_the_data_is_prepared(mistake, sentence, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "init_variables", lambda *_: pytest.fail("something is computed"))
    monkeypatch.setattr(prepare, "prepare", lambda *_, **__: pytest.fail("a data set is prepared"))
    with pytest.raises(errors.UserError, match=sentence):
        launch.run(config(tmp_path / "data", **mistake), workdir=str(tmp_path / "run"))
    assert not list(tmp_path.iterdir())
    assert logging.root.manager.disable == logging.NOTSET


@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        ({"losses.ce_g1": {**TERM, "on": "logits/t1"}}, "unknown output 'logits/t1'.*logits/g1"),
        ({"data.sampler.identities": 16}, "16 identities was asked for, but the training split has 8; lower"),
        ({"fed.round": 3}, "did you mean 'rounds'"),
    ],
    ids=["loss", "sampler", "round"],
)
def test_a_federations_mistake_is_found_before_the_data_is_prepared(mistake, sentence, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "prepare", lambda *_, **__: pytest.fail("a data set is prepared"))
    name = "mgaf:synthped,mgaf_base,mgaf_federated"
    made = tiny.config(tmp_path / "data", name, {**test_federated_run.SMALL, **mistake})
    with pytest.raises(errors.UserError, match=sentence):
        launch.run(made, workdir=str(tmp_path / "run"))
    assert not list(tmp_path.iterdir())


def test_a_stand_in_has_the_identities_that_are_known(tmp_path):
    def drawn(**overrides):
        return stand_in.dataset(settings_lib.of(config(tmp_path, **overrides)))

    assert drawn().train.counts()["identities"] == 8
    (tmp_path / "market1501").mkdir()
    assert drawn(data__name="market1501", data__options={}).train.counts()["identities"] == 751
    (tmp_path / "reid_folder").mkdir()
    own = {"data__name": "reid_folder", "data__options": {}, "data__sampler__identities": 40}
    assert drawn(**own).train.counts()["identities"] == 40  # unknown: as many as are asked for
    assert drawn(data__sources=("market1501", "synthped")).train.counts()["identities"] == 751 + 96
    assert drawn(data__sources=("my_project.data:people",)) is None


@pytest.mark.parametrize("system", sorted(path.stem for path in (tiny.ROOT / "configs").glob("*.py")))
def test_a_demo_of_one_epoch_is_a_run(system):
    short = files.load_config(str(tiny.ROOT / "configs" / f"{system}.py"))
    config_lib.override(short, {"train.epochs": 1.0})
    config_checks.check(settings_lib.of(short))


def test_weights_that_do_not_fit_are_found_before_the_data(tmp_path, monkeypatch):
    monkeypatch.setattr("reid_jax.runs.experiment.Experiment", lambda *_: pytest.fail("the data is read"))
    wrong = tmp_path / "wrong.npz"
    np.savez(wrong, **{"params/backbone/conv1/kernel": np.zeros((7, 7, 3, 5), np.float32)})
    with pytest.raises(errors.UserError, match=r"wrong\.npz: the weights are not those of this model"):
        launch.run(config(tmp_path, init__weights=str(wrong)), workdir=str(tmp_path / "run"))
    run = tmp_path / "other"
    run.mkdir()
    (run / "config.json").write_text(config_lib.to_json(config(tmp_path)))
    with pytest.raises(errors.UserError, match=r"expected a run with a checkpoint at .*other, it has none"):
        launch.run(config(tmp_path, init__weights=str(run)), workdir=str(tmp_path / "run"))
    stored = {"params": {"backbone": {"conv1": {"kernel": np.zeros((7, 7, 3, 5), np.float32)}}}, "batch_stats": {}}
    with checkpoints.Checkpoints(run / "checkpoints") as saved:
        saved.save(3, stored, {"num_classes": 5}, wait=True)
    with pytest.raises(errors.UserError, match=r"other: .*, or name what differs in init\.allow_missing"):
        launch.run(config(tmp_path, init__weights=str(run)), workdir=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_the_first_checks_load_no_jax():
    code = "import sys, reid_jax.runs.start_files, reid_jax.cli.train; sys.exit('jax' in sys.modules)"
    assert tiny.finish(tiny.start_python(["-c", code]))[0] == 0
