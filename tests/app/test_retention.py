"""Retention is kept at the start and while the server runs."""

import time

from reid_jax.app import retention
from tests.app import drawn_gallery
from tests.app.client import WHY, image, served


def test_retention_is_kept_while_serving(fresh):
    assert fresh.post("add", image(51), keep="1s")[0] == 200
    assert fresh.gallery.snapshot().count == 13
    end = time.monotonic() + 5
    while fresh.gallery.log.lines()[-1]["event"] != "expire" and time.monotonic() < end:  # written after the removal
        time.sleep(0.05)
    assert fresh.gallery.store.details([13]) == []
    line = fresh.gallery.log.lines()[-1]
    assert (line["event"], line["who"], line["ids"]) == ("expire", retention.WHO, [[13, 13]])


def test_expired_entries_are_swept_at_the_start(tmp_path):
    with drawn_gallery.made(tmp_path / "people.gallery") as opened:
        new = drawn_gallery.described(["old"], [drawn_gallery.picture(60)]).entries()
        opened.add(new, drawn_gallery.BINDING, keep=-1.0)
        with served(opened, sweep=60.0) as client:
            assert opened.store.details([13]) == []
            assert client.post("search", image(60), **WHY)[1]["looked_at"] == 12
