"""What deep-sort-realtime does with our embedder: tracks of the drawn videos.

Run by an environment with deep-sort-realtime and without JAX, started by `tests.trackers.run`. Prints one JSON
document.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import pathlib
import sys
import time
from typing import Any

import arms
import counting
import numpy as np
from deep_sort_realtime.deepsort_tracker import DeepSort


class Remembered:
    """An embedder that computes the crops of a frame once."""

    def __init__(self, embedder: Any) -> None:
        self._embedder, self._known = embedder, {}

    def predict(self, crops: list[np.ndarray]) -> np.ndarray:
        """Returns the features of the crops."""
        key = tuple(hash(crop.tobytes()) for crop in crops)
        if key not in self._known:
            self._known[key] = self._embedder.predict(crops)
        return self._known[key]


def track(embedder: Any, options: dict[str, Any], frames: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns frame, number, left, top, right, bottom of the confirmed tracks that a detection was given to."""
    tracker = DeepSort(embedder=None, **options)
    tracker.embedder = embedder
    found = []
    for number, frame in enumerate(frames):
        boxes = rows[rows[:, 0] == number][:, 2:]
        detections = [([left, top, right - left, bottom - top], 0.9, 0) for left, top, right, bottom in boxes.tolist()]
        for each in tracker.update_tracks(detections, frame=frame[:, :, ::-1].copy()):
            if each.is_confirmed() and each.time_since_update == 0:
                found.append((number, int(each.track_id), *each.to_ltrb(orig=True)))
    return np.asarray(found, np.float32).reshape(-1, 6)


def main() -> None:
    """Tracks the videos."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--video", type=pathlib.Path, action="append", default=[])
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--gate", type=float, required=True)
    args = parser.parse_args()
    results = []
    for path in args.video:
        video = np.load(path / "frames.npz")
        for arm in arms.ARMS:
            started = time.perf_counter()
            options = {"max_cosine_distance": args.gate} if arm == arms.GATED else {}
            if arm != arms.GATED:
                embedder = Remembered(arms.embedder(arm, args.model))
            tracks = track(embedder, options, video["frames"], video["rows"])
            counts = counting.count(video["rows"], tracks, len(video["frames"]))
            seconds = time.perf_counter() - started
            results.append(
                {"tracker": "deep-sort-realtime", "arm": arm, "video": path.name, "seconds": seconds, **counts}
            )
            print(results[-1], file=sys.stderr, flush=True)
    about = {
        "deep-sort-realtime": importlib.metadata.version("deep-sort-realtime"),
        "jax_imported": "jax" in sys.modules,
        "trackeval": importlib.metadata.version("trackeval"),
    }
    print(json.dumps({"about": about, "results": results}))


if __name__ == "__main__":
    main()
