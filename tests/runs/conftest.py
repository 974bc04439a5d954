"""Fixtures of the tests of runs."""

import sys

import pytest

from reid_jax.runs import ablation
from tests.helpers import ablation_runs


@pytest.fixture
def ablation_folder(tmp_path, monkeypatch):
    """A folder of ablation runs; training is replaced by a script that only writes results."""
    script = tmp_path / "main.py"
    script.write_text(ablation_runs.SCRIPT)
    monkeypatch.setattr(ablation, "COMMAND", (sys.executable, str(script)))
    return tmp_path / "runs"
