"""scripts/prepare_dataset.py, from the command line's point of view."""

import sys

import pytest

from reid_jax.cli import command_line, prepare_dataset

SMALL = {"train_identities": 3, "test_identities": 2, "height": 32, "width": 16}


@pytest.fixture
def source(market, tmp_path):
    """A new folder in the layout of Market-1501 at the default location in `tmp_path`."""
    market.write(tmp_path / "market1501", **SMALL)
    return tmp_path / "market1501"


@pytest.fixture
def script(root, capsys, monkeypatch):
    """Runs the script in this process and returns exit code, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["prepare_dataset.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            command_line.run(prepare_dataset.main)
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return run


def test_script_prepares_and_prints_the_table(script, source, tmp_path):
    code, out, err = script("market1501", "--source", source, "--root", tmp_path)
    assert (code, err) == (0, "")
    assert "18 of 12,936" in out
    assert f"prepared in {tmp_path / 'prepared' / 'market1501' / '1.0.0'}" in out
    code, out, _ = script("market1501", "--root", tmp_path)
    assert code == 0
    assert "already prepared" in out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "expected the name of a data set"),
        (("markt1501",), "did you mean 'market1501'"),
        (("market1501",), "there is no such folder"),
        (("market1501", "--option", "seed=1"), "unknown option of data set"),
        (("market1501", "--option", "seed"), "expected an option as key=value"),
        (("reid_folder", "--option", "source=x"), "did you mean --source"),
        (("market1501", "--on-bad-image", "ignore"), "unknown value of --on-bad-image"),
    ],
)
def test_script_ends_with_one_sentence_and_exit_code_2(script, tmp_path, arguments, complaint):
    code, out, err = script(*arguments, "--root", tmp_path)
    assert code == 2
    assert out == ""
    assert complaint in err
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err


def test_script_checks_and_lists(script, source, tmp_path):
    code, out, _ = script("market1501", "--root", tmp_path, "--check")
    assert code == 0
    assert "nothing was written" in out
    assert not (tmp_path / "prepared").exists()
    code, out, _ = script("--list")
    assert code == 0
    assert "market1501" in out.split()
