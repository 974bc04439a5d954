"""Fixtures of the tests of models."""

import pytest

from reid_jax.nn import conv


class _Native(conv.Conv):
    formulation: str = "native"


# Modules without a name are called after their class.
_Native.__name__ = "Conv"


@pytest.fixture
def native(monkeypatch):
    """Native convolutions, which compile faster; the CPU's own formulations are compared with them in tests/ops."""
    monkeypatch.setattr("reid_jax.nn.conv.Conv", _Native)
