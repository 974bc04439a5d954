"""Scripts started outside the project's environment."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHELLS = sorted(
    path.name
    for path in (ROOT / "scripts").glob("*.py")
    if path.name != "environment.py" and "import environment" in path.read_text()
)


@pytest.mark.parametrize("name", ["main.py", "evaluate.py", "prepare_dataset.py"])
def test_a_missing_environment_is_one_sentence(name):
    # -S: no site-packages; -E: no PYTHONPATH.
    done = subprocess.run(
        [sys.executable, "-S", "-E", str(ROOT / "scripts" / name), "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert "has no jax" in done.stderr
    assert "`make env` once and `. .venv/bin/activate`" in done.stderr


def test_every_command_has_a_shell_that_looks_first():
    from reid_jax.cli import app

    expected = {f"{module}.py" for module, _ in app.COMMANDS.values()} - {"train.py"} | {"main.py"}
    assert set(SHELLS) == expected
    for name in SHELLS:
        lines = [line for line in (ROOT / "scripts" / name).read_text().splitlines() if "import" in line]
        assert lines[0].startswith("import environment")
