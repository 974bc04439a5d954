"""What `search.py` prints: answers and facts of a gallery as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reid_jax import file_io
from reid_jax.data import records

if TYPE_CHECKING:
    from reid_jax.gallery import answers as answers_lib

_SHOWN = 20  # queries on the screen
_LONGEST = 60


def answers(replies: Sequence[answers_lib.Answer]) -> str:
    """Returns answers as tables, the first ones of very many."""
    parts = [_answer(reply) for reply in replies[:_SHOWN]]
    if len(replies) > _SHOWN:
        parts.append(f"and {len(replies) - _SHOWN:,} more queries; --json FILE has all of them.")
    threshold = replies[0].threshold
    if threshold is not None:
        parts.append(threshold.text() + ".")
    parts.append("A first place is no identification: every ranking has one.")
    return "\n\n".join(parts)


def _answer(reply: answers_lib.Answer) -> str:
    voted = reply.images > 1
    labels = ["identity", "camera", "time", "file"]
    if reply.group == "track":
        labels[1:1] = ["track"]
    header = ["entry", "distance", *labels]
    if voted:
        header[1:1] = ["votes"]
    reranked = reply.hits and reply.hits[0].reranked is not None
    if reranked:
        header[1:1] = ["re-ranked"]
    rows = []
    for hit in reply.hits:
        entry = hit.entry.as_dict()
        mark = "" if hit.accepted is None else " match" if hit.accepted else ""
        row = [str(hit.entry.id), f"{hit.distance:.4f}{mark}"]
        if voted:
            row[1:1] = [f"{hit.votes}/{reply.images}"]
        if reranked:
            row[1:1] = [f"{hit.reranked:.4f}"]
        row += [shown(entry[name]) for name in labels]
        rows.append(row)
    verdict = {None: "", True: ": nobody in the gallery", False: ""}[reply.nobody]
    head = f"{shown(reply.query)}{verdict} ({reply.looked_at:,} entries looked at)"
    return f"{head}\n{records.format_table(header, rows)}"


def shown(value: object) -> str:
    """Returns a value for a cell: on one line, shortened, "-" for none."""
    if value is None:
        return "-"
    text = file_io.shown(str(value))
    return text if len(text) <= _LONGEST else f"...{text[-_LONGEST + 3 :]}"


def kept(seconds: float | None) -> str:
    """Returns how long entries stay."""
    return "kept until they are removed" if seconds is None else f"kept for {span(seconds)} unless removed before"


def span(seconds: float) -> str:
    """Returns a span of time in days or hours.

    >>> span(2592000.0), span(3600.0)
    ('30 days', '1 hour')
    """
    amount, unit = (seconds / 86_400, "day") if seconds >= 86_400 else (seconds / 3600, "hour")
    return f"{amount:g} {unit}{'' if amount == 1 else 's'}"


def info(facts: Mapping[str, Any]) -> str:
    """Returns the facts of `Gallery.info` as text."""
    model = facts["model"].get("name") or "unnamed"
    shape = " x ".join(map(str, facts["shape"]))
    lines = [
        f"{facts['entries']:,} entries ({facts['without_identity']:,} without identity, {facts['expired']:,} expired), "
        f"{facts['identities']:,} people, {facts['cameras']:,} cameras, {facts['tracks']:,} tracks",
        f"taken from {facts['from']} to {facts['to']}" if facts["from"] else "no times",
        f"model {model}, {shape} values, compared by {facts['metric']}; weights {facts['weights'][:16] or 'unknown'}",
        "entries are " + kept(facts["keep_seconds"]),
        f"audit log: {facts['audit_log']}, {facts['audit_lines']:,} lines in an unbroken chain"
        if facts["audit_log"]
        else "no audit log",
        f"{facts['bytes'] / 1e6:,.1f} MB, gallery {facts['id']}",
    ]
    if facts["threshold"]:
        from reid_jax.gallery import answers as answers_lib

        lines.append(answers_lib.Threshold(**facts["threshold"]).text())
    else:
        lines.append("no threshold: every query has an answer (search.py calibrate chooses one)")
    return "\n".join(lines)
