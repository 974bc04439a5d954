"""Reading a gallery: its entries, and its answers."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import threading
import time
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from reid_jax import errors, file_io
from reid_jax.data import feature_set
from reid_jax.gallery import answers, audit, exact, matrix, ranked_groups, store
from reid_jax.gallery import binding as binding_lib
from reid_jax.gallery import entries as entries_lib

_EVERYTHING = entries_lib.Filter()


class Reader:
    """A gallery, open for queries; `gallery.Gallery` adds changes.

    Attributes:
        store: rows and vectors on disk or on a server.
        log: the audit log; None in a gallery made without one.
    """

    def __init__(self, opened: store.Store, log: audit.Log | None) -> None:
        self.store, self.log = opened, log
        self._matrix = matrix.Matrix(opened)
        self._snapshot: matrix.Snapshot | None = None
        self._settings: tuple[int, dict[str, str]] | None = None
        self._placed: tuple[store.State, Any] | None = None
        self._refreshing = threading.Lock()

    @classmethod
    def open(cls, place: str | os.PathLike[str], *, log: str | os.PathLike[str] | None = None) -> Self:
        """Opens a gallery.

        Args:
            place: path, or `postgresql://...`.
            log: file of the audit log; by default next to the gallery's file.

        Raises:
            UserError: there is none, it is of another version, or the server does not answer.
        """
        opened = store.open_store(place)
        audited = json.loads(opened.settings().get("audited", "true"))
        made = cls(opened, log_of(place, log) if audited else None)
        with contextlib.suppress(errors.UserError):  # a log that cannot be written is no obstacle to looking
            made._log_changes()
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the gallery; nothing is lost where it is not called."""
        self.store.close()

    # ---- what there is

    @property
    def binding(self) -> binding_lib.Binding:
        """The model that the vectors belong to."""
        return self.store.binding

    @property
    def name(self) -> str:
        """Path or URL, for messages."""
        return self.store.name

    @property
    def threshold(self) -> answers.Threshold | None:
        """The threshold of open-set answers, None before `calibrate`."""
        values = self._setting("threshold")
        with file_io.reading(self.name, "a gallery", "restore a copy, or build it again"):
            return None if values is None else answers.Threshold(**values)

    def snapshot(self) -> matrix.Snapshot:
        """Returns vectors and labels as they are now; reads only what has changed since the last time."""
        with self._refreshing:
            before = self._snapshot
            self._snapshot = self._matrix.load() if before is None else self._matrix.update(before)
            return self._snapshot

    def _setting(self, name: str) -> Any:
        changed = self.store.state().settings
        with self._refreshing:
            if self._settings is None or self._settings[0] != changed:
                self._settings = changed, self.store.settings()
            text = self._settings[1].get(name)
        with file_io.reading(self.name, "a gallery", "restore a copy, or build it again"):
            return None if text is None else json.loads(text)

    def entry(self, id: int) -> entries_lib.Entry:
        """Returns an entry.

        Raises:
            UserError: there is none of that number.
        """
        found = self.store.details([id])
        if not found:
            raise errors.UserError(f"there is no entry {id} in the gallery {self.name}; see search.py info.")
        return found[0]

    def thumbnail(self, id: int) -> bytes | None:
        """Returns the encoded thumbnail of an entry (WebP, JPEG or PNG), None where there is none."""
        return self.store.thumbnail(id)

    def names(self, kind: str) -> list[str]:
        """Returns the names of all cameras, identities or tracks of living entries, sorted.

        Args:
            kind: "cameras", "identities" or "tracks".
        """
        now = self.snapshot()
        codes = np.unique(getattr(now, kind)[now.alive])
        return sorted(now.names[kind][code] for code in codes if code)

    def info(self) -> dict[str, Any]:
        """Returns model, numbers of entries, people, cameras and tracks, retention, threshold and size on disk.

        Raises:
            UserError: the audit log was changed by hand.
        """
        now = self.snapshot()
        living = now.alive
        times = now.times[living]
        times = times[~np.isnan(times)]
        threshold = self.threshold
        return {
            "gallery": self.name,
            "id": self.store.id,
            "entries": now.count,
            "without_identity": int((now.identities[living] == 0).sum()),
            **{kind: len(self.names(kind)) for kind in ("identities", "cameras", "tracks")},
            "expired": int((now.expires[living] <= time.time()).sum()),
            "from": entries_lib.iso(float(times.min())) if len(times) else None,
            "to": entries_lib.iso(float(times.max())) if len(times) else None,
            "model": dict(self.binding.model),
            "weights": self.binding.weights,
            "preprocessing": dict(self.binding.preprocessing),
            "metric": self.binding.metric,
            "shape": list(self.binding.shape),
            "keep_seconds": self._setting("keep"),
            "audit_log": None if self.log is None else str(self.log.path),
            "audit_lines": None if self.log is None else self.log.check(),
            "keep_log_seconds": self._setting("keep_log"),
            "threshold": None if threshold is None else dataclasses.asdict(threshold),
            "bytes": self.store.size(),
        }

    def _checked(
        self, features: np.ndarray, visibility: np.ndarray | None, names: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns features and visibility as float32 after checking shape and values."""
        features = np.ascontiguousarray(features, np.float32)
        if features.shape[1:] != self.binding.shape:
            raise errors.UserError(
                f"expected features of shape {self.binding.shape} per image, the gallery's, got {features.shape[1:]}; "
                "use the gallery's model."
            )
        if (visibility is not None) != self.binding.visibility:
            raise errors.UserError(
                f"expected features {'with' if self.binding.visibility else 'without'} visibility, like the gallery's; "
                "use the gallery's model."
            )
        feature_set.refuse_non_finite(features, "features", names)
        if visibility is None:
            return features, None
        visibility = np.ascontiguousarray(visibility, np.float32)
        feature_set.refuse_non_finite(visibility, "visibility", names)
        return features, visibility

    # ---- queries

    def query(
        self,
        asked: answers.Query,
        *,
        k: int = 10,
        chosen: entries_lib.Filter = _EVERYTHING,
        group: str = "entry",
        rerank: bool = False,
        threshold: answers.Threshold | None = None,
        who: str = "",
        why: str = "",
    ) -> list[answers.Answer]:
        """Returns the nearest entries, an answer for each image of the query or for each of its tracks.

        Args:
            asked: descriptors of the gallery's model.
            k: lines per answer.
            chosen: which entries are looked at; those that have expired never are.
            group: "entry", or "track" or "identity" for the nearest entry of each; with tracks in the query,
                the images of each vote.
            rerank: order the nearest `ranked_groups.RERANKED` by k-reciprocal encoding among themselves.
            threshold: in place of the gallery's own.
            who: name of the person or service that asks, for the audit log.
            why: the reason, for the audit log.

        Raises:
            UserError: another model's query, an empty gallery, a filter that leaves nothing, no reason in a gallery
                with an audit log, or a log that cannot be written.
        """
        if group not in answers.GROUPS:
            raise errors.unknown("group", group, answers.GROUPS)
        self.refuse_no_reason(who, why)
        self.binding.refuse_other(asked.binding, "the query")
        features, visibility = self._checked(asked.features, asked.visibility, asked.names)
        if self.store.searches and group == "entry" and not asked.tracks:
            now, count = self._candidates(features, ranked_groups.wanted(k, rerank), chosen)
            looked_at = now.alive
        else:
            now = self.snapshot()
            looked_at = self.looked_at(now, chosen)
            count = int(looked_at.sum())
        side = now.prepared(features, visibility, self.binding.metric)
        limit = threshold or self.threshold
        found = ranked_groups.answer(now, side, looked_at, asked, k=k, group=group, rerank=rerank)
        replies = [self._answer(now, one, count, group, limit) for one in found]
        self._log_query(asked, replies, chosen, {"k": k, "group": group, "rerank": rerank}, who, why)
        return replies

    def query_of(self, ids: Sequence[int]) -> answers.Query:
        """Returns entries of the gallery as a query.

        Raises:
            UserError: one of them is not there.
        """
        features, visibility = self.store.vectors(ids)
        names = tuple(entry.file for entry in self.store.details(ids))
        return answers.Query(features, self.binding, visibility, names, tuple(f"entry:{id}" for id in ids))

    def looked_at(self, now: matrix.Snapshot, chosen: entries_lib.Filter) -> np.ndarray:
        """Returns [N] bool, the rows of a snapshot that a search looks at.

        Raises:
            UserError: the gallery is empty, or the filter leaves nothing.
        """
        mask = now.looked_at(chosen, time.time())
        if not mask.any():
            raise self._nothing(now.count, chosen)
        return mask

    def refuse_nothing(self, chosen: entries_lib.Filter) -> None:
        """Raises the `UserError` of a search that would look at no entry, before a model is loaded for it."""
        if not self.store.searches:
            self.looked_at(self.snapshot(), chosen)
        elif not self.store.candidates(np.zeros((0, *self.binding.shape), np.float32), 1, chosen, time.time())[1]:
            raise self._nothing(self.store.count(), chosen)

    def _nothing(self, count: int, chosen: entries_lib.Filter) -> errors.UserError:
        """Returns the error for a search that looks at no entry."""
        if not count:
            return errors.UserError(f"the gallery {self.name} is empty; add images with search.py add.")
        conditions = chosen.text() or ("not the query itself, not expired" if chosen.leave_out else "not expired")
        return errors.UserError(
            f"none of the {count:,} entries of the gallery {self.name} passes the filter ({conditions}); loosen it "
            "(search.py info lists cameras and times)."
        )

    def _candidates(self, features: np.ndarray, k: int, chosen: entries_lib.Filter) -> tuple[matrix.Snapshot, int]:
        """Returns a snapshot of the entries that can be in the answer, and how many were looked at, by a server."""
        state = self.store.state()
        builder = matrix.Matrix(self.store)
        with self._refreshing:
            if self._placed is None or self._placed[0] != state:
                self._placed = state, builder.placement()
            placement = self._placed[1]
        rows, count = self.store.candidates(features, k, chosen, time.time())
        if not count:
            raise self._nothing(self.store.count(), chosen)
        return builder.of_rows(rows, placement, state), count

    def rank(
        self, features: np.ndarray, looked_at: np.ndarray, k: int, visibility: np.ndarray | None = None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Returns rows of the snapshot and distances of the k nearest for each vector, without a log: for evaluation.

        Args:
            features: [n, D] or [n, S, D] float32 of the gallery's model.
            looked_at: [N] bool, see `looked_at`.
            k: rows per vector.
            visibility: [n, S], or None.
        """
        now = self.snapshot()
        return exact.nearest(now.prepared(features, visibility, self.binding.metric), now.side, looked_at, k)

    def _answer(
        self,
        now: matrix.Snapshot,
        found: ranked_groups.Found,
        looked_at: int,
        group: str,
        limit: answers.Threshold | None,
    ) -> answers.Answer:
        details = {entry.id: entry for entry in self.store.details(now.ids[found.rows].tolist())}
        hits = []
        for place, row in enumerate(found.rows):
            entry = details.get(int(now.ids[row]))
            if entry is None:  # removed since the search began
                continue
            distance = float(found.distances[place])
            hits.append(
                answers.Hit(
                    entry,
                    distance,
                    None if limit is None else distance <= limit.distance,
                    None if found.reranked is None else float(found.reranked[place]),
                    None if found.votes is None else int(found.votes[place]),
                    1 if found.sizes is None else int(found.sizes[place]),
                )
            )
        return answers.Answer(found.name, tuple(hits), looked_at, group, limit, found.images)

    # ---- the log

    def refuse_no_reason(self, who: str, why: str) -> None:
        """Raises a `UserError` where a gallery with an audit log is asked without a name or a reason."""
        if self.log is not None and not (who.strip() and why.strip()):
            raise errors.UserError(
                f"queries of the gallery {self.name} are logged: expected who asks and why; give a reason (--why TEXT)."
            )

    def _log_query(
        self,
        asked: answers.Query,
        replies: Sequence[answers.Answer],
        chosen: entries_lib.Filter,
        options: dict[str, Any],
        who: str,
        why: str,
    ) -> None:
        references = list(asked.references) or audit.references(list(asked.features))
        limit = replies[0].threshold
        facts = chosen.as_dict()
        if chosen.identities:  # by their entries: a name in the log would outlive its erasure
            asked_for = self.store.select(entries_lib.Selection(identities=chosen.identities))
            facts["identities"] = audit.spans(asked_for)
        self._note(
            "query",
            who,
            why,
            queries=references,
            filter=facts,
            **options,
            threshold=None if limit is None else limit.distance,
            answers=[
                {
                    "ids": [hit.entry.id for hit in reply.hits],
                    "accepted": [hit.entry.id for hit in reply.hits if hit.accepted],
                }
                for reply in replies
            ],
        )

    def _reminder(self, event: str, who: str, why: str, **facts: Any) -> store.Note | None:
        """Returns what the store keeps with a change until its line is in the log; None without a log."""
        if self.log is None:
            return None
        line = {"time": entries_lib.iso(time.time()), "event": event, "who": who, "why": why, "gallery": self.store.id}
        return lambda ids: json.dumps(line | ({"ids": audit.spans(ids)} if len(ids) else {}) | facts)

    def _log_changes(self, since: int = 0) -> None:
        """Adds the lines of changes that have none: this process's last, or those of one that was killed."""
        if self.log is not None and self.store.unlogged():
            self.log.settle(self.store.unlogged, self.store.logged, since)

    def _note(self, event: str, who: str, why: str, **facts: Any) -> None:
        if self.log is not None:
            self.log.add(event, who, why, gallery=self.store.id, **facts)


def log_of(place: str | os.PathLike[str], log: str | os.PathLike[str] | None) -> audit.Log:
    """Returns the audit log of a gallery, by default next to its file.

    Raises:
        UserError: a gallery on a server, and no file.
    """
    if log is None and store.is_url(place):
        raise errors.UserError(
            "expected a file for the audit log of a gallery on a server; give one (--audit FILE), or build the gallery "
            "without a log (--no-audit)."
        )
    return audit.Log(pathlib.Path(log) if log is not None else audit.beside(place))
