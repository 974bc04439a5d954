"""The Market-1501 builder on generated images in the published layout."""

import pathlib

import pytest

from reid_jax.data import builders, image_io


@pytest.fixture
def module():
    return builders.load("market1501")


@pytest.fixture
def folder(market, tmp_path):
    market.write(tmp_path, train_identities=2, test_identities=2, height=32, width=16)
    return tmp_path


def _touch(folder, split, *names):
    for name in names:
        (folder / split / name).write_bytes(image_io.encode_jpeg(_gray()))


def _gray():
    import numpy as np

    return np.full((8, 4, 3), 128, np.uint8)


def test_identity_and_camera_come_from_the_name(module, folder):
    _touch(
        folder, "bounding_box_test", "1501_c6s4_001902_01.jpg.jpg", "-1_c2s1_000001_00.jpg", "0000_c3s2_000001_00.jpg"
    )
    rows = {row.filename: (row.pid, row.camid) for row in module.scan(folder)["gallery"]}
    assert rows["1501_c6s4_001902_01.jpg.jpg"] == (1501, 5)
    assert rows["-1_c2s1_000001_00.jpg"] == (-1, 1)
    assert rows["0000_c3s2_000001_00.jpg"] == (0, 2)


def test_order_is_that_of_sorted_names(module, folder):
    _touch(folder, "query", "0100_c1s1_1.jpg", "0009_c1s1_1.jpg", "0010_c1s1_1.jpg")
    for rows in module.scan(folder).values():
        assert [row.filename for row in rows] == sorted(row.filename for row in rows)


def test_stray_files_are_ignored(module, folder):
    before = module.scan(folder)
    for name in ("readme.txt", ".DS_Store", "._0001_c1s1_000001_00.jpg", "desktop.ini"):
        (folder / "query" / name).write_bytes(b"nothing")
    assert module.scan(folder) == before
    assert not any("Thumbs" in row.filename for rows in before.values() for row in rows)


def test_files_drawn_have_junk_distractors_and_double_suffixes(module, folder):
    rows = module.scan(folder)
    assert {row.pid for row in rows["gallery"]} == {-1, 0, 3, 4}
    assert {row.pid for row in rows["train"]} == {1, 2}
    assert all(any(row.filename.endswith(".jpg.jpg") for row in listed) for listed in rows.values())
    assert {row.camid for listed in rows.values() for row in listed} == {0, 1, 2}


def test_published_counts_are_those_of_the_authors(module):
    assert module.PUBLISHED["train"]["images"] == 12_936
    assert module.PUBLISHED["train"]["identities"] == 751
    assert module.PUBLISHED["query"]["images"] == 3_368
    assert module.PUBLISHED["query"]["identities"] == 750
    gallery = module.PUBLISHED["gallery"]
    assert gallery["images"] == 19_732
    assert gallery["images"] - gallery["junk"] == 15_913


def test_builder_alone_reads_a_manual_folder(module, folder, tmp_path_factory):
    import tensorflow_datasets as tfds

    data_dir = tmp_path_factory.mktemp("tfds")
    builder = module.Builder(data_dir=str(data_dir), file_format="array_record")
    tfds.disable_progress_bar()
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=str(folder), compute_stats="skip")
    )
    assert builder.info.name == "market1501"
    assert "zheng2015scalable" in builder.info.citation
    reopened = tfds.builder_from_directory(pathlib.Path(builder.data_dir))
    rows = module.scan(folder)
    for split, listed in rows.items():
        assert reopened.info.splits[split].num_examples == len(listed)
        assert reopened.info.metadata["pids"][split] == [row.pid for row in listed]
        assert reopened.info.metadata["filenames"][split] == [row.filename for row in listed]
    element = reopened.as_data_source("gallery", decoders={"image": tfds.decode.SkipDecoding()})[0]
    assert element["image"] == rows["gallery"][0].path.read_bytes()
