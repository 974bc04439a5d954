"""Configs: every preset and variant of every file builds and is plain data; unknown names are reported."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import pathlib
import types

import pytest
from ml_collections.config_flags import config_path

from reid_jax import config, errors, models
from reid_jax.config import files, sections
from reid_jax.data import image_io, pipeline, records
from reid_jax.evaluation import ranking
from reid_jax.ops import images
from reid_jax.runs import config_checks

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "configs").glob("*.py"))


def _module(path: pathlib.Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MODULES = {path.stem: _module(path) for path in FILES}


def _arguments(module: types.ModuleType) -> list[str]:
    return ["", *module.PRESETS, *module.VARIANTS, *(f"market1501,{variant}" for variant in module.VARIANTS)]


CASES = [(path, argument) for path in FILES for argument in _arguments(MODULES[path.stem])]


@pytest.mark.parametrize(("path", "argument"), CASES, ids=[f"{path.stem}:{argument}" for path, argument in CASES])
def test_every_config_builds_and_names_only_what_exists(path, argument):
    built = files.load_config(f"{path}:{argument}")
    settings = config.to_dict(built)
    assert json.loads(json.dumps(settings))["system"] == path.stem
    typed = config.Settings.of(settings)
    config_checks.check(typed)
    options = dict(settings["model"])
    models.build(options.pop("name"), num_classes=4, **options)
    records.resolve_options(settings["data"]["name"], settings["data"]["options"])
    assert settings["losses"]


@pytest.mark.parametrize("system", MODULES)
def test_every_preset_and_variant_has_its_own_sentence(system, monkeypatch):
    module = MODULES[system]
    assert not set(module.PRESETS) & set(module.VARIANTS)
    sentences = {name: each.get("notes", "") for name, each in {**module.PRESETS, **module.VARIANTS}.items()}
    for name, sentence in sentences.items():
        assert sentence.endswith("."), name
        assert len(sentence) <= 90, name
    assert len(set(sentences.values())) == len(sentences)
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(config.HelpRequested) as raised:
        module.get_config("help")
    lines = {line.split()[0]: line for line in str(raised.value).splitlines() if line.startswith("  ")}
    assert lines.keys() == sentences.keys()
    assert all(lines[name].endswith(f"  {sentence}") for name, sentence in sentences.items())
    assert lines["demo"].startswith("  demo (default)    ")  # needs neither images nor weights
    assert " dw  " in lines["market1501"]
    with_weights = {name for name in module.VARIANTS if f"{name} w" in " ".join(lines[name].split())}
    assert with_weights == {"amfor": {"clip"}, "mgaf": {"new_people"}, "mspf": {"mspf_from_osfa"}}.get(system, set())


def test_config_of_a_run_describes_its_preset_and_variants():
    built = MODULES["amfor"].get_config("occluded_duke,no_erasing,amfor_b3")
    presets, variants = MODULES["amfor"].PRESETS, MODULES["amfor"].VARIANTS
    expected = (presets["occluded_duke"], variants["no_erasing"], variants["amfor_b3"])
    assert built.notes == " ".join(each["notes"] for each in expected)


def test_no_argument_is_the_demo():
    built = files.load_config(str(ROOT / "configs" / "mfv.py"))
    assert built.preset == "demo"
    assert built.data.name == "synthped"


def test_a_variant_alone_is_a_variant_of_the_demo():
    built = files.load_config(f"{ROOT / 'configs' / 'mfv.py'}:mfv_sdfa")
    assert (built.preset, built.variants) == ("demo", ("mfv_sdfa",))


def test_variants_apply_in_order_and_none_removes():
    def recipe():
        base_config = config.defaults()
        base_config.system = "toy"
        base_config.losses = {"ce": {"weight": 1.0}, "tri": {"weight": 1.0}, "soft": {"margin": 0.3}}
        return base_config

    built = config.compose(
        "demo,one,two",
        recipe=recipe,
        presets={"demo": {"seed": 1}},
        variants={"one": {"seed": 2, "losses.tri": None}, "two": {"seed": 3, "losses.soft.margin": "soft"}},
    )
    assert built.seed == 3
    assert list(built.losses) == ["ce", "soft"]
    assert built.losses.soft.margin == "soft"


def _toy(argument, presets, variants):
    """Composes a config whose recipe changes nothing but the system's name."""

    def recipe():
        base_config = config.defaults()
        base_config.system = "toy"
        return base_config

    return config.compose(argument, recipe=recipe, presets=presets, variants=variants)


def test_notes_join_the_sentences_of_preset_and_variants_in_order():
    built = _toy(
        "demo,one,plain,two",
        {"demo": {"notes": "Small."}},
        {"two": {"notes": "Second."}, "one": {"notes": "First.", "seed": 3}, "plain": {"seed": 4}},
    )
    assert built.notes == "Small. First. Second."
    assert built.seed == 4


def test_notes_leave_the_hash_alone():
    described = _toy("demo", {"demo": {"notes": "Small.", "seed": 3}}, {})
    assert config.config_hash(described) == config.config_hash(_toy("demo", {"demo": {"seed": 3}}, {}))


def test_help_aligns_and_wraps_the_sentences(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    sentence = "A sentence that is a good deal longer than what is left of the line."
    presets = {"demo": {"notes": "Small."}, "market1501": {"notes": "Streets.", "data.name": "market1501"}}
    with pytest.raises(config.HelpRequested) as raised:
        _toy(
            "help",
            presets,
            {"a_row": {"notes": sentence, "seed": 1}, "unnamed": {"seed": 2}, "nothing": {"notes": "No change."}},
        )
    lines = str(raised.value).splitlines()
    assert max(map(len, lines)) <= 60
    assert [line for line in lines if line.startswith("  ") and line[2] != " "] == [
        "  demo (default)      Small.",
        "  market1501      d   Streets.",  # its images are not generated
        "  a_row               A sentence that is a good deal longer",
        "  unnamed             seed=2",  # without a sentence: its settings
        "  nothing         =   No change.",
    ]
    assert sentence in " ".join(str(raised.value).split())
    assert any(line.startswith("w  starts from published weights") for line in lines)
    assert lines[-1].startswith("--print_config")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("configs/mfv.py:marketl501", "did you mean 'market1501'"),
        ("configs/mfv.py:market1501,mfv_sfda", "did you mean 'mfv_sdfa'"),
        ("configs/mvf.py", r"found nothing at configs/mvf\.py; did you mean 'configs/mfv\.py'\?.*configs/mgn\.py"),
    ],
    ids=["preset", "variant", "file"],
)
def test_unknown_names_are_reported(argument, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(errors.UserError, match=message):
        files.load_config(argument)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def (\n", r"own\.py failed in line 1 with SyntaxError: .*; repair that file"),
        ("\n1 / 0\n", r"own\.py failed in line 2 with ZeroDivisionError: division by zero; repair"),
        ("import a_module_that_is_not_there\n", r"line 1 with ModuleNotFoundError: No module named 'a_module_that"),
        ("def get_config(argument):\n    return {}[argument]\n", r"failed in line 2 with KeyError"),
        ("def get_config(argument):\n    return None\n", r"get_config of .* return a ConfigDict, it returned NoneType"),
        ("", r"own\.py to define get_config"),
    ],
    ids=["syntax", "exception", "import", "get_config", "none", "missing"],
)
def test_broken_config_files_are_reported_in_one_sentence(text, message, tmp_path):
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(errors.UserError, match=message) as caught:
        files.load_config(str(tmp_path / "own.py"))
    assert "\n" not in str(caught.value)


def test_override_of_an_unknown_section_is_refused():
    with pytest.raises(errors.UserError, match=r"unknown config key 'trian\.epochs'"):
        config.override(config.defaults(), {"trian.epochs": 3})


def test_hash_depends_only_on_what_changes_numbers():
    base = config.config_hash(config.defaults())
    other = config.defaults()
    other.data.root = "/elsewhere"
    other.log.every_steps = 7
    assert config.config_hash(other) == base
    other.optimizer.learning_rate = 1.0
    assert config.config_hash(other) != base
    assert config.differences(other, config.defaults()) == ["optimizer.learning_rate: 0.00035 -> 1.0"]


def test_names_in_the_rules_are_those_of_the_code():
    """A config is checked before the libraries that define these names are loaded."""
    assert tuple(image_io.INTERPOLATIONS) == sections.INTERPOLATIONS
    assert sections.CACHES == pipeline.CACHES
    assert set(sections.ERASE_FILLS) == {*images.FILLS, "noise"}
    assert sections.AP_RULES == ranking.AP_RULES


def test_every_typed_key_has_a_rule_that_its_default_obeys():
    for section in (sections.Settings, *sections.SECTIONS.values()):
        for field in dataclasses.fields(section):
            if field.name in sections.SECTIONS:
                continue
            rule = field.metadata["rule"]
            assert rule.accepts(getattr(section(), field.name)), field.name
            assert not rule.accepts(object()), field.name


def test_a_key_of_a_number_or_a_word_takes_both_from_the_command_line():
    built = config.defaults()
    assert config_path.get_type("train.accumulate", built) is object  # an int would be the only thing that is read
    assert built.train.accumulate == 1
    for value in ("auto", 2):
        built.train.accumulate = value
        assert config.to_dict(built)["train"]["accumulate"] == value


@pytest.mark.parametrize(
    ("key", "value"), [("optimizer.clip_norm", 5.0), ("optimizer.nesterov", True), ("data.test_interpolation", "area")]
)
def test_a_key_without_a_default_can_be_set_to_a_value_of_its_type(key, value):
    built = config.defaults()
    section, leaf = key.split(".")
    assert built[section][leaf] is None
    built[section][leaf] = value
    assert built[section][leaf] == value
    with pytest.raises(TypeError):
        built[section][leaf] = object()
    config.override(built, {key: None})
    built[section][leaf] = value  # a demo sets it to None, the command line again to a value


@pytest.mark.parametrize("argument", ["demo,reid_folder", "reid_folder,demo"])
def test_the_small_network_is_trained_on_own_images(argument):
    small = files.load_config(f"{ROOT / 'configs' / 'mfv.py'}:{argument}")
    demo = files.load_config(f"{ROOT / 'configs' / 'mfv.py'}:demo")
    changed = {name for name, value in config.flatten(small).items() if config.flatten(demo).get(name, value) != value}
    assert changed == {"data.name", "notes", "variants"}
    assert small.data.name == "reid_folder"
    assert not small.data.options
    with pytest.raises(errors.UserError, match="unknown variant 'reid_folder'"):
        files.load_config(f"{ROOT / 'configs' / 'mfv.py'}:market1501,reid_folder")
