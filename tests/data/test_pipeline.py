"""The pipeline: equal batches for any number of threads and workers, resuming, shares of processes, and errors."""

import ast
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest

from reid_jax import errors
from reid_jax.benchmarks import input_speed
from reid_jax.data import image_io, pipeline, records, transforms

COUNT, PER_IDENTITY = 40, 5
AUGMENT = {"flip": {}, "pad_crop": {"pad": 4}, "erase": {"probability": 0.5}, "jitter": {"brightness": 0.2}}
SETTINGS = {
    "sampler": {"identities": 4, "images": 2},
    "augment": AUGMENT,
    "height": 32,
    "width": 16,
    "seed": 3,
}


def make_records(count=COUNT):
    """Returns records of small smooth JPEG images with a parts map of horizontal bands."""
    rng = np.random.default_rng(0)
    parts = image_io.encode_png(np.repeat(np.arange(8, dtype=np.uint8), 6)[:, None].repeat(20, axis=1))
    found = []
    for index in range(count):
        picture = image_io.resize(rng.integers(0, 256, (6, 3, 3)).astype(np.uint8), 48, 20)
        found.append({"image": image_io.encode_jpeg(picture), "parts": parts, "filename": f"{index:04d}.jpg"})
    return found


def make_split(source=None, name="drawn/train"):
    source = make_records() if source is None else source
    count = len(source)
    pids = (np.arange(count) // PER_IDENTITY).astype(np.int32)
    camids = (np.arange(count) % 3).astype(np.int32)
    return records.Split(name, source, pids, camids, tuple(f"{i:04d}.jpg" for i in range(count)))


@pytest.fixture(scope="module")
def split():
    return make_split()


def collect(split, **changes):
    settings = {**SETTINGS, "num_steps": 6, **changes}
    with pipeline.train_batches(split, split.pids, **settings) as batches:
        return list(batches)


def assert_equal(first, second):
    assert len(first) == len(second) > 0
    for one, other in zip(first, second):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)
            assert one[name].dtype == other[name].dtype


@pytest.fixture(scope="module")
def expected(split):
    """Six batches computed sequentially without a cache."""
    return collect(split, threads=0, cache="none")


def test_what_a_batch_holds(split, expected):
    batch = expected[0]
    shapes = {name: (value.shape, value.dtype.name) for name, value in batch.items()}
    assert shapes == {
        "image": ((8, 32, 16, 3), "uint8"),
        "label": ((8,), "int32"),
        "camid": ((8,), "int32"),
        "index": ((8,), "int32"),
        "erase_box": ((8, 4), "int32"),
    }
    for batch in expected:
        np.testing.assert_array_equal(batch["label"], split.pids[batch["index"]])
        np.testing.assert_array_equal(batch["camid"], split.camids[batch["index"]])
        assert (batch["label"].reshape(4, 2) == batch["label"].reshape(4, 2)[:, :1]).all()
    erased = np.concatenate([batch["erase_box"] for batch in expected])
    assert 0 < (erased[:, 2] > 0).mean() < 1


def test_without_augmentation_images_are_resized_only(split):
    batch = collect(split, augment=None, num_steps=1)[0]
    for image, index in zip(batch["image"], batch["index"]):
        decoded = image_io.decode(split.source[index]["image"])
        np.testing.assert_array_equal(image, image_io.resize(decoded, 32, 16, "bilinear"))
    assert (batch["erase_box"] == 0).all()


@pytest.mark.parametrize(
    "changes", [{"threads": 1}, {"threads": 5}, {"cache": "memory"}, {"cache": "auto", "threads": 3}], ids=str
)
def test_threads_and_cache_change_nothing(split, expected, changes):
    assert_equal(collect(split, **changes), expected)


@pytest.mark.parametrize("start", [1, 4])
def test_resume_continues_the_run(split, expected, start):
    assert_equal(collect(split, start_step=start, num_steps=6 - start), expected[start:])


def test_epochs_differ_and_have_one_length(split):
    with pipeline.train_batches(split, split.pids, **SETTINGS) as batches:
        steps = batches.steps_per_epoch
        assert (steps, batches.batch_size) == (4, 8)  # 8 identities of 2 groups, 4 in a batch
        run = [next(batches) for _ in range(2 * steps)]
    first, second = (np.concatenate([batch["index"] for batch in run[i : i + steps]]) for i in (0, steps))
    assert len(np.unique(first)) == len(first)
    assert (first != second).any()
    assert any((one["image"] != other["image"]).any() for one, other in zip(run, run[steps:]))
    other = collect(split, seed=4)
    assert any((one["index"] != two["index"]).any() for one, two in zip(other, run))


@pytest.mark.parametrize("count", [2, 4])
def test_shares_make_up_the_global_batch(split, expected, count):
    shares = [collect(split, process_index=index, process_count=count) for index in range(count)]
    joined = [
        {name: np.concatenate([share[step][name] for share in shares]) for name in shares[0][step]}
        for step in range(len(expected))
    ]
    assert_equal(joined, expected)
    for share in shares:  # whole identities in each process
        assert all((b["label"][::2] == b["label"][1::2]).all() for b in share)


def test_workers_change_nothing_and_pass_errors_on(split, expected, monkeypatch):
    assert_equal(collect(split, workers=2, threads=1, num_steps=3), expected[:3])
    monkeypatch.setattr(pipeline, "SHARED_MEMORY_NEEDED_BYTES", 2**61)  # batches are sent through pipes from here on
    broken = make_records(41)
    broken[40] = {**broken[40], "image": broken[40]["image"][:80]}
    run = pipeline.train_batches(
        make_split(broken),
        np.arange(41),
        **{**SETTINGS, "sampler": {"name": "shuffle", "batch_size": 20}, "augment": None},
        workers=1,
        threads=0,
    )

    def check_until_the_broken_one():
        for batch in run:
            good = image_io.resize(image_io.decode(broken[batch["index"][0]]["image"]), 32, 16)
            np.testing.assert_array_equal(batch["image"][0], good)

    with run, pytest.raises(errors.UserError, match=r"0040\.jpg"):
        check_until_the_broken_one()


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("damage", ["cut", "text", "missing"])
def test_a_bad_image_is_named(threads, damage):
    broken = make_records()
    good = broken[17]["image"]
    broken[17] = {"cut": {"image": good[:80]}, "text": {"image": b"hello"}, "missing": {}}[damage]
    split = make_split(broken)
    batches = pipeline.train_batches(
        split, split.pids, **{**SETTINGS, "sampler": {"name": "shuffle", "batch_size": 40}}, threads=threads
    )
    with pytest.raises(errors.UserError, match=r"0017\.jpg.*drawn/train"):
        next(batches)
    assert list(batches) == []  # closed


def test_maps_move_with_the_image(split):
    augment = {"flip": {}, "pad_crop": {"pad": 4}, "erase": {}}
    with_maps = collect(split, augment=augment, maps=("parts",), cache="memory")
    assert_equal(with_maps, collect(split, augment=augment, maps=("parts",), cache="none"))
    without = collect(split, augment=augment)
    for one, other in zip(with_maps, without):
        assert one["parts"].shape == (8, 32, 16)
        assert one["parts"].dtype == np.uint8
        np.testing.assert_array_equal(one["image"], other["image"])
        for parts, (top, left, bottom, right) in zip(one["parts"], one["erase_box"]):
            assert (parts[top:bottom, left:right] == 0).all()
    with pytest.raises(errors.UserError, match="no map 'depth'"):
        collect(split, maps=("depth",))


def test_views_are_independent_or_shared(split, expected):
    geometry = {"flip": {}, "pad_crop": {"pad": 4}}
    views = {
        "same": {"augment": geometry, "geometry": "shared"},
        "other": {"augment": geometry},
        "jittered": {"augment": {**geometry, "jitter": {"brightness": 0.3}}, "geometry": "shared"},
        "default": {},
    }
    run = collect(split, views=views)
    clean = collect(split, augment=geometry)
    for batch, main, alone in zip(run, expected, clean):
        np.testing.assert_array_equal(batch["image"], main["image"])  # the main view does not depend on the others
        np.testing.assert_array_equal(batch["image_same"], alone["image"])
        assert (batch["image_other"] != alone["image"]).any()
        assert (batch["image_default"] != main["image"]).any()
        assert (batch["erase_box_same"] == 0).all()
        bright = batch["image_jittered"].mean((1, 2, 3)) / np.maximum(alone["image"].mean((1, 2, 3)), 1)
        assert (np.abs(bright - 1) < 0.31).all()
    assert any(batch["erase_box_default"].any() for batch in run)
    # What does not move the picture is drawn anew for each view and each step.
    assert any((batch["erase_box_default"] != batch["erase_box"]).any() for batch in run)
    boxes = np.stack([batch["erase_box"] for batch in run])  # [steps, rows, 4]
    assert (boxes != boxes[:1]).any()
    with pytest.raises(errors.UserError, match="did you mean 'geometry'"):
        collect(split, views={"same": {"geomtry": "shared"}})
    with pytest.raises(errors.UserError, match="view geometry"):
        collect(split, views={"same": {"geometry": "equal"}})


def test_waiting_is_measured():
    class Slow(list):
        def __getitem__(self, index):
            time.sleep(0.01)
            return super().__getitem__(index)

    split = make_split(Slow(make_records()))
    with pipeline.train_batches(split, split.pids, **SETTINGS, threads=0, cache="none") as batches:
        next(batches)
        assert 0.08 <= batches.reset_wait() < 2
        assert batches.wait_seconds == 0.0
        time.sleep(0.1)  # the time of the consumer does not count
        assert batches.wait_seconds == 0.0
    batches.close()


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("size", [37, 40])
def test_evaluation_covers_each_image_once(size, count):
    split = make_split(make_records(size), name="drawn/query")
    passes = []
    for process in range(count):
        with pipeline.eval_batches(
            split, height=32, width=16, batch_size=8, process_index=process, process_count=count
        ) as batches:
            assert len(batches) == 5
            passes.append(list(batches))
    joined = [{name: np.concatenate([p[i][name] for p in passes]) for name in passes[0][i]} for i in range(5)]
    index = np.concatenate([batch["index"] for batch in joined])
    mask = np.concatenate([batch["mask"] for batch in joined])
    np.testing.assert_array_equal(index[:size], np.arange(size))
    assert (index[size:] == -1).all()
    assert mask[:size].all()
    assert not mask[size:].any()
    camids = np.concatenate([batch["camid"] for batch in joined])
    np.testing.assert_array_equal(camids[mask], split.camids)
    assert (camids[~mask] == -1).all()  # no camera, which is not the first camera
    pixels = np.concatenate([batch["image"] for batch in joined])
    assert pixels.shape == (40, 32, 16, 3)
    assert pixels.dtype == np.uint8
    assert (pixels[~mask] == 0).all()
    decoded = image_io.decode(split.source[size - 1]["image"])
    np.testing.assert_array_equal(pixels[size - 1], image_io.resize(decoded, 32, 16, "bilinear"))


def test_evaluation_of_fewer_images_than_processes():
    split = make_split(make_records(1))
    masks = []
    for process in range(2):
        with pipeline.eval_batches(
            split, height=8, width=8, batch_size=4, process_index=process, process_count=2
        ) as run:
            masks += [batch["mask"] for batch in run]
    np.testing.assert_array_equal(masks, [[True, False], [False, False]])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"process_count": 3}, "3 equal shares"),
        ({"process_index": 2, "process_count": 2}, "process index 2"),
        ({"cache": "disc"}, "did you mean 'disk'"),
        ({"cache": "disk"}, "needs a folder"),
        ({"cache": "disk", "cache_folder": "/dev/null/no"}, "cannot write the folder of decoded images"),
        ({"cache": "memory", "workers": 1}, "workers=0"),
        ({"cache": "memory", "augment": {"jitter": {}, "order": ("jitter", "resize")}}, "begin with the resize"),
        ({"interpolation": "bilinar"}, "did you mean 'bilinear'"),
        ({"sampler": {"identities": 30}}, "30 identities"),
    ],
    ids=str,
)
def test_mistakes_are_named(split, changes, words):
    with pytest.raises(errors.UserError, match=words):
        collect(split, **changes)
    with pytest.raises(errors.UserError, match="one for each"):
        pipeline.train_batches(split, split.pids[1:], **SETTINGS)


def test_auto_cache_respects_the_limit(split, monkeypatch):
    full = COUNT * 32 * 16 * 3
    for limit, kept in ((full, True), (full - 1, False)):
        monkeypatch.setattr(pipeline, "CACHE_LIMIT_BYTES", limit)
        calls = []
        monkeypatch.setattr(image_io, "decode", lambda data, name, calls=calls: calls.append(name) or DECODED)
        collect(split, num_steps=12, threads=0)
        assert len(calls) == (len(set(calls)) if kept else 12 * 8)


DECODED = np.zeros((48, 20, 3), np.uint8)


def test_cache_on_disk(split, expected, tmp_path, monkeypatch):
    """The disk cache gives the same batches, decodes once, replaces damaged files, and has a file per size."""
    options = {"cache": "disk", "cache_folder": tmp_path / "decoded"}
    assert_equal(collect(split, **options), expected)
    (file,) = (tmp_path / "decoded").iterdir()
    assert file.stat().st_size > COUNT * 32 * 16 * 3
    calls = []
    decode = image_io.decode
    monkeypatch.setattr(image_io, "decode", lambda data, name: calls.append(name) or decode(data, name))
    assert_equal(collect(split, **options), expected)
    assert not calls
    for damage in (file.read_bytes()[:-100], b"x"):
        file.write_bytes(damage)
        assert_equal(collect(split, **options), expected)
        assert len(calls) == COUNT
        calls.clear()
    with_maps = collect(split, **options, maps=("parts",), height=24)
    assert_equal(with_maps, collect(split, cache="none", maps=("parts",), height=24))
    assert len(list((tmp_path / "decoded").iterdir())) == 3
    # Readers are sent to worker processes as paths, without pixels.
    reader = pipeline.Reader(split, (), transforms.Resize(32, 16), tmp_path / "decoded")
    reader.read(0)
    assert len(pickle.dumps(reader._files)) < 1000
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(reader._files)).read(3)["image"], reader.read(3)["image"])
    with pytest.raises(errors.UserError, match="begin with the resize"):
        collect(split, **options, augment={"corrupt": {}})


def test_interrupted_cache_leaves_nothing(tmp_path):
    source = make_records()
    source[17] = {**source[17], "image": b"no image"}
    with pytest.raises(errors.UserError, match=r"0017\.jpg"):
        collect(make_split(source), cache="disk", cache_folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_jax_in_the_data_code(root):
    for name in ("transforms", "samplers", "pipeline"):
        tree = ast.parse((root / "reid_jax" / "data" / f"{name}.py").read_text())
        imported = {
            alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
        }
        imported |= {(node.module or "").split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not imported & {"jax", "flax", "optax", "orbax"}
    # Grain imports jax where it is installed; our modules must not, so that worker processes need no device.
    code = (
        "import sys\n"
        "for name in ('jax', 'jaxlib', 'flax'): sys.modules[name] = None\n"
        "from reid_jax.data import pipeline, samplers, transforms\n"
        "from absl import flags; flags.FLAGS.mark_as_parsed()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_benchmark_measures_every_stage():
    rows = input_speed.measure(
        input_speed.generated_split(32, 16, 8),
        height=16,
        width=8,
        identities=2,
        images_per_identity=2,
        batches=2,
        rounds=2,
    )
    names = [row["stage"] for row in rows]
    assert {"decode", "resize (bilinear)", "flip", "pad_crop", "erase", "jitter"} < set(names)
    assert {"pipeline, decoding", "pipeline, cached", "plain numpy loop"} < set(names)
    assert len(names) == len(set(names))
    assert all(row["images_per_second"] > 0 and row["spread"] >= 1 for row in rows)
