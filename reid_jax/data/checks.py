"""What is looked at before a data set is trusted: every image, the published counts, and whether anything can be found.

The checks read lists of identities and cameras; only `unreadable_images` opens files.
"""

from __future__ import annotations

import collections
import concurrent.futures
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from reid_jax import errors
from reid_jax.data import images, records


def unreadable_images(
    paths: Sequence[pathlib.Path], threads: int | None = None, progress: Callable[[int], Any] | None = None
) -> dict[int, str]:
    """Decodes every file and returns what is wrong with those that do not decode.

    Args:
        paths: the files.
        threads: how many at a time; None is one per processor (decoding releases the interpreter's lock).
        progress: called with the number of files done since the last call.

    Returns:
        position in `paths` -> one sentence that names the file.
    """
    block = 64

    def check(start: int) -> dict[int, str]:
        bad = {}
        for position in range(start, min(start + block, len(paths))):
            path = paths[position]
            try:
                images.decode(path.read_bytes(), str(path))
            except errors.UserError as error:
                bad[position] = str(error)
            except OSError as error:
                bad[position] = f"{path} cannot be read ({error.strerror}); mend the file or leave it out."
        return bad

    found: dict[int, str] = {}
    with concurrent.futures.ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        for start, bad in zip(range(0, len(paths), block), pool.map(check, range(0, len(paths), block))):
            found |= bad
            if progress is not None:
                progress(min(block, len(paths) - start))
    return found


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
    same_camera: collections.Counter = collections.Counter()
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
