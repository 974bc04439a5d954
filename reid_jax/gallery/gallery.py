"""The gallery: known images on disk, asked with one crop.

    with Gallery.open("people.gallery") as gallery:
        query = Query(extracted.features, Binding.of_extractor(extractor, variables), extracted.visibility)
        answer = gallery.query(query, k=5, chosen=Filter(other_than=("entrance",)), who="kim", why="lost child")[0]

Searches are exact: order, ties and distances are those of `evaluate.py` on the same features. Queries may come from
several threads at once, and go on while entries are added or removed, by this process or another.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from reid_jax import errors, file_io
from reid_jax.data import feature_set
from reid_jax.gallery import answers, audit, erasure, exact, matrix, open_set, ranked_groups, store
from reid_jax.gallery import binding as binding_lib
from reid_jax.gallery import entries as entries_lib

KEEP = 30 * 86_400.0  # seconds that an entry stays where nothing else is said
KEEP_LOG = 183 * 86_400.0  # seconds that a line of the audit log stays: six months
ADDED_AT_ONCE = 2048  # entries per transaction
_EVERYTHING = entries_lib.Filter()


@dataclasses.dataclass(frozen=True)
class Added:
    """Outcome of `Gallery.add`.

    Attributes:
        ids: numbers of the new entries, in the order given.
        skipped: names that were in the gallery already.
    """

    ids: np.ndarray
    skipped: tuple[str, ...] = ()


class Gallery:
    """A gallery, open for queries and changes.

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
    def create(
        cls,
        place: str | os.PathLike[str],
        binding: binding_lib.Binding,
        *,
        keep: float | None = KEEP,
        audited: bool = True,
        keep_log: float | None = KEEP_LOG,
        log: str | os.PathLike[str] | None = None,
    ) -> Gallery:
        """Makes an empty gallery and opens it.

        Args:
            place: path of a new file, or `postgresql://...`.
            binding: the model that its vectors belong to.
            keep: seconds that entries stay, unless one says otherwise; None for ever.
            audited: whether queries and changes are logged with who and why.
            keep_log: seconds that lines of the log stay; None for ever.
            log: file of the log; by default next to the gallery's file.

        Raises:
            UserError: there is something already, or the place cannot be written.
        """
        writer = _log_of(place, log) if audited else None
        if writer is not None and not store.is_url(place):
            file_io.make_folder(writer.path.parent, "the folder of the gallery")
        settings = {"keep": json.dumps(keep), "audited": json.dumps(audited), "keep_log": json.dumps(keep_log)}
        return cls(store.create(place, binding, settings), writer)

    @classmethod
    def open(cls, place: str | os.PathLike[str], *, log: str | os.PathLike[str] | None = None) -> Gallery:
        """Opens a gallery.

        Args:
            place: path, or `postgresql://...`.
            log: file of the audit log; by default next to the gallery's file.

        Raises:
            UserError: there is none, it is of another version, or the server does not answer.
        """
        opened = store.open_store(place)
        audited = json.loads(opened.settings().get("audited", "true"))
        return cls(opened, _log_of(place, log) if audited else None)

    def __enter__(self) -> Gallery:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def discard(self) -> None:
        """Closes the gallery and removes it, after its building has failed."""
        self.store.discard()

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

    # ---- changes

    def add(
        self,
        entries: entries_lib.Entries,
        binding: binding_lib.Binding,
        *,
        skip_existing: bool = False,
        keep: float | str | None = "default",
        who: str = "",
        why: str = "",
    ) -> Added:
        """Adds entries. Each block of `ADDED_AT_ONCE` is one transaction: a killed process leaves whole blocks.

        Args:
            entries: names, features and labels.
            binding: the model that made the features.
            skip_existing: leave out names that are there already, so that a broken-off addition can be repeated.
            keep: seconds that the entries stay; None for ever, "default" as the gallery says.
            who: for the audit log.
            why: for the audit log.

        Raises:
            UserError: another model's features, NaN or infinity, a name that is there already, another writer, or a
                full disk; of the block in question nothing is added.
        """
        self.binding.refuse_other(binding, "the new images")
        if not len(entries):
            return Added(np.zeros(0, np.int64))
        features, visibility = self._checked(entries.features, entries.visibility, entries.files)
        entries = dataclasses.replace(entries, features=features, visibility=visibility)
        skipped: list[str] = []
        if skip_existing:
            there = self.store.present(entries.files)
            skipped = [file for file in entries.files if file in there]
            entries = entries.take([row for row, file in enumerate(entries.files) if file not in there])
        elif len(set(entries.files)) < len(entries) or self.store.present(entries.files):
            # Before the first block is written, so that nothing is added where something cannot be.
            self._refuse_present(entries.files)
        now = time.time()
        seconds = self._setting("keep") if keep == "default" else keep
        expiry = None if seconds is None else now + float(seconds)
        ids = [np.zeros(0, np.int64)]
        for first in range(0, len(entries), ADDED_AT_ONCE):
            block = entries.take(range(first, min(first + ADDED_AT_ONCE, len(entries))))
            ids.append(self.store.add(block, [expiry] * len(block), now))
        added = np.concatenate(ids)
        if len(added):
            self._note("add", who, why, ids=_spans(added))
        return Added(added, tuple(skipped))

    def _refuse_present(self, files: Sequence[str]) -> None:
        there = self.store.present(files)
        twice = sorted({file for file in files if files.count(file) > 1}) if len(files) < 5000 else []
        named = sorted(there)[:1] or twice[:1] or [files[0]]
        count = len(there) or len(files) - len(set(files))
        raise errors.UserError(
            f"{count} of the {len(files)} images are in the gallery already or given twice, such as "
            f"{file_io.shown(named[0])[:200]}; leave them out (--skip-existing) or name them otherwise (--prefix)."
        )

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

    def remove(self, selection: entries_lib.Selection, *, who: str = "", why: str = "") -> int:
        """Removes entries by file, identity, track, time or number, and returns how many.

        Searches no longer find them. `compact` makes sure that the files hold nothing of them.

        Raises:
            UserError: nothing fits the selection, or another process is writing.
        """
        ids = self.store.select(selection)
        if not len(ids):
            raise errors.UserError(
                f"nothing in the gallery {self.name} fits {selection.text()}; nothing was removed (names are exact, "
                "see search.py info)."
            )
        return self._remove("remove", ids, who, why)

    def expire(self, now: float | None = None, *, who: str = "", why: str = "") -> tuple[int, int]:
        """Removes the entries and the lines of the log whose time is over.

        Returns:
            The number of entries and of lines.
        """
        now = time.time() if now is None else now
        ids = self.store.expired(now)
        count = self._remove("expire", ids, who, why) if len(ids) else 0
        keep_log = self._setting("keep_log")
        lines = 0 if self.log is None or keep_log is None else self.log.expire(now - float(keep_log))
        return count, lines

    def _remove(self, event: str, ids: np.ndarray, who: str, why: str) -> int:
        count = self.store.remove(ids)
        self._note(event, who, why, ids=_spans(ids))
        return count

    def compact(self, *, who: str = "", why: str = "") -> erasure.Proof:
        """Writes the files anew without what was removed, and proves that nothing of it is left, see `erasure`.

        Raises:
            UserError: another process is at work, the disk is full, or something removed was found.
        """
        proof = erasure.compact(self.store)
        self._note("compact", who, why, **dataclasses.asdict(proof))
        return proof

    def calibrate(
        self, rate: float, *, per: str = "comparison", features: feature_set.FeatureSet | None = None, source: str = ""
    ) -> answers.Threshold:
        """Chooses the threshold of open-set answers at a false-match rate, and stores it, see `open_set`.

        Args:
            rate: the rate to promise, a fraction.
            per: "comparison" or "search".
            features: labeled images of the gallery's model; None takes the gallery's own labels.
            source: what they are, in words.

        Raises:
            UserError: another model's features, or too few labeled images for that rate.
        """
        if features is None:
            features = open_set.of_gallery(self.store, self.snapshot())
            source = source or "on the gallery's own labels"
        else:
            shape, visible = features.gallery_features.shape[1:], features.gallery_visibility is not None
            self.binding.refuse_other(binding_lib.Binding.of_meta(features.meta, shape, visible), "the labeled images")
        found = open_set.calibrate(features, rate, per=per, metric=self.binding.metric, source=source)
        self.set_threshold(found)
        return found

    def set_threshold(self, threshold: answers.Threshold | None) -> None:
        """Stores the threshold of open-set answers; None removes it."""
        self.store.change({"threshold": "null" if threshold is None else threshold.as_json()})

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
        conditions = chosen.text() or "not expired"
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
        self._note(
            "query",
            who,
            why,
            queries=references,
            filter=chosen.as_dict(),
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

    def _note(self, event: str, who: str, why: str, **facts: Any) -> None:
        if self.log is not None:
            self.log.add(event, who, why, gallery=self.store.id, **facts)


def _log_of(place: str | os.PathLike[str], log: str | os.PathLike[str] | None) -> audit.Log:
    if log is None and store.is_url(place):
        raise errors.UserError(
            "expected a file for the audit log of a gallery on a server; give one (--audit FILE), or build the gallery "
            "without a log (--no-audit)."
        )
    return audit.Log(pathlib.Path(log) if log is not None else audit.beside(place))


def _spans(ids: np.ndarray) -> list[list[int]]:
    """Returns ascending numbers as first and last of each gapless run.

    >>> _spans(np.asarray([1, 2, 3, 7]))
    [[1, 3], [7, 7]]
    """
    breaks = np.flatnonzero(np.diff(ids) != 1) + 1
    return [[int(run[0]), int(run[-1])] for run in np.split(ids, breaks)]
