"""Servers for the tests of this folder."""

import pytest

from tests.app import client, drawn_gallery


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """A server for tests that change nothing."""
    folder = tmp_path_factory.mktemp("secret place")
    with drawn_gallery.made(folder / "people.gallery") as opened, client.served(opened) as served:
        yield served


@pytest.fixture
def fresh(tmp_path):
    with drawn_gallery.made(tmp_path / "people.gallery") as opened, client.served(opened) as served:
        yield served
