"""Help pages and lists: they fit 100 columns, name every choice, and survive a reader that goes away."""

from __future__ import annotations

import importlib
import os

import pytest
from absl import flags

from reid_jax.cli import app, command_line, help_pages, pipes, train
from reid_jax.data import builders
from reid_jax.weights import hub, zoo

COMMANDS = {
    name: importlib.import_module(f"reid_jax.cli.{module}")
    for name, (module, _) in app.COMMANDS.items()
    if name != "train"
}


@pytest.fixture(autouse=True)
def columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_the_terminal(name, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", [f"reid-jax {name}"])
    with pytest.raises(SystemExit) as ended:
        COMMANDS[name].main(["--help"])
    assert ended.value.code == 0
    printed, complaints = capsys.readouterr()
    assert not complaints
    assert max(map(len, printed.splitlines())) <= 100
    assert "Returns" not in printed
    assert "\n    reid-jax " in printed, "an example"


@pytest.mark.parametrize(
    ("name", "arguments", "listed"),
    [
        ("extract", ["--list"], zoo.ZOO),
        ("benchmark", ["--list"], ["train", "infer", "tiny", "mfv_release"]),
        ("ablate", ["--config=configs/bot.py", "--list"], ["demo", "bot_center"]),
        ("prepare-dataset", ["--list"], builders.available()),
        ("weights", ["list"], hub.ENTRIES),
    ],
    ids=["extract", "benchmark", "ablate", "prepare-dataset", "weights"],
)
def test_lists_fit_the_terminal_and_are_complete(name, arguments, listed, capsys, monkeypatch, root):
    monkeypatch.chdir(root)
    assert COMMANDS[name].main(arguments) == 0
    printed, complaints = capsys.readouterr()
    assert not complaints
    # The name of a file to fetch by hand may be longer than a line.
    assert max(len(line) for line in printed.splitlines() if not line.startswith("by hand")) <= 100
    assert not [each for each in listed if each not in printed]


def test_a_table_wraps_its_sentences(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    assert help_pages.table([("a", "bb", "short"), ("name", "b", "word " * 12)]).splitlines() == [
        "a     bb  short",
        "name  b   word word word word word word word word word word",
        "          word word",
    ]


def test_what_nobody_reads_is_dropped():
    """`| head`: the first write after the reader has gone is the last that reaches the pipe; the work goes on."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", buffering=1) as stream:
        output = pipes.Output(stream)
        for _ in range(3):
            assert output.write("a line\n") == 7
        output.flush()
        assert not output.isatty()


def test_help_of_training_names_the_systems(monkeypatch):
    values = flags.FlagValues()
    flags.DEFINE_string("config", None, "Config file. " * 12, flag_values=values)
    monkeypatch.setattr(command_line.flags, "FLAGS", values)
    monkeypatch.setattr("sys.argv", ["reid-jax train"])
    printed = command_line._help_text(train.__doc__, "no.module")
    assert max(map(len, printed.splitlines())) <= 100
    assert "Systems: amfor, bot, cfat, cil, mfv, mgaf, mgn, mim, mspf, osnet, transreid;" in " ".join(printed.split())
    assert "    reid-jax train --config mfv " in printed
