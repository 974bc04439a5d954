"""Fixtures of the data tests."""

import importlib.util
import pathlib

import pytest


@pytest.fixture(scope="session")
def market():
    """The module that writes Market-layout folders (tests/helpers/market_folder.py)."""
    path = pathlib.Path(__file__).resolve().parent.parent / "helpers" / "market_folder.py"
    spec = importlib.util.spec_from_file_location("reid_jax_test_market_folder", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
