"""The lock of a run folder in a store."""

import json

import pytest

from reid_jax.stores import bucket_lock, objects
from tests.helpers import faulty_store
from tests.helpers.faulty_store import FaultyFiles

bucket = faulty_store.bucket


@pytest.fixture
def store(bucket: FaultyFiles, monkeypatch):
    monkeypatch.setattr(bucket_lock, "WATCH", 0.2)
    monkeypatch.setattr(bucket_lock, "LOOK", 0.02)
    return objects.Store("memory://bucket/run")


def _leave(store: objects.Store, **about: object) -> None:
    store.write(bucket_lock.FILE, json.dumps({"pid": 1, "host": "other", "since": "noon", **about}).encode())


def test_the_second_run_is_refused_and_the_lock_is_released(store):
    first = bucket_lock.Lock(store)
    first.acquire()
    about = json.loads(store.read(bucket_lock.FILE))
    store.write(bucket_lock.FILE, json.dumps(about | {"pid": 1}).encode())  # of a process of this host that runs
    with pytest.raises(objects.StoreError, match=r"in use by process 1 on .* wait until that run ends"):
        bucket_lock.Lock(store).acquire()
    first.renew()
    first.release()
    assert store.listing() == {}
    bucket_lock.Lock(store).acquire()


def test_the_lock_of_a_killed_run_is_taken_over(store, caplog):
    gone = bucket_lock.Lock(store)
    gone.acquire()  # by this process number, which nobody else has
    mine = bucket_lock.Lock(store)
    mine.acquire()
    mine.check()
    assert "which is gone; taking its lock over" in caplog.text
    with pytest.raises(objects.StoreError, match="removed or taken over"):
        gone.check()
    gone.release()
    mine.check()


def test_a_run_of_another_host_is_watched(store, caplog):
    _leave(store)
    bucket_lock.Lock(store).acquire()
    assert "waiting 0 s to see whether it still is" in caplog.text


def test_a_run_of_another_host_that_renews_its_lock_keeps_it(store, bucket: FaultyFiles):
    _leave(store)

    def renew(number, call, arguments):
        if call == "cat_file":
            bucket.files.pipe_file("bucket/run/.lock", json.dumps({"host": "other", "renewals": number}).encode())

    bucket.after = renew
    with pytest.raises(objects.StoreError, match=r"in use by process . on other since"):
        bucket_lock.Lock(store).acquire()


def test_a_lock_that_is_no_json_is_watched_too(store):
    store.write(bucket_lock.FILE, b"\xff")
    bucket_lock.Lock(store).acquire()
