"""The package as others get it: a wheel with everything in it, used away from the checkout."""

from __future__ import annotations

import configparser
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).resolve().parents[2]
PARTS = ("reid_jax", "configs", "datasets", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> pathlib.Path:
    """The wheel, built by the declared backend from a copy (a build leaves files beside its sources)."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, source / part)
    build = "import setuptools.build_meta as backend, sys; print(backend.build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(folder)], cwd=source, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> pathlib.Path:
    """The unpacked wheel: what `site-packages` gets."""
    folder = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def command(installed: pathlib.Path, cwd: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`reid-jax ...` in another folder, with the unpacked wheel alone on the path (before an editable install)."""
    start = (
        "import sys, reid_jax, reid_configs, reid_datasets; "
        f"assert all(m.__path__[0].startswith({str(installed)!r}) for m in (reid_jax, reid_configs, reid_datasets)); "
        "sys.argv[0] = 'reid-jax'; from reid_jax.cli import app; app.main()"
    )
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, "-c", start, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def names_of(folder: str, pattern: str) -> set[str]:
    """Files of the checkout below a folder, relative to it."""
    root = ROOT / folder
    return {path.relative_to(root).as_posix() for path in root.rglob(pattern) if "__pycache__" not in path.parts}


@pytest.mark.parametrize(
    ("folder", "package", "patterns"),
    [
        ("reid_jax", "reid_jax", ("*.py", "*.html", "*.css", "*.js", "*.tsv", "py.typed")),
        ("configs", "reid_configs", ("*.py",)),
        ("datasets", "reid_datasets", ("*.py", "*.md", "*.bib", "*.tsv", "dataset.toml")),
    ],
)
def test_wheel_holds_every_file(wheel, folder, package, patterns):
    packed = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"{package}/{name}" for pattern in patterns for name in names_of(folder, pattern)}
    assert expected
    assert not expected - packed


def test_wheel_holds_nothing_else(wheel):
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"reid_jax", "reid_configs", "reid_datasets"}


def test_metadata(wheel):
    with zipfile.ZipFile(wheel) as packed:
        metadata, entry_points = (
            next(packed.read(name).decode() for name in packed.namelist() if name.endswith(f".dist-info/{file}"))
            for file in ("METADATA", "entry_points.txt")
        )
    parser = configparser.ConfigParser()
    parser.read_string(entry_points)
    assert parser["console_scripts"]["reid-jax"] == "reid_jax.cli.app:main"
    assert "License-Expression: MIT" in metadata
    assert "Classifier: Typing :: Typed" in metadata
    assert "Keywords: " in metadata


def test_configs_go_by_name(installed, tmp_path):
    done = command(installed, tmp_path, "train", "--config", "mfv:help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("mfv: --config mfv[:")
    assert {"market1501", "mfv_sdfa"} <= set(done.stdout.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flag", ["--config=mfv:demo", "--config=mfv:demo,mfv_base"])
def test_flags_read_a_config_by_name(installed, tmp_path, flag):
    # The flag's library opens files only; a misspelled mode is refused after the config was read.
    done = command(installed, tmp_path, "train", flag, "--config.train.epochs=0.1", "--mode=trian")
    assert done.returncode == 2
    assert "trian" in done.stderr
    assert "Traceback" not in done.stderr


def test_examples_in_help_can_be_typed(installed, tmp_path):
    for arguments in (("train", "--help"), ("train", "--config", "mfv", "--help"), ("evaluate", "--help")):
        done = command(installed, tmp_path, *arguments)
        assert done.returncode == 0, done.stderr
        assert f"    reid-jax {arguments[0]} " in done.stdout
        assert "scripts/" not in done.stdout
        assert "configs/" not in done.stdout
    assert "--workdir" in command(installed, tmp_path, "train", "--help").stdout


def test_data_sets_are_found(installed, tmp_path):
    done = command(installed, tmp_path, "prepare-dataset", "--list")
    assert done.returncode == 0, done.stderr
    assert set(names_of("datasets", "dataset.toml")) != set()
    assert {"market1501", "synthped", "occluded_duke"} <= set(done.stdout.split())


def test_own_code_is_imported_from_the_current_folder(installed, tmp_path):
    (tmp_path / "my_project.py").write_text("def angular(x, y):\n    return x @ y.T\n\n\nwidth = 3\n")
    common = ("evaluate", "--features", "absent.npz", "--metric")
    done = command(installed, tmp_path, *common, "my_project:angular")
    assert "expected a features file (.npz) as --features, found nothing at absent.npz" in done.stderr
    done = command(installed, tmp_path, *common, "my_project:width")
    assert "to be a function" in done.stderr
