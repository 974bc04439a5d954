"""Checkpoints in a store: the list of files is what makes one count, and comes last."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reid_jax.stores import objects
from reid_jax.train import checkpoint_store, checkpoints, integrity
from tests.helpers import faulty_store
from tests.helpers.faulty_store import FaultyFiles

bucket = faulty_store.bucket
URL = "memory://bucket/run/checkpoints"


def _write(directory: pathlib.Path, name: str, score: float | None = None) -> pathlib.Path:
    """A folder with the files of a checkpoint, as far as a store is concerned."""
    folder = directory / name
    for part in (integrity.STATE, integrity.META):
        (folder / part).mkdir(parents=True)
    (folder / integrity.STATE / "d").write_bytes(name.encode())
    about = {"meta": {}, "metrics": None if score is None else {"mAP": score}, "best_metric": "mAP"}
    (folder / integrity.META / "metadata").write_text(json.dumps(about))
    integrity.write(folder)
    return folder


def _upload(tmp_path: pathlib.Path, store: checkpoint_store.CheckpointStore, step: int, score: float | None = None):
    store.upload(_write(tmp_path / "local", f"{step}.orbax-checkpoint-tmp", score))
    (tmp_path / "local" / f"{step}.orbax-checkpoint-tmp").rename(tmp_path / "local" / str(step))


def _store(before_commit=lambda: None) -> checkpoint_store.CheckpointStore:
    return checkpoint_store.CheckpointStore(objects.Store(URL), before_commit)


def _steps() -> set[str]:
    return {name.split("/")[0] for name in objects.Store(URL).listing()}


def test_the_list_comes_last_and_what_is_gone_locally_goes(bucket: FaultyFiles, tmp_path):
    events = []
    store = _store(lambda: events.append(len(bucket.calls)))
    for step in (1, 2):
        _upload(tmp_path, store, step)
    put = [name for call, name in bucket.calls if call == "put_file"]
    assert put[-1].endswith("2/files.json")
    listing = max(number for number, (call, _) in enumerate(bucket.calls) if call == "find")
    assert listing < events[-1] <= [name for _, name in bucket.calls].index(put[-1]), "sizes, metrics and lock first"
    integrity.set_aside(tmp_path / "local" / "1", "removed")
    _upload(tmp_path, store, 3)
    assert _steps() == {"2", "3"}
    integrity.set_aside(tmp_path / "local" / "2", "removed")
    store.prune(tmp_path / "local")
    assert _steps() == {"3"}


def test_an_upload_that_is_cut_does_not_count(bucket: FaultyFiles, tmp_path):
    store = _store()
    _upload(tmp_path, store, 1)

    def cut(number, call, arguments):
        if call == "put_file" and arguments[1].endswith("2/state/d"):
            bucket.files.pipe_file(arguments[1], b"a part")
            raise ConnectionResetError("cut")

    bucket.before = cut
    with pytest.raises(objects.StoreError, match="does not answer or fails"):
        _upload(tmp_path, store, 2)
    bucket.before = bucket.after
    store.fetch(tmp_path / "reader", owner=False)
    assert integrity.folders(tmp_path / "reader") == [1]
    assert _steps() == {"1", "2"}
    store.fetch(tmp_path / "resumed", owner=True)
    assert integrity.folders(tmp_path / "resumed") == [1]
    assert _steps() == {"1"}


def test_a_size_that_differs_after_the_upload_stops_it(bucket: FaultyFiles, tmp_path):
    def shorten(number, call, arguments):
        if call == "put_file":
            bucket.files.pipe_file(arguments[1], b"")

    bucket.after = shorten
    with pytest.raises(objects.StoreError, match=r"bytes at memory://bucket/run/checkpoints/1/.* found 0"):
        _upload(tmp_path, _store(), 1)


def test_the_newest_and_the_best_are_fetched(bucket: FaultyFiles, tmp_path):
    for step, score in ((1, 0.5), (2, 0.9), (3, float("nan")), (4, 0.7), (5, None)):
        _upload(tmp_path, _store(), step, score)
    _store().fetch(tmp_path / "resumed", owner=True)
    assert integrity.folders(tmp_path / "resumed") == [2, 5]
    assert (tmp_path / "resumed" / "2" / "state" / "d").read_bytes() == b"2.orbax-checkpoint-tmp"


def test_damaged_ones_are_set_aside_in_the_store(bucket: FaultyFiles, tmp_path, caplog):
    for step in (1, 2):
        _upload(tmp_path, _store(), step)
    objects.Store(URL).write("2/state/d", b"2.orbax-checkpoint-tmP")
    _store().fetch(tmp_path / "reader", owner=False)
    assert integrity.folders(tmp_path / "reader") == [1]
    assert _steps() == {"1", "2"}
    assert "2 is damaged (state/d has changed since it was written); reading an older one" in caplog.text
    _store().fetch(tmp_path / "resumed", owner=True)
    assert _steps() == {"1", "2.damaged"}
    objects.Store(URL).remove(["1/state/d"])
    with pytest.raises(integrity.Unreadable, match=r"no checkpoint in memory://.* can be read \(1: state/ is missing"):
        _store().fetch(tmp_path / "third", owner=True)


def test_orbax_saves_through_the_store_and_another_process_restores(bucket: FaultyFiles, tmp_path):
    first = tmp_path / "first" / "checkpoints"
    state = {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}
    with checkpoints.Checkpoints(first, best_metric="mAP", remote=_store()) as saved:
        for step, score in ((1, 0.9), (2, 0.1), (3, 0.2), (4, 0.3)):
            saved.save(step, {"w": state["w"] + step}, {"step": step}, {"mAP": score})
    assert _steps() == {"1", "3", "4"}, "the best and the two newest, as on a disk"
    second = tmp_path / "second" / "checkpoints"
    _store().fetch(second, owner=True)
    arrays = checkpoints.restore_arrays(second)
    assert integrity.folders(second) == [1, 4]
    assert np.array_equal(arrays["w"], state["w"] + 4)
    with checkpoints.Checkpoints(second, best_metric="mAP", remote=_store()) as saved:
        assert saved.latest_step() == 4
        abstract = {"w": jax.ShapeDtypeStruct((2, 3), np.float32)}
        restored, meta = saved.restore(abstract)
        assert np.array_equal(restored["w"], state["w"] + 4)
        assert meta == {"step": 4}
        assert saved.best_step() == 1
        saved.save(5, state, {}, {"mAP": 0.0})
    assert _steps() == {"1", "4", "5"}


def test_what_process_0_reads_reaches_all_bit_for_bit():
    flat = {
        "step": np.asarray(7, np.int32),
        "w": np.asarray([[-0.0, np.nan], [1e-40, 2.0]], np.float32),
        "half": np.asarray([-0.0, 3.0], jnp.bfloat16),
        "none": np.zeros((0, 3), np.float32),
        "on": np.asarray([True, False]),
    }
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = {name: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=sharding) for name, value in flat.items()}
    placed = checkpoint_store.spread(flat, wanted)
    for name, value in flat.items():
        assert np.asarray(placed[name]).dtype == value.dtype
        assert np.asarray(placed[name]).tobytes() == value.tobytes(), name
    assert checkpoint_store.from_main({"step": 7}) == {"step": 7}
    assert checkpoint_store.gathered({"a": {"b": jnp.ones(2)}})["a"]["b"].tolist() == [1.0, 1.0]


def test_a_store_that_fails_stops_the_next_save_in_one_sentence(bucket: FaultyFiles, tmp_path):
    with checkpoints.Checkpoints(tmp_path / "checkpoints", remote=_store()) as saved:
        bucket.before = lambda number, call, arguments: (_ for _ in ()).throw(PermissionError("Access Denied"))
        with pytest.raises(objects.StoreError, match=r"cannot write memory://.* the store refuses it"):
            saved.save(1, {"w": np.zeros(2)}, {}, wait=True)
        bucket.before = bucket.after
    assert _steps() == set() or integrity.folders(tmp_path / "checkpoints") == []
