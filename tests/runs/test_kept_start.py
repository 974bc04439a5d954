"""The start of a run whose programs an earlier start has kept."""

from __future__ import annotations

import jax
import numpy as np

from reid_jax.ops import grouping
from reid_jax.runs import experiment, starting_point
from reid_jax.runtime import kept_starts
from tests.helpers import tiny


def test_shapes_of_a_kept_start_are_those_that_are_traced(tmp_path, monkeypatch):
    """Extras that a run takes over from another belong to both."""
    monkeypatch.setattr(starting_point, "extras", lambda init: {"teacher": {"scale": np.ones(3, np.float32)}})
    made = experiment.Experiment(tiny.config(tmp_path / "data"))
    traced = made.initial_shapes()
    assert traced.extra["teacher"]["scale"].shape == (3,)
    layout: grouping.Layout = made._initialize.layout(jax.eval_shape(lambda: jax.random.key(0)))
    made._drawn_by = kept_starts.Kept(None, "", layout)
    kept = made.initial_shapes()
    assert jax.tree.structure(kept) == jax.tree.structure(traced)
    assert jax.tree.map(lambda each: (each.shape, each.dtype), kept) == jax.tree.map(
        lambda each: (each.shape, each.dtype), traced
    )
