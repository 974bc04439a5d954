"""Device, versions and commit that a measured number is stored with."""

from __future__ import annotations

import importlib.metadata
import pathlib
import re
import subprocess

import jax
import pytest

from reid_jax.runtime import provenance


def test_device_name_counts_the_devices():
    assert provenance.device_name() == f"{jax.device_count()} x cpu"


def test_versions_are_those_installed():
    found = provenance.versions()
    assert found["jax"] == jax.__version__
    assert found["numpy"] == importlib.metadata.version("numpy")
    assert re.fullmatch(r"3\.\d+\.\d+", found["python"])
    assert set(found) <= {"python", *provenance.LIBRARIES}


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A git repository with a tracked and an untracked copy of the module."""
    text = pathlib.Path(provenance.__file__).read_text()
    for folder in ("tracked", "site-packages"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "provenance.py").write_text(text)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "tracked"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    return tmp_path


def test_commit_of_a_tracked_file(repository, monkeypatch):
    monkeypatch.setattr(provenance, "__file__", str(repository / "tracked" / "provenance.py"))
    assert re.fullmatch("[0-9a-f]{12}", provenance.commit())
    (repository / "tracked" / "provenance.py").write_text("")
    assert re.fullmatch(r"[0-9a-f]{12}\+", provenance.commit())


def test_no_commit_of_somebody_elses_repository(repository, monkeypatch):
    monkeypatch.setattr(provenance, "__file__", str(repository / "site-packages" / "provenance.py"))
    assert provenance.commit() == ""


def test_no_commit_outside_a_repository(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    assert provenance.commit() == ""
