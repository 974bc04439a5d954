"""Kept programs: which folder, what is said, and what is removed; JAX itself is not started here."""

from __future__ import annotations

import os
import pathlib

import jax
import pytest

from reid_jax import errors
from reid_jax.runtime import compilation

MACHINE = compilation.machine_name()


@pytest.fixture(autouse=True)
def no_notice():
    """What this process says of its own programs stays as it was."""
    before = compilation._notice[:], compilation._is_news[:]
    yield
    compilation._notice[:], compilation._is_news[:] = before


def kept_in(environment: dict[str, str]) -> str | None:
    """The folder that JAX would use."""
    on = environment.get(compilation.ENABLE, "true") != "false"
    return environment.get(compilation.FOLDER) if on else None


def test_by_default_programs_are_kept_in_the_users_cache(tmp_path):
    environment = {"XDG_CACHE_HOME": str(tmp_path)}
    said = compilation.keep(None, environment)
    folder = tmp_path / "reid_jax" / "programs" / MACHINE
    assert kept_in(environment) == str(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert environment["JAX_COMPILATION_CACHE_MAX_SIZE"] == str(compilation.LIMIT)
    assert str(folder) in said
    assert said == compilation.notice() == compilation.news()
    assert compilation.keep(None, {"XDG_CACHE_HOME": str(tmp_path)}) == said
    assert compilation.news() == ""  # said once per folder
    relative = compilation.default_folder({"XDG_CACHE_HOME": "cache"})  # the standard has such a value ignored
    assert relative == pathlib.Path.home() / ".cache" / "reid_jax" / "programs"


@pytest.mark.parametrize(
    ("given", "variables", "folder"),
    [
        ("off", {}, None),
        (None, {compilation.VARIABLE: "off"}, None),
        (None, {compilation.ENABLE: "false"}, None),
        ("off", {compilation.FOLDER: "/theirs"}, None),
        (None, {compilation.FOLDER: "/theirs"}, "/theirs"),
        ("on", {compilation.FOLDER: "/theirs"}, "/theirs"),
        ("{tmp}/mine", {compilation.FOLDER: "/theirs"}, "{tmp}/mine/" + MACHINE),
        ("{tmp}/mine", {compilation.VARIABLE: "off", compilation.ENABLE: "false"}, "{tmp}/mine/" + MACHINE),
        (None, {compilation.VARIABLE: "{tmp}/mine"}, "{tmp}/mine/" + MACHINE),
        ("gs://bucket/programs", {}, "gs://bucket/programs"),
    ],
)
def test_the_flag_comes_first_then_our_variable_then_jaxs(given, variables, folder, tmp_path):
    fill = lambda text: text and text.replace("{tmp}", str(tmp_path))
    environment = {"XDG_CACHE_HOME": str(tmp_path)} | {name: fill(value) for name, value in variables.items()}
    said = compilation.keep(fill(given), environment)
    assert kept_in(environment) == fill(folder)
    assert ("not kept" in said) == (folder is None)
    if folder == "/theirs":
        assert "JAX_COMPILATION_CACHE_MAX_SIZE" not in environment


def test_a_place_that_cannot_be_used_is_no_error_unless_it_was_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    environment = {"XDG_CACHE_HOME": str(tmp_path / "file")}
    assert "compiled programs are not kept (" in compilation.keep(None, environment) == compilation.news()
    assert kept_in(environment) is None
    with pytest.raises(errors.UserError, match="expected a folder that can be written"):
        compilation.keep(str(tmp_path / "file"), {})
    folder = tmp_path / "reid_jax" / "programs" / MACHINE
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    assert "other users" in compilation.keep(None, {"XDG_CACHE_HOME": str(tmp_path)})
    folder.chmod(0o700)
    monkeypatch.setattr(compilation, "LEAST_FREE", 1 << 62)
    assert "free" in compilation.keep(None, {"XDG_CACHE_HOME": str(tmp_path)})
    monkeypatch.setattr(pathlib.Path, "expanduser", lambda path: (_ for _ in ()).throw(RuntimeError("no home")))
    assert "no home" in compilation.keep(None, {})


def test_unfinished_and_old_programs_are_removed(tmp_path, monkeypatch):
    folder = tmp_path / MACHINE
    folder.mkdir(mode=0o700)
    for age, name in enumerate(("a-cache", "a-atime", "b-cache", "b-atime", "half-cache", "lost-atime", "other")):
        (folder / name).write_bytes(b"x")
        os.utime(folder / name, (1000 + age, 1000 + age))
    compilation.keep(str(tmp_path), {})
    assert {path.name for path in folder.iterdir()} - {".lockfile"} == {
        *("a-cache", "a-atime", "b-cache", "b-atime", "other")
    }
    monkeypatch.setattr(compilation._tidy, "__defaults__", (1,))
    compilation.keep(str(tmp_path), {})
    assert {path.name for path in folder.glob("*-*")} == {"b-cache", "b-atime"}


@pytest.mark.parametrize("flag", ["--compilation_cache=off", "--compilation-cache=off", "--compilation_cache off"])
def test_the_flag_is_taken_from_any_place(flag):
    assert compilation.taken_from(["query", *flag.split(), "--x"]) == ("off", ["query", "--x"])
    assert compilation.taken_from(["query", "--x=1"]) == (None, ["query", "--x=1"])
    for arguments in (["--compilation_cache"], ["--compilation_cache="], ["--compilation_cache", "--config=x"]):
        with pytest.raises(errors.UserError, match="got no value"):
            compilation.taken_from(arguments)


def test_the_package_changes_no_setting_of_jax():
    assert jax.config.jax_compilation_cache_dir == os.environ["JAX_COMPILATION_CACHE_DIR"]
    assert jax.config.jax_compilation_cache_max_size == -1
