"""The slow numpy versions, for every test of the evaluation."""

import importlib.util
import pathlib

import pytest


@pytest.fixture(scope="session")
def twins():
    """The module `twins.py` beside this file."""
    spec = importlib.util.spec_from_file_location("twins", pathlib.Path(__file__).with_name("twins.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
