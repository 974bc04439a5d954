"""Scripts at the wrong turns: one sentence on stderr, exit code 2, no traceback, nothing half-written."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest

from reid_jax import errors
from reid_jax.cli import command_line

ROOT = pathlib.Path(__file__).resolve().parents[2]


def script(name: str, *arguments: str, cwd: pathlib.Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Runs a script as a user does."""
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / name), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "expected --config FILE"),
        (("--config=configs/mfv.py:dem",), "unknown preset 'dem'; did you mean 'demo'?"),
        (
            ("--config=configs/mfv.py", "--config.optimizer.lerning_rate=1"),
            "unknown config key 'optimizer.lerning_rate'; did you mean 'optimizer.learning_rate'?",
        ),
        (("--config=configs/mfv.py", "--config.train.epochs=many"), "train.epochs"),
        (("--config=configs/mfv.py", "--wrokdir=x"), "wrokdir"),
        (("--config=configs/mfv.py", "market1501"), "expected flags only"),
    ],
    ids=["no config", "preset", "key", "value", "flag", "positional"],
)
def test_main_answers_mistakes(arguments, sentence, tmp_path):
    ended = script("main.py", *arguments)
    assert ended.returncode == 2, ended.stderr
    assert sentence in ended.stderr
    assert "Traceback" not in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_main_help_lists_presets_and_variants():
    ended = script("main.py", "--config=configs/mfv.py:help")
    assert ended.returncode == 0
    assert {"market1501", "mfv_sdfa", "mfv_release"} <= set(ended.stdout.split())


PRINT_CONFIG = """
import sys
from reid_jax.cli import app
sys.argv = ["main.py", "--config=configs/mfv.py:market1501,mfv_sdfa", "--config.train.epochs=3", "--print_config"]
try:
    app.run("train")
except SystemExit as ended:
    assert "jax" not in sys.modules
    sys.exit(ended.code)
"""


def test_print_config_shows_the_resolved_values_without_loading_jax():
    ended = subprocess.run(
        [sys.executable, "-c", PRINT_CONFIG], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr
    printed = json.loads(ended.stdout)
    assert (printed["preset"], printed["variants"]) == ("market1501", ["mfv_sdfa"])
    assert (printed["train"]["epochs"], printed["model"]["attention"]) == (3.0, "none")
    assert not (ROOT / "runs" / "mfv-market1501-mfv_sdfa").exists()


@pytest.mark.parametrize(
    ("raised", "code"), [(errors.UserError("no such file"), 2), (None, 0)], ids=["mistake", "fine"]
)
def test_run_turns_mistakes_into_exit_codes(raised, code, capsys, monkeypatch):
    def main(arguments: list[str]) -> None:
        if raised:
            raise raised

    with pytest.raises(SystemExit) as ended:
        command_line.run(main)
    assert ended.value.code == code
    assert capsys.readouterr().err == ("error: no such file\n" if raised else "")


def test_options_are_literals_or_text():
    assert command_line.parse_options(["size=demo", "seed=3", "stages=(1,2)"]) == {
        "size": "demo",
        "seed": 3,
        "stages": (1, 2),
    }
    with pytest.raises(errors.UserError, match="key=value"):
        command_line.parse_options(["size"])
