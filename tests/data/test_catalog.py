"""The catalog of data sets: completeness, order, and errors for invalid files."""

import subprocess
import sys

import pytest

from reid_jax import config, errors
from reid_jax.data import builders, catalog, records

VALID = """
[about]
title = "T"
needs = "N"
license = "L"
status = "S"

[data_sets.one]
options = { sizes = [1, 2] }

[presets.one]
"data.name" = "one"
"data.sources" = ["a", "b"]
"""


def _write(folder, text, name="one"):
    (folder / name).mkdir(parents=True)
    (folder / name / catalog.FILE).write_text(text)
    return folder


def test_every_builder_has_an_entry_and_every_entry_a_builder():
    built = {path.parent.name for path in catalog.folder().glob("*/*_dataset_builder.py")}
    assert {entry.builder for entry in catalog.entries().values()} == built
    for name, entry in catalog.entries().items():
        assert entry.name == name
        accepted = builders.arguments(
            getattr(builders.load(name), "make_config", None) or builders.load(name).scan,
            name,
            {**entry.options, **entry.arguments},
        )
        # The option `title` of `reid_folder` affects the name of the prepared folder only.
        assert set(accepted) | {"title"} >= {*entry.options, *entry.arguments}


def test_presets_open_known_data_sets_with_known_options():
    assert (
        list(catalog.presets())
        == list(config.DATASETS)
        == [
            *("market1501", "market1501_part_labels", "dukemtmc_reid", "cuhk03_np_labeled", "cuhk03_np_detected"),
            *("msmt17", "msmt17_v2", "occluded_duke", "occluded_reid", "p_dukemtmc_reid", "reid_folder"),
            *("synthped", "synthped_large", "synthped_occluded", "synthped_street", "synthped_street_large"),
            *("synthped_street_occluded", "synthped_street_occluded_large"),
        ]
    )
    for preset in catalog.presets().values():
        assert preset["data.name"] in catalog.entries()
        records.resolve_options(preset["data.name"], preset.get("data.options", {}))
    assert catalog.presets()["occluded_reid"]["data.sources"] == ("market1501",)


def test_presets_are_copies():
    catalog.presets()["market1501"]["data.name"] = "changed"
    assert catalog.presets()["market1501"]["data.name"] == "market1501"


def test_related_data_sets():
    assert catalog.related("dukemtmc_reid", "p_dukemtmc_reid", "people")
    assert not catalog.related("dukemtmc_reid", "p_dukemtmc_reid", "cameras")
    assert catalog.related("occluded_duke", "dukemtmc_reid", "cameras")
    assert catalog.related("synthped_occluded", "synthped", "cameras")
    assert not catalog.related("market1501", "msmt17", "people")  # neither has a label
    assert not catalog.related("market1501", "elsewhere", "people")


def test_reading_imports_no_builder():
    program = (
        "import sys; from reid_jax.data import catalog; catalog.presets(); "
        "print([name for name in sys.modules if name.split('.')[0] in ('tensorflow_datasets', 'reid_datasets')])"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_lists_become_tuples_and_unplaced_files_come_last(tmp_path):
    _write(tmp_path, VALID)
    _write(tmp_path, "position = 1\n" + VALID.replace("one", "two"), "two")
    entries, presets = catalog._read(tmp_path)
    assert list(entries) == list(presets) == ["two", "one"]
    assert presets["one"] == {"data.name": "one", "data.sources": ("a", "b")}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (VALID + "[", "cannot read .*dataset.toml"),
        (VALID.replace("options =", "option ="), r"unknown key of \[data_sets.one\] in .* 'option'; did you mean"),
        (VALID.replace("[presets.one]", "[preset.one]"), "unknown key in .* 'preset'; did you mean 'presets'"),
        (VALID.replace('license = "L"', ""), "expected about.license in .*dataset.toml, not found; add them"),
        (VALID.split("[data_sets")[0], "expected data_sets in .*dataset.toml"),
    ],
    ids=["syntax", "option", "table", "license", "empty"],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, text, sentence):
    with pytest.raises(errors.UserError, match=sentence):
        catalog._read(_write(tmp_path, text))


def test_no_files_at_all(tmp_path):
    with pytest.raises(errors.UserError, match="found none; install the package again"):
        catalog._read(tmp_path)
