"""A user's own images as a data set: folder layouts, CSV lists, numbering, and a sentence for every mistake."""

import zlib

import numpy as np
import pytest

from reid_jax import errors
from reid_jax.data import builders, checks, image_io, prepare, records
from reid_jax.inference import features


@pytest.fixture
def scan():
    return builders.load("reid_folder").scan


def _draw(folder, *names):
    for name in names:
        picture = np.random.default_rng(zlib.crc32(f"{name}".encode())).integers(0, 256, (8, 4, 3)).astype(np.uint8)
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
        ("path|pid|split\n1.jpg|3|train\n", r"got .path.pid.split.; separate columns with commas"),
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


@pytest.mark.parametrize("separator", [";", "\t"])
@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_csv_of_spreadsheets(scan, tmp_path, separator, end):
    _draw(tmp_path, "a;1.jpg", "b.jpg")
    lines = ("Path,PID,CamID,Split", '"a;1.jpg",7,1,Query', "b.jpg,7,2,GALLERY", "")
    text = end.join(line.replace(",", separator) for line in lines)
    (tmp_path / "list.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    rows = scan(tmp_path / "list.csv")
    assert _table(rows["query"]) == [("a;1.jpg", 7, 0)]
    assert _table(rows["gallery"]) == [("b.jpg", 7, 1)]


def test_csv_with_decimals_means_whole_numbers(scan, tmp_path):
    _draw(tmp_path, *(f"{i}.jpg" for i in range(6)))
    rows = scan(
        _csv(
            tmp_path,
            "path,pid,camid,split\n0.jpg,1.0,0.0,query\n1.jpg,1.0,1.00,gallery\n2.jpg,-1.0,1,gallery\n"
            "3.jpg,0.0,nan,gallery\n4.jpg,2.0,-1.0,query\n5.jpg,2,NaN,gallery\n",
        )
    )
    assert _table(rows["query"]) == [("0.jpg", 1, 0), ("4.jpg", 2, -1)]
    assert _table(rows["gallery"]) == [("1.jpg", 1, 1), ("2.jpg", -1, 1), ("3.jpg", 0, -1), ("5.jpg", 2, -1)]


def test_csv_names_with_any_letters(scan, tmp_path):
    names = ["a\u2028b.jpg", "c\x0bd.jpg", "e\x1cf\x85g.jpg", "<b>&amp;'.jpg", "line\nfeed.jpg", "win\\dows.jpg"]
    _draw(tmp_path, *names[:-1], "sub/x.jpg", names[-1])
    text = "path,pid,split\n" + "".join(f'"{name}",{k},train\n' for k, name in enumerate(names))
    rows = scan(_csv(tmp_path, text + "sub\\x.jpg,9,train\n"))["train"]
    assert [row.filename for row in rows] == [*names, "sub/x.jpg"]
    assert all(row.path.is_file() for row in rows)


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ("path,pid,pid,split\n1.jpg,3,0,train", "header has the column pid 2 times; keep one"),
        ("path,pid,Split,split\n1.jpg,3,train,train", "header has the column split 2 times"),
        ("path,pid,split\n1.jpg,3,train,4", "line 2: 4 fields, the header has 3"),
        ('path,pid,split\n"1.jpg,3,train\n2.jpg,3,train', "unexpected end of data"),
        ("path,pid,split\n1.jpg,nan,train", "line 2: expected a pid, got nan"),
        ("path,pid,split\n1.jpg,-2,train", r"line 2: expected a pid of -1 \(junk\) or more, or a name, got -2"),
        ("path,pid,camid,split\n1.jpg,2,-3.0,train", r"expected a camid of -1 \(unknown\) or more"),
        ("path,pid,split\n1.jpg,a,query\n./1.jpg,b,gallery", "line 3: './1.jpg' has the pid 'b', in line 2 it is 'a'"),
        ("path,pid,split\n1.jpg,3,train\n./1.jpg,3,train", "line 3: ./1.jpg is listed in line 2 of the same split"),
        ("path,pid,split\nhard.jpg,a,train\n1.jpg,b,train", "an image shows one person"),
        (f"path,pid,split\n{'x' * 5000}.jpg,3,train", "there is no file .*xxx"),
        ("path,pid,split\n1\0.jpg,3,train", "line 2: there is no file|NUL"),
    ],
)
def test_wrong_lines_are_one_sentence(tmp_path, lines, complaint):
    _draw(tmp_path, "1.jpg", "2.jpg")
    (tmp_path / "hard.jpg").hardlink_to(tmp_path / "1.jpg")
    (tmp_path / "list.csv").write_text(lines + "\n")
    with pytest.raises(errors.UserError, match=complaint) as caught:
        prepare.prepare("reid_folder", tmp_path / "data", tmp_path / "list.csv")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_one_file_may_be_a_query_and_in_the_gallery(scan, tmp_path):
    _draw(tmp_path, "1.jpg")
    rows = scan(_csv(tmp_path, "path,pid,split\n1.jpg,a,query\n1.jpg,a,gallery\n1.jpg,b,train\n"))
    assert [row.person for split in rows.values() for row in split] == ["b", "a", "a"]


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


def test_folders_below_a_person_belong_to_the_person(scan, tmp_path):
    _draw(
        tmp_path, "train/ben/cam1/0.jpg", "train/ben/day 2/deep/0_c2.jpg", "train/anna/0_c1.jpg", "train/anna b/1.jpg"
    )
    rows = scan(tmp_path)
    assert _table(rows["train"]) == [
        ("anna/0_c1.jpg", 1, 0),
        ("anna b/1.jpg", 2, -1),
        ("ben/cam1/0.jpg", 3, 0),
        ("ben/day 2/deep/0_c2.jpg", 3, 1),
    ]
    assert [row.person for row in rows["train"]] == ["anna", "anna b", "ben", "ben"]
    assert rows.notes == ()


def test_every_ending_in_capitals_or_not(scan, tmp_path):
    endings = ("jpg", "JPG", "jpeg", "jfif", "png", "bmp", "TIF", "tiff", "webp")
    _draw(tmp_path, *(f"train/{k}/x.{ending}" for k, ending in enumerate(endings)))
    assert [row.pid for row in scan(tmp_path)["train"]] == list(range(9))


def test_what_is_not_read_is_said(tmp_path):
    _draw(tmp_path / "mine", "train/anna/1_c1.jpg", "train/ben/1_c2.png", "train/cleo/1.heic", "raw/1.jpg")
    (tmp_path / "mine" / "train" / "anna" / "up").symlink_to(tmp_path / "mine")
    (tmp_path / "mine" / "train" / "empty").mkdir()
    (tmp_path / "mine" / "train" / "Thumbs.db").touch()
    text = prepare.prepare("reid_folder", tmp_path / "data", tmp_path / "mine").text()
    assert "1 files in" in text
    assert "such as 'cleo/1.heic'; images end in .jpg" in text
    assert "2 of 4 folders in" in text
    assert "have no images, such as 'cleo'" in text
    assert "leads to a folder above it and is not followed" in text
    assert "the images in the folder 'raw' are not read" in text
    assert "Thumbs" not in text


@pytest.mark.parametrize(
    ("name", "camera"),
    [
        ("x_c2.jpg", 2),
        ("x-c2-7.jpg", 2),
        ("c3s1_9.jpg", 3),
        ("x_C4_9.jpg", 4),
        ("p_cam05_f.jpg", 5),
        ("p.camera_6.jpg", 6),
        ("1b4e28ba-c123-11d2-883f-0016d3cca427.jpg", None),
        ("anna_1b4e28ba-c4d5-41d2-883f-c016d3cca427.jpg", None),
        ("1b4e28ba-c123-11d2-883f-0016d3cca427_c7.jpg", 7),
        ("x_c2d.jpg", None),
        ("x_abc2.jpg", None),
        ("x_c1234567.jpg", None),
        ("xc2.jpg", None),
    ],
)
def test_camera_in_a_name(scan, tmp_path, name, camera):
    _draw(tmp_path, f"train/anna/{name}", "train/ben/0_c99.jpg")
    row = scan(tmp_path)["train"][0]
    assert row.camid == (-1 if camera is None else 0)


def test_folders_of_market(scan, tmp_path):
    _draw(tmp_path, "bounding_box_train/0001_c1_7.png", "query/2_c1_0.png", "bounding_box_test/2_c2_0.jfif")
    rows = scan(tmp_path)
    assert {split: _table(listed) for split, listed in rows.items()} == {
        "train": [("0001_c1_7.png", 1, 0)],
        "query": [("2_c1_0.png", 2, 0)],
        "gallery": [("2_c2_0.jfif", 2, 1)],
    }


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (
            ["train/cam01/a_1.jpg", "train/cam02/a_2.jpg"],
            r"train/cam01 is named like a camera, .* train/anna/cam01/0.jpg",
        ),
        (["train/anna/1.jpg", "train/Camera 2/a_2.jpg"], "is named like a camera"),
        (["train/c1/7_c1_0.jpg", "train/c2/7_c2_0.jpg"], "train/c1 is named like a camera"),
        (["train/anna/1.jpg", "test/anna/2.jpg"], "has images in test, which is not one of the folders"),
        (["query/1.jpg", "Validation/2.jpg"], "has images in Validation, which"),
        (["train/1_c1.jpg", "Train/1_c2.jpg"], "Train and train, which both mean train"),
        (["train/anna/1_c1_c2.jpg"], "gives two cameras, 1 and 2"),
        (["train/anna/cam3/1_c2.jpg"], "gives two cameras, 2 and 3"),
        (["train/-5_c1.jpg"], "does not parse"),
        (["train/-5/1.jpg"], "has pid -5; expected -1"),
    ],
)
def test_unclear_folders_are_one_sentence(tmp_path, names, complaint):
    _draw(tmp_path / "mine", *names)
    with pytest.raises(errors.UserError, match=complaint):
        prepare.prepare("reid_folder", tmp_path / "data", tmp_path / "mine")
    assert not (tmp_path / "data").exists()


def test_people_named_like_letters_are_no_cameras(scan, tmp_path):
    _draw(tmp_path, "train/c1/a.jpg", "train/c2/7_c2_0.jpg")
    assert [row.person for row in scan(tmp_path)["train"]] == ["c1", "c2"]


def test_broken_link_is_named(tmp_path):
    (tmp_path / "mine" / "train" / "anna").mkdir(parents=True)
    (tmp_path / "mine" / "train" / "anna" / "1.jpg").symlink_to("nowhere.jpg")
    with pytest.raises(errors.UserError, match=r"cannot read .*anna/1.jpg: a link to a file that does not exist"):
        prepare.prepare("reid_folder", tmp_path / "data", tmp_path / "mine")


# --- prepared ---


def test_names_and_paths_survive(tmp_path):
    _draw(tmp_path / "mine", "query/ben/0.jpg", "gallery/ben/0.jpg", "gallery/ann\u2028a <b>/0.jpg", "gallery/-1/0.jpg")
    dataset = prepare.prepare("reid_folder", tmp_path / "data", tmp_path / "mine").dataset
    assert dataset.query.people == {2: "ben"}
    assert dataset.gallery.people == {1: "ann\u2028a <b>", 2: "ben"}
    assert dataset.query.names == ("query/ben/0.jpg",)
    assert len({*dataset.query.names, *dataset.gallery.names}) == 4
    numbered = prepare.prepare(
        "reid_folder", tmp_path / "b", _csv(tmp_path, "path,pid,split,camid\nmine/query/ben/0.jpg,7,train,front door\n")
    )
    assert numbered.dataset.train.people == {}
    assert numbered.dataset.train.cameras == {0: "front door"}
    assert features.own_names([numbered.dataset.train]) == {"cameras": {"0": "front door"}}
    assert dataset.query.cameras == {}
    assert numbered.dataset.train.names == ("mine/query/ben/0.jpg",)


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


def test_partly_known_cameras_and_a_single_identity_are_said(tmp_path):
    _draw(
        tmp_path / "mine",
        "train/car/0.jpg",
        "train/car/1.jpg",
        "query/1/0_c1.jpg",
        "gallery/1/0.jpg",
        "gallery/1/1_c2.jpg",
    )
    text = prepare.prepare("reid_folder", tmp_path / "data", tmp_path / "mine").text()
    assert "the camera of 1 of 3 query and gallery images is unknown" in text
    assert "all training images are of one identity (pid 1)" in text
