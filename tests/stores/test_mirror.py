"""A run folder in a store: what is appended goes there as parts, `result.json` last, and nothing is lost by a kill."""

import json
import time

import pytest

from reid_jax.stores import bucket_lock, mirror, objects
from tests.helpers import faulty_store
from tests.helpers.faulty_store import FaultyFiles

bucket = faulty_store.bucket
URL = "memory://bucket/runs/mine"


def _append(made: mirror.Mirror, text: str) -> None:
    with (made.path / "metrics.jsonl").open("a") as file:
        file.write(text)


def _in_store() -> dict[str, bytes]:
    store = objects.Store(URL)
    return {name: store.read(name) for name in store.listing()}


def _metrics(made: mirror.Mirror) -> str:
    made.pull()
    made.join()
    return (made.path / "metrics.jsonl").read_text()


def test_a_run_from_start_to_end(bucket: FaultyFiles):
    made = mirror.opened(f"{URL}/")
    assert made is mirror.opened(URL)
    assert made.is_new()
    assert made.path.name == "mine"
    with made.claimed():
        (made.path / "config.json").write_text("{}")
        made.push()
        _append(made, "one\n")
        made.push()
        _append(made, "two\n")
        made.push()
        assert sorted(_in_store()) == [
            ".lock", "config.json", "metrics.jsonl", "parts/metrics.jsonl/000000000000004",
        ]  # fmt: skip
        assert _metrics(mirror.Mirror(URL)) == "one\ntwo\n", "a reader joins the parts"
        (made.path / "result.json").write_text("[1]")
        (made.path / "page.html").write_text("page")
        (made.path / ".incomplete-x").write_text("unfinished")
        (made.path / "checkpoints" / "3").mkdir(parents=True)
        (made.path / "checkpoints" / "3" / "state").write_text("of the checkpoints' own")
        first = len(bucket.calls)
    written = [path.rpartition("/")[2] for call, path in bucket.calls[first:] if call in ("pipe_file", "put_file")]
    assert written == ["metrics.jsonl", "page.html", "result.json"], "the mark of a complete run comes last"
    assert _in_store() == {
        "config.json": b"{}", "metrics.jsonl": b"one\ntwo\n", "page.html": b"page", "result.json": b"[1]",
    }  # fmt: skip
    assert not mirror.Mirror(URL).is_new()


def test_a_killed_run_is_resumed_with_lines_dropped(bucket: FaultyFiles):
    killed = mirror.Mirror(URL)
    killed._lock = bucket_lock.Lock(killed.store)
    killed._lock.acquire()
    killed.join()
    killed.writes = True
    for line in ("1\n", "2\n", "3\n", "4\n"):
        _append(killed, line)
        killed.push()
    resumed = mirror.Mirror(URL)
    with resumed.claimed():
        path = resumed.path / "metrics.jsonl"
        assert path.read_text() == "1\n2\n3\n4\n"
        path.with_name("new").write_text("1\n2\n")  # a resume at step 2
        path.with_name("new").replace(path)
        bucket.before = _fails_at("rm_file")
        with pytest.raises(objects.StoreError):
            resumed.push()
        bucket.before = bucket.after
        # Killed while the old parts were removed: what follows the object is the end of the old file.
        assert _metrics(mirror.Mirror(URL)) == "1\n2\n3\n4\n"
        _append(resumed, "III\n")
        resumed.push()
        assert _metrics(mirror.Mirror(URL)) == "1\n2\nIII\n"
        _append(resumed, "IV\n")
    assert _in_store() == {"metrics.jsonl": b"1\n2\nIII\nIV\n"}


def _fails_at(name):
    def fail(number, call, arguments):
        if call == name:
            raise PermissionError("refused")

    return fail


def test_parts_are_joined_when_there_are_many(bucket: FaultyFiles, monkeypatch):
    monkeypatch.setattr(mirror, "MOST_PARTS", 3)
    made = mirror.Mirror(URL)
    with made.claimed():
        for line in range(6):
            _append(made, f"{line}\n")
            made.push()
            assert _metrics(mirror.Mirror(URL)) == "".join(f"{each}\n" for each in range(line + 1))
            assert len(_in_store()) <= 2 + 3


def test_a_result_that_is_set_aside_goes_from_the_store(bucket: FaultyFiles):
    objects.Store(URL).write("result.json", b"[1]")
    made = mirror.Mirror(URL)
    with made.claimed():
        (made.path / "result.json").replace(made.path / "result-8.json")
        made.push(all_files=True)
    assert _in_store() == {"result-8.json": b"[1]"}


def test_a_run_that_lost_its_lock_commits_no_checkpoint(bucket: FaultyFiles):
    made = mirror.Mirror(URL)
    with made.claimed():
        made.before_commit()
        objects.Store(URL).write(bucket_lock.FILE, json.dumps({"token": "another's"}).encode())
        with pytest.raises(objects.StoreError, match="removed or taken over"):
            made.before_commit()


def test_a_run_that_ends_before_its_first_step_leaves_nothing(bucket: FaultyFiles):
    made = mirror.Mirror(URL)
    with made.claimed():
        (made.path / "config.json").write_text("{}")
        (made.path / "log.txt").write_text("started")
        made.push()
        made.discard()
    assert _in_store() == {}


def test_the_thread_renews_the_lock_and_appends(bucket: FaultyFiles, monkeypatch):
    monkeypatch.setattr(bucket_lock, "RENEWAL", 0.01)
    made = mirror.Mirror(URL)
    with made.claimed():
        _append(made, "a line\n")
        for _ in range(500):
            time.sleep(0.01)
            if "metrics.jsonl" in (found := _in_store()) and json.loads(found[".lock"])["renewals"] > 1:
                break
        else:
            raise AssertionError("nothing was renewed")


def test_complete_checkpoints_are_those_with_a_list(bucket: FaultyFiles):
    store = objects.Store(URL)
    for name in ("3/files.json", "3/state/d", "9/state/d", "6/files.json", "12.damaged/files.json", "x/files.json"):
        store.write(f"checkpoints/{name}", b"")
    assert mirror.Mirror(URL).steps() == [3, 6]
