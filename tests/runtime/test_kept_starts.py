"""Programs kept under what they were made from: read as they were saved, under another name when anything changes."""

from __future__ import annotations

import os
import pickle
import time

import jax
import jax.numpy as jnp
import pytest

from reid_jax import file_io
from reid_jax.runtime import compilation, kept_starts, loaded_code, provenance
from tests.helpers import compiling


@pytest.fixture(scope="module")
def lowered():
    function = jax.jit(lambda key, x: {"drawn": jax.random.normal(key, (3,)) + x})
    return function.lower(jax.random.key(0), 1.0)


@pytest.fixture(scope="module")
def program(lowered):
    with compiling.uncached():
        return lowered.compile()


class Counted:
    """A lowered program that counts how often it is compiled."""

    def __init__(self, lowered, program):
        self.in_tree, self.out_tree, self.as_text, self.program = (
            lowered.in_tree,
            lowered.out_tree,
            lowered.as_text,
            program,
        )
        self.times = 0

    def compile(self):
        self.times += 1
        return self.program


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(compilation, "_own_folder", [tmp_path])
    return tmp_path / "starts"


def test_a_program_is_compiled_once_and_found_under_its_names(lowered, program, folder):
    counted, devices = Counted(lowered, program), jax.devices()[:1]
    first = kept_starts.compiled([counted], devices, {"about": 1})
    assert folder.stat().st_mode & 0o777 == 0o700
    assert kept_starts.load("origin", devices) is None
    kept_starts.give_name(first, "origin")
    again = [kept_starts.compiled([counted], devices, {"about": 1}), kept_starts.load("origin", devices)]
    assert counted.times == 1
    kept_starts.compiled([counted], devices, {"about": 2})
    assert counted.times == 2
    key = jax.random.key(5)
    for each in again:
        assert each.about == {"about": 1}
        assert (each.programs[0](key, 2.0)["drawn"] == program(key, 2.0)["drawn"]).all()


def test_what_cannot_be_read_or_written_is_no_error(lowered, program, folder, monkeypatch):
    counted, devices = Counted(lowered, program), jax.devices()[:1]
    kept = kept_starts.compiled([counted], devices)
    path = folder / f"{kept.name}.start"
    with monkeypatch.context() as changed:  # another user's, in a folder that was open to all
        changed.setattr(os, "getuid", lambda: path.stat().st_uid + 1)
        changed.setattr(compilation, "starts", lambda **_: folder)
        assert kept_starts.load(kept.name, devices) is None
    assert kept_starts.compiled([counted], devices).name == kept.name
    path.write_bytes(path.read_bytes()[:100])
    assert kept_starts.load(kept.name, devices) is None
    assert not path.exists()
    with monkeypatch.context() as changed:
        changed.setattr(pickle, "dumps", lambda content: (_ for _ in ()).throw(OSError("full")))
        assert kept_starts.compiled([counted], devices).name == ""
    with monkeypatch.context() as changed:  # as if it had been read from JAX's cache
        changed.setattr(kept_starts, "OBJECT_CODE", (b"none such",))
        unkept = kept_starts.compiled([counted], devices)
    kept_starts.give_name(unkept, "origin")
    assert not kept_starts.has("origin")
    folder.chmod(0o777)  # others could write code there
    assert compilation.starts() is None
    monkeypatch.setattr(compilation, "_own_folder", [])
    assert kept_starts.compiled([counted], devices).name == ""
    assert kept_starts.load(kept.name, devices) is None


def test_a_program_that_calls_libraries_is_not_kept(folder):
    """LAPACK's functions are found when a program is lowered; without, the process would crash."""
    lowered = jax.jit(jnp.linalg.eigvalsh).lower(jnp.eye(2))
    kept = kept_starts.compiled([lowered], jax.devices()[:1])
    assert (kept.name, list(folder.glob("*.start"))) == ("", [])
    assert (kept.programs[0](jnp.diag(jnp.asarray([3.0, 2.0]))) == jnp.asarray([2.0, 3.0])).all()
    assert not kept_starts.calls_libraries("stablehlo.custom_call @Sharding(%0)\nstablehlo.custom_call @mhlo.topk(%1)")


def test_the_oldest_go(folder):
    folder.mkdir()
    for age in range(4):
        (folder / f"{age}.start").touch()
        os.utime(folder / f"{age}.start", (1000 + age, 1000 + age))
    for name, age in (("old", kept_starts.UNFINISHED + 60), ("new", 0)):  # of killed processes
        (folder / f"{file_io.INCOMPLETE}{name}").touch()
        os.utime(folder / f"{file_io.INCOMPLETE}{name}", (time.time() - age,) * 2)
    kept_starts._tidy(folder, most=2)
    assert {path.name for path in folder.iterdir()} == {"2.start", "3.start", f"{file_io.INCOMPLETE}new"}


def test_whatever_makes_another_program_makes_another_name(monkeypatch, tmp_path):
    name = kept_starts.key({"config": "a"})
    assert name == kept_starts.key({"config": "a"})
    others = [kept_starts.key({"config": "b"})]
    of_text = kept_starts.key({"text": "a"}, traced=True)
    with monkeypatch.context() as changed:
        changed.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
        others.append(kept_starts.key({"config": "a"}))
    with monkeypatch.context() as changed:
        changed.setattr(provenance, "source_hash", lambda: "edited")
        others.append(kept_starts.key({"config": "a"}))
        assert kept_starts.key({"text": "a"}, traced=True) == of_text  # which the source has made
    with monkeypatch.context() as changed:
        changed.setattr(kept_starts, "_versions", lambda: {"jax": "0"})
        others.append(kept_starts.key({"config": "a"}))
    with jax.default_matmul_precision("bfloat16"):
        others.append(kept_starts.key({"config": "a"}))
    for read in ("library_files", "own_files"):  # an edited library; a module that a config file imports
        with monkeypatch.context() as changed:
            changed.setattr(loaded_code, read, lambda *_: {"patches.py": (1, 2)})
            others.append(kept_starts.key({"config": "a"}))
            assert kept_starts.key({"text": "a"}, traced=True) == of_text
    flags = tmp_path / "flags"
    for text in ("--xla_cpu_enable_fast_math=true", "--xla_cpu_enable_fast_math=false"):  # of XLA, in a file
        flags.write_text(text)
        for named in (str(flags), f"--xla_gpu_load_autotune_results_from={flags}"):
            with monkeypatch.context() as changed:
                changed.setenv("XLA_FLAGS", named)
                others.append(kept_starts.key({"config": "a"}))
    with monkeypatch.context() as changed:  # code for CPUs is divided for so many
        changed.setattr(kept_starts, "_cores", lambda: 1000)
        others.append(kept_starts.key({"config": "a"}))
    assert len({name, *others}) == 13
    assert kept_starts._counts("jax_mock_gpu_topology")
    assert not kept_starts._counts("JAX_COMPILATION_CACHE_DIR")
    with monkeypatch.context() as changed:  # where programs lie changes none
        changed.setenv("JAX_COMPILATION_CACHE_DIR", "/elsewhere")
        assert kept_starts.key({"config": "a"}) == name
