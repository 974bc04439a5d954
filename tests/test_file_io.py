"""Files are written whole or not at all; a write or a read that fails is a `UserError` with the file's name."""

import errno
import os
import pathlib
import zipfile

import numpy as np
import pytest

from reid_jax import errors, file_io


def unfinished(folder):
    return [name for name in os.listdir(folder) if name.startswith(file_io.INCOMPLETE)]


def test_what_is_written_is_read(tmp_path):
    file_io.write_text(tmp_path / "a.txt", "ä\udcff\n")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xa4\xff\n"
    file_io.write_json(tmp_path / "b.json", {"b": 1, "a": [2]}, sort_keys=True)
    assert file_io.read_json(tmp_path / "b.json", "a result", "train again") == {"a": [2], "b": 1}
    file_io.write(tmp_path / "c.npz", lambda file: np.savez(file, x=np.arange(3)))
    assert zipfile.is_zipfile(tmp_path / "c.npz")
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "b.json", "c.npz"]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), KeyError("x")]
)
def test_an_interrupted_write_leaves_the_old_content(tmp_path, error):
    path = tmp_path / "result.json"
    path.write_text("old")

    def fill(file):
        file.write(b"half")
        raise error

    wanted = errors.UserError if isinstance(error, OSError) else type(error)
    with pytest.raises(wanted) as caught:
        file_io.write(path, fill, "the result")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["result.json"]
    if isinstance(error, OSError):
        assert str(caught.value) == (
            f"cannot write the result {path} (No space left on device); "
            "free some space on that disk, or write elsewhere."
        )


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyError("x")])
def test_a_file_written_by_path_replaces_the_old_one_when_it_is_whole(tmp_path, error):
    path = tmp_path / "decoded.npy"
    path.write_text("old")

    def fail():
        with file_io.replacing(path) as new:
            new.write_text("half")
            raise error

    with pytest.raises(errors.UserError if isinstance(error, OSError) else KeyError):
        fail()
    assert path.read_text() == "old"
    with file_io.replacing(path) as new:
        new.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["decoded.npy"]
    with (
        pytest.raises(errors.UserError, match="cannot write the cache /dev/null"),
        file_io.replacing("/dev/null", "the cache"),
    ):
        pass


def test_links_and_devices_are_written_through(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    file_io.write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    file_io.write_text("/dev/null", "lost")
    file_io.check_writable("/dev/null")
    assert pathlib.Path("/dev/null").is_char_device()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("no/such/file", "does not exist, make it first"),
        ("folder", "Is a directory"),
        ("file/below", "Not a directory"),
        ("n" * 300, "shorter name"),
        ("zero\0byte", "null"),
    ],
)
def test_places_that_cannot_be_written(tmp_path, name, told):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for attempt in (file_io.check_writable, lambda path: file_io.write_text(path, "x")):
        with pytest.raises(errors.UserError, match=told):
            attempt(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
    with pytest.raises(errors.UserError):
        file_io.make_folder(tmp_path / "file")


def test_any_exception_of_a_reader_is_a_sentence(tmp_path):
    for error in (
        ValueError("bad\nsecond line"),
        KeyError("k"),
        RecursionError("deep"),
        MemoryError(),
        OSError(5, "I/O"),
    ):
        with pytest.raises(errors.UserError) as caught, file_io.reading("f.npz", "a features file", "write it again"):
            raise error
        assert "f.npz" in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(errors.UserError, match="as it is"), file_io.reading("f", "a file", "do"):
        raise errors.UserError("as it is")
    with pytest.raises(KeyboardInterrupt), file_io.reading("f", "a file", "do"):
        raise KeyboardInterrupt


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b'{"a": "\xff"}', b"[" * 100_000, b"\0"])
def test_json_that_is_none(tmp_path, data):
    path = tmp_path / "config.json"
    path.write_bytes(data)
    with pytest.raises(errors.UserError, match=r"config\.json.*restore it"):
        file_io.read_json(path, "the config of a run", "restore it")
    path.write_bytes(b"{   }")
    with pytest.raises(errors.UserError, match="at most 3 bytes"):
        file_io.read_json(path, "the config of a run", "restore it", limit=3)
    with pytest.raises(errors.UserError, match="No such file"):
        file_io.read_json(tmp_path / "none", "the config of a run", "restore it")


def test_left_over_files_are_removed(tmp_path):
    (tmp_path / ".incomplete-1").touch()
    (tmp_path / ".incomplete-folder").mkdir()
    (tmp_path / "kept").touch()
    assert file_io.remove_incomplete(tmp_path) == [".incomplete-1"]
    assert sorted(os.listdir(tmp_path)) == [".incomplete-folder", "kept"]
    assert unfinished(tmp_path) == [".incomplete-folder"]


def test_reasons_are_short_and_on_one_line():
    assert errors.reason(ValueError("a" * 500)).endswith("...")
    assert len(errors.reason(ValueError("a" * 500))) == 160
    assert errors.reason(AssertionError()) == "AssertionError"
    assert errors.reason(KeyError("steps")) == "there is no 'steps'"
    assert errors.reason(OSError(errno.ENOSPC, "No space left on device", "/x")) == "No space left on device"
    assert errors.reason(ValueError("\x1b[31mred\x07.")) == "?[31mred?"
