"""More epochs for a trained run: which configs may extend it, and what the log says about the learning rate."""

import json
import types

import pytest

from reid_jax import config as config_lib
from reid_jax import errors
from reid_jax.runs import extension, start_files
from reid_jax.runs import folder as folder_lib
from reid_jax.train import schedules
from tests.helpers import tiny


@pytest.fixture
def trained(tmp_path):
    """A run folder that claims to have been trained for 7 steps, and a function for configs of its kind."""

    def config(**overrides):
        return tiny.config(tmp_path / "data", **overrides)

    folder = folder_lib.RunFolder(tmp_path / "run")
    folder.claim(config())
    (folder.checkpoints / "7").mkdir(parents=True)
    return folder, config


def test_a_longer_config_takes_the_folder_over(trained):
    folder, config = trained
    folder.write_result({"dataset": "x", "steps": 7, "x/mAP": 0.5})
    longer = config(train__epochs=6.0)
    with pytest.raises(errors.UserError, match=r"train\.epochs: 4\.0 -> 6\.0\).*or add --extend to continue that run"):
        folder.check(longer)
    assert extension.check(folder, longer) == {"train.epochs": 4.0}
    extension.begin(folder, longer)
    assert folder.check(longer)
    assert not folder.result.exists()
    assert json.loads((folder.path / "result-7.json").read_text())["x/mAP"] == 0.5
    assert extension.read(folder) == [{"step": 7, "changed": {"train.epochs": 4.0}}]
    extension.begin(folder, longer)  # again: nothing left to extend
    (folder.checkpoints / "9").mkdir()
    extension.begin(folder, config(train__epochs=8.0))
    entries = extension.read(folder)
    assert [entry["step"] for entry in entries] == [7, 9]
    for index, epochs in enumerate((4.0, 6.0)):
        assert extension.before(config(train__epochs=8.0), entries, index).train.epochs == epochs
    assert config_lib.config_hash(folder.read_config()) == config_lib.config_hash(config(train__epochs=8.0))


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"train__epochs": 3.0}, r"its phases have 4 epochs and those of the config 3; raise train\.epochs"),
        (
            {"train__epochs": 9.0, "seed": 5},
            r"also differs in seed: 0 -> 5; give another --workdir, with",
        ),
    ],
)
def test_other_differences_are_refused(trained, overrides, sentence):
    folder, config = trained
    with pytest.raises(errors.UserError, match=sentence):
        start_files.check(config(**overrides), str(folder.path), "train", extend=True)
    with pytest.raises(errors.UserError, match="expected a run folder"):
        start_files.check(config(), str(folder.path / "other"), "train", extend=True)
    assert extension.read(folder) == []


def test_only_the_last_phase_may_grow(tmp_path):
    phases = {"phase_order": ("a", "b"), "phases": {"a": {"train": {"epochs": 1.0}}, "b": {"train": {"epochs": 2.0}}}}
    folder = folder_lib.RunFolder(tmp_path / "run")
    folder.claim(tiny.config(tmp_path, **phases))
    (folder.checkpoints / "3").mkdir(parents=True)

    def changed(name, epochs):
        config = tiny.config(tmp_path, **phases)
        config.phases[name].train.epochs = epochs
        return extension.check(folder, config)

    assert changed("b", 5.0) == {"phases.b.train.epochs": 2.0}
    with pytest.raises(errors.UserError, match=r"also differs in phases\.a\.train\.epochs: 1\.0 -> 5\.0"):
        changed("a", 5.0)


def test_a_federation_has_rounds_as_its_length(tmp_path):
    def config(**changes):
        return tiny.config(tmp_path, "mgaf:demo,mgaf_federated", {"fed.rounds": 3, **changes})

    folder = folder_lib.RunFolder(tmp_path / "run")
    folder.claim(config())
    (folder.checkpoints / "3").mkdir(parents=True)
    with pytest.raises(errors.UserError, match=r"fed\.rounds: 3 -> 5\).*or add --extend to continue that run"):
        folder.check(config(**{"fed.rounds": 5}))
    assert extension.check(folder, config(**{"fed.rounds": 5})) == {"fed.rounds": 3}
    with pytest.raises(errors.UserError, match=r"phases have 3 rounds and those of the config 2; raise fed\.rounds"):
        extension.check(folder, config(**{"fed.rounds": 2}))
    with pytest.raises(errors.UserError, match=r"raise fed\.rounds"):
        extension.check(folder, config(**{"train.epochs": 99.0}))


def phase(config, epochs):
    """A phase of ten steps an epoch, as the comparison of rates sees it."""
    schedule = schedules.build({**config, "granularity": "step"}, 0.1, 1.0, 10 * epochs, 10)
    rates = lambda step: {"learning_rate": schedule.exact(step)}
    return types.SimpleNamespace(first_step=0, last_step=10 * epochs, learning_rates=rates)


@pytest.mark.parametrize(
    ("config", "same"),
    [
        ({"name": "constant"}, True),
        ({"name": "warmup_multistep", "warmup_epochs": 1, "milestones_epochs": (2, 4)}, True),
        ({"name": "warmup_cosine", "warmup_epochs": 1}, False),
        ({"name": "linear"}, False),
        ({"name": "linear", "total_epochs": 9}, True),
    ],
)
def test_the_log_says_whether_the_longer_run_would_have_been_the_same(config, same):
    difference = extension.first_difference([phase(config, 3)], [phase(config, 6)], 30)
    assert (difference is None) == same
    said = extension.sentence(30, difference)
    assert ("equals the uninterrupted longer one" in said) == same
    assert ("a run of this length from the start would give other numbers" in said) != same
    if not same:
        assert difference[1] < difference[2]
