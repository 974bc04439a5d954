"""Objects of a store: names, errors in one sentence, retries."""

import errno
import os
import pathlib

import pytest

from reid_jax import errors
from reid_jax.stores import objects
from tests.helpers import faulty_store
from tests.helpers.faulty_store import FaultyFiles

bucket = faulty_store.bucket
URL = "memory://bucket/folder"


def test_which_paths_are_remote():
    assert objects.is_remote("gs://b/x")
    assert objects.is_remote("s3://b/x")
    assert objects.is_remote("ftp://b")
    assert objects.is_remote("gs:/b/x")  # refused, instead of a folder of that name
    for path in ("runs/x", "C:/x", pathlib.Path("gs://b"), None, ""):
        assert not objects.is_remote(path)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("ftp://b/x", "other stores are not supported"),
        ("gs:/b/x", "two slashes"),
        ("S3://b/x", "small letters"),
        ("gs://", "name the bucket"),
        ("gs:///x", "name the bucket"),
        ("s3://b//x", "no empty part"),
        ("s3://b/../x", "no empty part"),
    ],
)
def test_urls_that_are_none(url, expected):
    with pytest.raises(objects.StoreError, match=expected):
        objects.check(url, "--workdir")


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setattr(objects, "_is_installed", lambda library: False)
    with pytest.raises(objects.StoreError, match=r"needs gcsfs, it is not installed; run pip install"):
        objects.check("gs://b/x")


def test_objects_are_written_listed_read_and_removed(bucket: FaultyFiles, tmp_path):
    store = objects.Store(URL)
    assert store.listing() == {}
    assert store.entry("a") is None
    assert store.read("a", b"none") == b"none"
    store.write("a", b"one")
    before = store.listing()["a"]
    store.write("a", b"two")
    (tmp_path / "file").write_bytes(b"three")
    store.upload(tmp_path / "file", "deep/b")
    objects.Store("memory://bucket/folder2").write("x", b"of another")
    listed = store.listing()
    assert {name: entry.size for name, entry in listed.items()} == {"a": 3, "deep/b": 5}
    assert listed["a"].version != before.version, "a version changes with the content"
    assert store.entry("deep/b").size == 5
    store.copy("deep/b", "c")
    store.download("c", tmp_path / "copy", size=5)
    assert (tmp_path / "copy").read_bytes() == b"three"
    store.remove(["a", "never there", "c"])
    assert list(store.listing()) == ["deep/b"]
    with pytest.raises(objects.StoreError, match="cannot read memory://bucket/folder/a: there is no such bucket"):
        store.read("a")


def test_one_of_several_creates_an_object(bucket: FaultyFiles):
    store = objects.Store(URL)
    assert store.create("lock", b"first")
    assert not store.create("lock", b"second")
    assert store.read("lock") == b"first"


def test_an_answer_that_got_lost_is_looked_up(bucket: FaultyFiles):
    def lost(number, call, arguments):
        if number == 0:
            raise TimeoutError("no answer")

    bucket.after = lost
    assert objects.Store(URL).create("lock", b"mine")


def test_a_request_that_fails_is_tried_again(bucket: FaultyFiles, caplog):
    def twice(number, call, arguments):
        if number < 2:
            raise OSError("503 slow down")

    bucket.before = twice
    objects.Store(URL).write("a", b"one")
    assert [call for call, _ in bucket.calls] == ["pipe_file"] * 3
    assert caplog.text.count("did not answer (503 slow down); trying again") == 2


def test_a_download_that_ends_early_is_tried_again(bucket: FaultyFiles, tmp_path, monkeypatch):
    monkeypatch.setattr(objects, "SMALL", 0)
    store = objects.Store(URL)
    store.write("a", b"whole")

    def cut(number, call, arguments):
        if number == 1:
            pathlib.Path(arguments[1]).write_bytes(b"wh")

    bucket.after = cut
    store.download("a", tmp_path / "a", size=5)
    assert (tmp_path / "a").read_bytes() == b"whole"
    assert len(bucket.calls) == 3


def test_a_full_disk_is_said_at_once(bucket: FaultyFiles, tmp_path):
    def full(number, call, arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    bucket.before = full
    with pytest.raises(errors.UserError, match=r"cannot write the local copy .*a \(No space left on device\)"):
        objects.Store(URL).download("a", tmp_path / "a", size=5)
    assert len(bucket.calls) == 1


class _HttpError(Exception):
    code = 401


class NoCredentialsError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "sentence", "attempts"),
    [
        (FileNotFoundError("bucket"), "there is no such bucket or object; check its name, and make memory://bucket", 1),
        (PermissionError("Access Denied"), r"the store refuses it \(Access Denied\); log in", 1),
        (OSError("Forbidden: b/o"), r"the store refuses it \(Forbidden: b/o\)", 1),
        (_HttpError("expired"), "the store refuses it", 1),
        (NoCredentialsError("Unable to locate credentials"), "without credentials", 1),
        (TimeoutError("read"), r"fails \(nothing came within 30 s\); check the network", objects.ATTEMPTS),
    ],
)
def test_errors_are_one_sentence(bucket: FaultyFiles, error, sentence, attempts):
    def fail(number, call, arguments):
        raise error

    bucket.before = fail
    with pytest.raises(objects.StoreError, match=sentence) as caught:
        objects.Store(URL).listing()
    assert "\n" not in str(caught.value)
    assert len(bucket.calls) == attempts
