"""Opening prepared data sets, their tables, labels and hashes."""

import concurrent.futures
import pickle
import subprocess
import sys

import numpy as np
import pytest

from reid_jax import errors
from reid_jax.data import image_io, prepare, records
from tests.helpers import faulty_store


@pytest.fixture(scope="module")
def prepared(market, tmp_path_factory):
    """A root folder with a prepared data set in the layout of Market-1501, and its counts."""
    root = tmp_path_factory.mktemp("data")
    counts = market.write(root / "market1501", train_identities=3, test_identities=2, height=32, width=16)
    prepare.prepare("market1501", root)
    return root, counts


def _split(pids, camids=None, name="toy/train", filenames=None):
    pids = np.asarray(pids, np.int32)
    camids = np.zeros(len(pids), np.int32) if camids is None else np.asarray(camids, np.int32)
    filenames = tuple(f"{one}.jpg" for one in range(len(pids))) if filenames is None else filenames
    source = [{"image": b"", "pid": int(pid)} for pid in pids]
    return records.Split(name, source, pids, camids, filenames)


def test_lists_agree_with_the_records(prepared):
    root, counts = prepared
    dataset = records.open_dataset("market1501", root)
    assert {name: len(split) for name, split in dataset.splits().items()} == counts
    for split in dataset.splits().values():
        elements = list(split.source)
        assert [element["pid"] for element in elements] == split.pids.tolist()
        assert [element["camid"] for element in elements] == split.camids.tolist()
        assert tuple(element["filename"] for element in elements) == split.filenames
        assert split.filenames == tuple(sorted(split.filenames))
        assert image_io.decode(elements[0]["image"]).shape == (32, 16, 3)
        assert split.pids.dtype == split.camids.dtype == np.int32


def test_stored_bytes_are_the_file(prepared):
    root, _ = prepared
    split = records.open_dataset("market1501", root).train
    path = root / "market1501" / "bounding_box_train" / split.filenames[5]
    assert split.source[5]["image"] == path.read_bytes()


def test_source_behaves_like_a_sequence(prepared):
    source = records.open_dataset("market1501", prepared[0]).query.source
    assert source[-1]["filename"] == source[len(source) - 1]["filename"]
    assert source[np.int64(1)]["pid"] == source[1]["pid"]
    with pytest.raises(IndexError):
        source[len(source)]


def test_source_pickles_small_and_reads_from_threads(prepared):
    source = records.open_dataset("market1501", prepared[0]).train.source
    expected = [element["filename"] for element in source]
    packed = pickle.dumps(source)
    assert len(packed) < 2_000
    copy = pickle.loads(packed)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda index: copy[index]["filename"], range(len(copy))))
    assert found == expected


def test_the_arrays_cannot_be_changed_by_accident(prepared):
    split = records.open_dataset("market1501", prepared[0]).train
    with pytest.raises(ValueError, match="read-only"):
        split.pids[0] = 7


def test_opening_imports_neither_jax_nor_tensorflow(prepared):
    program = (
        "import sys; from reid_jax.data import records; "
        f"records.open_dataset('market1501', {str(prepared[0])!r}).train.source[0]; "
        "print(sorted({'jax', 'flax', 'tensorflow', 'reid_datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
    assert done.stderr == ""


def test_not_prepared_says_which_command_to_run(tmp_path):
    with pytest.raises(
        errors.UserError, match=r"run `python scripts/prepare_dataset.py synthped --root .* --option size=tiny`"
    ):
        records.open_dataset("synthped", tmp_path, size="tiny")


@pytest.mark.parametrize("victim", ["metadata.json", "features.json", "market1501-train.array_record-00000-of-00001"])
def test_damaged_folder_is_one_sentence(market, tmp_path, victim):
    market.write(tmp_path / "market1501", train_identities=1, test_identities=1, height=16, width=8)
    path = prepare.prepare("market1501", tmp_path).path
    (path / victim).write_bytes(b"")
    with pytest.raises(errors.UserError, match="is damaged; remove that folder"):
        records.open_dataset("market1501", tmp_path)


def test_describe_counts_junk_and_distractors(prepared):
    table = records.open_dataset("market1501", prepared[0]).describe().splitlines()
    assert table[0].split() == ["split", "images", "identities", "cameras", "junk", "distractors"]
    assert table[1].split() == ["train", "18", "3", "3", "0", "0"]
    assert table[3].split() == ["gallery", "12", "2", "3", "3", "3"]


def test_pid_zero_is_a_person_in_training_only():
    assert _split([0, 0, 1]).counts()["identities"] == 2
    assert _split([0, 0, 1], name="toy/gallery").counts() == {
        "images": 3,
        "identities": 1,
        "cameras": 1,
        "junk": 0,
        "distractors": 2,
    }


def test_damaged_files_are_one_sentence(tmp_path, market):
    market.write(tmp_path / "market1501", train_identities=2, test_identities=2, height=16, width=8)
    path = prepare.prepare("market1501", tmp_path).path
    for name in ("dataset_info.json", "features.json", "metadata.json"):
        content = (path / name).read_bytes()
        (path / name).write_bytes(content[:1].ljust(len(content), b"\x01"))
        with pytest.raises(errors.UserError, match="is damaged; remove that folder"):
            records.open_dataset("market1501", tmp_path)
        (path / name).write_bytes(content)
    file = next(path.glob("*train*"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)
    with pytest.raises(errors.UserError, match=r"record \d+ of \d+ of the prepared data set is damaged"):
        list(records.open_dataset("market1501", tmp_path).train.source)


def test_index_hash_sees_order_identities_cameras_and_names():
    base = _split([3, 1, 2])
    variants = [
        _split([1, 3, 2]),
        _split([3, 1, 2], camids=[0, 0, 1]),
        _split([3, 1, 2], filenames=("0.jpg", "1.jpg", "3.jpg")),
    ]
    hashes = {records.ReIDDataset("toy", train=split).index_hash() for split in [base, *variants]}
    hashes.add(records.ReIDDataset("toy", query=base).index_hash())
    assert len(hashes) == 5
    assert records.ReIDDataset("other name", train=_split([3, 1, 2])).index_hash() in hashes


def test_index_hash_of_a_fixed_list():
    # A recorded value: the hash must not depend on the machine or on library versions.
    dataset = records.ReIDDataset("toy", train=_split([5, -1, 7], camids=[0, 1, -1]))
    assert dataset.index_hash() == "965999b7ab5a16e2ee052a94f5c5c2476985dedd4b821353cdd87c8bcdc7da4b"


def test_train_labels_are_ranks_of_sorted_pids():
    labels, classes = records.train_labels(_split([7, 2, 2, 0, 1500]))
    assert labels.tolist() == [2, 1, 1, 0, 3]
    assert classes.tolist() == [0, 2, 7, 1500]
    assert labels.dtype == classes.dtype == np.int32


def test_train_labels_refuse_junk_and_nothing():
    with pytest.raises(errors.UserError, match=r"junk \(pid -1\), such as '1.jpg'"):
        records.train_labels(_split([7, -1]))
    with pytest.raises(errors.UserError, match="is empty"):
        records.train_labels(_split([]))


def test_lists_of_different_length_are_refused():
    with pytest.raises(errors.UserError, match="2 records but 2 identities, 2 cameras and 1 names"):
        _split([1, 2], filenames=("only one",))


def test_require_names_the_absent_split():
    dataset = records.ReIDDataset("toy", train=_split([1]))
    dataset.require("train")
    with pytest.raises(errors.UserError, match=r"no gallery split \(it has: train\)"):
        dataset.require("train", "gallery")


def test_folder_names_tell_options_apart():
    assert records.folder_name("market1501", {}) == "market1501"
    assert records.folder_name("synthped", {}) == "synthped-demo-seed0"
    assert records.folder_name("synthped", {"seed": 3, "size": "tiny"}) == "synthped-tiny-seed3"
    assert records.folder_name("reid_folder", {}) == "reid_folder"
    assert records.folder_name("reid_folder", {"title": "shop"}) == "reid_folder-shop"


@pytest.mark.parametrize(
    ("name", "options", "complaint"),
    [
        ("synthped", {"sede": 1}, "did you mean 'seed'"),
        ("synthped", {"seed": "one"}, "should be of type int"),
        ("synthped", {"seed": 1.5}, "should be of type int"),
        ("market1501", {"seed": 1}, "unknown option of data set 'market1501'"),
        ("reid_folder", {"title": "../up"}, "part of a folder name"),
    ],
)
def test_wrong_options_are_explained(name, options, complaint):
    with pytest.raises(errors.UserError, match=complaint):
        records.folder_name(name, options)


bucket = faulty_store.bucket


def test_a_prepared_folder_in_an_object_store_is_fetched_in_its_newest_version(bucket):
    for version in ("1.0.0", "10.0.0", "9.0.0"):
        bucket.files.pipe_file(f"bucket/data/prepared/mine/{version}/dataset_info.json", version.encode())
    bucket.files.pipe_file("bucket/data/prepared/mine/11.0.0/records", b"not complete")
    folder = records.prepared_folder("mine", "memory://bucket/data/")
    path = records.prepared_version(folder)
    assert (path / "dataset_info.json").read_bytes() == b"10.0.0"
    assert [entry.name for entry in folder.iterdir()] == ["10.0.0"]
    before = len(bucket.calls)
    assert records.prepared_folder("mine", "memory://bucket/data") == folder
    assert len(bucket.calls) == before
    with pytest.raises(errors.UserError, match=r"is not prepared: there is no memory://.*/other; run"):
        records.prepared_folder("other", "memory://bucket/data")
