"""Checkpoints: what is kept, what comes back, and what a kill leaves behind."""

import logging
import os
import subprocess
import sys
import textwrap
import time
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reid_jax import trees
from reid_jax.errors import UserError
from reid_jax.runtime import mesh
from reid_jax.train import checkpoint_store, checkpoints, optimizer

CONSTANT = {"name": "constant"}


@flax.struct.dataclass
class State:
    """Stands in for the train state."""

    step: Any
    params: Any
    batch_stats: Any
    opt_state: Any
    extra: Any


def make_state(step=0, width=4, optimizer_name="adam", extra=None):
    generator = np.random.default_rng(step)
    draw = lambda *shape: jnp.asarray(generator.normal(size=shape), jnp.float32)
    params = {"conv": {"kernel": draw(3, width)}, "head": {"bias": draw(8), "frozen": draw(2)}}
    config = {"name": optimizer_name, "learning_rate": 0.1, "frozen": ("head/frozen",)}
    transformation, _ = optimizer.build(config, CONSTANT, params, 10, 5)
    opt_state = jax.tree.map(lambda leaf: leaf + step, transformation.init(params))
    stats = {"norm": {"mean": draw(width)}}
    return State(jnp.int32(step), params, stats, opt_state, {} if extra is None else extra)


def abstract(state, sharding=None):
    sharding = sharding or mesh.replicated(mesh.create_mesh())
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state)


def assert_equal(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for (path, a), b in zip(trees.flatten(got).items(), jax.tree.leaves(expected)):
        assert a.dtype == b.dtype, path
        assert np.array_equal(np.asarray(a), np.asarray(b)), path


def test_a_state_comes_back_bit_for_bit_on_any_number_of_devices(tmp_path):
    state = make_state(7, extra={"centers": {"table": jnp.arange(16.0).reshape(8, 2)}})
    on_two = mesh.replicate(state, mesh.create_mesh(jax.devices()[:2]))
    meta = {"seconds": np.float32(1.5), "phase": None, "scores": {"a": [1, 2]}}
    with checkpoints.Checkpoints(tmp_path / "c") as saved:
        assert saved.latest_step() is None
        assert saved.save(7, on_two, meta)
        # All eight devices, then one, then split over eight.
        for sharding in (None, jax.sharding.SingleDeviceSharding(jax.devices()[3])):
            restored, about = saved.restore(abstract(state, sharding))
            assert_equal(restored, state)
            assert about == {"seconds": 1.5, "phase": None, "scores": {"a": [1, 2]}}
        target = abstract(state)
        split = mesh.sharded(mesh.create_mesh())
        target.extra["centers"]["table"] = jax.ShapeDtypeStruct((8, 2), jnp.float32, sharding=split)
        restored, _ = saved.restore(target, 7)
        assert restored.extra["centers"]["table"].sharding == split
        assert_equal(restored, state)


def test_arrays_that_all_devices_hold_are_saved_from_one_and_split_ones_from_all(tmp_path):
    whole, split = mesh.replicated(devices := mesh.create_mesh()), mesh.sharded(devices)
    values = np.arange(16, dtype=np.float32)
    state = {"a": jax.device_put(values, whole), "b": jax.device_put(values, split)}
    saved_as = checkpoint_store.one_copy({**state, "c": np.float32(1)})
    assert [len(saved_as[name].sharding.device_set) for name in "ab"] == [1, 8]
    with checkpoints.Checkpoints(tmp_path) as saved:
        assert saved.save(1, state, {})
        jax.tree.map(lambda x: x.delete(), state)  # as a donated state is, while the files are still being written
        saved.wait()
        for value in checkpoints.restore_arrays(tmp_path).values():
            np.testing.assert_array_equal(value, values)


def test_the_two_newest_are_kept_and_the_best(tmp_path):
    scores = {1: 0.5, 2: 0.9, 3: None, 4: 0.7, 5: float("nan"), 6: 0.1}
    with checkpoints.Checkpoints(tmp_path, best_metric="d/mAP") as saved:
        assert saved.best_step() is None
        for step, score in scores.items():
            saved.save(step, make_state(step), {}, None if score is None else {"d/mAP": np.float32(score)})
        saved.wait()
        assert checkpoints.steps(tmp_path) == [2, 5, 6]
        assert (saved.latest_step(), saved.best_step()) == (6, 2)
        assert_equal(saved.restore(abstract(make_state()), 2)[0], make_state(2))
    # A later process knows the best, and a better one replaces it.
    with checkpoints.Checkpoints(tmp_path, best_metric="d/mAP") as saved:
        assert (saved.latest_step(), saved.best_step()) == (6, 2)
        saved.save(7, make_state(7), {}, {"d/mAP": 0.95})
        saved.save(8, make_state(8), {}, wait=True)
        assert checkpoints.steps(tmp_path) == [7, 8]
        assert saved.best_step() == 7


def test_without_a_metric_the_two_newest_are_kept(tmp_path):
    with checkpoints.Checkpoints(tmp_path) as saved:
        for step in (1, 2, 3):
            saved.save(step, make_state(step), {}, {"d/mAP": 1.0 / step})
        saved.wait()
        assert checkpoints.steps(tmp_path) == [2, 3]
        assert saved.best_step() is None


def test_saving_a_step_twice_is_harmless(tmp_path):
    with checkpoints.Checkpoints(tmp_path) as saved:
        assert saved.save(4, make_state(4), {"first": True})
        assert not saved.save(4, make_state(5), {"first": False})
        assert not saved.save(3, make_state(3), {})
        restored, meta = saved.restore(abstract(make_state()))
        assert meta == {"first": True}
        assert_equal(restored, make_state(4))


def test_buffers_may_be_donated_right_after_save(tmp_path):
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x * -2.0, tree), donate_argnums=0)
    start = np.random.default_rng(0).normal(size=(512, 1024)).astype(np.float32)
    tree = mesh.replicate({"params": {"w": start.copy()}}, mesh.create_mesh(jax.devices()[:1]))
    with checkpoints.Checkpoints(tmp_path) as saved:
        saved.save(1, tree, {})
        for _ in range(20):
            tree = step(tree)
        jax.block_until_ready(tree)
        restored, _ = saved.restore(abstract(tree))
        np.testing.assert_array_equal(restored["params"]["w"], start)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"width": 5}, r"params/conv/kernel has shape \(3, 4\), expected \(3, 5\) \(and 3 more differences\)"),
        ({"optimizer_name": "sgd"}, "is in it but not in the model"),
        ({"optimizer_name": "amsgrad"}, "is not in it"),
        ({"extra": {"teacher": jnp.ones(2)}}, "extra/teacher is not in it;"),
    ],
    ids=["shape", "sgd", "amsgrad", "extra"],
)
def test_the_checkpoint_of_another_model_is_refused_in_one_sentence(tmp_path, other, message):
    with checkpoints.Checkpoints(tmp_path) as saved:
        saved.save(1, make_state(1), {})
        with pytest.raises(UserError, match=message) as caught:
            saved.restore(abstract(make_state(**other)))
        assert "\n" not in str(caught.value)


def test_variables_without_the_optimizer(tmp_path):
    average = {"params": {"w": jnp.full(2, 3.0)}, "batch_stats": {"m": jnp.zeros(1)}}
    with checkpoints.Checkpoints(tmp_path, best_metric="mAP") as saved:
        saved.save(1, make_state(1, extra={"average": average}), {"num_classes": 9}, {"mAP": 0.9})
        saved.save(2, make_state(2, optimizer_name="sgd"), {"num_classes": 9}, {"mAP": 0.2}, wait=True)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    variables, meta = checkpoints.restore_variables(tmp_path)
    assert meta == {"num_classes": 9}
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(variables))
    expected = make_state(2)
    assert_equal(variables, {"params": expected.params, "batch_stats": expected.batch_stats})
    best = checkpoints.restore_variables(tmp_path, "best")[0]
    assert_equal(best["params"], make_state(1).params)
    assert_equal(checkpoints.restore_variables(tmp_path, "best", average="average")[0], average)
    whole = checkpoints.restore_variables(tmp_path, 1, extra=True)[0]
    assert_equal(whole["extra"], {"average": average})
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_missing_checkpoints_are_named(tmp_path):
    with pytest.raises(UserError, match="no checkpoint was found in"):
        checkpoints.restore_variables(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    with checkpoints.Checkpoints(tmp_path) as saved:
        with pytest.raises(UserError, match="no checkpoint was found"):
            saved.restore(abstract(make_state()))
        saved.save(3, make_state(3), {}, wait=True)
        with pytest.raises(UserError, match=r"no checkpoint of step 9 .* it has: 3"):
            saved.restore(abstract(make_state()), 9)
    with pytest.raises(UserError, match="no checkpoint of step 9"):
        checkpoints.restore_variables(tmp_path, 9)
    with pytest.raises(UserError, match="none is the best"):
        checkpoints.restore_variables(tmp_path, "best")


def test_nothing_is_said(tmp_path, caplog, capfd):
    with caplog.at_level(logging.DEBUG), checkpoints.Checkpoints(tmp_path) as saved:
        saved.save(1, make_state(1), {})
        saved.restore(abstract(make_state()))
    checkpoints.restore_variables(tmp_path)
    assert not [record for record in caplog.records if record.name in ("absl", "orbax") or record.levelno > 20]
    assert capfd.readouterr().err == ""


def test_what_is_no_json_is_refused(tmp_path):
    with checkpoints.Checkpoints(tmp_path) as saved, pytest.raises(TypeError, match="meta"):
        saved.save(1, make_state(1), {"x": object()})


# ---- kill -9 while it writes ----------------------------------------------------------------------------------------

WORKER = """
    import sys
    import numpy as np
    from reid_jax.train import checkpoints

    saved = checkpoints.Checkpoints(sys.argv[1], best_metric="mAP")
    for step in range(1, 10**6):
        state = {"params": {f"w{i}": np.full((64, 256), step + i, np.float32) for i in range(4)}}
        saved.save(step, state, {"step": step}, {"mAP": -float(step % 5)})
        print(step, flush=True)
"""


def test_killed_while_writing(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(textwrap.dedent(WORKER))
    env = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    folders = [tmp_path / f"run{index}" for index in range(4)]
    processes = [
        subprocess.Popen([sys.executable, str(script), str(folder)], env=env, stdout=subprocess.PIPE, text=True)
        for folder in folders
    ]
    reported = []
    for index, process in enumerate(processes):
        # Past the second checkpoint, and at a different moment of a later one in each.
        lines = [process.stdout.readline() for _ in range(3 + index)]
        time.sleep(0.007 * index)
        process.kill()
        lines += process.communicate()[0].splitlines()
        reported.append(int([line for line in lines if line.strip()][-1]))
    for folder, last in zip(folders, reported):
        left = checkpoints.steps(folder)
        assert left, folder
        assert max(left) >= last - 2  # `save` waits for the one before
        with checkpoints.Checkpoints(folder, best_metric="mAP") as saved:
            for step in left:
                expected = {"params": {f"w{i}": np.full((64, 256), step + i, np.float32) for i in range(4)}}
                restored, meta = saved.restore(abstract(expected), step)
                assert meta == {"step": step}
                assert_equal(restored, expected)
            assert saved.best_step() == max(left, key=lambda step: (-(step % 5), step))
            # What was torn is swept away, and the run goes on.
            assert saved.save(max(left) + 1, expected, {}, wait=True)
            # An old one whose removal was cut off is set aside like a damaged one.
            others = {path.name for path in folder.iterdir() if not path.name.isdigit()}
            assert all(name.endswith(".damaged") and int(name.removesuffix(".damaged")) < max(left) for name in others)
