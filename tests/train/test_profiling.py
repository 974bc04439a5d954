"""Recordings of the profiler: after the warm-up, as many steps as asked for, closed in any case."""

import pathlib

import jax
import jax.numpy as jnp
import pytest

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
    profile = profiling.Profile(tmp_path, 2)
    with metrics.MetricWriter(tmp_path, tensorboard=False) as writer:
        every = loop.Every(log=0, evaluate=0, save=0)
        loop.Loop(mesh, [phase], every, writer=writer, checkpoints=None, profile=profile).run(begun, 0)
    (trace,) = traces(tmp_path)
    assert trace.stat().st_size > 0


@pytest.mark.parametrize(
    ("steps", "recorded"), [(0, False), (1, True), (9, True)], ids=["none", "ends", "run ends first"]
)
def test_recordings_end(tmp_path, monkeypatch, steps, recorded):
    calls = []
    monkeypatch.setattr(profiling.profiler, "start", lambda folder: calls.append("start"))
    monkeypatch.setattr(profiling.profiler, "stop", lambda: calls.append("stop"))
    profile = profiling.Profile(tmp_path, steps)
    for step in range(1, 6):
        profile.before_step()
        if step <= profiling.WARM_UP:
            assert not calls
        profile.after_step(jnp.zeros(1))
    profile.close()
    assert calls == (["start", "stop"] if recorded else [])
