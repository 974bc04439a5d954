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
_NUMBER = 8  # bytes of the largest number that is stored


@dataclasses.dataclass(frozen=True)
class Proof:
    """What `compact` has done and found.

    Attributes:
        names: number of removed names that were looked for.
        vectors: number of removed vectors that were looked for.
        short: number of removed names too short to be looked for.
        shared: number of removed names and vectors that living entries have, too.
        unclear: number of removed names that were found where they cannot be told from living ones, whose texts stand
            one behind the other.
        scanned: number of bytes that were looked at; 0 for a server, whose files are not at hand.
        before: bytes of the gallery before.
        after: bytes of the gallery afterwards.
    """

    names: int
    vectors: int
    short: int
    shared: int
    unclear: int
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
        if self.unclear:
            extra.append(f"{self.unclear:,} names read like two living ones in a row and could not be judged")
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
    texts = [text.encode() for text in removed.texts if len(text.encode()) >= SHORTEST]
    living, vectors = _living(opened, removed.vectors) if files and (texts or removed.vectors) else (b"", set())
    gone = set(removed.vectors) - vectors
    names = set(texts) - _found(living, texts)
    found: set[bytes] = set()
    scanned = 0
    for path in files:
        found |= occurrences(path, [*names, *gone])
        scanned += path.stat().st_size
    unclear = {name for name in found & names if _is_put_together(name, living)}
    left = found - unclear
    if left:
        opened.remember(removed)
        kinds = sorted({"a name" if pattern in names else "a vector" for pattern in left})
        raise errors.UserError(
            f"{len(left)} removed items ({' and '.join(kinds)}) are still in the files of {opened.name}; compact again "
            "when no other process has the gallery open, else report this."
        )
    short, shared = len(removed.texts) - len(texts), len(texts) - len(names) + len(removed.vectors) - len(gone)
    counts = len(names - unclear), len(gone), short, shared, len(unclear)
    return Proof(*counts, scanned if files else 0, before, opened.size())


def _living(opened: store.Store, vectors: Sequence[bytes]) -> tuple[bytes, set[bytes]]:
    """Returns the texts of all living entries, each between zero bytes, and those of some vectors that they have."""
    wanted, there = set(vectors), set[bytes]()
    texts: set[str] = {"", opened.binding.as_json()}
    for block in opened.read():
        if wanted:
            rows = block.features.reshape(len(block.ids), -1).astype("<f4")
            there |= wanted & {row.tobytes()[: sql_store.PROBE] for row in rows}
        for entry in opened.details(block.ids.tolist()):
            texts |= {entry.file, entry.identity or "", entry.track or "", entry.camera or "", entry.folder or ""}
    return b"\0" + b"\0".join(text.encode() for text in texts) + b"\0", there


def _is_put_together(name: bytes, living: bytes) -> bool:
    """Returns whether a name can be the end of a living text and the beginning of what is stored behind it.

    The database stores the texts of a row without anything between them, and numbers behind them: "person 1", camera
    "2" reads "person 12".
    """
    for cut in range(1, len(name)):
        head, tail = name[:cut], name[cut:]
        if head + b"\0" in living and (len(tail) <= _NUMBER or b"\0" + tail in living):
            return True
    return False


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
    keys = np.unique(np.asarray([int.from_bytes(pattern[:SHORTEST], "little") for pattern in wanted], np.uint64))
    table = np.zeros(1 << 16, bool)
    table[(keys & np.uint64(0xFFFF)).astype(np.int64)] = True
    pairs = [np.frombuffer(data, "<u2", (len(data) - offset) // 2, offset) for offset in (0, 1)]
    places = np.concatenate([2 * np.flatnonzero(table[pair]) + offset for offset, pair in enumerate(pairs)])
    places = places[places <= len(data) - SHORTEST]
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
