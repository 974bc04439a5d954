"""Preparation: complete or not at all, and a sentence for every mistake."""

import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from reid_jax import errors
from reid_jax.data import builders, checks, image_io, prepare, record_writing, records, source_files, staging

SMALL = {"train_identities": 3, "test_identities": 2, "height": 32, "width": 16}


@pytest.fixture
def source(market, tmp_path):
    """A new folder in the layout of Market-1501 at the default location in `tmp_path`."""
    market.write(tmp_path / "market1501", **SMALL)
    return tmp_path / "market1501"


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def _nothing_written(root):
    left = [path for path in (root / "prepared").rglob("*") if path.is_file()] if (root / "prepared").exists() else []
    return left == [] and not list(root.rglob(".incomplete-*"))


def _write_image(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.random.default_rng(seed).integers(0, 256, (16, 8, 3)).astype(np.uint8)
    path.write_bytes(image_io.encode_jpeg(picture))


# --- without mistakes ---


def test_forty_drawn_people_go_through_with_no_special_case(market, tmp_path):
    counts = market.write(
        tmp_path / "market1501", train_identities=20, test_identities=20, cameras=2, height=64, width=32
    )
    dataset = prepare.ensure("market1501", tmp_path)
    assert {name: len(split) for name, split in dataset.splits().items()} == counts
    labels, classes = records.train_labels(dataset.train)
    assert labels.max() + 1 == len(classes) == 20
    assert checks.check_protocol(dataset.query, dataset.gallery) == 0
    assert image_io.decode(dataset.gallery.source[3]["image"]).shape == (64, 32, 3)


def test_report_warns_of_counts_and_says_where(source, tmp_path):
    report = prepare.prepare("market1501", tmp_path)
    text = report.text()
    assert "18 of 12,936" in text
    assert "not the published ones of market1501 (train: 18 images, published are 12,936, and 9 more)" in text
    assert str(report.path) in text
    assert report.path == tmp_path / "prepared" / "market1501" / "1.0.0"
    assert not report.existed
    assert report.skipped == ()
    assert _names(tmp_path / "prepared") == ["market1501"]


def test_second_call_returns_at_once_and_changes_nothing(source, tmp_path, monkeypatch):
    first = prepare.prepare("market1501", tmp_path)
    before = {path: path.stat().st_mtime_ns for path in first.path.iterdir()}
    shutil.rmtree(source)  # the raw files are not needed any longer
    monkeypatch.setattr(checks, "inspect_images", lambda *_, **__: pytest.fail("checked again"))
    started = time.monotonic()
    second = prepare.prepare("market1501", tmp_path)
    assert time.monotonic() - started < 0.5
    assert second.existed
    assert "already prepared" in second.text()
    assert second.table == first.table
    assert second.warnings == first.warnings
    assert {path: path.stat().st_mtime_ns for path in first.path.iterdir()} == before
    assert prepare.ensure("market1501", tmp_path).index_hash() == first.dataset.index_hash()


def test_same_files_give_the_same_hash_wherever_they_lie(market, tmp_path):
    hashes = set()
    for place in ("a", "b"):
        market.write(tmp_path / place / "somewhere", **SMALL)
        hashes.add(prepare.prepare("market1501", tmp_path / place, tmp_path / place / "somewhere").dataset.index_hash())
    assert len(hashes) == 1


def test_changed_source_is_noticed_and_force_rebuilds(source, tmp_path):
    prepare.prepare("market1501", tmp_path)
    _write_image(source / "bounding_box_train" / "0999_c1s1_000001_00.jpg")
    again = prepare.prepare("market1501", tmp_path, source)
    assert again.existed
    assert "no longer those" in again.warnings[-1]
    rebuilt = prepare.prepare("market1501", tmp_path, source, force=True)
    assert not rebuilt.existed
    assert 999 in rebuilt.dataset.train.pids
    assert _names(tmp_path / "prepared") == ["market1501"]


def _warning(tmp_path):
    """Returns what is said about a changed source at the start of a run; the same as by preparing again."""
    dataset = prepare.ensure("market1501", tmp_path)
    said = prepare.warnings_of("market1501", dataset, tmp_path)
    assert tuple(said) == prepare.prepare("market1501", tmp_path).warnings
    changed = [sentence for sentence in said if "no longer" in sentence]
    assert len(changed) <= 1
    return changed[0] if changed else ""


def test_every_kind_of_change_of_the_source_is_noticed(source, tmp_path):
    prepare.prepare("market1501", tmp_path)
    assert not _warning(tmp_path)
    image = sorted((source / "query").iterdir())[0]
    old, times = image.read_bytes(), image.stat()
    picture = np.array(image_io.decode(old))
    picture[0, 0] ^= 255
    # The same size, and the old time of change.
    new = image_io.encode_jpeg(picture)
    image.write_bytes((new + bytes(len(old)))[: len(old)])
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert f"1 with other content, such as query/{image.name}" in _warning(tmp_path)
    assert "prepare_dataset.py market1501 --root " in _warning(tmp_path)
    image.write_bytes(old)
    assert not _warning(tmp_path)
    image.rename(image.with_name(f"0999{image.name[4:]}"))
    assert f"1 new, such as query/0999{image.name[4:]}; 1 gone, such as query/{image.name}" in _warning(tmp_path)
    (source / "query").rename(source / "elsewhere")
    assert "can no longer be read as the source" in _warning(tmp_path)
    shutil.rmtree(source)
    assert not _warning(tmp_path)  # prepared data need no source


def test_unchanged_files_are_not_read_again(source, tmp_path, monkeypatch):
    report = prepare.prepare("market1501", tmp_path)
    touched = sorted((source / "query").iterdir())[0]
    os.utime(touched)
    read = []
    content = type(touched).read_bytes
    monkeypatch.setattr(type(touched), "read_bytes", lambda path: read.append(path.name) or content(path))
    for _ in range(2):
        assert not _warning(tmp_path)
    assert [name for name in read if name.endswith(".jpg")] == [touched.name]
    (report.path / source_files.FILE).write_bytes(b"damaged")  # names are compared all the same
    assert not _warning(tmp_path)


def test_content_is_part_of_a_data_set(source, tmp_path):
    first = prepare.prepare("market1501", tmp_path).dataset
    again = prepare.prepare("market1501", tmp_path / "b", source).dataset
    assert first.content == again.content == records.content_hash(first)
    _write_image(sorted((source / "query").iterdir())[0], seed=9)
    changed = prepare.prepare("market1501", tmp_path, force=True).dataset
    assert changed.index_hash() == first.index_hash()
    assert changed.content != first.content


def test_copies_and_rotations_are_said(source, tmp_path):
    query, gallery, train = (
        sorted((source / name).glob("0*.jpg")) for name in ("query", "bounding_box_test", "bounding_box_train")
    )
    train[0].write_bytes(train[-1].read_bytes())
    other = next(file for file in gallery if file.name[:7] != query[0].name[:7] and file.name[:4] == query[0].name[:4])
    other.write_bytes(query[0].read_bytes())
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 16)).save(train[1], exif=exif)
    text = prepare.prepare("market1501", tmp_path).text()
    assert f"1 of {len(query)} queries are in the gallery as the same image, such as query/{query[0].name} = " in text
    assert f"1 images are listed under two identities, such as train/{train[0].name} = train/{train[-1].name}" in text
    assert f"images ask for a rotation (EXIF), such as train/{train[1].name}" in text
    query[0].write_bytes(train[2].read_bytes())
    assert "1 images are in training and in test" in prepare.prepare("market1501", tmp_path, force=True).text()


def test_check_only_writes_nothing(source, tmp_path):
    report = prepare.prepare("market1501", tmp_path, check_only=True)
    assert report.path is None
    assert "18 of 12,936" in report.text()
    assert "nothing was written" in report.text()
    assert not (tmp_path / "prepared").exists()
    with pytest.raises(errors.UserError, match="without --check"):
        _ = report.dataset


# --- finding the source ---


@pytest.mark.parametrize("levels", ["Market-1501-v15.09.15", "downloads/Market-1501-v15.09.15"])
def test_folder_in_between_is_found(market, tmp_path, levels):
    market.write(tmp_path / "market1501" / levels, **SMALL)
    report = prepare.prepare("market1501", tmp_path)
    assert report.source == str(tmp_path / "market1501" / levels)
    # The outer folder is the same source.
    assert prepare.prepare("market1501", tmp_path, tmp_path / "market1501").existed


def test_one_folder_too_deep_is_understood(source, tmp_path):
    assert prepare.prepare("market1501", tmp_path, source / "bounding_box_train").source == str(source)


def test_missing_source_says_what_was_expected_and_what_to_do(tmp_path):
    with pytest.raises(errors.UserError) as caught:
        prepare.ensure("market1501", tmp_path)
    sentence = str(caught.value)
    assert f"in {tmp_path / 'market1501'}, there is no such folder" in sentence
    assert "Market-1501-v15.09.15.zip" in sentence
    assert "\n" not in sentence
    assert _nothing_written(tmp_path)


def test_packed_archive_is_explained(tmp_path):
    (tmp_path / "market1501").mkdir()
    (tmp_path / "market1501" / "Market.zip").write_bytes(b"PK")
    with pytest.raises(errors.UserError, match=r"\(there: Market.zip\); unpack Market.zip there"):
        prepare.prepare("market1501", tmp_path)
    with pytest.raises(errors.UserError, match=r"expected a folder .* unpack it first"):
        prepare.prepare("market1501", tmp_path, tmp_path / "market1501" / "Market.zip")


def test_wrong_folder_lists_what_is_there(tmp_path):
    (tmp_path / "market1501" / "holidays").mkdir(parents=True)
    with pytest.raises(
        errors.UserError, match=r"bounding_box_train, query, bounding_box_test in .* \(there: holidays\)"
    ):
        prepare.prepare("market1501", tmp_path)


def test_other_source_than_before_is_refused(source, market, tmp_path):
    prepare.prepare("market1501", tmp_path)
    market.write(tmp_path / "elsewhere", **SMALL)
    with pytest.raises(errors.UserError, match=r"was prepared from .*market1501, not from .*elsewhere; .*--force"):
        prepare.prepare("market1501", tmp_path, tmp_path / "elsewhere")


# --- splits and names ---


def test_missing_split(source, tmp_path):
    shutil.rmtree(source / "query")
    with pytest.raises(
        errors.UserError, match=r"but query is missing \(there: bounding_box_test, bounding_box_train\)"
    ):
        prepare.prepare("market1501", tmp_path)
    assert _nothing_written(tmp_path)


def test_empty_split(source, tmp_path):
    for path in (source / "query").glob("*.jpg"):
        path.unlink()
    with pytest.raises(errors.UserError, match=r"expected images \(.jpg, .jpeg, .*\) in .*query, found none"):
        prepare.prepare("market1501", tmp_path)


@pytest.mark.parametrize(
    "name", ["holiday.jpg", "0001_s1c1.jpg", "0001_c0s1_1.jpg", "_c1s1.jpg", "-2_c1s1_000001_00.jpg"]
)
def test_name_that_does_not_parse(source, tmp_path, name):
    _write_image(source / "query" / name)
    with pytest.raises(errors.UserError, match="does not parse: expected an identity and a camera") as caught:
        prepare.prepare("market1501", tmp_path)
    assert str(source / "query" / name) in str(caught.value)
    assert _nothing_written(tmp_path)


def test_name_that_is_no_text(source, tmp_path):
    _write_image(source / "query" / os.fsdecode(b"0001_c1s1_\xff.jpg"))
    with pytest.raises(errors.UserError, match=r"0001_c1s1_\\udcff.jpg' in .* is not plain text; rename the file"):
        prepare.prepare("market1501", tmp_path)


# --- damaged images ---


def _damage(source):
    """Truncates a JPEG, replaces another by text and empties a third."""
    train = sorted((source / "bounding_box_train").glob("*.jpg"))
    train[2].write_bytes(train[2].read_bytes()[:-150])
    train[4].write_text("<html>404</html>")
    gallery = sorted((source / "bounding_box_test").glob("0*.jpg"))
    gallery[-1].write_bytes(b"")
    return [train[2], train[4], gallery[-1]]


def test_damaged_image_is_named(source, tmp_path):
    cut, *_ = _damage(source)
    with pytest.raises(errors.UserError) as caught:
        prepare.prepare("market1501", tmp_path)
    sentence = str(caught.value)
    assert f"{cut} is cut off or damaged" in sentence
    assert "(2 more of " in sentence
    assert "--on-bad-image skip" in sentence
    assert _nothing_written(tmp_path)


def test_damaged_images_can_be_left_out(source, tmp_path):
    damaged = _damage(source)
    report = prepare.prepare("market1501", tmp_path, on_bad_image="skip")
    assert [sentence.split()[0] for sentence in report.skipped] == [str(path) for path in damaged]
    assert all(str(path) in report.text() for path in damaged)
    dataset = report.dataset
    assert len(dataset.train) == 16
    assert damaged[0].name not in dataset.train.filenames
    assert damaged[2].name not in dataset.gallery.filenames
    for split in dataset.splits().values():
        assert [element["pid"] for element in split.source] == split.pids.tolist()
    # The raw files are unchanged.
    assert prepare.prepare("market1501", tmp_path, source).warnings == report.warnings


def test_split_with_damaged_images_only(source, tmp_path):
    for path in (source / "query").glob("*.jpg"):
        path.write_bytes(b"\xff\xd8\xff")
    with pytest.raises(errors.UserError, match="none of the 6 images of the query split can be read"):
        prepare.prepare("market1501", tmp_path, on_bad_image="skip")


def test_unknown_way_with_bad_images(tmp_path):
    with pytest.raises(errors.UserError, match="did you mean 'skip'"):
        prepare.prepare("market1501", tmp_path, on_bad_image="skipp")


# --- counts and identities ---


def test_strict_counts(source, tmp_path):
    with pytest.raises(errors.UserError, match=r"counts are not the published ones .*leave out --strict-counts"):
        prepare.prepare("market1501", tmp_path, strict_counts=True)
    assert _nothing_written(tmp_path)


def test_published_counts_pass_without_a_word(source, tmp_path, monkeypatch):
    splits = prepare.prepare("market1501", tmp_path).dataset.splits()
    module = builders.load("market1501")
    monkeypatch.setattr(module, "PUBLISHED", {name: split.counts() for name, split in splits.items()})
    report = prepare.prepare("market1501", tmp_path, strict_counts=True, force=True)
    assert report.warnings == ()
    assert " of " not in report.table


def test_identity_with_one_image_and_shared_identities_are_warned_of(source, tmp_path):
    _write_image(source / "bounding_box_train" / "0005_c1s1_000001_00.jpg")  # 5 is a test person
    warnings = prepare.prepare("market1501", tmp_path).warnings
    assert any(one.startswith("1 of 4 training identities have one image only (pid 5)") for one in warnings)
    assert any(one.startswith("1 identities are in the training and in the test half (pid 5)") for one in warnings)


def test_single_camera_is_warned_of_at_preparation(market, tmp_path):
    market.write(tmp_path / "market1501", cameras=1, **SMALL)
    warnings = prepare.prepare("market1501", tmp_path).warnings
    assert any("all images come from one camera" in one and "same_camera_filter=False" in one for one in warnings)


def test_query_without_answer_is_counted(source, tmp_path):
    _write_image(source / "query" / "0777_c1s1_000001_00.jpg")
    warnings = prepare.prepare("market1501", tmp_path).warnings
    assert any(one.startswith("1 of 7 queries have no correct match") for one in warnings)


# --- incomplete folders ---


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), RuntimeError("close: write() failed: No space left on device; at 4")],
)
def test_a_builder_that_fails_leaves_nothing(source, tmp_path, monkeypatch, error):
    module = builders.load("market1501")

    def explode(self, rows):
        yield from ()
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(module.Builder, "_generate_examples", explode)
        with pytest.raises(
            errors.UserError, match=r"cannot write the prepared data set .*No space left.*free some space"
        ):
            prepare.prepare("market1501", tmp_path)
    assert _names(tmp_path / "prepared") == []
    assert not prepare.prepare("market1501", tmp_path).existed


def test_image_that_goes_while_it_is_stored_is_named(source, tmp_path, monkeypatch):
    build = record_writing.build

    def lose(*arguments, **options):
        sorted((source / "query").iterdir())[0].unlink()
        return build(*arguments, **options)

    monkeypatch.setattr(record_writing, "build", lose)
    with pytest.raises(errors.UserError, match=r"cannot read .*/query/.*\.jpg \(No such file"):
        prepare.prepare("market1501", tmp_path)


def test_killed_while_building_is_as_if_never_begun(source, tmp_path):
    program = (
        "import os, signal; from reid_jax.data import prepare; "
        "prepare._move = lambda *_: os.kill(os.getpid(), signal.SIGKILL); "
        f"prepare.prepare('market1501', {str(tmp_path)!r})"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    left = _names(tmp_path / "prepared")
    assert len(left) == 1
    assert left[0].startswith(".incomplete-market1501-")
    with pytest.raises(errors.UserError, match="is not prepared"):
        records.open_dataset("market1501", tmp_path)
    # The next preparation removes it, but not the folder of a process that lives.
    alive = tmp_path / "prepared" / ".incomplete-other-1"
    with staging.temporary_folder(tmp_path / "prepared" / "other") as held:
        held.rename(alive)
        assert not prepare.prepare("market1501", tmp_path).existed
        assert _names(tmp_path / "prepared") == [alive.name, "market1501"]
    with staging.temporary_folder(tmp_path / "prepared" / "third"):
        assert not alive.exists()
    assert _names(tmp_path / "prepared") == ["market1501"]


def test_faster_process_wins(source, tmp_path, monkeypatch):
    move = prepare._move

    def overtaken(built, target, replace):
        shutil.copytree(built, target)
        (target / "first").touch()
        move(built, target, replace)

    monkeypatch.setattr(prepare, "_move", overtaken)
    report = prepare.prepare("market1501", tmp_path)
    assert (report.path / "first").exists()
    assert len(report.dataset.train) == 18


def test_root_that_cannot_be_written_is_one_sentence(source, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(errors.UserError, match="cannot write the prepared data set"):
        prepare.prepare("market1501", tmp_path / "taken", source)


def test_damaged_report_is_one_sentence(source, tmp_path):
    report = prepare.prepare("market1501", tmp_path)
    for damaged in ("{", "{}", "[]", '{"source": 7, "table": "", "warnings": [1], "skipped": [], "seconds": 1}'):
        (report.path / records.REPORT_FILE).write_text(damaged)
        with pytest.raises(errors.UserError, match="is damaged"):
            prepare.prepare("market1501", tmp_path)
        with pytest.raises(errors.UserError, match="is damaged"):
            prepare.ensure("market1501", tmp_path)
    assert json.loads((report.path / "metadata.json").read_text())["pids"]["query"]


def test_unknown_data_set_lists_the_known(tmp_path):
    with pytest.raises(errors.UserError, match=r"did you mean 'market1501'.*known: .*reid_folder"):
        prepare.prepare("market1051", tmp_path)


def test_a_builder_is_imported_once():
    assert builders.load("market1501") is builders.load("market1501")
    assert set(builders.available()) >= {"market1501", "reid_folder"}
