"""Records of the user's modules: which ones a config names, and whether they have changed."""

import sys

import pytest

from reid_jax import errors
from reid_jax.plugins import record


@pytest.fixture
def project(tmp_path, monkeypatch):
    folder = tmp_path / "recorded_project"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "nets.py").write_text("class Tiny: ...\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    yield folder
    forget()


def forget() -> None:
    """Removes the imported modules, as in a new process."""
    for name in [name for name in sys.modules if name.startswith("recorded_project")]:
        del sys.modules[name]


CONFIG = {
    "model": {"name": "recorded_project.nets:Tiny"},
    "phases": {"a": {"losses": {"x": {"loss": "recorded_project:loss", "on": ("feature/b", "batch/camid")}}}},
    "notes": "see some.page:Here",
    "init": {"weights": "extra/initial"},
}


def test_modules_are_found_at_any_depth_except_in_free_text():
    assert record.modules(CONFIG) == ["recorded_project", "recorded_project.nets"]
    assert record.modules({"notes": "a:b", "seed": 0}) == []


def test_recorded_module_is_found_from_another_folder(project, monkeypatch):
    records = record.of(CONFIG)
    assert [each["module"] for each in records] == ["recorded_project", "recorded_project.nets"]
    assert {each["folder"] for each in records} == {str(project.parent)}
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder != str(project.parent)])
    forget()
    record.restore(records)
    assert str(project.parent) in sys.path


def test_changed_or_missing_module_is_refused_in_one_sentence(project, monkeypatch):
    records = record.of(CONFIG)
    (project / "nets.py").write_text("class Tiny: ...  # other\n")
    with pytest.raises(errors.UserError, match=r"'recorded_project\.nets' .* has changed since the run; restore it"):
        record.restore(records)
    (project / "nets.py").unlink()
    with pytest.raises(errors.UserError, match=r"uses the module 'recorded_project\.nets' from .* cannot be found"):
        record.restore(records)
    with pytest.raises(errors.UserError, match=r"expected the module 'recorded_project\.nets' that the config names"):
        record.of(CONFIG)
