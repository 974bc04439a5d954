"""Configs: every preset and variant of every file builds, is plain data, and wrong names are answered."""

from __future__ import annotations

import json
import pathlib

import pytest

from reid_jax import config, errors, models
from reid_jax.config import files
from reid_jax.data import records
from reid_jax.losses import terms
from reid_jax.train import extras

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "configs").glob("*.py"))


def _arguments(path: pathlib.Path) -> list[str]:
    try:
        files.load_config(f"{path}:help")
    except config.HelpRequested as text:
        listed = str(text).split("variants:")
        presets = [line.strip() for line in listed[0].splitlines()[2:]]
        variants = [line.split()[0] for line in listed[1].splitlines() if line.strip()]
    return ["", *presets, *variants, *(f"market1501,{variant}" for variant in variants)]


CASES = [(path, argument) for path in FILES for argument in _arguments(path)]


@pytest.mark.parametrize(("path", "argument"), CASES, ids=[f"{path.stem}:{argument}" for path, argument in CASES])
def test_every_config_builds_and_names_only_what_exists(path, argument):
    built = files.load_config(f"{path}:{argument}")
    settings = config.to_dict(built)
    assert json.loads(json.dumps(settings))["system"] == path.stem
    options = dict(settings["model"])
    models.build(options.pop("name"), num_classes=4, **options)
    extras.build(settings["extras"], num_classes=4)
    records.resolve_options(settings["data"]["name"], settings["data"]["options"])
    assert settings["losses"]
    for name, term in {**settings["losses"], **settings["monitors"]}.items():
        assert term["loss"] in terms.LOSSES, name


def test_no_argument_is_the_demo():
    built = files.load_config(str(ROOT / "configs" / "mfv.py"))
    assert built.preset == "demo"
    assert built.data.name == "synthped"


def test_a_variant_alone_is_a_variant_of_the_demo():
    built = files.load_config(f"{ROOT / 'configs' / 'mfv.py'}:mfv_sdfa")
    assert (built.preset, built.variants) == ("demo", ("mfv_sdfa",))


def test_variants_apply_in_order_and_none_removes():
    def recipe():
        made = config.defaults()
        made.system = "toy"
        made.losses = {"ce": {"weight": 1.0}, "tri": {"weight": 1.0}, "soft": {"margin": 0.3}}
        return made

    built = config.compose(
        "demo,one,two",
        recipe=recipe,
        presets={"demo": {"seed": 1}},
        variants={"one": {"seed": 2, "losses.tri": None}, "two": {"seed": 3, "losses.soft.margin": "soft"}},
    )
    assert built.seed == 3
    assert list(built.losses) == ["ce", "soft"]
    assert built.losses.soft.margin == "soft"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("configs/mfv.py:marketl501", "did you mean 'market1501'"),
        ("configs/mfv.py:market1501,mfv_sfda", "did you mean 'mfv_sdfa'"),
        ("configs/mvf.py", r"found nothing at configs/mvf\.py; config files there: .*mfv\.py"),
    ],
    ids=["preset", "variant", "file"],
)
def test_wrong_names_are_answered(argument, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(errors.UserError, match=message):
        files.load_config(argument)


def test_override_of_an_unknown_section_is_refused():
    with pytest.raises(errors.UserError, match=r"unknown config key 'trian\.epochs'"):
        config.override(config.defaults(), {"trian.epochs": 3})


def test_hash_follows_what_changes_a_number_and_nothing_else():
    base = config.config_hash(config.defaults())
    other = config.defaults()
    other.data.root = "/elsewhere"
    other.log.every_steps = 7
    assert config.config_hash(other) == base
    other.optimizer.learning_rate = 1.0
    assert config.config_hash(other) != base
    assert config.differences(other, config.defaults()) == ["optimizer.learning_rate: 0.00035 -> 1.0"]
