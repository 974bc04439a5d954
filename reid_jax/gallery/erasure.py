"""Erasure with proof: the tables are written anew, and then every byte of the files is looked at.

What is looked for are the names and the first bytes of the vectors of all entries removed since the last time, in every
file of the gallery, its write-ahead log among them. Not looked for is what still belongs to a living entry (the name of
a person of whom other images stay, the vector of an image that is there twice), and names of fewer than eight bytes,
which occur by chance; that the file has no unused page left covers these, too.

Not part of a gallery, and not covered: copies and backups, features files, answers written as JSON or HTML, blocks of a
disk that a file has given back, snapshots of a file system.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

from reid_jax import errors, file_io
from reid_jax.gallery import sql_store, store

SHORTEST = 8  # bytes of a name that is looked for
_AT_ONCE = 1 << 24
_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Proof:
    """What `compact` has done and found.

    Attributes:
        names: number of removed names that were looked for.
        vectors: number of removed vectors that were looked for.
        short: number of removed names too short to be looked for.
        shared: number of removed names and vectors that living entries have, too.
        scanned: number of bytes that were looked at; 0 for a server, whose files are not at hand.
        before: bytes of the gallery before.
        after: bytes of the gallery afterwards.
    """

    names: int
    vectors: int
    short: int
    shared: int
    scanned: int
    before: int
    after: int

    def text(self) -> str:
        """Returns the outcome in sentences."""
        size = f"{self.before / 1e6:,.1f} MB before, {self.after / 1e6:,.1f} MB now"
        if not self.scanned:
            return (
                f"the tables were written anew ({size}); the server's own files, archives of its log and backups are "
                "not at hand: see to them there"
            )
        found = (
            f"none of {self.names:,} removed names and {self.vectors:,} removed vectors is in the {self.scanned:,} "
            f"bytes of the gallery's files ({size})"
        )
        extra = []
        if self.short:
            extra.append(f"{self.short:,} names of fewer than {SHORTEST} bytes were not looked for")
        if self.shared:
            extra.append(f"{self.shared:,} names and vectors also belong to entries that stay")
        return "; ".join([found, *extra])


def compact(opened: store.Store) -> Proof:
    """Writes a gallery anew without free space, and proves that nothing of removed entries is left in its files.

    Raises:
        UserError: another process is at work, the disk is full, or something removed was found; then nothing is lost,
            and compacting may be tried again.
    """
    before = opened.size()
    removed = opened.compact()
    files = opened.files()
    long = [text.encode() for text in removed.texts if len(text.encode()) >= SHORTEST]
    names, vectors = _only_removed(opened, long, removed.vectors)
    shared = len(long) - len(names) + len(removed.vectors) - len(vectors)
    scanned = 0
    for path in files:
        found = occurrences(path, [*names, *vectors])
        scanned += path.stat().st_size
        if found:
            kinds = {"a name" if pattern in set(names) else "a vector" for pattern in found}
            raise errors.UserError(
                f"{len(found)} removed items ({' and '.join(sorted(kinds))}) are still in {file_io.shown(path)}; "
                "compact again when no other process has the gallery open, else report this."
            )
    return Proof(
        len(names), len(vectors), len(removed.texts) - len(long), shared, scanned if files else 0, before, opened.size()
    )


def _only_removed(
    opened: store.Store, names: Sequence[bytes], vectors: Sequence[bytes]
) -> tuple[list[bytes], list[bytes]]:
    """Returns those names and vectors that no living entry has, a longer name that contains one included."""
    if not opened.files() or not (names or vectors):
        return list(names), list(vectors)
    gone = set(vectors)
    parts: list[bytes] = []
    for block in opened.read():
        if gone:
            rows = block.features.reshape(len(block.ids), -1).astype("<f4")
            gone -= {row.tobytes()[: sql_store.PROBE] for row in rows}
        if names:
            parts += [
                text.encode() for texts in (block.identities, block.tracks, block.cameras) for text in texts if text
            ]
            parts += [entry.file.encode() for entry in opened.details(block.ids.tolist())]
            parts += [(entry.folder or "").encode() for entry in opened.details(block.ids[:1].tolist())]
    living = _found(b"\0".join(set(parts)), names)
    return [name for name in names if name not in living], [vector for vector in vectors if vector in gone]


def occurrences(path: pathlib.Path, patterns: Iterable[bytes]) -> set[bytes]:
    """Returns those patterns, of at least eight bytes, that occur in a file, at any place."""
    wanted = set(patterns)
    if not wanted:
        return set()
    overlap = max(map(len, wanted)) - 1
    found: set[bytes] = set()
    with file_io.reading(path, "a file of the gallery", "compact again"), path.open("rb") as file:
        tail = b""
        while data := file.read(_AT_ONCE):
            found |= _found(tail + data, wanted)
            tail = (tail + data)[-overlap:]
    return found


def _found(data: bytes, patterns: Iterable[bytes]) -> set[bytes]:
    """Returns the patterns that occur in some bytes.

    A table of first pairs of bytes leaves few places, whose first eight bytes are looked up, and those that remain are
    compared as a whole.
    """
    wanted = [pattern for pattern in patterns if len(pattern) <= len(data)]
    if not wanted or len(data) < SHORTEST:
        return set()
    content = np.frombuffer(data, np.uint8)
    pairs = content[:-1].astype(np.uint16) | (content[1:].astype(np.uint16) << 8)
    keys = np.unique(np.asarray([int.from_bytes(pattern[:SHORTEST], "little") for pattern in wanted], np.uint64))
    table = np.zeros(1 << 16, bool)
    table[(keys & np.uint64(0xFFFF)).astype(np.int64)] = True
    places = np.flatnonzero(table[pairs[: len(data) - SHORTEST + 1]])
    eights = np.zeros(len(places), np.uint64)
    for byte in range(SHORTEST):
        eights |= content[places + byte].astype(np.uint64) << np.uint64(8 * byte)
    places = places[np.isin(eights, keys)]
    lengths = sorted({len(pattern) for pattern in wanted})
    everything = set(wanted)
    found: set[bytes] = set()
    for place in places.tolist():
        for length in lengths:
            piece = data[place : place + length]
            if piece in everything:
                found.add(piece)
    return found
