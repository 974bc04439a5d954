"""Runs BoxMOT and deep-sort-realtime on drawn videos, with and without our embedding, and counts identity switches.

    python -m tests.trackers.run --run runs/mfv-demo --boxmot PYTHON --deepsort PYTHON --folder runs/trackers

Each tracker runs in an environment of its own; none is a dependency, and BoxMOT is under the AGPL:

    pip install --no-deps boxmot==25.0.0
    pip install numpy torch torchvision rich filelock packaging scipy lapx pillow simplejpeg onnx==1.20.1
    pip install onnxruntime==1.24.3 opencv-python-headless==4.14.0.94
    pip install --no-deps trackeval

and for deep-sort-realtime 1.3.2: numpy, scipy, onnxruntime, pillow, simplejpeg, opencv-python-headless, trackeval.
Videos and parts that the folder has are not made again. Takes some 15 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import cv2
import numpy as np

from reid_jax import file_io
from reid_jax.export import onnx_file
from reid_jax.inference import crops, trackers
from reid_jax.runs import trained
from reid_jax.runtime import provenance
from tests.trackers import crossings

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
OUTPUT = ROOT / "results" / "trackers.json"
RATE = "1e-2"  # false match rate of our threshold, on the test people of the run's data set


def side(python: str, script: str, arguments: list[str]) -> Any:
    """Returns what a script prints under another interpreter, as JSON."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [python, str(HERE / script), *arguments], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


def part(path: pathlib.Path, make: Any) -> Any:
    """Returns the content of a JSON file, which is made where it is missing."""
    if not path.is_file():
        file_io.write_json(path, make(), "a part of the measurement")
    return json.loads(path.read_text())


def videos(folder: pathlib.Path, count: int) -> list[pathlib.Path]:
    """Returns the folders of the videos, after drawing those that are missing."""
    found = [folder / f"video-{seed}" for seed in range(count)]
    for seed, path in enumerate(found):
        if not (path / "frames.npz").is_file():
            path.mkdir(parents=True, exist_ok=True)
            video = crossings.draw(seed)
            cv2.imwrite(str(path / "preview.jpg"), crossings.preview(video)[:, :, ::-1])
            video.save(path / "frames.npz")
    return found


def expected(extractor: Any, variables: Any, video: pathlib.Path, path: pathlib.Path) -> None:
    """Writes pixels, frames and boxes with the features that the model itself gives; images are BGR."""
    embedder = trackers.of_extractor(extractor, variables)
    content = np.load(video / "frames.npz")
    frame = content["frames"][60][:, :, ::-1].copy()
    boxes = content["rows"][content["rows"][:, 0] == 60][:, 2:]
    height, width = extractor.size["height"], extractor.size["width"]
    others = [content["frames"][number][:, :, ::-1] for number in (0, 30, 90)]
    pixels = []
    for number, image in zip((0, 30, 90), others):
        rows = content["rows"][content["rows"][:, 0] == number][:, 2:]
        pixels += [cv2.resize(crop, (width, height)) for crop in crops.as_images(image, rows)]
    factor = 3  # crops so much larger that antialiasing matters
    large = cv2.resize(frame, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    np.savez(
        path,
        pixels=np.stack(pixels[:17]),
        features=embedder.predict(pixels[:17]),
        frame=frame,
        boxes=boxes,
        box_features=embedder.get_features(boxes, frame),
        large_frame=large,
        large_boxes=factor * boxes,
        large_box_features=embedder.get_features(factor * boxes, large),
    )


def main() -> None:
    """Runs what is missing and writes the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=pathlib.Path, required=True)
    parser.add_argument("--boxmot", required=True, metavar="PYTHON")
    parser.add_argument("--deepsort", required=True, metavar="PYTHON")
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--videos", type=int, default=8)
    parser.add_argument("--output", type=pathlib.Path, default=OUTPUT)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    drawn = videos(args.folder, args.videos)

    model = args.folder / f"{args.run.name}.onnx"
    extractor, variables = trained.from_run(args.run, overrides={"dtype": "float32"})
    scores = part(
        args.folder / "scores.json",
        lambda: dict(trained.evaluate_run(args.run, metric="cosine", verification=True)),
    )
    name = extractor.settings.data.name
    gate = float(scores[f"{name}/verification/threshold_at_fpr_{RATE}"])
    if not model.is_file():
        onnx_file.write(extractor, variables, model, layout="float_nchw")
    if not (args.folder / "expected.npz").is_file():
        expected(extractor, variables, drawn[0], args.folder / "expected.npz")

    check = ["--check", str(model), "--expected", str(args.folder / "expected.npz")]
    parity = part(args.folder / "parity.json", lambda: side(args.boxmot, "side_boxmot.py", check))
    results, about = [], {}
    for video in drawn:
        for label, python in (("boxmot", args.boxmot), ("deepsort", args.deepsort)):
            given = ["--video", str(video), "--model", str(model), "--gate", str(gate)]
            found = part(
                args.folder / f"{label}-{video.name}.json",
                lambda python=python, label=label, given=given: side(python, f"side_{label}.py", given),
            )
            results += found["results"]
            about |= found["about"]
            print(f"{label} {video.name} done", file=sys.stderr, flush=True)
    document = {
        "command": "python -m tests.trackers.run --run ... --boxmot ... --deepsort ... --folder ...",
        "model": {
            "system": extractor.settings.system,
            "preset": extractor.settings.preset,
            "mAP": scores[f"{name}/mAP"],
        },
        "videos": {"count": len(drawn), "frames": crossings.FRAMES, "people": crossings.PEOPLE},
        "visible": crossings.VISIBLE,
        "false_match_rate": float(RATE),
        "threshold": gate,
        "versions": about,
        "commit": provenance.commit(),
        "parity": parity,
        "results": results,
    }
    file_io.write_json(args.output, document, "the result")


if __name__ == "__main__":
    main()
