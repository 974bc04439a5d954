"""Preparation of an unlabelled pool from a folder of crops, shard by shard.

    python scripts/prepare_dataset.py unlabelled --source DIR
    python scripts/prepare_dataset.py unlabelled --source DIR --option title=street --option camera_pattern='_c(\\d+)'

Shards are written whole or not at all, and a second run continues after the last complete one. Images that cannot be
decoded, are too small or have another shape than a person are left out, counted and listed; so are near-duplicates.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import pathlib
import re
import time
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from reid_jax import errors, file_io, progress
from reid_jax.data import difference_hash, image_io, image_names, limb_maps, pool

SHARD = 65_536
SMALLEST_SIDE, SHAPES = 32, (1.0, 5.0)  # of a crop: pixels, height / width
MOST_LISTED = 1_000
_STATE = "unfinished.json"  # in the folder of a pool whose preparation goes on
OPTIONS: dict[str, Any] = {
    "title": "",
    "list": "",
    "keep": 0,
    "maps": "",
    "keypoints": "",
    "camera_pattern": "",
    "track_pattern": "",
    "dedup": 0,
}


@dataclasses.dataclass
class _Progress:
    """What complete shards hold; `pool.json` and the file that resumes.

    Attributes:
        files: files of the listing that were looked at.
        last: the last of them.
        shards: name and number of images of each shard.
        skipped: numbers of images left out, by reason.
        listed: examples of them.
        digests: hashes of the shards' content.
    """

    files: int = 0
    last: str = ""
    shards: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    skipped: dict[str, int] = dataclasses.field(default_factory=dict)
    listed: list[str] = dataclasses.field(default_factory=list)
    digests: list[str] = dataclasses.field(default_factory=list)

    def skip(self, name: str, reason: str) -> None:
        """Counts an image that is left out."""
        self.skipped[reason] = self.skipped.get(reason, 0) + 1
        if len(self.listed) < MOST_LISTED:
            self.listed.append(f"{file_io.shown(name)}: {reason}")


@dataclasses.dataclass(frozen=True)
class _Row:
    """An image for a shard."""

    record: bytes
    hash: int
    camera: int
    track: int


def prepare(
    root: str | pathlib.Path,
    source: str | pathlib.Path,
    given: Mapping[str, Any] | None = None,
    *,
    shard: int = SHARD,
) -> str:
    """Prepares a pool, continuing after complete shards of an earlier run, and returns a report.

    Args:
        root: folder that holds `prepared/`.
        source: folder of crops, searched with everything below it.
        given: options: `title` distinguishes pools; `list` names a text file with the names of the images to take, in
            order, of which the first `keep` count (0: all); `maps` is a folder of label maps of body parts
            (PNG, 0 background, 1 to 8) under the same names; `keypoints` one of key points (JSON, see `limb_maps`),
            which become maps of limbs; `camera_pattern` and `track_pattern` are regular
            expressions with one group that find the camera's number and the track in a name; `dedup` is the number of
            bits in which the hashes of duplicates may differ, 0 to 8.
        shard: images of a shard.

    Raises:
        UserError: a source or option that cannot be used, or nothing usable in the source.
    """
    started = time.monotonic()
    options = _checked(given or {})
    source = pathlib.Path(source).expanduser()
    if not source.is_dir():
        raise errors.UserError(f"expected a folder of crops as source of the pool, got {file_io.shown(source)}.")
    target = pool.folder(root, options["title"])
    if (target / pool.INDEX).is_file():
        return f"{pool.NAME}: already prepared in {target}."
    file_io.make_folder(target, "the folder of the pool")
    key = json.dumps([str(source.resolve()), options, shard], sort_keys=True)
    state, known = _resumed(target, key)
    for rows, seen, last in _shards(source, options, state, known, shard):
        _write_shard(target, state, rows, seen, last, key)
    if not state.shards:
        counts = ", ".join(f"{number:,} {reason}" for reason, number in sorted(state.skipped.items())) or "no images"
        raise errors.UserError(f"expected crops of people in {file_io.shown(source)}, found none ({counts}).")
    _finish(target, state, source, options)
    count = sum(each["images"] for each in state.shards)
    lines = [f"{pool.NAME}: {count:,} images in {target} in {time.monotonic() - started:.1f} s."]
    lines += [f"  left out: {number:,} ({reason})" for reason, number in sorted(state.skipped.items())]
    return "\n".join(lines)


def _checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options with their types."""
    options = dict(OPTIONS)
    for key, value in given.items():
        if key not in OPTIONS:
            raise errors.unknown(f"option of data set {pool.NAME!r}:", key, OPTIONS)
        if isinstance(OPTIONS[key], int) and not str(value).isdigit():
            raise errors.UserError(
                f"expected a whole number from 0 as option {key!r} of the pool, got {str(value)[:40]!r}."
            )
        options[key] = int(value) if isinstance(OPTIONS[key], int) else str(value)
    if options["dedup"] > 8:
        raise errors.UserError(f"expected dedup between 0 and 8 bits, got {options['dedup']}.")
    for key in ("maps", "keypoints"):
        if options[key] and not pathlib.Path(options[key]).expanduser().is_dir():
            raise errors.UserError(
                f"expected a folder as option {key!r} of the pool, there is none at {file_io.shown(options[key])}; "
                "name another."
            )
    for key in ("camera_pattern", "track_pattern"):
        try:
            groups = re.compile(options[key]).groups
        except re.error as error:
            raise errors.UserError(f"the pattern {key} is no regular expression: {error}.") from error
        if options[key] and groups != 1:
            raise errors.UserError(f"expected one group in {key}, such as '_c(\\d+)', got {groups}.")
    return options


def _names(source: pathlib.Path, options: Mapping[str, Any]) -> Iterator[str]:
    """Yields the names of the images, relative to the source: those of the list, or all, folder by folder."""
    if options["list"]:
        text = file_io.read_text(options["list"], "a text file with a name a line", "name another")
        names = [line.strip() for line in text.splitlines() if line.strip()]
        yield from names[: options["keep"] or None]
        return
    waiting = [source]
    count = 0
    while waiting:
        path = waiting.pop()
        with os.scandir(path) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        waiting += [
            pathlib.Path(entry.path)
            for entry in reversed(found)
            if entry.is_dir(follow_symlinks=False) and not image_names.is_ignored(entry.name)
        ]
        for entry in found:
            if image_names.is_image(entry.name) and not _is_folder(entry):
                if options["keep"] and count >= options["keep"]:
                    return
                count += 1
                yield pathlib.Path(entry.path).relative_to(source).as_posix()


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Returns whether an entry is a folder; a link to itself is none, and is counted as unreadable later."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _shards(
    source: pathlib.Path, options: Mapping[str, Any], state: _Progress, known: set[int], size: int
) -> Iterator[tuple[list[_Row], int, str]]:
    """Yields the images of one shard after another, with the files looked at so far and the last of them."""
    rows: list[_Row] = []
    seen, last, begun = 0, "", state.files
    with progress.bar("images of the pool", None, "images") as advance:
        for name in _names(source, options):
            if seen == begun and last != state.last:
                break
            seen, last = seen + 1, name
            if seen <= begun:
                continue
            row = _row(source, name, options, state, known)
            advance(1)
            rows += [] if row is None else [row]
            if len(rows) == size:
                yield rows, seen, last
                rows = []
    if seen < begun or (seen == begun and last != state.last):
        raise errors.UserError(
            f"expected the same files in {file_io.shown(source)} as when its preparation began; remove the folder of "
            "the pool and prepare it again."
        )
    if rows:
        yield rows, seen, last


def _row(source: pathlib.Path, name: str, options: Mapping[str, Any], state: _Progress, known: set[int]) -> _Row | None:
    """Returns an image for a shard; None for one that is left out, which `state` counts."""
    try:
        data = (source / name).read_bytes()
        image = image_io.decode(data, name)
        maps = {"parts": _parts(name, options, image), limb_maps.NAME: _limbs(name, options, image)}
    except (OSError, errors.UserError):
        state.skip(name, "cannot be read")
        return None
    height, width = image.shape[:2]
    if min(height, width) < SMALLEST_SIDE:
        state.skip(name, f"a side below {SMALLEST_SIDE} pixels")
        return None
    if not SHAPES[0] <= height / width <= SHAPES[1]:
        state.skip(name, f"height / width outside {SHAPES[0]:g} to {SHAPES[1]:g}")
        return None
    digest = difference_hash.difference_hash(image)
    if _is_known(digest, known, options["dedup"]):
        state.skip(name, "a near-duplicate of another image")
        return None
    known.add(digest)
    camera, track = _number(options["camera_pattern"], name), _track(options["track_pattern"], name)
    return _Row(_record(data, name, camera, track, maps), digest, camera, track)


def _is_known(digest: int, known: set[int], bits: int) -> bool:
    """Returns whether a hash differs from a known one in at most some bits; with bits, it compares with all."""
    if digest in known or not bits or not known:
        return digest in known
    hashes = np.fromiter(known, np.uint64, len(known))
    return bool((np.bitwise_count(hashes ^ np.uint64(digest)) <= bits).any())


def _parts(name: str, options: Mapping[str, Any], image: np.ndarray) -> bytes | None:
    """Returns the label map of an image as PNG; None without a folder of maps.

    Raises:
        UserError: a map of another size.
    """
    if not options["maps"]:
        return None
    path = (pathlib.Path(options["maps"]).expanduser() / name).with_suffix(".png")
    data = path.read_bytes()
    if image_io.decode_map(data, name).shape != image.shape[:2]:
        raise errors.UserError(f"expected a map of the size of its image, {file_io.shown(path)} has another.")
    return data


def _limbs(name: str, options: Mapping[str, Any], image: np.ndarray) -> bytes | None:
    """Returns the map of limbs of an image as PNG; None without a folder of key points."""
    if not options["keypoints"]:
        return None
    return limb_maps.encoded((pathlib.Path(options["keypoints"]).expanduser() / name).with_suffix(".json"), image)


def _number(pattern: str, name: str) -> int:
    """Returns the number that a pattern finds in a name, -1 without one or beyond 16 bits."""
    found = re.search(pattern, name) if pattern else None
    number = int(found[1]) if found and str(found[1]).isdigit() else -1
    return number if number < 2**15 else -1


def _track(pattern: str, name: str) -> int:
    """Returns a number for the track that a pattern finds in a name, the same for the same text."""
    found = re.search(pattern, name) if pattern else None
    return zlib.crc32(str(found[1]).encode()) & 0x7FFFFFFF if found else 0


def _record(data: bytes, name: str, camera: int, track: int, maps: Mapping[str, bytes | None]) -> bytes:
    """Returns a serialized example, as TFDS writes them."""
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example()
    feature = example.features.feature
    feature["image"].bytes_list.value.append(data)
    feature["filename"].bytes_list.value.append(name.encode(errors="replace"))
    for key, png in maps.items():
        if png is not None:
            feature[key].bytes_list.value.append(png)
    for key, number, known in (("camid", camera, camera >= 0), ("track", track, track > 0)):
        if known:
            feature[key].int64_list.value.append(number)
    serialized: bytes = example.SerializeToString()
    return serialized


# ---- shards ---------------------------------------------------------------------------------------------------------


def _write_shard(target: pathlib.Path, state: _Progress, rows: list[_Row], seen: int, last: str, key: str) -> None:
    """Writes a shard with its arrays, then what a second run needs to continue after it."""
    from array_record.python import array_record_module

    name = f"pool-{len(state.shards):05d}.array_record"
    with file_io.replacing(target / name, "a shard of the pool") as temporary:
        writer = array_record_module.ArrayRecordWriter(str(temporary), "group_size:1")
        digest = hashlib.blake2b(digest_size=16)
        for row in rows:
            writer.write(row.record)
            digest.update(row.record)
        writer.close()
    arrays: dict[str, Any] = {
        "hashes": np.array([row.hash for row in rows], np.uint64),
        "cameras": np.array([row.camera for row in rows], np.int16),
        "tracks": np.array([row.track for row in rows], np.int32),
    }
    file_io.write(target / f"{name}.npz", lambda file: np.savez(file, **arrays), "the arrays of a shard")
    state.shards.append({"file": name, "images": len(rows)})
    state.digests.append(digest.hexdigest())
    state.files, state.last = seen, last
    file_io.write_json(target / _STATE, {"key": key, **dataclasses.asdict(state)}, "the state of the preparation")


def _resumed(target: pathlib.Path, key: str) -> tuple[_Progress, set[int]]:
    """Returns what an earlier run completed, and the hashes of its images.

    Raises:
        UserError: that run had another source or other options.
    """
    if not (target / _STATE).is_file():
        return _Progress(), set()
    saved = file_io.read_json(target / _STATE, "the state of a preparation", "remove the folder of the pool")
    if saved.pop("key", "") != key:
        raise errors.UserError(
            f"expected the source and options with which the pool in {target} was begun; give those, or remove that "
            "folder."
        )
    state = _Progress(**saved)
    return state, {int(digest) for digest in _joined(target, state, "hashes")}


def _joined(target: pathlib.Path, state: _Progress, name: str) -> np.ndarray:
    """Returns an array over all shards."""
    parts = []
    for shard in state.shards:
        with np.load(target / f"{shard['file']}.npz") as arrays:
            parts.append(arrays[name])
    return np.concatenate(parts)


def _finish(target: pathlib.Path, state: _Progress, source: pathlib.Path, options: Mapping[str, Any]) -> None:
    """Writes arrays and index of the complete pool, and removes what only a second run needed."""
    for name, key, wanted in (
        (pool.HASHES, "hashes", True),
        (pool.CAMERAS, "cameras", bool(options["camera_pattern"])),
        (pool.TRACKS, "tracks", bool(options["track_pattern"])),
    ):
        if wanted:
            buffer = io.BytesIO()
            np.save(buffer, _joined(target, state, key))
            file_io.write_bytes(target / name, buffer.getvalue(), "an array of the pool")
    index = {
        "source": str(source.resolve()),
        "options": options,
        "shards": state.shards,
        "skipped": state.skipped,
        "listed": state.listed,
        "digest": hashlib.blake2b("/".join(state.digests).encode(), digest_size=16).hexdigest(),
    }
    file_io.write_json(target / pool.INDEX, index, "the index of the pool")
    for path in (target / _STATE, *(target / f"{shard['file']}.npz" for shard in state.shards)):
        path.unlink(missing_ok=True)
