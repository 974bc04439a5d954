"""The example project of the documentation, outside the checkout: trained, killed, resumed, evaluated, extracted."""

from __future__ import annotations

import json
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from reid_jax import errors
from reid_jax.cli import evaluate
from reid_jax.train import checkpoints
from tests.helpers import tiny

pytestmark = pytest.mark.slow

EXAMPLE = tiny.ROOT / "docs" / "examples" / "own_system"


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "project"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def start(command: str, *arguments: str, cwd: pathlib.Path) -> subprocess.Popen[str]:
    """Starts `reid-jax COMMAND` in a separate process with one device."""
    shell = "from reid_jax.cli import app; app.main()"
    return tiny.start_python(["-c", shell, command, *arguments], cwd=cwd)


def finished(command: str, *arguments: str, cwd: pathlib.Path) -> tuple[int, str, str]:
    return tiny.finish(start(command, *arguments, cwd=cwd))


def test_own_system_is_trained_killed_resumed_evaluated_and_extracted(project, tmp_path, monkeypatch):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    elsewhere.mkdir()
    train = ("train", "--config=tiny.py", f"--workdir={run}")

    process = start(*train, "--config.checkpoint.every_steps=1", cwd=project)
    end = time.monotonic() + 120
    while max(checkpoints.steps(run / "checkpoints"), default=0) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)
    process.kill()
    assert tiny.finish(process)[0] == -signal.SIGKILL

    code, _, err = finished(*train, cwd=project)
    assert code == 0, err
    assert "resumed at step" in err
    result = json.loads((run / "result.json").read_text())
    assert result["steps"] == 80
    # Eight people in three colored stripes: a network that learned anything ranks them far above chance (about 1 / 8).
    assert result["people/mAP"] > 0.5
    assert 0 < result["people/hit_at_3"] <= 1
    recorded = json.loads((run / "config.json").read_text())["code"]
    assert {each["module"] for each in recorded} == {
        f"my_project.{name}" for name in ("data", "losses", "metrics", "nets")
    }

    # From another working directory.
    commands = (
        ("evaluate", f"--run={run}", f"--output={tmp_path / 'again.json'}"),
        ("extract", f"--run={run}", f"--output={tmp_path / 'people.npz'}"),
    )
    calls = "; ".join(f"{name}.main({arguments!r})" for name, *arguments in commands)
    both = tiny.start_python(["-c", f"from reid_jax.cli import evaluate, extract; {calls}"], cwd=elsewhere)
    code, _, err = tiny.finish(both)
    assert code == 0, err
    assert json.loads((tmp_path / "again.json").read_text())["people/mAP"] == pytest.approx(result["people/mAP"])
    with np.load(tmp_path / "people.npz") as file:
        assert file["query_features"].shape == (8, 32)
        assert file["gallery_features"].shape == (64, 32)

    # A changed or missing module is reported in one sentence with exit code 2 by every command.
    losses = project / "my_project" / "losses.py"
    losses.write_text(losses.read_text() + "\n# another version\n")
    code, _, err = finished(*train, cwd=project)
    assert (code, "Traceback" in err) == (2, False)
    assert "has changed since the run" in err
    monkeypatch.setattr(sys, "path", list(sys.path))
    for damage, message in ((None, "has changed since the run"), (shutil.rmtree, "cannot be found")):
        if damage:
            damage(project / "my_project")
            sys.modules.pop("my_project", None)
        with pytest.raises(errors.UserError, match=message):
            evaluate.main([f"--run={run}"])


def test_page_on_extending_quotes_existing_files():
    """Every file that the page quotes exists in the example project."""
    page = (tiny.ROOT / "docs" / "extending.md").read_text()
    quoted = [line.split('"')[1] for line in page.splitlines() if line.startswith('--8<-- "')]
    assert len(quoted) >= 5
    assert not [name for name in quoted if not (tiny.ROOT / "docs" / "examples" / name.partition(":")[0]).is_file()]
