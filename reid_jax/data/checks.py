"""What is looked at before a data set is trusted: every image, the published counts, and whether anything can be found.

The checks read lists of identities and cameras; only `look_at_images` opens files.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from reid_jax import errors
from reid_jax.data import image_io, records


@dataclasses.dataclass(frozen=True)
class Looked:
    """What reading every file found.

    Attributes:
        bad: position -> one sentence that names a file which does not decode.
        hashes: 16 bytes of every file's content; empty where it could not be read.
        sizes: int32 [N, 2], height and width in pixels; 0 where it does not decode.
    """

    bad: dict[int, str]
    hashes: list[bytes]
    sizes: np.ndarray


def look_at_images(
    paths: Sequence[Any], threads: int | None = None, progress: Callable[[int], Any] | None = None
) -> Looked:
    """Reads and decodes every file.

    Args:
        paths: the files, or whatever has their `read_bytes`.
        threads: how many at a time; None is one per processor (decoding releases the interpreter's lock).
        progress: called with the number of files done since the last call.
    """
    block = 64
    bad: dict[int, str] = {}
    hashes = [b""] * len(paths)
    sizes = np.zeros((len(paths), 2), np.int32)

    def look(start: int) -> None:
        for position in range(start, min(start + block, len(paths))):
            path = paths[position]
            try:
                data = path.read_bytes()
                hashes[position] = hashlib.blake2b(data, digest_size=16).digest()
                sizes[position] = image_io.decode(data, str(path)).shape[:2]
            except errors.UserError as error:
                bad[position] = str(error)
            except OSError as error:
                bad[position] = f"{path} cannot be read ({error.strerror}); mend the file or leave it out."

    with concurrent.futures.ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        for start, _ in zip(range(0, len(paths), block), pool.map(look, range(0, len(paths), block))):
            if progress is not None:
                progress(min(block, len(paths) - start))
    return Looked(dict(sorted(bad.items())), hashes, sizes)


def unreadable_images(
    paths: Sequence[pathlib.Path], threads: int | None = None, progress: Callable[[int], Any] | None = None
) -> dict[int, str]:
    """Decodes every file and returns what is wrong with those that do not decode, see `look_at_images`."""
    return look_at_images(paths, threads, progress).bad


def describe(splits: Mapping[str, records.Split], looked: Looked, disjoint: bool = False) -> str:
    """Returns a table and sentences about what counts do not tell.

    Args:
        splits: the splits, in the order in which their files were looked at.
        looked: what was found in the files.
        disjoint: training and test people share one numbering, so that their overlap means something.
    """
    rows, first = [], 0
    for name, split in splits.items():
        sizes = looked.sizes[first : first + len(split)]
        first += len(split)
        people = np.unique(split.pids[split.pids > 0], return_counts=True)[1]
        cameras = np.unique(split.camids[split.camids >= 0], return_counts=True)[1]
        sizes = sizes[sizes[:, 0] > 0]
        rows.append((name, _spread(people), _spread(cameras), _spread(sizes[:, 0]), _spread(sizes[:, 1])))
    header = ("smallest / median / largest", "images per identity", "images per camera", "height", "width")
    lines = [records.format_table(header, rows), ""]
    lines.append(_overlap(splits, disjoint))
    lines += _duplicates(splits, looked.hashes)
    lines.append(f"unreadable files: {len(looked.bad) or 'none'}")
    return "\n".join(lines)


def _spread(values: np.ndarray) -> str:
    if not len(values):
        return "-"
    low, middle, high = int(values.min()), float(np.median(values)), int(values.max())
    return f"{low:,}" if low == high else f"{low:,} / {middle:,.10g} / {high:,}"


def _overlap(splits: Mapping[str, records.Split], disjoint: bool) -> str:
    test = [split.pids[split.pids > 0] for name, split in splits.items() if name != "train"]
    if "train" not in splits or not test:
        return "identities in training and test: there is only one of the two"
    if not disjoint:
        return "identities in training and test: numbered independently, not comparable"
    shared = np.intersect1d(splits["train"].pids, np.concatenate(test))
    return f"identities in training and test: {f'{len(shared)} (pid {_some(shared)})' if len(shared) else 'none'}"


def _duplicates(splits: Mapping[str, records.Split], hashes: Sequence[bytes]) -> list[str]:
    """Sentences about files of equal content, worst first: across the halves, under two identities, others."""
    flat = [(name, int(pid), file) for name, split in splits.items() for pid, file in zip(split.pids, split.filenames)]
    groups: dict[bytes, list[tuple[str, int, str]]] = collections.defaultdict(list)
    for digest, one in zip(hashes, flat):
        if digest:
            groups[digest].append(one)
    across: list[list[tuple[str, int, str]]] = []
    between: list[list[tuple[str, int, str]]] = []
    within: list[list[tuple[str, int, str]]] = []
    for group in (group for group in groups.values() if len(group) > 1):
        halves = {name == "train" for name, _, _ in group}
        people = {pid for _, pid, _ in group}
        (across if len(halves) > 1 else between if len(people) > 1 else within).append(group)
    lines = []
    for kind, found in (
        ("in training and test alike", across),
        ("under two identities", between),
        ("of one identity", within),
    ):
        if found:
            (split, _, file), (other_split, _, other) = found[0][:2]
            example = f"{split}/{file} = {other_split}/{other}"
            lines.append(f"files of equal content: {len(found)} {kind}, such as {example}")
    return lines or ["files of equal content: none"]


def compare_counts(
    splits: Mapping[str, records.Split], published: Mapping[str, Mapping[str, int]]
) -> tuple[str, list[str]]:
    """Compares what was found with what the data set's authors state.

    Args:
        splits: the splits found.
        published: split -> count name (a key of `Split.counts`) -> number; may be empty.

    Returns:
        A table of found (and, where known, published) counts, and one line for each difference.
    """
    rows, differences = [], []
    for name, split in splits.items():
        row = [name]
        for key, found in split.counts().items():
            expected = published.get(name, {}).get(key, found)
            if expected == found:
                row.append(f"{found:,}")
            else:
                row.append(f"{found:,} of {expected:,}")
                differences.append(f"{name}: {found:,} {key}, published are {expected:,}")
        rows.append(row)
    return records.format_table(("split", "images", "identities", "cameras", "junk", "distractors"), rows), differences


def queries_without_match(query: records.Split, gallery: records.Split, same_camera_filter: bool = True) -> np.ndarray:
    """Finds the queries that the protocol leaves nothing to find for.

    Args:
        query: the query split.
        gallery: the gallery split.
        same_camera_filter: leave out gallery images of the query's person from the query's camera, as the usual
            protocol does. An unknown camera (-1) is nobody's "same camera", as in the evaluation.

    Returns:
        bool [Q], True where no gallery image is a right answer.
    """
    people = collections.Counter(gallery.pids.tolist())
    people[records.JUNK] = 0
    same_camera: collections.Counter[tuple[int, int]] = collections.Counter()
    if same_camera_filter:
        pairs = zip(gallery.pids.tolist(), gallery.camids.tolist())
        same_camera.update((pid, camid) for pid, camid in pairs if camid != records.UNKNOWN_CAMERA)
    pairs = zip(query.pids.tolist(), query.camids.tolist())
    return np.array([people[pid] - same_camera[(pid, camid)] <= 0 for pid, camid in pairs], bool)


def check_protocol(query: records.Split, gallery: records.Split, same_camera_filter: bool = True) -> int:
    """Makes sure that an evaluation would count something; meant to be called before training.

    Args:
        query: the query split.
        gallery: the gallery split.
        same_camera_filter: the evaluation's setting, see `queries_without_match`.

    Returns:
        The number of queries without a right answer, which an evaluation leaves out.

    Raises:
        UserError: no query has a right answer; the sentence tells the cause and the way out.
    """
    for split in (query, gallery):
        if len(split) == 0:
            raise errors.UserError(f"{split.name} is empty; an evaluation needs query and gallery images.")
    without = queries_without_match(query, gallery, same_camera_filter)
    if not without.all():
        return int(without.sum())
    if queries_without_match(query, gallery, same_camera_filter=False).all():
        raise errors.UserError(
            f"no identity of {query.name} is in {gallery.name}, so there is nothing to find (query pids "
            f"{_some(query.pids)}, gallery pids {_some(gallery.pids)}); give both splits images of the same people."
        )
    one_camera = len(np.unique(np.concatenate([query.camids, gallery.camids]))) == 1
    cause = "all images come from one camera" if one_camera else "each person was seen by one camera only"
    raise errors.UserError(
        f"every gallery image of a query's person is from the query's own camera ({query.name} in {gallery.name}: "
        f"{cause}), and the usual protocol leaves such images out, so there is nothing to find; give camera ids of two "
        "or more cameras, or set same_camera_filter=False to count images of the same camera as well."
    )


def warnings_about(splits: Mapping[str, records.Split], disjoint: bool = False) -> list[str]:
    """Returns sentences about what is legal but seldom meant.

    Args:
        splits: the splits there are.
        disjoint: the data set promises that nobody is in both halves.
    """
    found = []
    train, query, gallery = (splits.get(name) for name in records.SPLITS)
    if train is not None:
        identities, counts = np.unique(train.pids, return_counts=True)
        single = identities[counts == 1]
        if len(single):
            found.append(
                f"{len(single)} of {len(identities)} training identities have one image only (pid {_some(single)}); "
                "the sampler repeats that image, and a triplet's positive is then the image itself."
            )
        test = [split.pids[split.pids > 0] for split in (query, gallery) if split is not None]
        if disjoint and test:
            shared = np.intersect1d(train.pids, np.concatenate(test))
            if len(shared):
                found.append(
                    f"{len(shared)} identities are in the training and in the test half (pid {_some(shared)}), which "
                    "this data set's protocol keeps apart; scores will be too high."
                )
    if query is not None and gallery is not None:
        found += _warnings_about_protocol(query, gallery)
    return found


def _warnings_about_protocol(query: records.Split, gallery: records.Split) -> list[str]:
    try:
        without = check_protocol(query, gallery)
    except errors.UserError as error:
        return [str(error)]
    found = []
    if (gallery.camids == records.UNKNOWN_CAMERA).all():
        found.append(
            "no camera is known, so images from the query's own camera count as right answers; scores will be higher "
            "than across cameras."
        )
    if without:
        found.append(f"{without} of {len(query)} queries have no right answer in the gallery and will not count.")
    return found


def _some(values: np.ndarray) -> str:
    shown = np.unique(values)
    return ", ".join(str(value) for value in shown[:3]) + (", ..." if len(shown) > 3 else "")
