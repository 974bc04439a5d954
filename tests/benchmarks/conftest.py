"""Fixtures of the tests of benchmarks."""

import types

import pytest

from reid_jax.benchmarks import measuring


@pytest.fixture(autouse=True)
def no_collection(monkeypatch):
    """Measurements collect garbage first; among the objects of a whole suite that takes a second each time."""
    monkeypatch.setattr(measuring, "gc", types.SimpleNamespace(collect=lambda: 0))
