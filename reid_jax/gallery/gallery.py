"""The gallery: known images on disk, asked with one crop.

    with Gallery.open("people.gallery") as gallery:
        query = Query(extracted.features, Binding.of_extractor(extractor, variables), extracted.visibility)
        answer = gallery.query(query, k=5, chosen=Filter(other_than=("entrance",)), who="kim", why="lost child")[0]

Searches are exact: order, ties and distances are those of `evaluate.py` on the same features. Queries may come from
several threads at once, and go on while entries are added or removed, by this process or another.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np

from reid_jax import errors, file_io
from reid_jax.data import feature_set
from reid_jax.gallery import answers, erasure, open_set, reader, store
from reid_jax.gallery import binding as binding_lib
from reid_jax.gallery import entries as entries_lib

KEEP = 30 * 86_400.0  # seconds that an entry stays where nothing else is said
KEEP_LOG = 183 * 86_400.0  # seconds that a line of the audit log stays: six months
ADDED_AT_ONCE = 2048  # entries per transaction


@dataclasses.dataclass(frozen=True)
class Added:
    """Outcome of `Gallery.add`.

    Attributes:
        ids: numbers of the new entries, in the order given.
        skipped: names that were in the gallery already.
    """

    ids: np.ndarray
    skipped: tuple[str, ...] = ()


class Gallery(reader.Reader):
    """A gallery, open for queries (`reader.Reader`) and changes.

    Attributes:
        store: rows and vectors on disk or on a server.
        log: the audit log; None in a gallery made without one.
    """

    _made_log = False  # whether the log was begun with the gallery

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
    ) -> Self:
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
        writer = reader.log_of(place, log) if audited else None
        if writer is not None and not store.is_url(place):
            file_io.make_folder(writer.path.parent, "the folder of the gallery")
        settings = {"keep": json.dumps(keep), "audited": json.dumps(audited), "keep_log": json.dumps(keep_log)}
        first = writer is not None and not writer.path.exists()
        made = cls(store.create(place, binding, settings), writer)
        made._made_log = first
        return made

    def discard(self) -> None:
        """Closes the gallery and removes it, after its building has failed; its log, too, unless that was there."""
        self.store.discard()
        if self.log is not None and self._made_log:
            self.log.path.unlink(missing_ok=True)

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
            with self._change("added", len(block)):  # each for itself: a later block may meet a full disk
                ids.append(self.store.add(block, [expiry] * len(block), now, self._reminder("add", who, why)))
        return Added(np.concatenate(ids), tuple(skipped))

    def _refuse_present(self, files: Sequence[str]) -> None:
        there = self.store.present(files)
        twice = sorted({file for file in files if files.count(file) > 1}) if len(files) < 5000 else []
        named = sorted(there)[:1] or twice[:1] or [files[0]]
        count = len(there) or len(files) - len(set(files))
        raise errors.UserError(
            f"{count} of the {len(files)} images are in the gallery already or given twice, such as "
            f"{file_io.shown(named[0])[:200]}; leave them out (--skip-existing) or name them otherwise (--prefix)."
        )

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
        with self._change("removed", len(ids)):
            return self.store.remove(ids, self._reminder(event, who, why))

    @contextlib.contextmanager
    def _change(self, done: str, count: int) -> Iterator[None]:
        """Surrounds a change of the store, and adds its line, or says where it cannot be added."""
        before = 0 if self.log is None or self.store.unlogged() else self.log.size()
        yield
        try:
            self._log_changes(before)
        except errors.UserError as error:
            what = "the settings were" if not count else "1 entry was" if count == 1 else f"{count:,} entries were"
            raise errors.UserError(
                f"{what} {done}, but the log has no line for it until a command can write it: {error}"
            ) from error

    def compact(self, *, who: str = "", why: str = "") -> erasure.Proof:
        """Writes the files anew without what was removed, and proves that nothing of it is left, see `erasure`.

        Raises:
            UserError: another process is at work, the disk is full, or something removed was found.
        """
        proof = erasure.compact(self.store)
        self._note("compact", who, why, **dataclasses.asdict(proof))
        return proof

    def calibrate(
        self,
        rate: float,
        *,
        per: str = "comparison",
        features: feature_set.FeatureSet | None = None,
        source: str = "",
        who: str = "",
        why: str = "",
    ) -> answers.Threshold:
        """Chooses the threshold of open-set answers at a false-match rate, and stores it, see `open_set`.

        Args:
            rate: the rate to promise, a fraction.
            per: "comparison" or "search".
            features: labeled images of the gallery's model; None takes the gallery's own labels.
            source: what they are, in words.
            who: for the audit log.
            why: for the audit log.

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
        self.set_threshold(found, who=who, why=why)
        return found

    def set_threshold(self, threshold: answers.Threshold | None, *, who: str = "", why: str = "") -> None:
        """Stores the threshold of open-set answers, with a line in the audit log; None removes it."""
        note = self._reminder("calibrate", who, why, threshold=None if threshold is None else threshold.distance)
        with self._change("changed", 0):
            self.store.change({"threshold": "null" if threshold is None else threshold.as_json()}, note)
