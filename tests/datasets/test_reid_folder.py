"""A user's own images as a data set: folder layouts, CSV lists, numbering, and a sentence for every mistake."""

import numpy as np
import pytest

from reid_jax import errors
from reid_jax.data import builders, checks, image_io, prepare, records


@pytest.fixture
def scan():
    return builders.load("reid_folder").scan


def _draw(folder, *names):
    picture = np.full((8, 4, 3), 77, np.uint8)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_io.encode_png(picture) if name.endswith("png") else image_io.encode_jpeg(picture))


def _csv(folder, text, name="list.csv", encoding="utf-8"):
    (folder / name).write_text(text, encoding=encoding)
    return folder / name


def _table(rows):
    return [(row.filename, row.pid, row.camid) for row in rows]


# --- CSV ---


def test_csv_keeps_its_order_and_ranks_words(scan, tmp_path):
    _draw(tmp_path, "a/1.jpg", "a/2.jpg", "b.png", "c.jpg", "d.jpg")
    text = (
        "split,pid,path,note,camid\n"
        "query,zoe,a/1.jpg,late,street\n"
        "gallery,anna,b.png,,roof\n"
        "gallery,zoe,a/2.jpg,,roof\n"
        "gallery,-1,c.jpg,junk,\n"
        "train,zoe,d.jpg,,street\n"
    )
    rows = scan(_csv(tmp_path, text))
    assert list(rows) == ["train", "query", "gallery"]
    assert _table(rows["query"]) == [("a/1.jpg", 2, 1)]
    assert _table(rows["gallery"]) == [("b.png", 1, 0), ("a/2.jpg", 2, 0), ("c.jpg", -1, -1)]
    assert _table(rows["train"]) == [("d.jpg", 1, 1)]  # training and test are numbered independently: zoe is 2 in test


def test_csv_keeps_whole_numbers(scan, tmp_path):
    _draw(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    rows = scan(_csv(tmp_path, "path,pid,split\n1.jpg,0012,query\n2.jpg,12,gallery\n3.jpg,0,gallery\n"))
    assert _table(rows["query"]) == [("1.jpg", 12, -1)]
    assert _table(rows["gallery"]) == [("2.jpg", 12, -1), ("3.jpg", 0, -1)]


def test_numbers_that_begin_at_zero_make_no_distractors(scan, tmp_path):
    _draw(tmp_path, "1.jpg", "2.jpg", "3.jpg", "4.jpg")
    text = "path,pid,split\n1.jpg,0,query\n2.jpg,0,gallery\n3.jpg,5,gallery\n4.jpg,-1,gallery\n"
    rows = scan(_csv(tmp_path, text))
    assert [row.pid for row in rows["query"]] == [1]
    assert [row.pid for row in rows["gallery"]] == [1, 2, -1]


def test_numbers_too_large_for_32_bits_are_ranked(scan, tmp_path):
    _draw(tmp_path, "1.jpg", "2.jpg")
    rows = scan(_csv(tmp_path, "path,pid,split\n1.jpg,99999999999,train\n2.jpg,3,train\n"))
    assert [row.pid for row in rows["train"]] == [2, 1]


def test_csv_of_a_spreadsheet_with_byte_order_mark_and_spaces(scan, tmp_path):
    _draw(tmp_path, "1.jpg")
    rows = scan(_csv(tmp_path, "path, pid , camid, split\r\n1.jpg, 4, 2, train\r\n\r\n", encoding="utf-8-sig"))
    assert _table(rows["train"]) == [("1.jpg", 4, 0)]


def test_index_csv_in_a_folder_is_read(scan, tmp_path):
    _draw(tmp_path, "train/7_c1.jpg", "1.jpg")
    _csv(tmp_path, "path,pid,split\n1.jpg,3,train\n", name="index.csv")
    assert _table(scan(tmp_path)["train"]) == [("1.jpg", 3, -1)]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", r"expected the header path,pid,camid,split .* path and pid and split missing, got an empty file"),
        ("1.jpg,3,train\n", r"path and pid and split missing, got '1.jpg,3,train'; separate"),
        ("path;pid;split\n1.jpg;3;train\n", r"got 'path;pid;split'; separate columns with commas"),
        ("path,pid,split\n", "a header and no images"),
        ("path,pid,split\n1.jpg,3,training\n", r"line 2: split should be train, query or gallery, it is 'training'"),
        ("path,pid,split\n1.jpg,3,train\n2.jpg,3,train\n", r"line 3: there is no file .*2.jpg"),
        ("path,pid,split\n1.jpg,,train\n", "line 2: expected a path and a pid"),
        ("path,pid,split\n1.jpg\n", "line 2: split should be"),
        ("path,pid,split\n1.jpg,3,train\n1.jpg,4,train\n", "line 3: 1.jpg is listed in line 2 of the same split"),
        ("path,pid,split\n1.jpg,-1,train\n", r"1.jpg has pid -1 \(junk\) in train"),
        ("path,pid,split\n1.jpg,3,query\n", "has query images but no gallery images"),
    ],
)
def test_wrong_csv_is_one_sentence(tmp_path, text, complaint):
    _draw(tmp_path, "1.jpg")
    with pytest.raises(errors.UserError, match=complaint) as caught:
        prepare.prepare("reid_folder", tmp_path / "data", _csv(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data").exists()


def test_csv_in_another_encoding_is_explained(tmp_path):
    _draw(tmp_path, "1.jpg")
    with pytest.raises(errors.UserError, match="is not UTF-8 text"):
        prepare.prepare("reid_folder", tmp_path, _csv(tmp_path, "path,pid,split\n1.jpg,é,train\n", encoding="latin-1"))


# --- folders ---


def test_folder_per_identity(scan, tmp_path):
    _draw(
        tmp_path,
        "train/ben/2_c7.jpg",
        "train/anna/1.jpg",
        "train/anna/0_c3.png",
        "query/x/a_c3.jpg",
        "gallery/x/b_c7.jpg",
    )
    (tmp_path / "train" / "anna" / "Thumbs.db").write_bytes(b"no image")
    rows = scan(tmp_path)
    assert _table(rows["train"]) == [("anna/0_c3.png", 1, 0), ("anna/1.jpg", 1, -1), ("ben/2_c7.jpg", 2, 1)]
    assert _table(rows["query"]) == [("x/a_c3.jpg", 1, 0)]
    assert _table(rows["gallery"]) == [("x/b_c7.jpg", 1, 1)]


def test_identity_first_in_the_name(scan, tmp_path):
    _draw(
        tmp_path,
        "query/0012_c1_3.jpg",
        "gallery/0012_c2s1_8.jpg",
        "gallery/-1_c1_8.jpg",
        "gallery/0000_c2.jpg",
        "train/5.jpg",
    )
    rows = scan(tmp_path)
    assert _table(rows["query"]) == [("0012_c1_3.jpg", 12, 0)]
    assert _table(rows["gallery"]) == [("-1_c1_8.jpg", -1, 0), ("0000_c2.jpg", 0, 1), ("0012_c2s1_8.jpg", 12, 1)]
    assert _table(rows["train"]) == [("5.jpg", 5, -1)]


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["train/IMG_2034.jpg"], r"IMG_2034.jpg does not parse: .* use one folder per identity, or list"),
        (["train/7_1.jpg", "train/anna/1.jpg"], r"holds both images \(7_1.jpg\) and folders \(anna\)"),
        (
            ["pictures/7_1.jpg"],
            r"expected the folders train, query and gallery, or index.csv, in .*\(there: pictures\)",
        ),
        (["bounding_box_train/7_1.jpg"], "this is Market-1501's layout, prepare it under the name market1501"),
        (["train/7_1.jpg", "gallery/7_1.jpg"], "has gallery images but no query images"),
        (["train/anna/readme.txt"], "expected images .* in .*train, found none"),
        (["query/-1_c1.jpg", "gallery/4_c1.jpg"], r"has pid -1 \(junk\) in query"),
    ],
)
def test_wrong_folder_is_one_sentence(tmp_path, names, complaint):
    _draw(tmp_path / "mine", *names)
    with pytest.raises(errors.UserError, match=complaint):
        prepare.prepare("reid_folder", tmp_path / "data", tmp_path / "mine")
    assert not (tmp_path / "data").exists()


def test_file_that_is_no_list(tmp_path):
    (tmp_path / "mine.zip").write_bytes(b"PK")
    with pytest.raises(errors.UserError, match=r"expected a folder or a .csv file .* got the file"):
        prepare.prepare("reid_folder", tmp_path, tmp_path / "mine.zip")


# --- prepared ---


def test_two_own_data_sets_are_kept_apart_by_title(tmp_path):
    _draw(tmp_path / "a", "train/7_c1_1.jpg", "train/7_c2_1.jpg")
    _draw(tmp_path / "b", "query/anna/c1.jpg", "gallery/anna/c2.jpg")
    root = tmp_path / "data"
    prepare.prepare("reid_folder", root, tmp_path / "a")
    with pytest.raises(errors.UserError, match=r"--option title=NAME"):
        prepare.prepare("reid_folder", root, tmp_path / "b")
    prepare.prepare("reid_folder", root, tmp_path / "b", title="b")
    training = records.open_dataset("reid_folder", root)
    assert training.query is None
    assert training.train.pids.tolist() == [7, 7]
    evaluation = prepare.ensure("reid_folder", root, title="b")
    assert evaluation.train is None
    assert checks.check_protocol(evaluation.query, evaluation.gallery) == 0
    assert image_io.decode(evaluation.gallery.source[0]["image"]).shape == (8, 4, 3)


def test_bmp_and_webp_are_read(tmp_path):
    import io

    from PIL import Image

    picture = np.random.default_rng(0).integers(0, 256, (8, 4, 3)).astype(np.uint8)
    (tmp_path / "mine" / "train").mkdir(parents=True)
    for kind in ("bmp", "webp"):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, kind, **({"lossless": True} if kind == "webp" else {}))
        (tmp_path / "mine" / "train" / f"1_c1.{kind}").write_bytes(buffer.getvalue())
    source = prepare.prepare("reid_folder", tmp_path, tmp_path / "mine").dataset.train.source
    for element in source:
        np.testing.assert_array_equal(image_io.decode(element["image"], element["filename"]), picture)


def test_single_camera_folder_is_explained_before_training(tmp_path):
    _draw(tmp_path / "mine", "query/1_c4_0.jpg", "gallery/1_c4_1.jpg")
    report = prepare.prepare("reid_folder", tmp_path, tmp_path / "mine")
    assert any("all images come from one camera" in one for one in report.warnings)
    dataset = report.dataset
    with pytest.raises(errors.UserError, match="same_camera_filter=False"):
        checks.check_protocol(dataset.query, dataset.gallery)


def test_folder_without_cameras_can_be_evaluated_with_a_warning(tmp_path):
    _draw(tmp_path / "mine", "query/1_0.jpg", "gallery/1_1.jpg")
    report = prepare.prepare("reid_folder", tmp_path, tmp_path / "mine")
    assert any("no camera is known" in one for one in report.warnings)
    assert checks.check_protocol(report.dataset.query, report.dataset.gallery) == 0
