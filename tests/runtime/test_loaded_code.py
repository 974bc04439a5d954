"""What runs besides this package: own modules and libraries as they lie on the disk, and edits while a process runs."""

from __future__ import annotations

import importlib.util
import os
import sys
import time

import pytest

from reid_jax.runtime import loaded_code


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    """Imports a file of the user's project under a name, as config files and plugins do."""
    path = tmp_path / "project" / "patches.py"
    path.parent.mkdir()
    path.write_text("scale = 1.0\n")
    spec = importlib.util.spec_from_file_location("patches", path)
    monkeypatch.setitem(sys.modules, "patches", importlib.util.module_from_spec(spec))
    monkeypatch.setattr(sys.modules["__main__"], "__file__", __file__, raising=False)
    return path


def test_an_own_module_counts_with_its_content(loaded, monkeypatch):
    before = loaded_code.own_files()
    assert before[str(loaded)] == loaded_code.state(loaded)
    assert not any(path.startswith(str(loaded_code.PACKAGE)) or "site-packages" in path for path in before)
    loaded.write_text("scale = 2.0\n")  # as long as before, perhaps within the same second
    assert loaded_code.own_files()[str(loaded)] != before[str(loaded)]
    monkeypatch.delattr(sys.modules["__main__"], "__file__")  # a notebook
    assert loaded_code.own_files() is None


def test_an_edit_while_the_process_runs_is_noticed(loaded, monkeypatch):
    assert loaded_code.edited_since_start()  # this process is older than the file
    later = time.time() + 5
    monkeypatch.setattr(loaded_code, "_process_start", lambda: later)
    assert not loaded_code.edited_since_start()
    package = loaded.parent / "package"
    (package / "losses").mkdir(parents=True)
    monkeypatch.setattr(loaded_code, "PACKAGE", package)
    (package / "losses" / "terms.py").write_text("")
    os.utime(package / "losses" / "terms.py", (later + 1, later + 1))
    assert loaded_code.edited_since_start()


def test_the_start_of_the_process_is_known():
    assert 0 <= time.time() - loaded_code._process_start() < 3600 * 24
    assert loaded_code._process_start() <= loaded_code._IMPORTED + 0.05


def test_a_library_edited_in_place_counts(tmp_path, monkeypatch):
    for folder in ("", "layers"):
        (tmp_path / "library" / folder).mkdir(exist_ok=True, parents=True)
        (tmp_path / "library" / folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "library", importlib.import_module("library"))
    before = loaded_code.library_files(("library", "none_such"))
    assert [name for name, *_ in before] == ["library/__init__.py", "library/layers/__init__.py"]
    (tmp_path / "library" / "layers" / "__init__.py").write_text("#")
    assert loaded_code.library_files(("library",)) != before
