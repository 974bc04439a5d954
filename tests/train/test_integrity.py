"""Damaged checkpoints: every file is watched, the damage is named, and an older checkpoint takes the place."""

import json
import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reid_jax.errors import UserError
from reid_jax.train import checkpoints, integrity


def state(step):
    return {"params": {"w": jnp.full((3, 4), step, jnp.float32)}, "batch_stats": {}}


def abstract(_):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state(0))


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    """A folder with the steps 1 and 2; tests work on copies."""
    folder = tmp_path_factory.mktemp("healthy")
    with checkpoints.Checkpoints(folder, best_metric="mAP") as saved:
        for step in (1, 2):
            saved.save(step, state(step), {"step": step}, {"mAP": 0.5 / step})
    return folder


@pytest.fixture
def run(healthy, tmp_path):
    return shutil.copytree(healthy, tmp_path / "checkpoints")


def truncate(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def delete(path):
    path.unlink()


@pytest.mark.parametrize("damage", [truncate, flip, delete])
def test_damage_of_any_file_of_state_and_meta_is_named(run, damage):
    files = [path for name in ("state", "meta", "metrics") for path in (run / "2" / name).rglob("*") if path.is_file()]
    assert len(files) > 8
    for path in files:
        content = path.read_bytes()
        damage(path)
        found = integrity.damage(run / "2")
        assert found is not None
        assert found.startswith(path.relative_to(run / "2").as_posix())
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    assert integrity.damage(run / "2") is None


@pytest.mark.parametrize("damage", [truncate, flip, delete])
def test_a_damaged_list_proves_nothing(run, damage):
    damage(run / "2" / integrity.LIST)
    assert not integrity.is_listed(run / "2")
    assert integrity.damage(run / "2") is None
    with checkpoints.Checkpoints(run) as saved:
        assert saved.restore_newest(abstract)[0] == 2


def test_an_older_checkpoint_takes_the_place_and_the_step_can_be_saved_again(run, caplog):
    flip(next((run / "2" / "state" / "d").iterdir()))
    with caplog.at_level(logging.WARNING), checkpoints.Checkpoints(run) as saved:
        assert saved.latest_step() == 1
        step, restored, meta = saved.restore_newest(abstract)
        assert (step, meta) == (1, {"step": 1})
        np.testing.assert_array_equal(restored["params"]["w"], 1)
        saved.save(2, state(5), {}, wait=True)
    (record,) = [record.getMessage() for record in caplog.records if record.name.startswith("reid_jax")]
    assert record.startswith(f"the checkpoint {run / '2'} is damaged: state/d/")
    assert record.endswith("set aside as 2.damaged, an older checkpoint takes its place.")
    assert sorted(path.name for path in run.iterdir()) == ["1", "2", "2.damaged"]
    np.testing.assert_array_equal(checkpoints.restore_variables(run)[0]["params"]["w"], 5)


def test_a_checkpoint_without_a_list_is_tried(run, caplog):
    """Those of earlier versions; the library's own error is the evidence."""
    (run / "2" / integrity.LIST).unlink()
    for path in (run / "2" / "state").rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(b"")
    with checkpoints.Checkpoints(run) as saved:
        assert saved.latest_step() == 2
        with pytest.raises(integrity.Unreadable, match="is damaged"):
            saved.restore(abstract(2), 2)
        assert saved.restore_newest(abstract)[0] == 1
    assert (run / "2.damaged").is_dir()


def test_reading_changes_nothing_and_says_what_it_reads(run, caplog):
    delete(next((run / "2" / "state" / "d").iterdir()))
    before = sorted(run.rglob("*"))
    with caplog.at_level(logging.WARNING):
        variables, meta = checkpoints.restore_variables(run)
    assert meta == {"step": 1}
    assert "is missing); reading an older one" in caplog.text
    np.testing.assert_array_equal(variables["params"]["w"], 1)
    with pytest.raises(UserError, match=r"checkpoints/2 is damaged: state/d/\w+ is missing"):
        checkpoints.restore_variables(run, 2)
    assert sorted(run.rglob("*")) == before


def test_damaged_scores_do_not_hide_the_best(run, caplog):
    (run / "1" / "meta" / "metadata").write_text(json.dumps({"meta": {}}))
    with caplog.at_level(logging.WARNING):
        assert checkpoints.best_step(run) == 2
    assert "meta/metadata has" in caplog.text


def test_when_none_can_be_read_nothing_is_changed(run):
    for step in (1, 2):
        shutil.rmtree(run / str(step) / "state")
    for attempt in (checkpoints.Checkpoints, checkpoints.restore_variables):
        with pytest.raises(UserError, match=r"can be read \(2: state/ is missing; 1: state/ is missing\)") as caught:
            attempt(run)
        assert "\n" not in str(caught.value)
    assert sorted(path.name for path in run.iterdir()) == ["1", "2"]


def test_a_write_that_fails_is_a_sentence_and_leaves_nothing_unfinished(run, monkeypatch, caplog):
    def fail(folder):
        raise OSError(28, "No space left on device")

    with checkpoints.Checkpoints(run) as saved:
        monkeypatch.setattr(integrity, "write", fail)
        with pytest.raises(UserError, match=r"cannot write a checkpoint to .* \(No space left on device\); free some"):
            saved.save(3, state(3), {}, wait=True)
        assert sorted(path.name for path in run.iterdir()) == ["1", "2"]
    assert not [record for record in caplog.records if record.exc_info]
    saved = checkpoints.Checkpoints(run)
    shutil.rmtree(run)
    with pytest.raises(UserError, match="removed or renamed"):
        saved.save(3, state(3), {}, wait=True)
