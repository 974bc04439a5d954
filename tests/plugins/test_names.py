"""Names by path: found in a table or imported; every error is a single sentence."""

import pytest

from reid_jax import errors
from reid_jax.plugins import names

TABLE = {"triplet": 1, "center": 2}


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "sample_project").mkdir()
    (tmp_path / "sample_project" / "__init__.py").touch()
    (tmp_path / "sample_project" / "good.py").write_text("def ring():\n    return 7\n")
    (tmp_path / "sample_project" / "broken.py").write_text("1 / 0\n")
    (tmp_path / "sample_project" / "needy.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_names_of_tables_and_modules(project):
    assert names.find("loss", "center", TABLE) == 2
    assert names.find("loss", "sample_project.good:ring", TABLE)() == 7


@pytest.mark.parametrize("name", ["triplet", "extra/initial", "C:/data", "a:b:c", ":x", "a.:b", "1a:b", 3])
def test_strings_that_are_not_paths(name):
    assert not names.is_path(name)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("triplt", r"unknown loss 'triplt'; did you mean 'triplet'\? known: .*package\.module:Name"),
        ("sample_project.gone:ring", r"expected the module 'sample_project\.gone' of the loss .*cannot be found"),
        ("no_project:ring", r"expected the module 'no_project'"),
        ("sample_project.good:rang", r"unknown loss in the module 'sample_project\.good': 'rang'; did you mean 'ring'"),
        ("sample_project.broken:ring", r"failed with ZeroDivisionError: division by zero; repair"),
        ("sample_project.needy:ring", r"failed with ModuleNotFoundError: No module named 'a_module_that_is_not_there'"),
    ],
)
def test_errors_are_a_single_sentence(project, name, sentence):
    with pytest.raises(errors.UserError, match=sentence) as caught:
        names.find("loss", name, TABLE)
    assert "\n" not in str(caught.value)
