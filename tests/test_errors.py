"""Messages for users."""

from __future__ import annotations

import csv
import json
import zipfile

import pytest

from reid_jax import errors, file_io


def test_a_long_value_does_not_fill_the_screen():
    error = errors.unknown("model", "x" * 5000, ["bot", "mfv"])
    assert len(str(error)) < 400
    assert str(error).startswith("unknown model 'xxx")
    assert str(error).endswith("xxx'; known: bot, mfv.")


def test_a_path_stands_whole():
    path = "/".join(["/data", *["a" * 150] * 6])
    assert path in str(errors.UserError(f"{path}: there is no such file."))


def _raised(function, *arguments):
    with pytest.raises(Exception) as caught:
        function(*arguments)
    return caught.value


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (_raised(b"\xff".decode), "it is no text in UTF-8"),
        (_raised(json.loads, '{"a": 1,\n}'), "it is no valid JSON from line 2, column 1 on"),
        (csv.Error("line contains NUL"), "it is no table of comma-separated values"),
        (zipfile.BadZipFile("Bad magic number"), "it is no complete zip archive"),
        (EOFError("No data left in file"), "it ends early"),
        (_raised({}.__getitem__, "train"), "there is no 'train'"),
        (_raised([1].__getitem__, "a"), "its content has another form"),
        (_raised(int, "x"), "its content has another form"),
        (RecursionError("maximum recursion depth exceeded"), "it is nested too deeply"),
        (errors.MalformedError("a storage is cut short"), "a storage is cut short"),
        (PermissionError(13, "Permission denied"), "Permission denied"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_faults_of_foreign_files_are_not_in_pythons_words(error, words):
    assert errors.fault(error) == words
    with pytest.raises(errors.UserError) as told, file_io.reading("x", "a table", "copy it again"):
        raise error
    assert str(told.value) == f"expected a table at x, it cannot be read ({words}); copy it again."


def test_of_very_many_names_those_near_the_unknown_one_are_shown():
    names = [f"section.key_{number}" for number in range(200)]
    message = str(errors.unknown("config key", "section.kye_17", names))
    assert "200 are known, near it: " in message
    assert "section.key_17" in message
    assert len(message) < 400
