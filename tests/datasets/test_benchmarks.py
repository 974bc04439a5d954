"""The builders of all benchmarks on generated images in the published layouts, and a sentence for every mistake."""

import shutil

import numpy as np
import pytest

from reid_jax import errors
from reid_jax.data import builders, catalog, checks, image_io, prepare, records
from tests.helpers import benchmark_folders

NAMES = sorted(benchmark_folders.WRITERS)
BOXES = ["dukemtmc_reid", "market1501", "occluded_duke"]  # those of Market-1501's layout


@pytest.fixture
def written(request, tmp_path):
    """The name of a data set, its folder at the default location, and the expected rows."""
    name = request.param
    return name, tmp_path / name, benchmark_folders.WRITERS[name](tmp_path / name)


def each(*names):
    return pytest.mark.parametrize("written", names or NAMES, indirect=True)


def _refused(name, root, source=None, **options):
    """Returns the sentence of a failed preparation, which wrote nothing."""
    with pytest.raises(errors.UserError) as caught:
        prepare.prepare(name, root, source, **options)
    assert "\n" not in str(caught.value)
    assert not (root / "prepared").exists()
    return str(caught.value)


def test_all_benchmarks_are_here():
    drawn = {"synthped", "synthped_occluded", "synthped_street", "synthped_street_occluded"}
    assert set(NAMES) | {"reid_folder"} | drawn == set(builders.available())


# --- without mistakes ---


@each()
def test_published_layout_is_prepared_and_read(written, tmp_path):
    """Property 18 of AMFOR's list, which includes the four data sets besides Occluded-REID."""
    name, _, expected = written
    report = prepare.prepare(name, tmp_path)
    dataset = report.dataset
    assert dataset.name == name
    assert set(dataset.splits()) == set(expected)
    for split, rows in expected.items():
        found = dataset.split(split)
        assert list(zip(found.filenames, found.pids.tolist(), found.camids.tolist())) == rows
        elements = list(found.source)
        assert [(one["filename"], one["pid"], one["camid"]) for one in elements] == rows
        assert {image_io.decode(one["image"], one["filename"]).shape for one in elements} == {(32, 16, 3)}
    assert checks.check_protocol(dataset.query, dataset.gallery) == 0
    if name != "p_dukemtmc_reid":  # no counts of it are published
        assert "the counts are not the published ones" in report.warnings[0]
        with pytest.raises(errors.UserError, match="the counts are not the published ones"):
            prepare.prepare(name, tmp_path, strict_counts=True, force=True)


@each()
def test_pixels_survive(written, tmp_path):
    name, folder, expected = written
    filename, pid, camid = expected["query"][0]
    element = prepare.ensure(name, tmp_path).query.source[0]
    file = next(path for path in sorted(folder.rglob("*.*")) if path.as_posix().endswith(filename) and path.is_file())
    assert element["image"] == file.read_bytes()
    assert (element["pid"], element["camid"]) == (pid, camid)


@each()
def test_check_tells_everything_and_writes_nothing(written, tmp_path):
    name, folder, _ = written
    train = sorted(path for path in folder.rglob("*") if path.suffix in (".jpg", ".png", ".tif"))
    train[0].write_bytes(train[1].read_bytes())  # equal files
    train[-1].write_bytes(train[-1].read_bytes()[:-60])  # and a damaged one
    text = prepare.prepare(name, tmp_path, check_only=True).text()
    for heading in ("images per identity", "images per camera", "height", "identities in training and test: "):
        assert heading in text
    assert "files of equal content: 1 " in text
    assert "unreadable files: 1" in text
    assert f"  {train[-1]} " in text
    assert not (tmp_path / "prepared").exists()


# --- the source ---


@each()
def test_folder_in_between_is_found(written, tmp_path):
    name, folder, _ = written
    inner = folder / "downloads" / "as_published"
    shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(folder)
    inner.parent.mkdir(parents=True)
    (tmp_path / "copy").rename(inner)
    assert builders.read(name, builders.load(name), folder)[0] == inner


@each()
def test_folder_of_a_split_is_understood(written):
    name, folder, _ = written
    module = builders.load(name)
    for wanted in builders.layouts(name, module, {})[0]:
        if (folder / wanted).is_dir():
            assert builders.read(name, module, folder / wanted)[0] == folder


@each()
def test_too_deep_a_folder_is_one_sentence(written, tmp_path):
    name, folder, _ = written
    (tmp_path / "x" / "a" / "b").mkdir(parents=True)
    folder.rename(tmp_path / "x" / "a" / "b" / "c")
    sentence = _refused(name, tmp_path, tmp_path / "x")
    assert f"in {tmp_path / 'x'} (there: a)" in sentence


@each()
def test_missing_folder_or_list(written, tmp_path):
    name, folder, _ = written
    wanted = builders.layouts(name, builders.load(name), {})[0]
    gone = folder / wanted[-1]
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    sentence = _refused(name, tmp_path)
    assert f"but {wanted[-1]} is missing (there: " in sentence


@each()
def test_missing_source_names_the_folder_and_what_to_do(written, tmp_path):
    name, _, _ = written
    sentence = _refused(name, tmp_path, tmp_path / "elsewhere")
    assert f"in {tmp_path / 'elsewhere'}, there is no such folder; name it with scripts/prepare_dataset.py" in sentence


@each(*(name for name in NAMES if name != "msmt17"))
def test_empty_split(written, tmp_path):
    name, folder, _ = written
    for path in (folder / builders.layouts(name, builders.load(name), {})[0][-1]).rglob("*.*"):
        if path.is_file():
            path.unlink()
    assert "expected images (" in _refused(name, tmp_path)


@each(*BOXES, "cuhk03_np_labeled")
def test_images_one_level_too_deep(written, tmp_path):
    name, folder, _ = written
    split = folder / builders.layouts(name, builders.load(name), {})[0][0]
    split.rename(folder / "moved")
    split.mkdir()
    (folder / "moved").rename(split / "images")
    assert f"found none; move them up from {split / 'images'}." in _refused(name, tmp_path)


@each(*(name for name in NAMES if name != "msmt17"))
def test_name_that_does_not_parse(written, tmp_path):
    name, folder, _ = written
    query = next(path for path in sorted(folder.rglob("*.*")) if path.suffix in (".jpg", ".png", ".tif"))
    query.rename(query.with_name(f"holiday{query.suffix}"))
    assert "does not parse: expected " in _refused(name, tmp_path)


@pytest.mark.parametrize(
    ("asked", "given", "complaint"),
    [
        ("market1501", "dukemtmc_reid", r"is of dukemtmc_reid .*, expected market1501 \(such as 0002_c1s1"),
        ("dukemtmc_reid", "market1501", r"is of market1501, expected dukemtmc_reid \(such as 0002_c1_f"),
        ("occluded_duke", "market1501", "is of market1501, expected occluded_duke"),
        (
            "market1501",
            "cuhk03_np_labeled",
            "is of cuhk03_np, expected market1501.*prepare it under its own name, or as reid_folder",
        ),
        ("dukemtmc_reid", "msmt17", r"expected the folders bounding_box_train, query, .* \(there: list_gallery.txt"),
        ("msmt17", "market1501", r"expected the folders and files train, test, list_train.txt"),
        ("cuhk03_np_labeled", "market1501", r"expected the folders labeled/bounding_box_train"),
        ("cuhk03_np_labeled", "cuhk03_np_detected", r"expected the folders labeled/bounding_box_train"),
        ("p_dukemtmc_reid", "occluded_reid", "expected the folders train/occluded_body_images"),
        ("occluded_reid", "p_dukemtmc_reid", "both have the layout of 'occluded_reid'; give one of the two"),
    ],
)
def test_wrong_data_set_in_the_folder(tmp_path, asked, given, complaint):
    import re

    benchmark_folders.WRITERS[given](tmp_path / "source")
    assert re.search(complaint, _refused(asked, tmp_path, tmp_path / "source"))


def test_images_of_another_data_set_in_the_same_folders(tmp_path):
    benchmark_folders.p_dukemtmc_reid(tmp_path / "source")
    assert "is of dukemtmc_reid" in _refused("occluded_reid", tmp_path, tmp_path / "source" / "test")


def test_number_of_images_tells_apart_what_names_do_not(tmp_path, monkeypatch):
    expected = benchmark_folders.dukemtmc_reid(tmp_path / "occluded_duke")
    module = builders.load("dukemtmc_reid")
    counts = {split: {"images": len(rows)} for split, rows in expected.items()}
    monkeypatch.setattr(module, "PUBLISHED", counts)
    sentence = _refused("occluded_duke", tmp_path)
    assert "are as many as dukemtmc_reid has in every split, and not as occluded_duke has" in sentence
    assert not prepare.prepare("dukemtmc_reid", tmp_path, tmp_path / "occluded_duke", strict_counts=True).warnings


def test_two_copies_are_not_chosen_between(tmp_path):
    for copy in ("a", "b"):
        benchmark_folders.market1501(tmp_path / "market1501" / copy)
    assert "both have the layout of 'market1501'; give one of the two" in _refused("market1501", tmp_path)
    assert prepare.prepare("market1501", tmp_path, tmp_path / "market1501" / "b").dataset.query is not None


# --- properties of particular data sets ---


def test_published_counts():
    def counts(name, **options):
        found = builders.published(name, builders.load(name), options)
        return {split: (one["images"], one["identities"]) for split, one in found.items()}

    assert counts("dukemtmc_reid") == {"train": (16_522, 702), "query": (2_228, 702), "gallery": (17_661, 1_110)}
    assert counts("occluded_duke") == {"train": (15_618, 702), "query": (2_210, 519), "gallery": (17_661, 1_110)}
    assert counts("cuhk03_np_labeled") == {"train": (7_368, 767), "query": (1_400, 700), "gallery": (5_328, 700)}
    assert counts("cuhk03_np_detected") == {"train": (7_365, 767), "query": (1_400, 700), "gallery": (5_332, 700)}
    assert counts("msmt17") == {"train": (32_621, 1_041), "query": (11_659, 3_060), "gallery": (82_161, 3_060)}
    assert counts("msmt17", train_only=True)["train"] == (30_248, 1_041)
    assert counts("occluded_reid") == {"query": (1_000, 200), "gallery": (1_000, 200)}
    assert counts("p_dukemtmc_reid") == {}


def test_occluded_reid_takes_tif_and_jpg_and_has_no_training_split(tmp_path):
    """Property 18 of AMFOR's list."""
    for suffix in (".tif", ".jpg"):
        benchmark_folders.occluded_reid(tmp_path / suffix[1:], suffix)
    tif, jpg = (prepare.prepare("occluded_reid", tmp_path / kind, tmp_path / kind).dataset for kind in ("tif", "jpg"))
    assert tif.train is None
    assert jpg.query.filenames[0] == "001/001_01.jpg"
    exact = image_io.decode(tif.gallery.source[3]["image"])
    np.testing.assert_array_equal(exact, benchmark_folders.picture(2, 1, 2))
    # Query and gallery count as two cameras, so that the same-camera filter removes nothing.
    assert not checks.queries_without_match(tif.query, tif.gallery).any()
    with pytest.raises(errors.UserError, match="has no train split"):
        tif.split("train")


@pytest.mark.parametrize(("text", "meant"), [("True", True), ("false", False), (1, True), (False, False)])
def test_switches_are_read_as_people_write_them(text, meant):
    assert records.resolve_options("market1501", {"part_labels": text}) == {"part_labels": meant}


def test_switch_with_another_value():
    with pytest.raises(errors.UserError, match="should be of type bool, it is 'maybe'"):
        records.resolve_options("market1501", {"part_labels": "maybe"})


# --- README, sources, TFDS ---


@pytest.mark.parametrize("name", NAMES)
def test_each_has_a_readme_and_says_what_it_needs(root, name):
    home = catalog.entries()[name].builder
    text = (root / "datasets" / home / "README.md").read_text(encoding="utf-8")
    for heading in ("## Getting it", "## License and status", "## What is stored", "## Protocol"):
        assert heading in text
    assert f"python scripts/prepare_dataset.py {name}" in text
    assert f"({home}/README.md)" in (root / "datasets" / "README.md").read_text(encoding="utf-8")
    assert (root / "datasets" / home / "CITATIONS.bib").read_text(encoding="utf-8").count("@") >= 1
    about = catalog.entries()[name].about
    assert set(about) == {"title", "needs", "license", "status"}
    if "duke" in name:
        assert "withdrawn" in about["status"]
        assert "ithdrawn" in text.split("## License and status")[1]


def test_user_code_reaches_the_builders_through_tfds(tmp_path):
    import reid_datasets
    import tensorflow_datasets as tfds

    assert set(reid_datasets.__all__) == {f"{entry.builder}_dataset_builder" for entry in catalog.entries().values()}
    expected = benchmark_folders.dukemtmc_reid(tmp_path / "raw")
    tfds.disable_progress_bar()
    builder = tfds.builder("dukemtmc_reid", data_dir=tmp_path / "built", file_format="array_record")
    config = tfds.download.DownloadConfig(manual_dir=tmp_path / "raw", compute_stats="skip")
    builder.download_and_prepare(download_config=config)
    query = builder.as_data_source("query")
    assert [one["filename"].decode() for one in query] == [row[0] for row in expected["query"]]
    assert query[0]["image"].shape == (32, 16, 3)
    assert "Duke" in builder.info.description
    # A folder prepared by this package opens the same way, even under a name without a registered builder.
    benchmark_folders.cuhk03_np(tmp_path / "cuhk03_np_detected", "detected")
    prepare.prepare("cuhk03_np_detected", tmp_path)
    source = tfds.data_source("cuhk03_np_detected", split="train", data_dir=tmp_path / "prepared")
    assert (len(source), source[0]["pid"]) == (8, 1)


def test_builders_are_found_without_installation(root, monkeypatch):
    import subprocess
    import sys

    program = (
        "import sys, importlib.machinery, importlib.util; "
        "sys.meta_path[:] = [one for one in sys.meta_path if 'editable' not in repr(one).lower()]; "
        f"sys.path[:] = [one for one in sys.path if '__editable__' not in one] + [{str(root)!r}]; "
        "assert importlib.util.find_spec('reid_datasets') is None; "
        "from reid_jax.data import builders; "
        "load = builders.load; "
        "print(load('msmt17').__name__, load('msmt17') is load('msmt17'), builders.available()[0])"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd="/").stdout
    assert out.split() == ["reid_datasets.msmt17.msmt17_dataset_builder", "True", "cuhk03_np_detected"]
