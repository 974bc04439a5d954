"""Unlabelled pools: what is left out, what a second run continues, what opening costs, and test images in them.

The numbers in names of tests are those of the properties that masked pretraining's description lists.
"""

import dataclasses
import time
import tracemalloc

import cv2
import numpy as np
import pytest

from reid_jax import build, config, errors
from reid_jax.data import difference_hash, image_io, pool, pool_preparation, records, union


def crop(seed, height=64, width=32):
    """A drawn person-shaped image, smooth enough that compression keeps its hash."""
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(0, 256, (8, 5, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def street(tmp_path):
    """A folder of nine good crops below each other, with maps, and six that are left out."""
    folder = tmp_path / "street"
    (folder / "b" / "deep").mkdir(parents=True)
    (folder / "a").mkdir()
    (tmp_path / "maps" / "b" / "deep").mkdir(parents=True)
    (tmp_path / "maps" / "a").mkdir()
    for number in range(9):
        name = f"{'a' if number < 4 else 'b/deep'}/{number:03d}_c{number % 3}_t{number // 2}"
        (folder / f"{name}.jpg").write_bytes(image_io.encode_jpeg(crop(number)))
        (tmp_path / "maps" / f"{name}.png").write_bytes(image_io.encode_png(np.full((64, 32), number, np.uint8)))
    good = image_io.encode_jpeg(crop(100))
    (folder / "cut.jpg").write_bytes(good[: len(good) // 2])
    (folder / "b" / "deep" / "same.jpg").write_bytes(image_io.encode_jpeg(crop(0)))
    (folder / "small.png").write_bytes(image_io.encode_png(crop(101, 40, 20)))
    (folder / "wide.png").write_bytes(image_io.encode_png(crop(102, 40, 80)))
    (folder / "notes.txt").write_text("no image")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    return folder


def test_18_a_pool_leaves_out_what_is_no_crop_and_opens_as_a_split(street, tmp_path):
    options = {"camera_pattern": r"_c(\d+)", "track_pattern": r"_t(\d+)"}
    report = pool_preparation.prepare(tmp_path, street, options)
    assert "9 images" in report
    for reason in ("2 (cannot be read)", "1 (a near-duplicate", "1 (a side below 32", "1 (height / width outside"):
        assert reason in report
    dataset = pool.open_pool(tmp_path)
    split = dataset.split("train")
    assert (len(split), dataset.name) == (9, "unlabelled")
    np.testing.assert_array_equal(np.sort(split.camids), np.sort(np.arange(9) % 3))
    assert len(np.unique(split.pids)) == 5  # tracks
    record = split.source[0]
    assert record["filename"].endswith("c0_t0.jpg") or record["filename"].endswith(".jpg")
    assert split.image(0).shape == (64, 32, 3)
    assert dataset.index_hash()
    assert "already prepared" in pool_preparation.prepare(tmp_path, street, options)
    # With a labeled set of its own: training images of the pool, tests of the set.
    test = records.Split("t/query", [{"image": crop(500)}], np.ones(1), np.zeros(1), ("q.png",))
    target = records.ReIDDataset("t", None, test, dataclasses.replace(test, name="t/gallery"))
    joined = union.transfer(target, [dataset])
    assert isinstance(joined.train, pool.Pool)
    assert len(joined.train) == 9


def test_17_shards_are_continued_and_equal(street, tmp_path, monkeypatch):
    options = {"maps": str(tmp_path / "maps"), "list": str(tmp_path / "names.txt"), "keep": 8}
    names = sorted(path.relative_to(street).as_posix() for path in street.rglob("*_c*.jpg"))
    (tmp_path / "names.txt").write_text("\n".join(names))
    whole = tmp_path / "whole"
    pool_preparation.prepare(whole, street, options, shard=3)
    expected = pool.open_pool(whole).split("train")
    assert len(expected) == 8
    assert image_io.decode_map(expected.source[7]["parts"], "map")[0, 0] == 7

    written = []

    def interrupted(*arguments):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(write(*arguments))

    write = pool_preparation._write_shard
    monkeypatch.setattr(pool_preparation, "_write_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pool_preparation.prepare(tmp_path, street, options, shard=3)
    with pytest.raises(errors.UserError, match="prepared pool"):
        pool.open_pool(tmp_path)
    monkeypatch.setattr(pool_preparation, "_write_shard", write)
    with pytest.raises(errors.UserError, match="was begun"):
        pool_preparation.prepare(tmp_path, street, {}, shard=3)
    pool_preparation.prepare(tmp_path, street, options, shard=3)
    again = pool.open_pool(tmp_path).split("train")
    assert [record["image"] for record in again.source] == [record["image"] for record in expected.source]
    assert again.digest == expected.digest


def test_18_a_test_image_in_the_pool_stops_the_run(street, tmp_path):
    hash_of = lambda data: difference_hash.difference_hash(image_io.decode(data, "crop"))
    encoded = {
        number: [image_io.encode_jpeg(crop(number), quality) for quality in (95, 80)] for number in range(200, 230)
    }
    # A copy whose hash is not that of the image in the pool.
    leak = next(n for n, (kept, copy) in encoded.items() if 0 < (hash_of(kept) ^ hash_of(copy)).bit_count() <= 4)
    (street / "leak.jpg").write_bytes(encoded[leak][0])
    pool_preparation.prepare(tmp_path, street)
    source = [{"image": data} for data in (image_io.encode_jpeg(crop(300), 80), encoded[leak][1])]
    gallery = records.Split("t/gallery", source, np.arange(2), np.zeros(2), ("clean.jpg", "planted.jpg"))
    query = records.Split("t/query", source[:1], np.arange(1), np.zeros(1), ("q.jpg",))
    tested = [records.ReIDDataset("t", None, query, gallery)]
    train = pool.open_pool(tmp_path).split("train")
    with pytest.raises(errors.UserError, match=r"1 of them .* t/gallery: planted.jpg.*overlap=allow"):
        pool.refuse_leaks(train, tested)
    assert pool.refuse_leaks(pool.open_pool(tmp_path, {"overlap": "allow"}).split("train"), tested) == 1
    assert pool.refuse_leaks(query, tested) is None


def test_near_finds_every_pair_that_a_slow_search_finds():
    rng = np.random.default_rng(0)
    pool_hashes = rng.integers(0, 2**64, 500, np.uint64)
    queries = pool_hashes[:60].copy()
    for row, flips in enumerate(rng.integers(0, 5, 60)):
        for bit in rng.choice(64, flips, replace=False):
            queries[row] ^= np.uint64(1) << np.uint64(bit)
    for bits in (0, 2, 4):
        different = np.bitwise_count(queries[:, None] ^ pool_hashes[None])
        assert difference_hash.near(queries, pool_hashes, bits) == [
            tuple(pair) for pair in np.argwhere(different <= bits)
        ]


def test_17_a_large_pool_opens_at_once():
    """What a run keeps of a million images, without the records."""
    started = time.process_time()
    tracemalloc.start()
    count = 10**6
    split = pool.Pool(
        "unlabelled/train",
        range(count),
        np.zeros(count, np.int32),
        np.broadcast_to(np.int32(-1), count),
        pool.Names(count),
        hashes=np.zeros(0, np.uint64),
        digest="d",
    )
    dataset = records.ReIDDataset("unlabelled", train=split, content="d")
    assert len(dataset.index_hash()) == 64
    labels, _ = records.train_labels(split)
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(labels) == count
    assert used < 50 * 2**20
    assert time.process_time() - started < 1
    assert split.filenames[3] == "record 3"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"titel": "x"}, "did you mean 'title'"),
        ({"keep": "many"}, "whole number"),
        ({"keep": -1}, "from 0"),
        ({"maps": "nowhere"}, "a folder as option .maps."),
        ({"dedup": 9}, "between 0 and 8"),
        ({"camera_pattern": "(c"}, "regular expression"),
        ({"camera_pattern": "c"}, "one group"),
        ({"title": "a/b"}, "letters, digits"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options, message, tmp_path):
    with pytest.raises(errors.UserError, match=message):
        pool_preparation.prepare(tmp_path / "out", tmp_path, options)
    assert not (tmp_path / "out").exists()


def test_sources_that_cannot_be_used_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(errors.UserError, match=r"found none \(no images\)"):
        pool_preparation.prepare(tmp_path, tmp_path / "empty")
    with pytest.raises(errors.UserError, match="expected a folder"):
        pool_preparation.prepare(tmp_path, tmp_path / "absent")
    assert build.of_preset("unlabelled@title=x") == ("unlabelled", {"title": "x"})
    assert build.of_preset("synthped_large@seed=1") == ("synthped", {"size": "large", "seed": "1"})
    with pytest.raises(errors.UserError, match="the only one"):
        build.open_data(dataclasses.replace(config.Settings().data, sources=("unlabelled", "market1501")))
    with pytest.raises(errors.UserError, match="value of overlap"):
        pool.options_of({"overlap": "maybe"})


def test_a_pool_in_an_object_store_is_refused():
    with pytest.raises(errors.UserError, match=r"expected data.root on this machine for an unlabelled pool, got gs://"):
        pool.check("gs://bucket/data", {})
