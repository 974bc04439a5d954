"""The page: one HTML file that loads nothing, and talks to its own server only."""

from __future__ import annotations

import pathlib

from reid_jax.evaluation import web_pages

_FOLDER = pathlib.Path(__file__).parent
_POLICY = "connect-src 'self'; base-uri 'none'; form-action 'none'"


def page() -> str:
    """Returns the page; it is the same for every gallery, and holds nothing of it."""
    return web_pages.fill(
        _FOLDER / "search_page.html", {}, _FOLDER / "search_page.js", _FOLDER / "search_page.css", _POLICY
    )
