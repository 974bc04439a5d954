"""Run folders whose files are damaged, in use, or gone."""

import json
import os

import pytest

from reid_jax import errors
from reid_jax.runs import folder as folder_lib
from reid_jax.runs import launch, start_files
from reid_jax.runtime import folder_lock
from tests.helpers import faulty_store, tiny

RESULT = {"dataset": "toy", "steps": 3, "toy/mAP": 0.5}


@pytest.fixture
def config(tmp_path):
    return tiny.config(tmp_path / "data", "bot:synthped", tiny.BOT)


@pytest.fixture
def folder(tmp_path, config):
    made = folder_lib.RunFolder(tmp_path / "runs" / "a")
    made.claim(config)
    return made


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"[1]", b"\xff\xfe", b'{"dataset": "toy"}', b"null", b'"x"'])
def test_a_damaged_result_is_named_and_computed_again(folder, config, content):
    folder.result.write_bytes(content)
    with pytest.raises(errors.UserError, match=r"result\.json.*remove it and start the run again"):
        folder.read_result()
    finished, warning = launch._finished(folder, config)
    assert finished is None
    assert warning.endswith("; it is computed again.")
    folder.write_result(RESULT)
    assert launch._finished(folder, config) == (RESULT, "")


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"null", b"[" * 100_000])
def test_a_damaged_config_is_named(folder, config, content):
    folder.config.write_bytes(content)
    for attempt in (folder.read_config, lambda: folder.check(config)):
        with pytest.raises(errors.UserError, match=r"config\.json.*restore it from a copy") as caught:
            attempt()
        assert len(str(caught.value)) < 500


def test_what_a_killed_process_left_is_removed(folder, config):
    (folder.path / ".incomplete-0a1b").touch()
    folder.config.unlink()
    folder.claim(config)
    assert sorted(os.listdir(folder.path)) == ["config.json"]


def test_a_refused_run_leaves_no_folder(tmp_path, config, monkeypatch):
    def refuse(*_):
        raise errors.UserError("this data cannot be evaluated.")

    monkeypatch.setattr(launch.experiment, "Experiment", refuse)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.UserError, match="this data"):
        launch.run(config, workdir="runs/deep/run")
    assert os.listdir(tmp_path) == []
    # What was there before stays.
    os.makedirs("runs/other")
    with pytest.raises(errors.UserError, match="this data"):
        launch.run(config, workdir="runs/deep/run")
    assert os.listdir("runs") == ["other"]


def test_a_folder_in_use_is_refused_and_left_alone(folder, config, monkeypatch):
    (folder.path / folder_lock.FILE).write_text(json.dumps({"pid": 7, "host": "node2", "since": "today"}))
    monkeypatch.setattr(folder_lock, "_lock", lambda *_: (_ for _ in ()).throw(errors.UserError("in use")))
    before = sorted(os.listdir(folder.path))
    with pytest.raises(errors.UserError, match="in use"):
        launch.run(config, workdir=str(folder.path))
    assert sorted(os.listdir(folder.path)) == before


def test_a_folder_that_was_removed_during_the_run(folder):
    folder.check_present()
    folder.config.unlink()
    with pytest.raises(errors.UserError, match="was removed or renamed during the run"):
        folder.check_present()


bucket = faulty_store.bucket


def test_a_run_folder_in_an_object_store(bucket):
    url = "memory://bucket/runs/mine"
    made = folder_lib.RunFolder(url)
    assert made.place == url
    assert not made.has_checkpoint()
    with pytest.raises(errors.UserError, match=r"found none at memory://bucket/runs/mine; give the --workdir"):
        made.read_config()
    bucket.files.pipe_file("bucket/runs/mine/config.json", b'{"system": "bot"}')
    bucket.files.pipe_file("bucket/runs/mine/checkpoints/8/files.json", b"")
    bucket.files.pipe_file("bucket/runs/mine/checkpoints/9/state/d", b"of an upload that was cut off")
    made.mirror.pull()
    assert made.newest_step() == 8
    assert folder_lib.RunFolder(f"{url}/").read_config().system == "bot"
    assert start_files.is_run(url)
    assert not start_files.is_run("memory://bucket/runs/mine/config.npz")
