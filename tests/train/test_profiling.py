"""Recordings of the profiler: the steps that were asked for, closed in any case."""

import pathlib

import jax
import jax.numpy as jnp
import pytest

from reid_jax import errors
from reid_jax.cli import arguments
from reid_jax.runtime import mesh as mesh_lib
from reid_jax.train import loop, metrics, profiling
from tests.train import toy


def traces(folder: pathlib.Path) -> list[pathlib.Path]:
    return list((folder / profiling.FOLDER).rglob("*.xplane.pb"))


def test_a_run_records_some_steps(tmp_path):
    mesh, model = mesh_lib.create_mesh(jax.devices()[:1]), toy.Linear()
    terms = {"ce": toy.TERMS["ce"]}
    begun = toy.initial_state(model, mesh)
    phase = toy.phase(model, begun.params, mesh, steps=(0, 5), terms=terms)
    profile = profiling.Profile(tmp_path, profiling.Steps(3, 4))
    with metrics.MetricWriter(tmp_path, tensorboard=False) as writer:
        every = loop.Every(log=0, evaluate=0, save=0)
        loop.Loop(mesh, [phase], every, writer=writer, checkpoints=None, profile=profile).run(begun, 0)
    (trace,) = traces(tmp_path)
    content = trace.read_bytes()
    assert b"step_num" in content  # the viewers' division into steps
    assert list(trace.parent.glob("*.trace.json.gz"))  # for Perfetto


@pytest.mark.parametrize(
    ("steps", "recorded"),
    [
        (None, None),
        (profiling.Steps(2, 2), (2, 2)),
        (profiling.Steps(2, 4), (2, 4)),
        (profiling.Steps(4, 9), (4, 5)),
        (profiling.Steps(8, 9), None),
        (profiling.after_warm_up(0, 0), None),
        (profiling.after_warm_up(2, 0), (3, 4)),
    ],
    ids=["none", "one", "three", "run ends first", "never", "no count", "after the warm-up"],
)
def test_recordings_begin_and_end(tmp_path, monkeypatch, steps, recorded):
    calls = []
    now = 0
    monkeypatch.setattr(profiling.profiler, "start", lambda folder: calls.append(now))
    monkeypatch.setattr(profiling.profiler, "stop", lambda: calls.append(now))
    profile = profiling.Profile(tmp_path, steps)
    for step in range(1, 6):
        now = step
        profile.before_step(step)
        profile.after_step(step, jnp.zeros(1))
    profile.close()
    assert calls == list(recorded or [])


def test_steps_after_a_resume_are_counted_from_there():
    assert profiling.after_warm_up(3, 100) == profiling.Steps(103, 105)


@pytest.mark.parametrize("steps", [(3, 6), (11, 12), (10, 11), (10, 31), (31, 32)])
def test_steps_outside_the_run_are_refused(steps):
    profiling.check(profiling.Steps(11, 30), 10, 30)
    if steps == (11, 12):
        return
    with pytest.raises(errors.UserError, match=r"expected --profile within the steps 11 to 30 .*10 are done"):
        profiling.check(profiling.Steps(*steps), 10, 30)


def test_ranges_on_the_command_line():
    assert arguments.steps("--profile", "20:25", 100) == (20, 25)
    assert arguments.steps("--profile", "7:7", 100) == (7, 7)
    for text in ("20", "a:b", ":", "5:", ":5", "-1:3", "0:3", "6:5", "1:101", "1:2:3", "1.5:3", "٣:٤", "9" * 50 + ":1"):
        with pytest.raises(errors.UserError, match="expected --profile as FROM:TO"):
            arguments.steps("--profile", text, 100)
