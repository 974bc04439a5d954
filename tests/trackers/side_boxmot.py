"""What BoxMOT does with an exported file: its features against the model's, and tracks of the drawn videos.

Run by BoxMOT's own environment, started by `tests.trackers.run`; BoxMOT is under the AGPL and no part of this project.
Prints one JSON document.
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
import onnx


def installed() -> list[str]:
    """Returns names and versions of all packages."""
    return sorted(f"{each.name} {each.version}" for each in importlib.metadata.distributions())


def facts(path: pathlib.Path) -> dict[str, Any]:
    """Returns what BoxMOT reads of a file."""
    model = onnx.load(path)
    given, result = model.graph.input[0], model.graph.output[0]
    shape = lambda value: [each.dim_param or each.dim_value for each in value.type.tensor_type.shape.dim]
    return {
        "input": [given.name, *shape(given)],
        "output": [result.name, *shape(result)],
        "opset": [each.version for each in model.opset_import],
        "ir": model.ir_version,
        "external": any(each.data_location == onnx.TensorProto.EXTERNAL for each in model.graph.initializer),
    }


def parity(path: pathlib.Path, expected: Any) -> dict[str, Any]:
    """Compares BoxMOT's features with those of the model.

    Args:
        path: the ONNX file.
        expected: `pixels` (crops of the model's size, BGR) with their `features`; `frame` and its `boxes` with their
            `box_features`, and the same three times as large (`large_...`).
    """
    import boxmot
    from boxmot.reid.core import ReID

    before = installed()
    reid = ReID(path, device="cpu")
    found: dict[str, Any] = {"file": facts(path), "equal_pixels": {}}
    for count in (1, 2, 7, 17):
        features = np.asarray(reid([*expected["pixels"][:count]]))
        found["equal_pixels"][count] = float(np.abs(features - expected["features"][:count]).max())
    for name in ("", "large_"):
        frame, boxes = expected[f"{name}frame"], expected[f"{name}boxes"]
        features = np.asarray(reid(frame, boxes=boxes))
        cosines = (features * expected[f"{name}box_features"]).sum(-1)
        found[f"{name}crops"] = {"least": float(cosines.min()), "mean": float(cosines.mean()), "count": len(boxes)}
    frame, boxes = expected["frame"], expected["boxes"]
    features = np.asarray(reid(frame, boxes=boxes))
    cut = [frame[top:bottom, left:right] for left, top, right, bottom in np.rint(boxes).astype(int)]
    found["boxes_and_crops"] = float(np.abs(features - np.asarray(reid(cut))).max())
    found["get_features"] = float(np.abs(features - np.asarray(reid.model.get_features(boxes, frame))).max())
    found["one_box"] = list(np.asarray(reid(frame, boxes=boxes[:1])).shape)
    outside = np.asarray([[5000, 5000, 5100, 5200]], np.float32)
    found["box_outside"] = float(np.linalg.norm(np.asarray(reid(frame, boxes=outside))))
    tracker = boxmot.BotSort(reid_weights=path, device="cpu", use_cmc=False)
    tracker.update(_rows(boxes), frame)
    found["empty_frame"] = len(tracker.update(np.zeros((0, 6), np.float32), frame))
    found["installed_nothing"] = installed() == before
    found["boxmot"] = importlib.metadata.version("boxmot")
    return found


def _rows(boxes: np.ndarray) -> np.ndarray:
    """Returns BoxMOT's rows: left, top, right, bottom, score, class."""
    return np.concatenate((boxes, np.full((len(boxes), 1), 0.9), np.zeros((len(boxes), 1))), axis=1).astype(np.float32)


class Remembered:
    """A source of features that computes those of a frame once for all trackers."""

    def __init__(self, model: Any) -> None:
        self._model, self._known = model, {}

    def get_features(self, boxes: np.ndarray, frame: np.ndarray) -> np.ndarray:
        """Returns the features of the boxes of a frame."""
        key = np.asarray(boxes, np.float32).tobytes()
        if key not in self._known:
            self._known[key] = np.asarray(self._model.get_features(boxes, frame))
        return self._known[key]


def sources(model: pathlib.Path) -> dict[str, Remembered]:
    """Returns the features of each arm; BoxMOT itself loads our file."""
    from boxmot.reid.core import ReID

    ours = Remembered(ReID(model, device="cpu").model)
    others = {arm: Remembered(arms.embedder(arm, model)) for arm in arms.ARMS if not arm.startswith("ours")}
    return {**others, **{arm: ours for arm in arms.ARMS if arm.startswith("ours")}}


def make(name: str, arm: str, source: Remembered, gate: float) -> Any:
    """Returns a tracker with BoxMOT's defaults; where it can be, compensation for a moving camera is off."""
    import boxmot

    options: dict[str, Any] = {"use_cmc": False} if name == "BotSort" else {}
    options |= {"use_embeddings": False} if (name, arm) == ("BotSort", "none") else {"reid_model": source}
    if arm == arms.GATED:
        options |= {"appearance_thresh" if name == "BotSort" else "max_cos_dist": gate}
    return getattr(boxmot, name)(**options)


def track(tracker: Any, frames: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns frame, number, left, top, right, bottom of all boxes of the tracks."""
    found = []
    for number, frame in enumerate(frames):
        boxes = rows[rows[:, 0] == number][:, 2:]
        for row in np.asarray(tracker.update(_rows(boxes), frame[:, :, ::-1].copy())).reshape(-1, 8).tolist():
            found.append((number, row[4], *row[:4]))
    return np.asarray(found, np.float32).reshape(-1, 6)


def main() -> None:
    """Checks a file, or tracks the videos."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", type=pathlib.Path)
    parser.add_argument("--expected", type=pathlib.Path)
    parser.add_argument("--video", type=pathlib.Path, action="append", default=[])
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--gate", type=float)
    args = parser.parse_args()
    if args.check:
        print(json.dumps(parity(args.check.resolve(), np.load(args.expected))))
        return
    results = []
    for path in args.video:
        video = np.load(path / "frames.npz")
        features = sources(args.model.resolve())
        for name, arm in ((name, arm) for name in ("BotSort", "StrongSort") for arm in arms.ARMS):
            started = time.perf_counter()
            tracker = make(name, arm, features[arm], args.gate)
            tracks = track(tracker, video["frames"], video["rows"])
            counts = counting.count(video["rows"], tracks, len(video["frames"]))
            seconds = time.perf_counter() - started
            results.append({"tracker": f"BoxMOT {name}", "arm": arm, "video": path.name, "seconds": seconds, **counts})
            print(results[-1], file=sys.stderr, flush=True)
    print(json.dumps({"about": {"boxmot": importlib.metadata.version("boxmot")}, "results": results}))


if __name__ == "__main__":
    main()
