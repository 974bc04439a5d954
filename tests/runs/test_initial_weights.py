"""What a run starts from: named by each published recipe, had before any data is read, and reported."""

import hashlib
import pathlib

import pytest

from reid_jax import config as config_lib
from reid_jax import errors
from reid_jax.config import files
from reid_jax.runs import experiment, initial_weights, launch
from reid_jax.weights import hub
from tests.helpers import tiny

SYSTEMS = sorted(path.stem for path in (tiny.ROOT / "configs").glob("*.py"))


def settings(argument: str, **overrides) -> config_lib.Settings:
    config = files.load_config(f"{tiny.ROOT}/configs/{argument}")
    config_lib.override(config, {key.replace("__", "."): value for key, value in overrides.items()})
    return config_lib.Settings.of(config_lib.to_dict(config))


@pytest.fixture
def without_network(tmp_path, monkeypatch) -> pathlib.Path:
    monkeypatch.setenv(hub.FOLDER, str(tmp_path / "weights"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv(hub.OFFLINE, "1")
    monkeypatch.setattr(experiment, "Experiment", lambda *_: pytest.fail("the data is read"))
    return tmp_path


@pytest.mark.parametrize("system", SYSTEMS)
def test_published_recipes_name_their_start_and_demos_have_none(system):
    for argument in (f"{system}.py:market1501", f"{system}.py:synthped"):
        assert settings(argument).init.weights in hub.ENTRIES
    assert settings(f"{system}.py").init.weights == ""


@pytest.mark.parametrize(
    ("argument", "name"),
    [
        ("osnet.py:market1501,osnet_x0_5", "osnet_x0_5_imagenet"),
        ("osnet.py:market1501,osnet_ain", "osnet_ain_x1_0_imagenet"),
        ("osnet.py:osnet_x0_5", ""),
        ("transreid.py:msmt17,deit", "deit_base_distilled"),
        ("transreid.py:deit_small", ""),
    ],
)
def test_rows_with_another_network_start_from_its_file(argument, name):
    assert settings(argument).init.weights == name


def test_a_recipe_without_its_file_stops_before_the_data_with_both_ways_out(without_network):
    config = files.load_config(f"{tiny.ROOT}/configs/mfv.py:market1501")
    with pytest.raises(errors.UserError) as caught:
        launch.run(config, workdir=str(without_network / "run"))
    sentence = str(caught.value)
    assert "put the file resnet50-19c8e357.pth from https://download.pytorch.org/models/resnet50" in sentence
    assert sentence.endswith(
        f"into {without_network / 'weights'}, or start from random weights with --config.init.weights=scratch."
    )
    assert not list(without_network.iterdir())


def test_what_phases_load_is_looked_for_as_well(without_network):
    teacher = {"teacher": {"kind": "frozen_copy", "weights": "absent.pth"}}
    with pytest.raises(errors.UserError, match=r"as phases\.a\.extras\.teacher\.weights, found nothing at absent\.pth"):
        initial_weights.fetch(config_lib.Settings.of({"phase_order": ("a",), "phases": {"a": {"extras": teacher}}}))
    teacher["teacher"]["weights"] = "vit_base_imagenet"
    with pytest.raises(errors.UserError, match="jx_vit_base_p16_224"):
        initial_weights.fetch(config_lib.Settings.of({"extras": teacher}))
    with pytest.raises(errors.UserError, match=r"as init\.text_weights, found nothing at absent\.pt"):
        initial_weights.fetch(config_lib.Settings.of({"init": {"text_weights": "absent.pt"}}))


def test_the_start_is_described(without_network):
    own = without_network / "own.npz"
    own.write_bytes(b"weights")
    digits = hashlib.sha256(b"weights").hexdigest()[:12]
    described = initial_weights.description(settings("mfv.py:market1501", init__weights=str(own)))
    assert described == f"own.npz (sha256 {digits})"
    both = settings("mfv.py", seed=3, init__text_weights=str(own))
    assert initial_weights.description(both) == (
        f"random weights (seed 3); text transformer: own.npz (sha256 {digits})"
    )


def test_scratch_on_purpose_says_what_is_kept():
    advice = initial_weights.scratch_advice(settings("bot.py:market1501", init__weights="scratch"))
    assert "all settings of the recipe are kept" in advice
    assert "--config.losses.tri.normalize=True" in advice
    osnet = initial_weights.scratch_advice(settings("osnet.py:market1501", init__weights="scratch"))
    assert "'classifier' freezes" in osnet
    assert "normalize" not in osnet
    assert initial_weights.scratch_advice(settings("bot.py")) == ""
    assert initial_weights.scratch_advice(settings("bot.py:market1501")) == ""
