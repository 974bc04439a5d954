"""Unions of data sets: distinct numbers, reserved numbers, and data sets that must not be joined."""

import pickle

import numpy as np
import pytest

from reid_jax import errors
from reid_jax.data import checks, pipeline, prepare, records, union
from tests.helpers import benchmark_folders


def _split(name, pids, camids):
    rows = [
        {"image": bytes([pid % 251, place]), "pid": pid, "camid": camid, "filename": f"{place}.jpg", "extra": place}
        for place, (pid, camid) in enumerate(zip(pids, camids))
    ]
    names = tuple(row["filename"] for row in rows)
    return records.Split(name, rows, np.array(pids, np.int32), np.array(camids, np.int32), names)


def _dataset(name, **splits):
    return records.ReIDDataset(name, **{split: _split(f"{name}/{split}", *rows) for split, rows in splits.items()})


@pytest.fixture
def first():
    return _dataset(
        "first",
        train=([0, 5, 5, 0], [0, 1, 2, 2]),
        query=([7, 9], [0, 1]),
        gallery=([7, 9, 0, -1], [1, 0, 2, -1]),
    )


@pytest.fixture
def second():
    return _dataset("second", train=([0, 5, 8], [0, 0, 1]), query=([3], [1]), gallery=([3, 0, -1], [0, 1, 0]))


def test_numbers_are_moved_and_meanings_kept(first, second):
    joined = union.union([first, second])
    assert joined.name == "first+second"
    assert joined.train.pids.tolist() == [0, 5, 5, 0, 10, 15, 18]  # first's largest is 9
    assert joined.train.camids.tolist() == [0, 1, 2, 2, 3, 3, 4]
    assert joined.query.pids.tolist() == [7, 9, 13]
    assert joined.gallery.pids.tolist() == [7, 9, 0, -1, 13, 0, -1]
    assert joined.gallery.camids.tolist() == [1, 0, 2, -1, 3, 4, 3]
    labels, classes = records.train_labels(joined.train)
    assert (len(classes), labels.tolist()) == (5, [0, 1, 1, 0, 2, 3, 4])
    assert joined.train.filenames[3:5] == ("first/3.jpg", "second/0.jpg")
    assert joined.gallery.counts()["distractors"] == 2
    assert checks.check_protocol(joined.query, joined.gallery) == 0


def test_nobody_of_one_data_set_meets_anybody_of_another():
    rng = np.random.default_rng(4)
    datasets = [
        _dataset(f"d{n}", train=(rng.integers(0, 9, 20), rng.integers(-1, 4, 20)), query=([3], [2]), gallery=([3], [1]))
        for n in range(3)
    ]
    joined = union.union(datasets)
    for field in ("pids", "camids"):
        numbers = [set(getattr(joined.train, field)[20 * n : 20 * n + 20].tolist()) - {-1} for n in range(3)]
        assert sum(map(len, numbers)) == len(set.union(*numbers))
        for n, dataset in enumerate(datasets):  # equal numbers within a data set stay equal
            before, after = getattr(dataset.train, field), getattr(joined.train, field)[20 * n : 20 * n + 20]
            np.testing.assert_array_equal(before[:, None] == before, after[:, None] == after)


def test_records_carry_the_new_names_and_numbers(first, second):
    train = union.union([first, second]).train
    restored = pickle.loads(pickle.dumps(train.source))
    for source in (train.source, restored):
        assert len(source) == 7
        for place, element in enumerate(source):
            assert element["pid"] == train.pids[place]
            assert element["camid"] == train.camids[place]
            assert element["filename"] == train.filenames[place]
        assert source[4]["image"] == second.train.source[0]["image"]
        assert source[-1]["extra"] == 2
    with pytest.raises(IndexError):
        train.source[7]
    assert isinstance(train.source[np.int64(2)]["pid"], int)


def test_a_split_that_some_lack(first):
    test_only = _dataset("third", query=([1], [0]), gallery=([1], [1]))
    joined = union.union([test_only, first])
    assert len(joined.train) == 4
    assert len(joined.query) == 3
    assert union.union([test_only]).train is None


def test_order_is_part_of_the_hash(first, second):
    assert union.union([first, second]).index_hash() != union.union([second, first]).index_hash()
    assert union.union([first, second]).index_hash() == union.union([first, second]).index_hash()


def test_test_data_of_another_set_have_cameras_that_no_training_image_has(first, second):
    target = _dataset("target", train=([1], [0]), query=([4, 4], [0, -1]), gallery=([4, 0, -1], [1, 0, 1]))
    moved = union.transfer(target, [first, second])
    assert moved.name == "target"
    assert moved.train.name == "first+second/train"
    assert moved.train.pids.tolist() == union.union([first, second]).train.pids.tolist()
    assert moved.query.camids.tolist() == [5, -1]
    assert moved.gallery.camids.tolist() == [6, 5, 6]
    assert moved.gallery.pids.tolist() == target.gallery.pids.tolist()
    assert moved.gallery.filenames == target.gallery.filenames
    assert [element["camid"] for element in moved.gallery.source] == [6, 5, 6]
    assert not set(moved.query.camids.tolist()) & set(moved.train.camids.tolist())


def test_test_data_of_a_training_set_have_its_training_cameras(first, second):
    moved = union.transfer(second, [first, second])
    assert moved.query.camids.tolist() == [4]
    assert set(moved.query.camids) <= set(moved.train.camids)
    same = union.transfer(first, [first])
    assert same.index_hash() == first.index_hash()
    assert same.query is first.query


def test_hidden_people_of_the_same_cameras(first):
    duke = _dataset("dukemtmc_reid", train=([1, 2], [6, 7]))
    hidden = _dataset("occluded_duke", query=([4], [6]), gallery=([4], [7]))
    pretended = _dataset("p_dukemtmc_reid", query=([4], [0]), gallery=([4], [1]))
    assert union.transfer(hidden, [first, duke]).query.camids.tolist() == [9]
    assert union.transfer(hidden, [first, duke]).train.camids.tolist()[-2:] == [9, 10]
    assert union.transfer(pretended, [first, duke]).query.camids.tolist() == [11]


def test_sources_need_training_images(second):
    test_only = _dataset("occluded", query=([1], [0]), gallery=([1], [1]))
    with pytest.raises(errors.UserError, match="data set 'occluded' has no train split"):
        union.transfer(second, [test_only])


@pytest.mark.parametrize("pair", [("dukemtmc_reid", "occluded_duke"), ("cuhk03_np_labeled", "cuhk03_np_detected")])
def test_same_people_are_not_joined(pair):
    datasets = [_dataset(name, train=([n, n], [0, 1])) for n, name in enumerate(pair)]
    with pytest.raises(errors.UserError, match=f"{pair[0]} and {pair[1]} show the same people, .* train on one"):
        union.union(datasets)


def test_the_same_data_set_twice_and_none(first):
    with pytest.raises(errors.UserError, match="first and first show the same people"):
        union.union([first, first])
    with pytest.raises(errors.UserError, match="expected at least one data set"):
        union.union([])


def test_two_own_data_sets_of_one_name(first):
    other = _dataset("first", train=([0, 1], [0, 1]))
    assert union.union([first, other]).train.filenames[-1] == "first-2/1.jpg"


def test_numbers_beyond_32_bits():
    datasets = [_dataset(name, train=([2_000_000_000 + n], [0])) for n, name in enumerate(("a", "b"))]
    with pytest.raises(
        errors.UserError, match=r"numbers of a and b are too large to be joined \(4,000,000,003 and up\)"
    ):
        union.union(datasets)


def test_prepared_data_sets_feed_one_pipeline(tmp_path):
    for name in ("market1501", "msmt17"):
        benchmark_folders.WRITERS[name](tmp_path / name)
    market, msmt = (prepare.ensure(name, tmp_path) for name in ("market1501", "msmt17"))
    split = union.union([market, msmt]).train
    labels, classes = records.train_labels(split)
    assert len(classes) == 4
    sampler = {"name": "identity_groups", "identities": 4, "images": 2}
    size = {"height": 32, "width": 16, "interpolation": "bilinear"}
    with pipeline.train_batches(split, labels, sampler=sampler, augment={}, seed=0, num_steps=1, **size) as batches:
        batch = next(iter(batches))
    assert sorted(set(batch["label"].tolist())) == [0, 1, 2, 3]
    np.testing.assert_array_equal(batch["camid"], split.camids[batch["index"]])
