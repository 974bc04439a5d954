"""One vocabulary: the same model name means the same network in configs, extraction, conversion and benchmarks."""

import dataclasses
import importlib.util

import jax
import numpy as np
import pytest

from reid_jax import build, config, errors, models
from reid_jax.benchmarks import subjects
from reid_jax.cli import convert_weights, evaluate, extract
from reid_jax.config import files
from reid_jax.runs import config_checks
from reid_jax.weights import hub, zoo
from tests.helpers import tiny

SYSTEMS = sorted(path.stem for path in (tiny.ROOT / "configs").glob("*.py"))
# Fields that training alone reads: extraction has no files of body parts.
TRAINING_ALONE = {"parsing_source"}


def rows(system: str) -> list[str]:
    path = tiny.ROOT / "configs" / f"{system}.py"
    spec = importlib.util.spec_from_file_location(f"rows_of_{system}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return list(module.VARIANTS)


# A name of the zoo that is a row is that row; one that is a config's name is its published recipe.
ROWS = {name: f"{system}:market1501,{name}" for system in SYSTEMS for name in rows(system) if name in zoo.ZOO}
PUBLISHED = {name: f"{name}:market1501" for name in SYSTEMS} | ROWS


def fields(model) -> dict:
    return {
        field.name: getattr(model, field.name)
        for field in dataclasses.fields(model)
        if field.name not in ("parent", "name", *TRAINING_ALONE)
    }


def test_every_config_and_every_class_is_a_name():
    assert set(SYSTEMS) <= set(zoo.ZOO)
    assert set(models.MODELS) <= set(zoo.ZOO)
    assert {"mspf", "osfa", "amfor", "transreid_star", "osnet_x0_25"} <= set(PUBLISHED)


def test_published_weights_say_their_model():
    models_of = {name: zoo.of_weights(name) for name in hub.ENTRIES}
    assert models_of["osnet_x0_25_msmt17"] == models_of["osnet_x0_25_imagenet"] == "osnet_x0_25"
    assert models_of["osnet_ain_x1_0_msmt17"] == "osnet_ain_x1_0"
    assert (models_of["resnet50_imagenet"], models_of["vit_base_imagenet"]) == ("resnet50", "vit_base")
    assert zoo.of_weights(hub.ENTRIES["resnet50_imagenet"].file) == "resnet50"
    assert zoo.of_weights("deit_base_distilled") == zoo.of_weights("own.pth") == ""


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_a_name_is_the_network_of_its_config(name):
    path = tiny.ROOT / "configs" / PUBLISHED[name].replace(":", ".py:", 1)
    run = config.Settings.of(config.to_dict(files.load_config(str(path))))
    row = zoo.settings(name)
    trained, extracted = build.build_model(run, 751, 6), build.build_model(row, 751, 6)
    assert type(trained) is type(extracted)
    assert fields(trained) == fields(extracted)
    assert (run.data.height, run.data.width) == (row.data.height, row.data.width)
    assert (run.data.test_interpolation or run.data.interpolation) == row.data.interpolation
    assert (run.preprocess.mean, run.preprocess.std) == (row.preprocess.mean, row.preprocess.std)
    assert run.evals.metric == row.evals.metric


@pytest.mark.parametrize("name", sorted(zoo.ZOO))
def test_all_commands_build_the_same_network(name, tmp_path, monkeypatch):
    built = []
    monkeypatch.setattr(models, "load_weights", lambda *_, model, **__: built.append(model) or ({}, None))
    monkeypatch.setattr(models, "options_of_weights", lambda *_: {})
    monkeypatch.setattr(jax, "eval_shape", lambda *_: {})
    weights = tmp_path / "w.npz"
    np.savez(weights, **{"params/classifier/kernel": np.zeros((9, 1), np.float32)})
    options = ["--model", name, "--weights", str(weights), "--output", str(tmp_path / "out")]
    given = convert_weights.parse(options)
    convert_weights._check(given)
    convert_weights._load(given)
    entry = zoo.lookup(name)
    size = {"image_size": (entry.height, entry.width)}
    expected = build.build_model(zoo.settings(name), built[0].num_classes)
    sized = {key: value for key, value in size.items() if key in fields(expected)}
    assert {**fields(built[0]), **sized, "dtype": 0} == {**fields(expected), "dtype": 0}
    timed = build.build_model(subjects.of_model(name).settings, 3)
    assert fields(timed) == fields(build.build_model(zoo.settings(name), 3))
    # `--config.model.name=NAME`: a row of the zoo brings its fields, a class has those of the config.
    if name not in models.MODELS:
        named, options = models.build(name, num_classes=3), {**entry.model, "num_classes": 3}
        assert fields(named) == fields(models.build(options.pop("name"), **options))
        config_checks._check_model("model", {"name": name}, {"name": name})


@pytest.mark.parametrize(
    "refuse",
    [
        lambda: extract._check(extract._parser().parse_args(["--model=mspff", "--random-weights"])),
        lambda: evaluate._check(evaluate._parser().parse_args(["--model=mspff", "--weights=w"])),
        lambda: convert_weights._check(convert_weights.parse(["--model=mspff", "--weights=w", "--output=o"])),
        lambda: subjects.of_model("mspff"),
        lambda: models.build("mspff"),
    ],
    ids=["extract", "evaluate", "convert_weights", "benchmark", "config"],
)
def test_all_commands_refuse_a_misspelled_name_alike(refuse):
    with pytest.raises(errors.UserError, match="unknown model 'mspff'; did you mean 'mspf'"):
        refuse()
