"""HTML pages of one file: they need nothing but a browser, load nothing, and run no script but their own.

Names of files, people and settings may come from elsewhere: they enter a page as text (`escaped`) or as data of its
script (`data_block`). A content security policy forbids everything else, foreign scripts and the network included.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import html
import json
import pathlib
import re
import time
from collections.abc import Mapping
from typing import Any

_FOLDER = pathlib.Path(__file__).parent
_LONGEST = 300  # characters of a text from elsewhere


def escaped(text: object) -> str:
    """Returns text for an element or a quoted attribute, on one line and shortened where it is very long."""
    return html.escape(plain(text))


def plain(text: object) -> str:
    """Returns text on one line, shortened where it is very long; letters that no file can hold are question marks."""
    whole = " ".join(str(text)[: 2 * _LONGEST].encode("utf-8", "replace").decode("utf-8").split())
    return whole if len(whole) <= _LONGEST else f"{whole[: _LONGEST - 1]}…"


def data_block(value: Any) -> str:
    """Returns a JSON value for a `<script type="application/json">`, in ASCII and without a letter that ends it."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def fill(
    template: pathlib.Path,
    values: Mapping[str, str],
    script: pathlib.Path | None = None,
    style: pathlib.Path | None = None,
    allowed: str = "",
) -> str:
    """Returns the page of a template with the style that all pages share.

    Args:
        template: HTML with placeholders such as `<!--TITLE-->`.
        values: HTML by placeholder; exactly those of the template.
        script: its script, if any.
        style: a style of its own after the shared one, if any.
        allowed: further directives of the content security policy, such as `connect-src 'self'`.
    """
    shared = (_FOLDER / "page_style.css").read_text(encoding="utf-8")
    look = shared + (style.read_text(encoding="utf-8") if style else "")
    code = script.read_text(encoding="utf-8") if script else ""
    policy = f"default-src 'none'; img-src data:; style-src '{_digest(look)}'"
    policy += f"; script-src '{_digest(code)}'" if code else ""
    policy += f"; {allowed}" if allowed else ""
    every = {**values, "POLICY": policy, "STYLE": look, "SCRIPT": code}
    # One pass, so that a placeholder within a value stays what it is: text.
    return re.sub(r"<!--([A-Z]+)-->", lambda match: every[match[1]], template.read_text(encoding="utf-8"))


def policy_of(page: str) -> str:
    """Returns the content security policy of a page of `fill`, for the header of a server."""
    return html.unescape(page.partition('Content-Security-Policy" content="')[2].partition('"')[0])


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def facts(values: Mapping[str, object]) -> str:
    """Returns a line of facts, such as run, model and date; empty ones are left out."""
    return "".join(f"<li>{escaped(name)} <b>{escaped(value)}</b></li>" for name, value in values.items() if value)


def tiles(values: Mapping[str, float]) -> str:
    """Returns scores as large numbers.

    Args:
        values: fractions by name.
    """
    return "".join(
        f'<div class="tile"><dt>{escaped(name)}</dt><dd>{100 * value:.1f}<small> %</small></dd></div>'
        for name, value in values.items()
    )


def today() -> str:
    """Returns the date for a headline, see `moment`."""
    return moment(time.time())


def moment(seconds: float) -> str:
    """Returns a time since 1970 as text, such as "28 November 2026, 10:30 UTC"; empty where no calendar has it.

    >>> moment(0.0)
    '1 January 1970, 00:00 UTC'
    """
    try:
        date = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    except (ValueError, OverflowError, OSError):
        return ""
    return f"{date.day} {date:%B %Y, %H:%M} UTC"
