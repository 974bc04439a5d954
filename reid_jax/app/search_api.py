"""The actions of the page: each takes parameters and perhaps an image, and returns a JSON object.

One at a time: a model, its pictures and a gallery of a million vectors take the memory once. Images that are asked with
are never stored; pictures of the gallery come with an answer, which the audit log has, and by no address of their own.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import pathlib
import threading
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import numpy as np

from reid_jax import errors, file_io
from reid_jax.app.image_engine import UPLOAD, Engine
from reid_jax.app.web_request import Parameters, RefusedError
from reid_jax.config import rules
from reid_jax.data import image_io, image_names
from reid_jax.gallery import answers, audit, intake
from reid_jax.gallery import entries as entries_lib
from reid_jax.gallery import gallery as gallery_lib
from reid_jax.inference import crops

MOST_HITS = 100  # lines of an answer: each comes with a picture
_MOST_ID = 2**62
_FILTER = ("camera", "other_camera", "since", "until", "known", "identity")


class SearchApi:
    """The actions on one gallery.

    Args:
        gallery: opened.
        engine: the model, which must be the gallery's.
        read_only: whether nothing can be added or removed.
        require_reason: whether every action needs a reason; searches of a gallery with an audit log always do.
        turn_seconds: that an action waits for the one before.
    """

    def __init__(
        self,
        gallery: gallery_lib.Gallery,
        engine: Engine,
        *,
        read_only: bool = False,
        require_reason: bool = False,
        turn_seconds: float = 60.0,
    ) -> None:
        self.gallery, self.engine = gallery, engine
        self.read_only, self.require_reason = read_only, require_reason
        self._turn, self._turn_seconds = threading.Lock(), turn_seconds

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._turn.acquire(timeout=self._turn_seconds):
            raise RefusedError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "the server is busy with other requests; try again.",
                {"Retry-After": "5"},
            )
        try:
            yield
        finally:
            self._turn.release()

    def _reason(self, given: Parameters, *, search: bool = False) -> str:
        why = given.text("why")
        if not why and (self.require_reason or (search and self.gallery.log is not None)):
            raise errors.UserError("expected a reason (why) for the audit log, got none; give one.")
        return why

    def _may_change(self) -> None:
        if self.read_only:
            raise RefusedError(HTTPStatus.FORBIDDEN, "this server is read-only; use search.py add and remove.")

    # ---- actions

    def info(self, who: str, body_limit: int) -> dict[str, Any]:
        """Returns what the page has to know of the gallery and the server; no path, and no names of people."""
        facts = self.gallery.info()
        threshold = self.gallery.threshold
        kept = ("id", "entries", "identities", "tracks", "without_identity", "from", "to", "metric", "keep_seconds")
        return {
            "gallery": pathlib.PurePath(self.gallery.name).name,
            **{name: facts[name] for name in kept},
            "cameras": self.gallery.names("cameras"),
            "model": self.gallery.binding.name,
            "threshold": facts["threshold"],
            "threshold_text": None if threshold is None else threshold.text(),
            "logged": self.gallery.log is not None,
            "keep_log_seconds": facts["keep_log_seconds"],
            "reason_needed": {
                "search": self.gallery.log is not None or self.require_reason,
                "other": self.require_reason,
            },
            "read_only": self.read_only,
            "explains": self.engine.explains,
            "who": who,
            "most_bytes": body_limit,
            "most_hits": MOST_HITS,
        }

    def search(self, given: Parameters, body: bytes, who: str) -> dict[str, Any]:
        """Returns the entries nearest to an image, to a box of it, or to an entry."""
        given.only("entry", "box", "top", "per", "rerank", "why", *_FILTER)
        why = self._reason(given, search=True)
        entry = given.whole("entry", 1, _MOST_ID)
        if (entry is None) == (not body):
            raise errors.UserError("expected an image as the body, or entry=NUMBER, one of the two.")
        chosen = _filter(given, entry)
        top = given.whole("top", 1, MOST_HITS, 10) or 10
        group = given.choice("per", answers.GROUPS)
        with self._alone():
            self.gallery.looked_at(self.gallery.snapshot(), chosen)  # before the model runs
            if entry is not None:
                self._there(entry)
                asked = self.gallery.query_of([entry])
            else:
                described, references = self.engine.describe(body, _boxes(given), self.gallery.binding.metric)
                asked = described.query(references)
            answer = self.gallery.query(
                asked, k=top, chosen=chosen, group=group, rerank=bool(given.flag("rerank")), who=who, why=why
            )[0]
            return self._shown(answer, asked)

    def explain(self, given: Parameters, body: bytes, who: str) -> dict[str, Any]:
        """Returns what makes an image, or an entry, similar to an entry: maps on both."""
        given.only("entry", "query_entry", "box", "why")
        why = self._reason(given)
        entry, other = given.whole("entry", 1, _MOST_ID), given.whole("query_entry", 1, _MOST_ID)
        if entry is None or (other is None) == (not body):
            raise errors.UserError("expected entry=NUMBER, and an image as the body or query_entry=NUMBER.")
        if not self.engine.explains:
            raise RefusedError(HTTPStatus.NOT_FOUND, "this server explains nothing; use explain.py.")
        with self._alone():
            picture, source = self._picture(entry)
            if other is not None:
                query, reference = self._picture(other)[0], f"entry:{other}"
            else:
                query, reference = _cut(image_io.decode(body, UPLOAD), _boxes(given)), audit.reference(body)
            found = self.engine.explain(query, picture)
        if self.gallery.log is not None:
            facts = {"gallery": self.gallery.store.id, "query": reference, "ids": [entry]}
            self.gallery.log.add("explain", who, why, **facts)
        values = dataclasses.asdict(found)
        return {**values, "query": _url(found.query), "entry": _url(found.entry), "id": entry, "picture": source}

    def add(self, given: Parameters, body: bytes, who: str) -> dict[str, Any]:
        """Adds an image to the gallery and returns its number."""
        given.only("identity", "camera", "time", "track", "keep", "box", "why")
        self._may_change()
        why = self._reason(given)
        if not body:
            raise errors.UserError("expected an image as the body, got none; send one.")
        time, keep = given.text("time"), given.text("keep")
        moment = entries_lib.parse_time(time, "time") if time else None
        seconds = entries_lib.parse_span(keep) if keep else "default"
        labels = {name: (given.text(name) or None,) for name in ("identity", "camera", "track")}
        boxes = _boxes(given)
        name = f"upload/{hashlib.sha256(body + repr(boxes).encode()).hexdigest()[:16]}"
        with self._alone():
            described, _ = self.engine.describe(body, boxes, self.gallery.binding.metric)
            if self.gallery.store.present([name]):
                raise RefusedError(
                    HTTPStatus.CONFLICT,
                    "this image is in the gallery already; remove its entry before, or add another.",
                )
            made = dataclasses.replace(
                described.entries(),
                files=(name,),
                identities=labels["identity"],
                cameras=labels["camera"],
                tracks=labels["track"],
                times=(moment,),
                folder=None,
            )
            added = self.gallery.add(made, described.binding, keep=seconds, who=who, why=why)
            return {"id": int(added.ids[0]), "entries": self.gallery.snapshot().count}

    def remove(self, given: Parameters, body: bytes, who: str) -> dict[str, Any]:
        """Removes entries by number, or all of an identity or a track, if there are as many as expected."""
        given.only("id", "identity", "track", "expected", "why")
        self._may_change()
        why = self._reason(given)
        if body:
            raise errors.UserError("expected no body; name what is removed (id, identity or track).")
        selection = entries_lib.Selection(
            ids=given.wholes("id", 1, _MOST_ID), identities=given.texts("identity"), tracks=given.texts("track")
        )
        expected = given.whole("expected", 0, _MOST_ID)
        with self._alone():
            count = len(self.gallery.store.select(selection))
            if count != expected:
                raise RefusedError(
                    HTTPStatus.CONFLICT,
                    f"expected the number of entries that are removed (expected={count} for {selection.text()}), got "
                    f"{'none' if expected is None else expected}; nothing was removed.",
                )
            removed = self.gallery.remove(selection, who=who, why=why)
            return {"removed": removed, "entries": self.gallery.snapshot().count}

    # ---- parts

    def _there(self, id: int) -> entries_lib.Entry:
        found = self.gallery.store.details([id])
        if not found:
            raise RefusedError(HTTPStatus.NOT_FOUND, f"there is no entry {id} in the gallery; search again.")
        return found[0]

    def _picture(self, id: int) -> tuple[np.ndarray, str]:
        """Returns the original picture of an entry, or else its thumbnail, and which of the two."""
        entry = self._there(id)
        path = image_names.contained(pathlib.Path(entry.folder), entry.file) if entry.folder else None
        if path is not None:
            with contextlib.suppress(errors.UserError):
                data = file_io.read_bytes(path, "an image", "give another file", limit=intake.MOST_IMAGE)
                return image_io.decode(data), "original"
        small = self.gallery.thumbnail(id)
        if small is None:
            raise RefusedError(HTTPStatus.NOT_FOUND, f"the gallery has no picture of entry {id}; explain another.")
        return image_io.decode(small), "thumbnail"

    def _shown(self, answer: answers.Answer, asked: answers.Query) -> dict[str, Any]:
        """Returns an answer with pictures and similarities, without folders."""
        ids = [hit.entry.id for hit in answer.hits]
        cosines = self._cosines(asked, answer)
        hits = []
        for hit, id, cosine in zip(answer.hits, ids, cosines):
            small = self.gallery.thumbnail(id)
            values = {key: value for key, value in hit.as_dict().items() if key != "folder"}
            hits.append({**values, "similarity": cosine, "picture": None if small is None else _url(small)})
        threshold = answer.threshold
        return {
            **answer.as_dict(),
            "threshold_text": None if threshold is None else threshold.text(),
            "hits": hits,
        }

    def _cosines(self, asked: answers.Query, answer: answers.Answer) -> list[float | None]:
        """Returns the cosine of the query and each hit; None for slots, whose distance is a mean of several."""
        if asked.visibility is not None or asked.features.ndim != 2 or not answer.hits:
            return [None] * len(answer.hits)
        if self.gallery.binding.metric == "cosine":
            return [1.0 - hit.distance for hit in answer.hits]
        there = {entry.id for entry in self.gallery.store.details([hit.entry.id for hit in answer.hits])}
        cosines: list[float | None] = []
        for hit in answer.hits:
            if hit.entry.id not in there:  # removed meanwhile
                cosines.append(None)
                continue
            vector = self.gallery.store.vectors([hit.entry.id])[0][0].astype(np.float64)
            query = asked.features[0].astype(np.float64)
            lengths = float(np.linalg.norm(vector) * np.linalg.norm(query))
            cosines.append(float(vector @ query) / lengths if lengths else None)
        return cosines


def _filter(given: Parameters, entry: int | None) -> entries_lib.Filter:
    since, until = given.text("since"), given.text("until")
    return entries_lib.Filter(
        cameras=given.texts("camera"),
        other_than=given.texts("other_camera"),
        since=entries_lib.parse_time(since, "since") if since else None,
        until=entries_lib.parse_time(until, "until") if until else None,
        known=given.flag("known"),
        identities=given.texts("identity"),
        leave_out=() if entry is None else (entry,),
    )


def _boxes(given: Parameters) -> list[list[float]]:
    """Returns the box of the image that is asked with, or none for the whole image."""
    text = given.text("box")
    if not text:
        return []
    try:
        sides = [float(each) for each in text.split(",")]
    except ValueError:
        sides = []
    if len(sides) != 4 or not np.isfinite(sides).all():
        raise errors.UserError(f"expected box as left,top,right,bottom in pixels, got {rules.plain(text[:80])!r}.")
    return [sides]


def _cut(image: np.ndarray, boxes: list[list[float]]) -> np.ndarray:
    return crops.as_images(image, np.asarray(boxes))[0] if boxes else image


def _url(data: bytes) -> str:
    """Returns a picture as the address of itself."""
    kind = next((kind for kind, start in _KINDS.items() if data.startswith(start)), "webp")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


_KINDS = {"png": b"\x89PNG", "jpeg": b"\xff\xd8\xff"}
