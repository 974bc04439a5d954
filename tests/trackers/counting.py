"""Identity switches, IDF1 and MOTA of a track file, counted by TrackEval; needs numpy, scipy and trackeval alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import trackeval

OVERLAP = 0.5  # of a track's box and a person's, from which they can be matched


def _compact(values: np.ndarray) -> np.ndarray:
    """Returns numbers from 0 without gaps."""
    return np.unique(values, return_inverse=True)[1].astype(int)


def _overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the intersection over union of boxes [N, 4] and [M, 4] (left, top, right, bottom) as [N, M]."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (first, second)]
    return common / (areas[0][:, None] + areas[1][None] - common)


def count(truth: np.ndarray, tracks: np.ndarray, frames: int) -> dict[str, Any]:
    """Returns the counts of one video.

    Args:
        truth: [N, 6] frame, identity, left, top, right, bottom of the detected people.
        tracks: [M, 6] likewise, with the numbers of the tracks.
        frames: number of frames.
    """
    people, numbers = _compact(truth[:, 1]), _compact(tracks[:, 1])
    rows = [np.flatnonzero(truth[:, 0] == frame) for frame in range(frames)]
    found = [np.flatnonzero(tracks[:, 0] == frame) for frame in range(frames)]
    data = {
        "num_timesteps": frames,
        "num_gt_dets": len(truth),
        "num_tracker_dets": len(tracks),
        "num_gt_ids": int(people.max()) + 1,
        "num_tracker_ids": int(numbers.max()) + 1 if len(tracks) else 0,
        "gt_ids": [people[each] for each in rows],
        "tracker_ids": [numbers[each] for each in found],
        "similarity_scores": [_overlaps(truth[a, 2:], tracks[b, 2:]) for a, b in zip(rows, found)],
    }
    quiet = {"PRINT_CONFIG": False, "THRESHOLD": OVERLAP}
    clear = trackeval.metrics.CLEAR(quiet).eval_sequence(data)
    identity = trackeval.metrics.Identity(quiet).eval_sequence(data)
    return {
        "switches": int(clear["IDSW"]),
        "missed": int(clear["CLR_FN"]),
        "idf1": float(identity["IDF1"]),
        "mota": float(clear["MOTA"]),
        "tracks": data["num_tracker_ids"],
        "people": data["num_gt_ids"],
    }
