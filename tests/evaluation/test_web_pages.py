"""What enters a page from elsewhere stays text; the page says itself what it may run and load."""

import base64
import hashlib
import json
import re

import pytest

from reid_jax.evaluation import web_pages

HOSTILE = "</script><script>alert(1)</script>&\"'<!--TITLE-->\u2028\ud800\x00" + "x" * 5000


@pytest.fixture
def page(tmp_path):
    (tmp_path / "one.html").write_text(
        '<meta content="<!--POLICY-->"><style><!--STYLE--></style><h1><!--TITLE--></h1><!--DATA-->'
        "<script><!--SCRIPT--></script>"
    )
    (tmp_path / "one.js").write_text("let a = 1 < 2;")
    values = {"TITLE": web_pages.escaped(HOSTILE), "DATA": web_pages.data_block([HOSTILE])}
    return web_pages.fill(tmp_path / "one.html", values, script=tmp_path / "one.js")


def test_hostile_text_stays_text(page):
    assert page.count("<script>") == page.count("</script>") == 1
    title = re.search(r"<h1>(.*)</h1>", page)[1]
    assert "<" not in title
    assert len(title) < 600
    title.encode("utf-8")
    assert json.loads(web_pages.data_block([HOSTILE])) == [HOSTILE]
    assert not set(web_pages.data_block([HOSTILE])) & set("<>&\u2028\ud800")
    assert web_pages.plain("a\n b\u202e") == "a b\u202e"
    assert "&lt;b&gt;" in web_pages.facts({"run": "<b>", "step": ""})
    assert "step" not in web_pages.facts({"run": "<b>", "step": ""})


def test_policy_allows_the_page_itself_and_nothing_else(page):
    policy = re.search(r'content="([^"]*)"', page)[1]
    assert policy.startswith("default-src 'none'; img-src data:;")
    for kind, pattern in (("style", r"<style>(.*?)</style>"), ("script", r"<script>(.*?)</script>")):
        text = re.search(pattern, page, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
