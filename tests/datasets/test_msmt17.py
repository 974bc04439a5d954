"""The lists of MSMT17: both versions, the validation list, numbering, and invalid lists."""

import pytest

from reid_jax import errors
from reid_jax.data import builders, prepare, records
from tests.helpers import benchmark_folders


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_versions_are_kept_apart(tmp_path, version):
    expected = benchmark_folders.msmt17(tmp_path / "msmt17", version)
    dataset = prepare.ensure("msmt17", tmp_path, version=version)
    assert dataset.path.parent.name == f"msmt17-{version}"
    assert list(dataset.train.filenames) == [row[0] for row in expected["train"]]
    other = "v1" if version == "v2" else "v2"
    with pytest.raises(errors.UserError, match=rf"this is the other version, take option version={version}\."):
        prepare.prepare("msmt17", tmp_path, version=other)


def test_whatever_is_there_is_read_where_no_version_is_named(tmp_path):
    for version in ("v1", "v2"):
        benchmark_folders.msmt17(tmp_path / version, version)
        module = builders.load("msmt17")
        assert len(builders.read("msmt17", module, tmp_path / version)[1]["gallery"]) == 4
        assert builders.fits("msmt17", tmp_path / version)


def test_validation_list_can_be_left_out(tmp_path):
    expected = benchmark_folders.msmt17(tmp_path / "msmt17")
    dataset = prepare.ensure("msmt17", tmp_path, train_only=True)
    assert dataset.path.parent.name == "msmt17-v1-train_only"
    assert list(dataset.train.filenames) == [row[0] for row in expected["train"][:4]]
    assert records.open_dataset("msmt17", tmp_path, version="v1", train_only=True).index_hash() == dataset.index_hash()


def test_people_count_from_one_and_cameras_from_zero(tmp_path):
    benchmark_folders.msmt17(tmp_path / "msmt17")
    report = prepare.prepare("msmt17", tmp_path)
    dataset = report.dataset
    assert set(dataset.query.pids) == set(dataset.train.pids) == {1, 2}  # 0 would be a distractor
    assert set(dataset.query.camids) == {13, 14}
    # The halves are numbered independently, so that equal numbers are no warning.
    assert not any("training and in the test" in one for one in report.warnings)
    assert "numbered independently" in prepare.prepare("msmt17", tmp_path, check_only=True).text()


@pytest.mark.parametrize(
    ("file", "line", "complaint"),
    [
        (
            "list_query.txt",
            "0000/0000_009_01_0303morning_0008_0.jpg 0",
            r"line 5: there is no .*0000_009_01.*one version",
        ),
        (
            "list_train.txt",
            "0000/0000_000_01_0303morning_0008_0.jpg",
            "list_train.txt, line 5: expected an image and its",
        ),
        ("list_val.txt", "0001_c1s1_000001_00.jpg 1", "list_val.txt, line 5: expected an image and its identity"),
        ("list_gallery.txt", "0000/0000_000_00_0303morning_0008_0.jpg 0", "list_gallery.txt, line 5: expected"),
    ],
    ids=["no such image", "no label", "another data set's", "camera 0"],
)
def test_list_that_does_not_fit(tmp_path, file, line, complaint):
    benchmark_folders.msmt17(tmp_path / "msmt17")
    with open(tmp_path / "msmt17" / file, "a") as stream:
        stream.write(f"{line}\n")
    with pytest.raises(errors.UserError, match=complaint):
        prepare.prepare("msmt17", tmp_path)
    assert not (tmp_path / "prepared").exists()


def test_lists_exchanged(tmp_path):
    folder = tmp_path / "msmt17"
    benchmark_folders.msmt17(folder)
    text = (folder / "list_query.txt").read_text()
    (folder / "list_train.txt").write_text(text)
    with pytest.raises(errors.UserError, match=r"list_train.txt, line 1: there is no .*use the lists and the images"):
        prepare.prepare("msmt17", tmp_path)


def test_empty_list_and_unknown_version(tmp_path):
    benchmark_folders.msmt17(tmp_path / "msmt17")
    (tmp_path / "msmt17" / "list_gallery.txt").write_text("\n")
    with pytest.raises(errors.UserError, match=r"list_gallery.txt lists no images"):
        prepare.prepare("msmt17", tmp_path)
    with pytest.raises(errors.UserError, match=r"option version of msmt17 should be v1 or v2, it is 'v3'"):
        prepare.prepare("msmt17", tmp_path, version="v3")
