"""The page in a real browser, where one is installed: a machine without Chromium has no such test."""

from __future__ import annotations

import dataclasses

from reid_jax.app import access, serving
from tests.app import drawn_gallery
from tests.pages import browser, search

if browser.PROGRAM is not None:

    def test_the_page_in_a_browser(tmp_path):
        """Search, filters, explanation, additions, removals and refusals, by mouse and keyboard."""
        image, large = tmp_path / "crop.png", tmp_path / "large.png"
        image.write_bytes(drawn_gallery.file(drawn_gallery.picture(0)))
        large.write_bytes(bytes(200_001))
        limits = dataclasses.replace(serving.Settings().limits, body=200_000)
        token = access.new_token()
        settings = serving.Settings(port=0, user="kim", limits=limits, tokens={"kim": token})
        opened, engine = drawn_gallery.made(tmp_path / "people.gallery"), drawn_gallery.Stripes()
        with (
            opened,
            serving.running(opened, engine, settings) as (_, address),
            browser.Browser(browser.PROGRAM) as chromium,
        ):
            search.walk(chromium.open(address), image, large, drawn_gallery.HOSTILE, token)
        events = [line["event"] for line in opened.log.lines()]
        assert events[:4] == ["add", "calibrate", "serve", "query"]
        assert events[-3:] == ["query", "remove", "stop serving"]
        assert {line["who"] for line in opened.log.lines()} == {"kim"}
