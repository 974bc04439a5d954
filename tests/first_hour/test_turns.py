"""The table of wrong turns: the commands of a first hour are in it, and what counts as a wrong end is noticed."""

import string

from reid_jax.cli import app
from tests.first_hour import turns, wrong_turns


def test_the_commands_of_a_first_hour_have_wrong_turns(tmp_path):
    assert len({turn.command for turn in turns.TURNS}) == len(turns.TURNS) >= 40
    assert len({turn.command.split()[0] for turn in turns.TURNS} & set(app.COMMANDS)) >= 11
    named = {name for turn in turns.TURNS for _, name, _, _ in string.Formatter().parse(turn.command) if name}
    assert named == set(wrong_turns.make(tmp_path)) | {"port"}


def test_wrong_ends_are_noticed():
    turn = turns.Turn("x", "expected a thing", "no thing")
    right = {
        "code": 2,
        "error": "log\nerror: expected a thing; give one.\n",
        "seconds": 9.0,
        "cpu_seconds": 1.0,
        "left": (),
    }
    assert wrong_turns.Outcome(**right).faults(turn) == []
    for change, fault in (
        ({"code": 1}, "exit code"),
        ({"error": "Traceback (most recent call last)\n" + right["error"]}, "traceback"),
        ({"error": right["error"] + "more\n"}, "no sentence at the end"),
        ({"error": "error: first.\n" + right["error"]}, "two sentences"),
        ({"error": "error: something else.\n"}, "another sentence"),
        ({"left": ("runs",)}, "left behind"),
        ({"cpu_seconds": 5.1}, "slow"),
    ):
        assert fault in wrong_turns.Outcome(**{**right, **change}).faults(turn)
