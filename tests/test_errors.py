"""Messages for users."""

from __future__ import annotations

from reid_jax import errors


def test_a_long_value_does_not_fill_the_screen():
    error = errors.unknown("model", "x" * 5000, ["bot", "mfv"])
    assert len(str(error)) < 400
    assert str(error).startswith("unknown model 'xxx")
    assert str(error).endswith("xxx'; known: bot, mfv.")


def test_a_path_stands_whole():
    path = "/".join(["/data", *["a" * 150] * 6])
    assert path in str(errors.UserError(f"{path}: there is no such file."))
