"""CUHK03 from its original MATLAB file with the lists of the 767/700 protocol."""

import sys

import numpy as np
import pytest

from reid_jax import errors
from reid_jax.data import builders, image_io, prepare
from tests.helpers import benchmark_folders


@pytest.mark.parametrize("boxes", ["labeled", "detected"])
def test_original_file_with_the_protocol(tmp_path, boxes):
    name = f"cuhk03_np_{boxes}"
    expected = benchmark_folders.cuhk03_original(tmp_path / name, boxes)
    dataset = prepare.ensure(name, tmp_path)
    for split, rows in expected.items():
        found = dataset.split(split)
        assert list(zip(found.filenames, found.pids.tolist(), found.camids.tolist())) == rows
    pid, camid = int(dataset.query.pids[1]), int(dataset.query.camids[1])
    exact = image_io.decode(dataset.query.source[1]["image"])
    np.testing.assert_array_equal(exact, benchmark_folders.picture(pid, camid, 0))


def test_original_file_may_be_named_itself_or_lie_beside_its_lists(tmp_path):
    folder = tmp_path / "raw"
    benchmark_folders.cuhk03_original(folder)
    moved = (folder / "cuhk03_release" / "cuhk-03.mat").rename(folder / "cuhk-03.mat")
    module = builders.load("cuhk03_np_labeled")
    for source in (folder, moved, folder.parent):
        origin, rows = builders.read("cuhk03_np_labeled", module, source)
        assert origin == folder
        assert len(rows["train"]) == 8


def test_split_folders_come_before_the_original_file(tmp_path):
    benchmark_folders.cuhk03_original(tmp_path / "cuhk03_np_labeled")
    expected = benchmark_folders.cuhk03_np(tmp_path / "cuhk03_np_labeled", "labeled")
    assert prepare.ensure("cuhk03_np_labeled", tmp_path).train.filenames == tuple(row[0] for row in expected["train"])


def test_without_the_libraries_the_way_out_is_named(tmp_path, monkeypatch):
    benchmark_folders.cuhk03_original(tmp_path / "cuhk03_np_labeled")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(
        errors.UserError, match=r"needs h5py and scipy: pip install 'reid_jax\[cuhk03\]', or get cuhk03-np"
    ):
        prepare.prepare("cuhk03_np_labeled", tmp_path)


def test_empty_entry_is_named(tmp_path):
    benchmark_folders.cuhk03_original(tmp_path / "cuhk03_np_labeled", holes=True)
    with pytest.raises(
        errors.UserError, match=r"cuhk-03.mat:1_001_1_01.png cannot be read \(an empty entry of cuhk-03.mat"
    ):
        prepare.prepare("cuhk03_np_labeled", tmp_path)
    report = prepare.prepare("cuhk03_np_labeled", tmp_path, on_bad_image="skip")
    assert (len(report.dataset.train), len(report.skipped)) == (7, 1)


def test_protocol_of_the_other_boxes_missing_or_damaged(tmp_path):
    folder = tmp_path / "cuhk03_np_detected"
    benchmark_folders.cuhk03_original(folder)
    protocol = folder / "cuhk03_new_protocol_config_detected.mat"
    protocol.write_bytes(b"<html>404</html>" * 20)
    with pytest.raises(
        errors.UserError, match=r"expected filelist, labels, train_idx, .* in .*detected.mat, could not"
    ):
        prepare.prepare("cuhk03_np_detected", tmp_path)
    protocol.unlink()
    with pytest.raises(errors.UserError, match=r"detected.mat is missing .*; get the protocol's two list files"):
        prepare.prepare("cuhk03_np_detected", tmp_path)
    assert not (tmp_path / "prepared").exists()


def test_damaged_original_file(tmp_path):
    folder = tmp_path / "cuhk03_np_labeled"
    benchmark_folders.cuhk03_original(folder)
    (folder / "cuhk03_release" / "cuhk-03.mat").write_bytes(b"no table")
    with pytest.raises(errors.UserError, match=r"cuhk-03.mat is not a readable MATLAB 7.3 file"):
        prepare.prepare("cuhk03_np_labeled", tmp_path)


def test_folders_of_the_other_boxes_beside_none(tmp_path):
    folder = tmp_path / "cuhk03_np_labeled"
    benchmark_folders.cuhk03_np(folder, "detected")
    (folder / "labeled" / "query").mkdir(parents=True)
    with pytest.raises(errors.UserError, match=r"but labeled/bounding_box_train is missing"):
        prepare.prepare("cuhk03_np_labeled", tmp_path)
