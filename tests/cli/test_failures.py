"""Failures that are no defect end in one sentence; a defect keeps its traceback."""

import errno
import sys

import jax
import jax.numpy as jnp
import pytest

from reid_jax import errors
from reid_jax.cli import command_line, failures


def caught(function, *arguments):
    try:
        function(*arguments)
    except Exception as error:
        return error
    raise AssertionError("expected an exception")


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    path = tmp_path / "own_losses.py"
    path.write_text(
        "import jax.numpy as jnp\n\n\n"
        "def circle(x):\n    return x @ jnp.zeros((5,))\n\n\n"
        "def spoken(x):\n    raise ValueError('expected\\nmore')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(failures, "PACKAGE", tmp_path.parent / "none")
    monkeypatch.setattr(failures, "_is_own", lambda name: name.startswith(str(tmp_path)))
    import own_losses

    yield own_losses
    del sys.modules["own_losses"]


def test_the_users_file_and_line_are_named(own_module, monkeypatch):
    """Also where the exception comes from a library that the user's code called while it was traced."""
    sentence = failures.explain(caught(jax.jit(own_module.circle), jnp.zeros(3)))
    assert sentence.startswith(f"{own_module.__file__}, line 5, in circle: TypeError: ")
    sentence = failures.explain(caught(jax.jit(own_module.spoken), jnp.zeros(3)))
    assert sentence.startswith(f"{own_module.__file__}, line 9, in spoken: ValueError: expected; correct that code")
    assert "\n" not in sentence
    monkeypatch.setenv(failures.TRACEBACK, "1")
    assert failures.explain(caught(own_module.spoken, 0)) is None


def test_what_is_the_users_own_code(tmp_path):
    assert failures._is_own(str(tmp_path / "losses.py"))
    assert not failures._is_own(errors.__file__)
    assert not failures._is_own(jax.__file__)
    assert not failures._is_own(pytest.__file__)
    assert not failures._is_own("<frozen importlib._bootstrap>")


def test_a_limit_too_low_for_jax_is_a_sentence(monkeypatch):
    for limit, refused in ((failures.resource.RLIM_INFINITY, False), (4 << 30, False), (2 << 30, True)):
        monkeypatch.setattr(failures.resource, "getrlimit", lambda _, limit=limit: (limit, limit))
        if refused:
            with pytest.raises(errors.UserError, match="it is 2048 MB; raise it"):
                failures.check_address_space()
        else:
            failures.check_address_space()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "not enough memory (MemoryError)"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes"), "lower the batch"),
        (ImportError("x.so: failed to map segment from shared object"), "not enough memory"),
        (OSError(errno.ENOSPC, "No space left on device", "/d/x"), "/d/x: No space left on device; free some space"),
        (
            RuntimeError('writing "train": write() failed: File too large; writing x'),
            "raise the limit of the file size",
        ),
        (errors.UserError("as it is."), "as it is."),
    ],
)
def test_memory_and_disk(error, words, monkeypatch):
    monkeypatch.setattr(failures, "_is_own", lambda name: False)
    assert words in failures.explain(error)


def test_a_defect_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(failures, "_is_own", lambda name: False)
    assert failures.explain(KeyError("x")) is None
    assert failures.explain(FileNotFoundError(errno.ENOENT, "No such file", "x")) is None


def test_a_wrong_argument_is_one_sentence():
    parser = command_line.parser("Help.")
    parser.add_argument("--size", type=int)
    for arguments in (["--size", "x"], ["--nope"], ["--size"]):
        with pytest.raises(errors.UserError, match="--help lists the arguments") as found:
            parser.parse_args(arguments)
        assert "usage" not in str(found.value)
