"""The loop: order of events, phases, resuming, and what stops a run."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import time

import jax
import numpy as np
import pytest

from reid_jax import errors, trees
from reid_jax.runtime import mesh as mesh_lib
from reid_jax.train import checkpoints, loop, metrics, objective
from tests.train import toy


@pytest.fixture
def make_loop():
    """Makes loops that write into a folder; their files are closed at the end of the test."""
    with contextlib.ExitStack() as stack:

        def make(folder, phases, *, every=None, evaluate=None, resume_step=0, save=True) -> loop.Loop:
            saved = None
            if save:
                saved = stack.enter_context(checkpoints.Checkpoints(folder / "checkpoints", best_metric="toy/mAP"))
            return loop.Loop(
                mesh_lib.create_mesh(),
                phases,
                every or loop.Every(log=5, evaluate=0, save=0),
                writer=stack.enter_context(metrics.MetricWriter(folder, resume_step=resume_step)),
                checkpoints=saved,
                evaluate=evaluate,
                meta=lambda: {"note": "kept"},
            )

        yield make


def _records(tmp_path) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]


def _phases(mesh, model, params):
    """Ten steps with the embedding frozen, then ten of everything, with a teacher from the first phase."""
    frozen = {**toy.OPTIMIZER, "frozen": ("embed/.*",)}
    return [
        toy.phase(model, params, mesh, name="head", steps=(0, 10), settings=frozen),
        toy.phase(
            model,
            params,
            mesh,
            name="all",
            steps=(10, 20),
            extra={"teacher": {"kind": "frozen_copy"}},
            passes={
                "student": objective.Pass(),
                "teacher": objective.Pass(network="extra/teacher", train=False, prefix="teacher/"),
            },
        ),
    ]


def test_phases_follow_each_other_and_resume_bit_for_bit(make_loop, tmp_path):
    mesh, model = mesh_lib.create_mesh(), toy.Toy(dropout=0.3)
    initial = jax.device_get(toy.initial_state(model, mesh))
    phases = _phases(mesh, model, initial.params)
    every = loop.Every(log=4, evaluate=0, save=4)

    whole = make_loop(tmp_path / "whole", phases, every=every).run(mesh_lib.replicate(initial, mesh), 0)
    assert int(whole.step) == 20
    # The first phase left the embedding alone, the teacher is the state it ended with.
    teacher = whole.extra["teacher"]["params"]
    np.testing.assert_array_equal(teacher["embed"]["kernel"], initial.params["embed"]["kernel"])
    assert not np.allclose(teacher["classifier"]["kernel"], initial.params["classifier"]["kernel"])
    assert not np.allclose(whole.params["embed"]["kernel"], initial.params["embed"]["kernel"])

    for stop in (8, 12):  # within the first phase, within the second
        folder = tmp_path / f"stopped{stop}"
        make_loop(folder, _cut(phases, stop), every=every).run(mesh_lib.replicate(initial, mesh), 0)
        begun = mesh_lib.replicate(initial, mesh)
        for phase in phases:
            if phase.first_step < stop:
                begun = mesh_lib.replicate(phase.begin(begun), mesh)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), begun)
        with checkpoints.Checkpoints(folder / "checkpoints") as saved:
            assert saved.latest_step() == stop
            restored, meta = saved.restore(shapes, stop)
        assert meta["note"] == "kept"
        resumed = make_loop(folder, phases, every=every, resume_step=stop).run(restored, stop)
        for name, value in trees.flatten(whole.params).items():
            np.testing.assert_array_equal(value, trees.flatten(resumed.params)[name], err_msg=name)


def _cut(phases, stop: int):
    """The same phases, ending early, as after a kill."""
    kept = [phase for phase in phases if phase.first_step < stop]
    return [*kept[:-1], dataclasses.replace(kept[-1], last_step=stop)]


def test_events_come_when_due_and_at_the_end(make_loop, tmp_path):
    mesh, model = mesh_lib.create_mesh(), toy.Toy()
    begun = toy.initial_state(model, mesh)
    evaluated = []

    def evaluate(state, at_step):
        evaluated.append((at_step, int(state.step)))
        return {"toy/mAP": at_step / 100}

    phase = toy.phase(model, begun.params, mesh, steps=(0, 10))
    trainer = make_loop(tmp_path, [phase], every=loop.Every(log=5, evaluate=4, save=3), evaluate=evaluate)
    trainer.run(begun, 0)
    assert evaluated == [(4, 4), (8, 8), (10, 10)]
    logged = [record for record in _records(tmp_path) if "loss" in record]
    assert [record["step"] for record in logged] == [5, 10]
    assert {"loss/ce", "loss/tri", "gradient_norm", "learning_rate", "images_per_second", "data_wait_percent"} <= set(
        logged[0]
    )
    assert max(checkpoints.steps(tmp_path / "checkpoints")) == 10


def test_non_finite_loss_stops_with_its_step_and_saves_nothing(make_loop, tmp_path):
    mesh, model = mesh_lib.create_mesh(), toy.Toy()
    begun = toy.initial_state(model, mesh)
    phase = toy.phase(model, begun.params, mesh, steps=(0, 10))

    class Poisoned(toy.Batches):
        def __next__(self):
            made = super().__next__()
            return {**made, "image": made["image"] * (np.nan if self.at == 7 else 1)}

    phase = dataclasses.replace(phase, open_batches=Poisoned)
    with pytest.raises(loop.NonFiniteLoss, match="got nan at step 7"):
        make_loop(tmp_path, [phase], every=loop.Every(log=5, evaluate=0, save=5)).run(begun, 0)
    assert checkpoints.steps(tmp_path / "checkpoints") == [5]


def test_collapsed_embedding_is_said_once(make_loop, tmp_path, caplog):
    mesh, model = mesh_lib.create_mesh(), toy.Toy()
    begun = toy.initial_state(model, mesh)
    still = {**toy.OPTIMIZER, "learning_rate": 0.0}
    phase = toy.phase(model, begun.params, mesh, steps=(0, 10), settings=still)

    class Same(toy.Batches):
        def __next__(self):
            made = super().__next__()
            return {**made, "image": np.ones_like(made["image"])}

    phase = dataclasses.replace(phase, open_batches=Same)
    with caplog.at_level(logging.WARNING, logger="reid_jax.train.loop"):
        make_loop(tmp_path, [phase], every=loop.Every(log=1, evaluate=0, save=0), save=False).run(begun, 0)
    warnings = [record for record in caplog.records if "collapsed" in record.message]
    assert len(warnings) == 1
    assert "loss/tri stays at its margin 0.300 (step 3)" in warnings[0].message


def test_input_that_is_too_slow_shows(make_loop, tmp_path):
    mesh, model = mesh_lib.create_mesh(), toy.Toy()
    begun = toy.initial_state(model, mesh)

    class Slow(toy.Batches):
        def __next__(self):
            time.sleep(0.02)
            return super().__next__()

    phase = dataclasses.replace(toy.phase(model, begun.params, mesh), open_batches=Slow)
    make_loop(tmp_path, [phase], every=loop.Every(log=5, evaluate=0, save=0), save=False).run(begun, 0)
    before, record = _records(tmp_path)[-2:]
    # The window of five steps ends before its line is written, and the next begins after it: never shorter than this.
    elapsed = record["time"] - before["time"]
    assert record["data_wait_percent"] / 100 * elapsed >= 0.99 * 5 * 0.02


def test_batch_must_fit_the_devices(make_loop, tmp_path):
    mesh, model = mesh_lib.create_mesh(), toy.Toy()
    begun = toy.initial_state(model, mesh)
    phase = toy.phase(model, begun.params, mesh, size=12)
    with pytest.raises(errors.UserError, match=r"12.*8"):
        make_loop(tmp_path, [phase], save=False).run(begun, 0)
