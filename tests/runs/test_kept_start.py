"""The start of a run whose programs an earlier start has kept."""

from __future__ import annotations

import concurrent.futures
from types import SimpleNamespace

import jax
import numpy as np
from ml_collections import ConfigDict

from reid_jax.data import records
from reid_jax.ops import grouping
from reid_jax.runs import experiment, kept_start, starting_point
from reid_jax.runtime import compilation, kept_starts, loaded_code
from reid_jax.train import step
from tests.helpers import tiny


def test_shapes_of_a_kept_start_are_those_that_are_traced(tmp_path, monkeypatch):
    """Extras that a run takes over from another belong to both."""
    monkeypatch.setattr(starting_point, "extras", lambda init: {"teacher": {"scale": np.ones(3, np.float32)}})
    tiny.draw(tmp_path / "data")
    made = experiment.Experiment(tiny.config(tmp_path / "data"))
    traced = made.initial_shapes()
    assert traced.extra["teacher"]["scale"].shape == (3,)
    layout: grouping.Layout = made._initialize.layout(jax.eval_shape(lambda: jax.random.key(0)))
    made._drawn_by = kept_starts.Kept((), "", layout)
    kept = made.initial_shapes()
    assert jax.tree.structure(kept) == jax.tree.structure(traced)
    assert jax.tree.map(lambda each: (each.shape, each.dtype), kept) == jax.tree.map(
        lambda each: (each.shape, each.dtype), traced
    )


def test_code_that_no_hash_knows_keeps_nothing(tmp_path, monkeypatch):
    """A notebook, a file that was edited while the process ran, and modules that the config names."""
    monkeypatch.setattr(compilation, "_own_folder", [tmp_path])
    monkeypatch.setattr(loaded_code, "own_files", dict)
    monkeypatch.setattr(loaded_code, "edited_since_start", lambda: False)
    mesh, config = jax.sharding.Mesh(np.asarray(jax.devices()[:1]), "data"), ConfigDict({"seed": 0})

    def made(**changes):
        with monkeypatch.context() as changed:
            for name, value in changes.items():
                changed.setattr(loaded_code, name, lambda value=value: value)
            return kept_start.KeptStart(config, records.ReIDDataset("toy"), mesh, 1)

    assert made()._key == made()._key != ""
    assert made(own_files=None)._key == made(edited_since_start=True)._key == ""
    kept, program = made(), concurrent.futures.Future()
    phase = SimpleNamespace(last_step=2, step=object.__new__(step.TrainStep))
    kept.keep(kept_starts.Kept((), "initial"), [phase], 0, program)
    named = []
    monkeypatch.setattr(kept_starts, "give_name", lambda *given: named.append(given))
    monkeypatch.setattr(loaded_code, "edited_since_start", lambda: True)  # while it was traced
    program.set_result(kept_starts.Kept((), "step"))
    assert named == []
    config.code = [{"sha256": "a"}]
    assert made()._key == ""
