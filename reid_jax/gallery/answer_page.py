"""The answers of a gallery as one HTML file with pictures, which loads nothing and runs no script."""

from __future__ import annotations

import base64
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from reid_jax import file_io
from reid_jax.data import image_io
from reid_jax.evaluation import thumbnails, web_pages
from reid_jax.gallery import answers, intake
from reid_jax.gallery import entries as entries_lib
from reid_jax.gallery import gallery as gallery_lib

MOST = 500  # queries on a page
_TEMPLATE = pathlib.Path(__file__).with_name("answers.html")


def write(
    path: str | pathlib.Path,
    opened: gallery_lib.Gallery,
    replies: Sequence[answers.Answer],
    *,
    picture: Callable[[int], np.ndarray] | None = None,
    chosen: entries_lib.Filter | None = None,
    facts: Mapping[str, str] | None = None,
) -> pathlib.Path:
    """Writes a page and returns its path.

    Args:
        path: the HTML file; its folder is made.
        opened: the gallery, for thumbnails.
        replies: the answers, of which the first 500 are shown.
        picture: from the number of an answer to its query, uint8 [H, W, 3]; None leaves queries without pictures.
        chosen: the filter, in words on the page.
        facts: further facts for the headline, such as who asked and why.

    Raises:
        UserError: the file cannot be written.
    """
    path = pathlib.Path(path)
    shown = replies[:MOST]
    pictures = _Pictures(opened)
    cards = "".join(_card(reply, pictures, picture and picture(number)) for number, reply in enumerate(shown))
    about = {"gallery": opened.name, "model": opened.binding.name, **(facts or {}), "made": web_pages.today()}
    page = web_pages.fill(
        _TEMPLATE,
        {
            "TITLE": web_pages.escaped(replies[0].query if len(replies) == 1 else f"{len(replies):,} queries"),
            "ABOUT": web_pages.facts(about),
            "NOTES": "".join(f"<li>{note}</li>" for note in _notes(replies, chosen, pictures.full)),
            "CARDS": cards,
        },
    )
    file_io.make_folder(path.parent, "the folder of the page")
    file_io.write_text(path, page, "the page of answers")
    return path


class _Pictures:
    """Thumbnails as text of a page, within a budget for all of them."""

    def __init__(self, opened: gallery_lib.Gallery) -> None:
        self._opened, self._known, self._left = opened, dict[int, str](), thumbnails.BUDGET

    @property
    def full(self) -> bool:
        """Whether the budget is used up."""
        return self._left <= 0

    def of_entry(self, id: int) -> str:
        """Returns the picture of an entry as HTML; entries may have none."""
        if id not in self._known:
            self._known[id] = self._text(self._opened.thumbnail(id))
        return self._known[id]

    def of_query(self, image: np.ndarray | None) -> str:
        """Returns the picture of a query as HTML."""
        return self._text(None if image is None else thumbnails.encode(image, intake.THUMBNAIL))

    def _text(self, data: bytes | None) -> str:
        kind = _kind(data) if data and not self.full else None
        if data is None or kind is None:
            return '<div class="blank">no picture</div>'
        self._left -= len(data)
        text = base64.b64encode(data).decode("ascii")
        return f'<img src="data:image/{kind};base64,{text}" alt="" decoding="async">'


def _kind(data: bytes) -> str | None:
    """Returns the kind of an encoded picture that browsers show, None for other bytes."""
    found = next((name for name, (fits, _) in image_io.FORMATS.items() if fits(data)), None)
    return found.lower() if found in ("JPEG", "PNG", "WebP") else None


def _notes(replies: Sequence[answers.Answer], chosen: entries_lib.Filter | None, full: bool) -> list[str]:
    notes = [f"{min(reply.looked_at for reply in replies):,} entries looked at"]
    if chosen is not None and chosen.text():
        notes.append(f"only entries {web_pages.escaped(chosen.text())}")
    if replies[0].group != "entry":
        notes.append(f"the nearest entry of each {replies[0].group}")
    if replies[0].hits and replies[0].hits[0].reranked is not None:
        notes.append("the nearest entries are re-ranked among themselves")
    threshold = replies[0].threshold
    notes.append(
        "no threshold: every query has an answer" if threshold is None else web_pages.escaped(threshold.text())
    )
    if len(replies) > MOST:
        notes.append(f"<b>{MOST:,} of {len(replies):,} queries are on this page</b>")
    if full:
        notes.append("further pictures are left out, to bound the size of this file")
    return notes


def _card(reply: answers.Answer, pictures: _Pictures, image: np.ndarray | None) -> str:
    verdict = {None: "", True: "nobody in the gallery", False: "found"}[reply.nobody]
    facts = {"answer": verdict, "looked at": f"{reply.looked_at:,} entries"}
    if reply.images > 1:
        facts["images"] = f"{reply.images} vote"
    lines = "".join(f"<dt>{name}</dt><dd>{web_pages.escaped(value)}</dd>" for name, value in facts.items() if value)
    name = web_pages.escaped(reply.query)
    hits = "".join(f"<li>{_hit(hit, place + 1, reply.images, pictures)}</li>" for place, hit in enumerate(reply.hits))
    return (
        f'<article class="card" aria-label="query {name}"><div class="query-facts"><figure class="query">'
        f'{pictures.of_query(image)}</figure><dl>{lines}<dd class="name">{name}</dd></dl></div>'
        f'<ol class="answers">{hits}</ol></article>'
    )


def _hit(hit: answers.Hit, rank: int, images: int, pictures: _Pictures) -> str:
    entry = hit.entry
    distance = f"{hit.distance:.3f}" if hit.distance < 1e6 else "∞"
    lines = [f"<b>{distance}{' match' if hit.accepted else ''}</b>"]
    lines.append(f"<span>{web_pages.escaped(_person(entry.identity))}</span>")
    if entry.camera:
        lines.append(f"<span>camera {web_pages.escaped(entry.camera)}</span>")
    if entry.time is not None:
        lines.append(f"<span>{web_pages.escaped(str(entries_lib.iso(entry.time)).replace('T', ' '))}</span>")
    if entry.track:
        lines.append(f"<span>track {web_pages.escaped(entry.track)}</span>")
    if hit.votes is not None:
        votes = f"{hit.votes} of {images} votes, " if images > 1 else ""
        lines.append(f"<span>{votes}{hit.entries} image{'' if hit.entries == 1 else 's'}</span>")
    title = web_pages.escaped(f"entry {entry.id}: {entry.file}")
    mark = '<span class="mark" aria-hidden="true">✓</span>' if hit.accepted else ""
    return (
        f'<figure class="{"right" if hit.accepted else "query"}" title="{title}">{pictures.of_entry(entry.id)}'
        f'<span class="rank" aria-hidden="true">{rank}</span>{mark}<figcaption>{"".join(lines)}</figcaption></figure>'
    )


def _person(identity: str | None) -> str:
    if identity is None:
        return "no name"
    return f"id {identity}" if identity.isdecimal() else identity


def pictures_of(
    described: intake.Described | None,
    replies: Sequence[answers.Answer],
    opened: gallery_lib.Gallery,
    ids: Sequence[int],
) -> Callable[[int], np.ndarray] | None:
    """Returns what loads the pictures of queries: of images, or of entries of the gallery; None without pictures."""
    if described is not None:
        single = len(replies) == len(described.names)
        return described.picture if single else _first_of(described)
    data = [opened.thumbnail(id) for id in ids]
    decoded = [None if each is None else image_io.decode(each, f"entry {id}") for id, each in zip(ids, data)]
    return (lambda number: np.asarray(decoded[number])) if all(one is not None for one in decoded) else None


def _first_of(described: intake.Described) -> Callable[[int], np.ndarray] | None:
    """Returns the picture of a track: its first image."""
    picture = described.picture
    return None if picture is None else lambda _: picture(0)
