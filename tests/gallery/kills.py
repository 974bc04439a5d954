"""Kills a process that writes to a gallery, again and again, and looks whether anything was lost or is half there.

    python -m tests.gallery.kills --kills 100          # writes results/gallery_kills.json
    python -m tests.gallery.kills --kills 10 --seed 7 --output kills.json

A child adds, removes and compacts without a pause, and says before and after each change what it does. It is killed
(SIGKILL) at a random moment. Then every change that it had reported as done must be there, the one that it was at must
be there as a whole or not at all, each entry must have its vector, its thumbnail and its labels, the file must pass
SQLite's own check, the audit log's chain must hold, and it must have each change once. The next child goes on from
there.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import pathlib
import random
import signal
import sys
import tempfile
import time
from typing import Any

import numpy as np

from reid_jax import file_io
from reid_jax.gallery import binding as binding_lib
from reid_jax.gallery import entries, gallery
from reid_jax.runtime import provenance

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "results" / "gallery_kills.json"
SIZE = 128
BINDING = binding_lib.Binding({"name": "drawn"}, "", {}, "cosine", (SIZE,), False)
ME = {"who": "kills", "why": "test"}


def vector(number: int) -> np.ndarray:
    """The features of an image, from its number."""
    return np.random.default_rng(number).normal(size=SIZE).astype(np.float32)


def images(numbers: range) -> entries.Entries:
    """Images with these numbers."""
    return entries.Entries(
        [f"image-{number}" for number in numbers],
        np.stack([vector(number) for number in numbers]),
        identities=[f"person {number % 7}" for number in numbers],
        tracks=[f"track {number // 5}" for number in numbers],
        thumbnails=[b"picture %d" % number * 40 for number in numbers],
    )


def write(place: pathlib.Path, chance: random.Random, first: int, living: set[int], pipe: int) -> None:
    """Changes the gallery until it is killed; each change is announced, done, and reported."""

    def say(kind: str, change: list[Any]) -> None:
        os.write(pipe, json.dumps([kind, change]).encode() + b"\n")

    opened = gallery.Gallery.open(place)
    os.write(pipe, b'["open", []]\n')
    while True:
        kind = chance.choices(("add", "remove", "compact"), (10, 5, 1))[0]
        if kind == "remove" and living:
            track = chance.choice(sorted(living)) // 5
            change = ["remove", track * 5, track * 5 + 5]
            say("begin", change)
            opened.remove(entries.Selection(tracks=(f"track {track}",)), **ME)
            living -= set(range(change[1], change[2]))
        elif kind == "compact":
            change = ["compact", 0, 0]
            say("begin", change)
            opened.compact(**ME)
        else:
            change = ["add", first, first + chance.randint(1, 200)]
            made = images(range(change[1], change[2]))
            say("begin", change)
            opened.add(made, BINDING, **ME)
            living |= set(range(change[1], change[2]))
            first = change[2]
        say("end", change)


def applied(living: set[int], change: list[Any]) -> set[int]:
    """The numbers of living images after a change."""
    kind, start, stop = change
    numbers = set(range(start, stop))
    return living | numbers if kind == "add" else living - numbers if kind == "remove" else living


def killed_once(place: pathlib.Path, chance: random.Random, first: int, living: set[int]) -> list[list[Any]]:
    """What a child has said until it was killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        try:
            write(place, chance, first, set(living), writer)
        finally:
            os._exit(1)  # an error of its own: no kill
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        said = [json.loads(stream.readline())]
        time.sleep(chance.expovariate(1 / 0.08))
        os.kill(child, signal.SIGKILL)
        said += [json.loads(line) for line in stream.read().splitlines() if line.endswith(b"]")]
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status), "the writer ended by itself"
    return said


def check(place: pathlib.Path, allowed: list[set[int]]) -> tuple[set[int], list[str]]:
    """The living images of the gallery, and what is wrong with it."""
    wrong = []
    with gallery.Gallery.open(place) as opened:
        store = opened.store
        verdict = store._query("pragma integrity_check")  # type: ignore[attr-defined]
        if verdict != [("ok",)]:
            wrong.append(f"integrity check: {verdict[:3]}")
        found: set[int] = set()
        for block in store.read():
            details = store.details(block.ids.tolist())
            for row, entry in enumerate(details):
                number = int(entry.file.removeprefix("image-"))
                found.add(number)
                whole = np.array_equal(block.features[row], vector(number))
                whole &= (entry.identity, entry.track) == (f"person {number % 7}", f"track {number // 5}")
                whole &= store.thumbnail(entry.id) == b"picture %d" % number * 40
                if not whole:
                    wrong.append(f"half there: image {number}")
        counts = [store._query(f"select count(*) from {name}")[0][0] for name in _TABLES]  # type: ignore[attr-defined]
        if len(set(counts)) != 1:
            wrong.append(f"tables of different lengths: {counts}")
        if found not in allowed:
            best = min(allowed, key=lambda one: len(one ^ found))
            wrong.append(f"lost: {sorted(best - found)[:5]}, too many: {sorted(found - best)[:5]}")
        assert opened.log is not None
        opened.log.check()
        wrong += unlogged(opened.log.lines(), store.state().added, set(store.ids().tolist()))
    return found, wrong


def unlogged(lines: list[dict[str, Any]], largest: int, living: set[int]) -> list[str]:
    """The changes that the audit log does not have, or has twice, given the largest number of an entry ever given."""
    logged = {
        event: [
            number
            for line in lines
            if line["event"] == event
            for first, last in line["ids"]
            for number in range(first, last + 1)
        ]
        for event in ("add", "remove")
    }
    wanted = {"add": set(range(1, largest + 1)), "remove": set(range(1, largest + 1)) - living}
    return [
        f"log of {event}: {len(wanted[event] - set(numbers))} missing, {len(numbers) - len(wanted[event])} too many"
        for event, numbers in logged.items()
        if sorted(numbers) != sorted(wanted[event])
    ]


_TABLES = ("entries", "vectors", "thumbnails")


def main() -> int:
    """Runs the kills and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default=str(OUTPUT))
    args = parser.parse_args()
    during: collections.Counter[str] = collections.Counter()
    ends: collections.Counter[str] = collections.Counter()
    wrong: list[str] = []
    changes, living, first, started = 0, set[int](), 0, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gallery-kills-") as folder:
        place = pathlib.Path(folder) / "people.gallery"
        gallery.Gallery.create(place, BINDING).close()
        for number in range(args.kills):
            said = killed_once(place, random.Random(f"{args.seed}-{number}"), first, living)
            done = [change for kind, change in said if kind == "end"]
            begun = [change for kind, change in said if kind == "begin"][len(done) :]
            for change in done:
                living = applied(living, change)
            after = applied(living, begun[0]) if begun else living
            during[begun[0][0] if begun else "between two changes"] += 1
            found, faults = check(place, [living, after])
            if begun and after != living:
                ends["whole" if found == after else "not begun"] += 1
            wrong += [f"kill {number}: {fault}" for fault in faults]
            changes += len(done)
            first = max([first, *(change[2] for kind, change in said if change and change[0] == "add")])
            living = found
        entries_left = len(living)
    result = {
        "kills": args.kills,
        "seed": args.seed,
        "during": dict(during),
        "interrupted_changes": dict(ends),
        "finished_changes": changes,
        "entries_at_the_end": entries_left,
        "lost": sum("lost" in fault for fault in wrong),
        "half_there": sum("half" in fault or "tables" in fault for fault in wrong),
        "wrong": wrong[:20],
        "seconds": round(time.monotonic() - started, 1),
        "commit": provenance.commit(),
    }
    print(json.dumps(result, indent=2))
    file_io.write_json(args.output, result, "the results")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
