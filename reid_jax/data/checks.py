"""Checks of a data set: every image decodes, counts are the published ones, and queries have a correct match.

The checks work on lists of identities and cameras; only `inspect_images` opens files.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from reid_jax import errors, file_io
from reid_jax.data import image_io, records, source_files


@dataclasses.dataclass(frozen=True)
class Inspection:
    """The result of reading and decoding every file.

    Attributes:
        bad: for each file that does not decode, its index and a sentence that names it.
        hashes: a 16-byte hash of every file's content; empty where the file cannot be read.
        sizes: int32 [N, 2], height and width in pixels; 0 where the file does not decode.
        rotated: indices of files that ask for a rotation, which `image_io.decode` does not apply.
    """

    bad: dict[int, str]
    hashes: list[bytes]
    sizes: np.ndarray
    rotated: tuple[int, ...] = ()


def inspect_images(
    paths: Sequence[Any], threads: int | None = None, progress: Callable[[int], Any] | None = None
) -> Inspection:
    """Reads, hashes and decodes every file.

    Args:
        paths: the files, or objects with a method `read_bytes`.
        threads: number of threads, None for one per processor (decoding releases the interpreter lock).
        progress: called with the number of files finished since the last call.
    """
    block = 64
    bad: dict[int, str] = {}
    hashes = [b""] * len(paths)
    sizes = np.zeros((len(paths), 2), np.int32)
    rotated: list[int] = []

    def inspect(start: int) -> None:
        for position in range(start, min(start + block, len(paths))):
            path = paths[position]
            try:
                data = path.read_bytes()
                hashes[position] = source_files.digest(data)
                sizes[position] = image_io.decode(data, file_io.shown(str(path))).shape[:2]
                if image_io.orientation(data) > 1:
                    rotated.append(position)
            except errors.UserError as error:
                bad[position] = str(error)
            except OSError as error:
                name = file_io.shown(str(path))
                bad[position] = f"{name} cannot be read ({errors.reason(error)}); repair the file or leave it out."

    with concurrent.futures.ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        for start, _ in zip(range(0, len(paths), block), pool.map(inspect, range(0, len(paths), block))):
            if progress is not None:
                progress(min(block, len(paths) - start))
    return Inspection(dict(sorted(bad.items())), hashes, sizes, tuple(sorted(rotated)))


def describe(splits: Mapping[str, records.Split], inspection: Inspection, disjoint: bool = False) -> str:
    """Returns a report of sizes, images per identity and camera, overlap and duplicates, as a table and sentences.

    Args:
        splits: the splits, in the order in which their files were inspected.
        inspection: the result for all their files.
        disjoint: training and test identities share one numbering, so that their overlap can be computed.
    """
    rows, first = [], 0
    for name, split in splits.items():
        sizes = inspection.sizes[first : first + len(split)]
        first += len(split)
        people = np.unique(split.pids[split.pids > 0], return_counts=True)[1]
        cameras = np.unique(split.camids[split.camids >= 0], return_counts=True)[1]
        sizes = sizes[sizes[:, 0] > 0]
        rows.append((name, _spread(people), _spread(cameras), _spread(sizes[:, 0]), _spread(sizes[:, 1])))
    header = ("smallest / median / largest", "images per identity", "images per camera", "height", "width")
    lines = [records.format_table(header, rows), ""]
    lines.append(_overlap(splits, disjoint))
    lines += _duplicates(splits, inspection.hashes)
    lines.append(f"unreadable files: {len(inspection.bad) or 'none'}")
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
    return f"identities in training and test: {f'{len(shared)} (pid {_examples(shared)})' if len(shared) else 'none'}"


@dataclasses.dataclass(frozen=True)
class _Image:
    """An image of a group of files of equal content."""

    split: str
    pid: int
    camid: int
    filename: str

    @property
    def name(self) -> str:
        return f"{self.split}/{self.filename}"

    @property
    def half(self) -> str:
        return "train" if self.split == "train" else "test"


@dataclasses.dataclass(frozen=True)
class _Duplicates:
    """Two images of each group of files of equal content, by what is wrong with them.

    Attributes:
        across: in training and in test.
        between: under two identities of training, or of test; identities of the two halves may be unrelated.
        answered: a query and a gallery image of its identity that the protocol ranks.
        harmless: all others.
    """

    across: list[list[_Image]]
    between: list[list[_Image]]
    answered: list[list[_Image]]
    harmless: list[list[_Image]]


def _find_duplicates(splits: Mapping[str, records.Split], hashes: Sequence[bytes]) -> _Duplicates:
    flat = (
        _Image(name, int(pid), int(camid), file)
        for name, split in splits.items()
        for pid, camid, file in zip(split.pids, split.camids, split.filenames)
    )
    groups: dict[bytes, list[_Image]] = collections.defaultdict(list)
    for content, image in zip(hashes, flat):
        if content:
            groups[content].append(image)
    found = _Duplicates([], [], [], [])
    for group in (group for group in groups.values() if len(group) > 1):
        halves = {half: [image for image in group if image.half == half] for half in ("train", "test")}
        if all(halves.values()):
            found.across.append([halves["train"][0], halves["test"][0]])
        disputed = False
        for images in halves.values():
            known = [image for image in images if image.pid != records.JUNK]
            other = next((image for image in known if image.pid != known[0].pid), None)
            if other is not None:
                found.between.append([known[0], other])
                disputed = True
        if answered := _answered_pair(group):
            found.answered.append(answered)
        elif not disputed and not all(halves.values()):
            found.harmless.append(group[:2])
    return found


def _answered_pair(group: list[_Image]) -> list[_Image]:
    """Returns a query and a gallery image that count as a correct match, and are the same image."""
    for query in (image for image in group if image.split == "query"):
        for image in group:
            same_camera = image.camid == query.camid != records.UNKNOWN_CAMERA
            if image.split == "gallery" and image.pid == query.pid and not same_camera:
                return [query, image]
    return []


def _duplicates(splits: Mapping[str, records.Split], hashes: Sequence[bytes]) -> list[str]:
    """Returns sentences about files of equal content for the report of a check."""
    found = _find_duplicates(splits, hashes)
    lines = [
        f"files of equal content: {len(groups)} {kind}, such as {groups[0][0].name} = {groups[0][1].name}"
        for kind, groups in (
            ("in training and test alike", found.across),
            ("under two identities", found.between),
            ("in query and gallery alike", found.answered),
            ("of one identity", found.harmless),
        )
        if groups
    ]
    return lines or ["files of equal content: none"]


def warnings_about_files(splits: Mapping[str, records.Split], inspection: Inspection) -> list[str]:
    """Returns sentences about the files' contents that make scores or labels wrong.

    Args:
        splits: the splits, in the order in which their files were inspected.
        inspection: the result for all their files.
    """
    found = _find_duplicates(splits, inspection.hashes)
    sentences = []
    if found.answered:
        first, queries = found.answered[0], len(splits["query"])
        sentences.append(
            f"{len(found.answered)} of {queries} queries are in the gallery as the same image, such as "
            f"{first[0].name} = {first[1].name}, where any model finds them; take them out of the gallery."
        )
    for groups, text in (
        (found.across, "images are in training and in test, such as {}; scores will be too high."),
        (found.between, "images are listed under two identities, such as {}; one of the labels is wrong."),
    ):
        if groups:
            sentences.append(f"{len(groups)} " + text.format(f"{groups[0][0].name} = {groups[0][1].name}"))
    names = [f"{name}/{file}" for name, split in splits.items() for file in split.filenames]
    if inspection.rotated:
        sentences.append(
            f"{len(inspection.rotated)} of {len(names)} images ask for a rotation (EXIF), such as "
            f"{names[inspection.rotated[0]]}; it is not applied, save them upright."
        )
    return [file_io.shown(sentence) for sentence in sentences]


def compare_counts(
    splits: Mapping[str, records.Split], published: Mapping[str, Mapping[str, int]]
) -> tuple[str, list[str]]:
    """Compares the counts of a data set with those that its authors published.

    Args:
        splits: the splits found.
        published: numbers by split and count (a key of `Split.counts`); may be empty.

    Returns:
        A table of the counts, with the published ones where they differ, and a line for each difference.
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
    """Finds the queries without a correct match in the gallery.

    Args:
        query: the query split.
        gallery: the gallery split.
        same_camera_filter: ignore gallery images of the query's identity from the query's camera, as the standard
            protocol does. An unknown camera (-1) equals no camera, as in the evaluation.

    Returns:
        bool [Q], True where no gallery image is a correct match.
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
    """Makes sure that an evaluation can be scored; called before training.

    Args:
        query: the query split.
        gallery: the gallery split.
        same_camera_filter: the evaluation's setting, see `queries_without_match`.

    Returns:
        The number of queries without a correct match, which an evaluation leaves out.

    Raises:
        UserError: no query has a correct match; the sentence gives the cause and the remedy.
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
            f"{_examples(query.pids)}, gallery pids {_examples(gallery.pids)}); give both splits images of the same "
            "people."
        )
    one_camera = len(np.unique(np.concatenate([query.camids, gallery.camids]))) == 1
    cause = "all images come from one camera" if one_camera else "each person was seen by one camera only"
    raise errors.UserError(
        f"every gallery image of a query's person is from the query's own camera ({query.name} in {gallery.name}: "
        f"{cause}), and the usual protocol leaves such images out, so there is nothing to find; give camera ids of two "
        "or more cameras, or set evals.same_camera_filter=False to count images of the same camera as well."
    )


def warnings_about(splits: Mapping[str, records.Split], disjoint: bool = False) -> list[str]:
    """Returns sentences about properties that are allowed but rarely intended.

    Args:
        splits: the splits of the data set.
        disjoint: the protocol keeps the identities of training and test apart.
    """
    found = []
    train, query, gallery = (splits.get(name) for name in records.SPLITS)
    if train is not None:
        identities, counts = np.unique(train.pids, return_counts=True)
        if len(identities) == 1:
            found.append(
                f"all training images are of one identity (pid {identities[0]}), so that there is nothing to tell "
                "apart; a system that learns identities cannot be trained on them."
            )
        single = identities[counts == 1]
        if len(single):
            found.append(
                f"{len(single)} of {len(identities)} training identities have one image only (pid "
                f"{_examples(single)}); the sampler repeats that image, and the positive of its triplets is the image "
                "itself."
            )
        test = [split.pids[split.pids > 0] for split in (query, gallery) if split is not None]
        if disjoint and test:
            shared = np.intersect1d(train.pids, np.concatenate(test))
            if len(shared):
                found.append(
                    f"{len(shared)} identities are in the training and in the test half (pid {_examples(shared)}), "
                    "which this data set's protocol keeps apart; scores will be too high."
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
    unknown = np.concatenate([query.camids, gallery.camids]) == records.UNKNOWN_CAMERA
    if (gallery.camids == records.UNKNOWN_CAMERA).all():
        found.append(
            "no camera is known, so images from the query's own camera count as correct matches; scores will be higher "
            "than across cameras."
        )
    elif unknown.any():
        found.append(
            f"the camera of {unknown.sum():,} of {len(unknown):,} query and gallery images is unknown, and differs "
            "from all others in the evaluation; scores will be higher than across cameras."
        )
    if without:
        found.append(f"{without} of {len(query)} queries have no correct match in the gallery and are not counted.")
    return found


def _examples(values: np.ndarray) -> str:
    shown = np.unique(values)
    return ", ".join(str(value) for value in shown[:3]) + (", ..." if len(shown) > 3 else "")
