"""Programs kept under what they were made from: read as they were saved, under another name when anything changes."""

from __future__ import annotations

import os
import pickle

import jax
import pytest

from reid_jax.runtime import compilation, kept_starts, provenance
from tests.helpers import compiling


@pytest.fixture(scope="module")
def program():
    function = jax.jit(lambda key, x: {"drawn": jax.random.normal(key, (3,)) + x})
    with compiling.uncached():
        return function.lower(jax.random.key(0), 1.0).compile()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(compilation, "_own_folder", [tmp_path])
    return tmp_path / "starts"


def test_a_program_is_read_as_it_was_saved(program, folder):
    assert not kept_starts.has("a")
    assert kept_starts.load("a", jax.devices()[:1]) is None
    kept_starts.save("a", program, {"about": 1})
    assert kept_starts.has("a")
    assert folder.stat().st_mode & 0o777 == 0o700
    again, about = kept_starts.load("a", jax.devices()[:1])
    assert about == {"about": 1}
    key = jax.random.key(5)
    assert (again(key, 2.0)["drawn"] == program(key, 2.0)["drawn"]).all()


def test_what_cannot_be_read_or_written_is_no_error(program, folder, monkeypatch):
    kept_starts.save("a", program)
    (folder / "a.start").write_bytes((folder / "a.start").read_bytes()[:100])
    assert kept_starts.load("a", jax.devices()[:1]) is None
    assert not (folder / "a.start").exists()
    monkeypatch.setattr(pickle, "dumps", lambda content: (_ for _ in ()).throw(OSError("full")))
    kept_starts.save("a", program)
    assert not kept_starts.has("a")
    monkeypatch.undo()
    folder.chmod(0o777)  # others could write code there
    assert compilation.starts() is None
    monkeypatch.setattr(compilation, "_own_folder", [])
    kept_starts.save("a", program)
    assert kept_starts.load("a", jax.devices()[:1]) is None


def test_a_program_without_its_object_code_is_not_kept(program, folder, monkeypatch):
    monkeypatch.setattr(kept_starts, "OBJECT_CODE", (b"none such",))
    kept_starts.save("a", program)
    assert not kept_starts.has("a")


def test_the_oldest_go(folder):
    folder.mkdir()
    for age in range(4):
        (folder / f"{age}.start").touch()
        os.utime(folder / f"{age}.start", (1000 + age, 1000 + age))
    kept_starts._tidy(folder, most=2)
    assert {path.name for path in folder.iterdir()} == {"2.start", "3.start"}


def test_whatever_makes_another_program_makes_another_name(monkeypatch):
    name = kept_starts.key({"config": "a"})
    assert name == kept_starts.key({"config": "a"})
    others = [kept_starts.key({"config": "b"})]
    with monkeypatch.context() as changed:
        changed.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
        others.append(kept_starts.key({"config": "a"}))
    with monkeypatch.context() as changed:
        changed.setattr(provenance, "source_hash", lambda: "edited")
        others.append(kept_starts.key({"config": "a"}))
    with monkeypatch.context() as changed:
        changed.setattr(kept_starts, "_versions", lambda: {"jax": "0"})
        others.append(kept_starts.key({"config": "a"}))
    with jax.default_matmul_precision("bfloat16"):
        others.append(kept_starts.key({"config": "a"}))
    assert len({name, *others}) == 6
    with monkeypatch.context() as changed:  # where programs lie changes none
        changed.setenv("JAX_COMPILATION_CACHE_DIR", "/elsewhere")
        assert kept_starts.key({"config": "a"}) == name
