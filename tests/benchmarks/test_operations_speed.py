"""GFLOP/s of convolutions: the rows, and the operations that they count."""

from __future__ import annotations

import numpy as np
import pytest

from reid_jax.benchmarks import operations_speed, programs


def test_each_operation_of_a_stage_has_a_row(monkeypatch):
    called = {}

    def alternate(runs, repetitions):
        called.update(runs)
        return {name: ([0.5, 0.25, 9.0], []) for name in runs}

    monkeypatch.setattr(programs, "alternate", alternate)
    monkeypatch.setattr(operations_speed, "OPERATIONS", ("weight gradient",))
    stage = operations_speed.Stage(4, 2, 3)
    (row,) = operations_speed.measure([2], stages=[stage], repetitions=3)
    assert (row["what"], row["operation"], row["batch"]) == ("3 channels, 4x2", "weight gradient", 2)
    assert row["gflop"] == pytest.approx(2 * 2 * 4 * 2 * 9 * 3 * 3 / 1e9)
    assert row["gflop_per_s"] == row["native"] == row["product"] == pytest.approx(row["gflop"] / 0.25)
    program = called["native"]
    gradient = np.asarray(program.compiled(program.state))
    x, slope = (np.asarray(program.state[name], np.float64) for name in ("x", "slope"))
    expected = np.einsum("bhwi,bhwo->io", x[:, 1:], slope[:, :-1])  # of the kernel's tap below the middle
    np.testing.assert_allclose(gradient[2, 1], expected, rtol=1e-4, atol=1e-4)
