"""Local copies of objects: fetched once, whole or not at all, the oldest removed first."""

import os
import pathlib
import threading

import pytest

from reid_jax import errors
from reid_jax.stores import local_copies, objects
from tests.helpers import faulty_store
from tests.helpers.faulty_store import FaultyFiles

bucket = faulty_store.bucket
URL = "memory://bucket/data"


def _folder(name: str, size: int) -> pathlib.Path:
    objects.Store(f"{URL}/{name}").write("records", bytes(size))
    url = f"{URL}/{name}"
    return local_copies.folder(url, local_copies.listing(url))


def test_a_copy_is_fetched_once_and_again_when_it_changed(bucket: FaultyFiles):
    first = _folder("a", 10)
    calls = len(bucket.calls)
    url = f"{URL}/a"
    assert local_copies.folder(url, local_copies.listing(url)) == first
    assert [call for call, _ in bucket.calls[calls:]] == ["find"]
    second = _folder("a", 11)
    assert second != first
    assert (first / "records").stat().st_size == 10
    assert (second / "records").stat().st_size == 11


def test_a_file_and_one_that_is_not_there(bucket: FaultyFiles):
    objects.Store(URL).write("weights.npz", b"numbers")
    path = local_copies.file(f"{URL}/weights.npz")
    assert path.name == "weights.npz"
    assert path.read_bytes() == b"numbers"
    with pytest.raises(objects.StoreError, match=r"expected an object as init.weights at memory://bucket/data/none"):
        local_copies.file(f"{URL}/none.npz", "init.weights")


def test_a_fetch_that_fails_leaves_nothing(bucket: FaultyFiles):
    store = objects.Store(f"{URL}/a")
    store.write("one", b"1")
    store.write("two", b"2")

    def cut(number, call, arguments):
        if call == "cat_file" and arguments[0].endswith("two"):
            raise ConnectionResetError("cut")

    bucket.before = cut
    with pytest.raises(objects.StoreError, match="does not answer or fails"):
        local_copies.folder(f"{URL}/a", local_copies.listing(f"{URL}/a"))
    assert [path.suffix for path in (local_copies.place() / "cache").iterdir()] == [".lock"]


def test_the_copy_of_the_longest_ago_goes_first_and_one_in_use_stays(bucket: FaultyFiles, monkeypatch, caplog):
    monkeypatch.setenv(local_copies.SIZE, "100e-9")
    old, new = _folder("old", 40), _folder("new", 40)
    os.utime(old, (1, 1))
    faulty_store.forget()
    third = _folder("third", 40)
    assert not old.exists()
    assert new.exists()
    assert third.exists()
    fourth = _folder("fourth", 40)  # the third is in use
    assert not new.exists()
    _folder("fifth", 40)
    assert third.exists()
    assert fourth.exists()
    assert "because all of it is in use" in caplog.text
    with pytest.raises(errors.UserError, match=r"store cache of 1.01e-07 GB or more .* raise REID_JAX_STORE_CACHE_GB"):
        _folder("large", 101)


@pytest.mark.parametrize("text", ["much", "0", "-1", "nan"])
def test_sizes_that_are_none(monkeypatch, text):
    monkeypatch.setenv(local_copies.SIZE, text)
    with pytest.raises(errors.UserError, match="expected a size in GB above 0"):
        local_copies.limit()


def test_several_at_once_fetch_once(bucket: FaultyFiles):
    store = objects.Store(f"{URL}/a")
    store.write("records", bytes(1000))
    entries = store.listing()
    found: list[pathlib.Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(local_copies._copy(objects.Store(f"{URL}/a"), entries)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert [call for call, _ in bucket.calls].count("cat_file") == 1


def test_a_copy_that_another_fetches_and_keeps_meanwhile_is_used(bucket: FaultyFiles, monkeypatch):
    store = objects.Store(f"{URL}/a")
    store.write("records", bytes(1000))
    keep, looked = local_copies._keep, []

    def look(key, target):
        if looked:
            return keep(key, target)
        looked.append(key)
        assert not keep(key, target)  # not there yet: the other one fetches it now, and keeps it until it ends
        local_copies._copy(store, store.listing())
        return False

    monkeypatch.setattr(local_copies, "_keep", look)
    found: list[pathlib.Path] = []
    late = threading.Thread(target=lambda: found.append(local_copies._copy(store, store.listing())), daemon=True)
    late.start()
    late.join(timeout=30)
    assert [path.is_dir() for path in found] == [True]
    assert [call for call, _ in bucket.calls].count("cat_file") == 1


def test_a_copy_in_use_by_another_process_is_used_at_once(bucket: FaultyFiles, monkeypatch):
    store = objects.Store(f"{URL}/a")
    store.write("records", bytes(1000))
    first = local_copies._copy(store, store.listing())  # keeps its lock until the process ends
    monkeypatch.setattr(local_copies, "_in_use", {})  # as another process, which has not read it yet
    found: list[pathlib.Path] = []
    reader = threading.Thread(target=lambda: found.append(local_copies._copy(store, store.listing())), daemon=True)
    reader.start()
    reader.join(10.0)
    assert found == [first]
    assert [call for call, _ in bucket.calls].count("cat_file") == 1


def test_a_name_outside_the_folder_is_refused(bucket: FaultyFiles):
    with pytest.raises(objects.StoreError, match="has a name that is no place in a folder"):
        local_copies.folder(URL, {"../x": objects.Entry(1, "1")})


def test_a_scratch_folder_of_a_killed_process_is_removed(bucket: FaultyFiles):
    left = local_copies.place() / "runs" / "run-left"
    left.mkdir(parents=True)
    (left / ".alive").touch()
    mine = local_copies.scratch("name")
    assert mine.name == "name"
    assert not left.exists()
    local_copies.scratch("other")
    assert mine.exists()
