"""The first hour with the package, step by step in real processes, and the seconds that each takes: `make first-hour`.

    python -m tests.first_hour.walk --folder first-hour --output results/first_hour.json

Published weights come from a server on localhost, which has a file of random values under its real name, with its real
table of names and shapes; crops are drawn. Every step must end with its exit code and the text it is expected to print;
the first that does not ends the walk. Run it on a quiet machine; without `--demo` the demo is cut to one epoch.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
from PIL import Image

from reid_jax import file_io
from reid_jax.data import synthped
from reid_jax.runtime import provenance
from tests.helpers import file_server, torch_pickles, torchreid_names

ROOT = pathlib.Path(__file__).resolve().parents[2]
NAME, MODEL = "osnet_x0_25_msmt17", "osnet_x0_25"
PEOPLE = 40


@dataclasses.dataclass(frozen=True)
class Step:
    """One command of the walk.

    Attributes:
        what: what the user wants, for the table.
        command: arguments of `reid-jax`, or of Python if the first is "python".
        shows: text that must be printed.
        leaves: files that must be there afterwards.
        kill_after: text of the output at which the process is killed with SIGKILL.
    """

    what: str
    command: str
    shows: str = ""
    leaves: tuple[str, ...] = ()
    kill_after: str = ""


_SHORT = "--config.phases.classifier.train.epochs=1 --config.phases.all.train.epochs=4 --config.evals.every_epochs=0"
_TUNE = (
    "train --config osnet:reid_folder --workdir runs/tuned --config.data.root=data "
    f"--config.init.weights={NAME} --config.model.size=x0_25 --config.data.height=128 --config.data.width=64 "
    f"--config.evals.baselines=False {_SHORT}"
)
_FRAME = """
import numpy as np
from reid_jax.inference import sources
from reid_jax.runs import trained
extractor, variables = trained.from_run("runs/demo")
frame = np.concatenate([sources.load_image(f"photos/{number}.jpg") for number in range(3)], axis=1)[:, :, ::-1]
boxes = [(64 * number, 0, 64 * number + 64, 128) for number in range(3)]
print(extractor.images(variables, frame, boxes, channels="bgr").features.shape)
"""


def steps(demo: bool) -> list[Step]:
    """Returns the walk.

    Args:
        demo: whether the demo runs in full, as `make demo` does.
    """
    cut = "" if demo else " --config.train.epochs=1"
    return [
        Step("the demo", f"train --config mfv --workdir runs/demo{cut}", "mAP", ("runs/demo/ranked_lists.html",)),
        Step("published weights by name", f"weights get {NAME}", "osnet_x0_25"),
        Step(
            "features of a data set by published weights",
            f"extract --weights {NAME} --images shop --output shop.npz",
            "query",
            ("shop.npz",),
        ),
        Step(
            "scores and a page", "evaluate --features shop.npz --html shop.html --images shop", "rank-1", ("shop.html",)
        ),
        Step("a flat folder of crops", "extract --run runs/demo --images photos --output photos.npz", "images"),
        Step("a frame with boxes, from Python", "python frame.py", "(3, "),
        Step("a folder per person", "prepare-dataset reid_folder --source people --root data", "people"),
        Step(
            "a CSV file", "prepare-dataset reid_folder --source shop/list.csv --root data --option title=csv", "query"
        ),
        Step("fine-tuning, killed in its second phase", _TUNE, kill_after="first step of phase all"),
        Step("the same command again", _TUNE, "mAP", ("runs/tuned/result.json",)),
        Step("the run's weights as a file", "weights export runs/tuned tuned.npz", "tuned.npz", ("tuned.npz",)),
        Step(
            "a second run from them",
            _TUNE.replace("runs/tuned", "runs/second").replace(f"weights={NAME}", "weights=tuned.npz"),
            "mAP",
            ("runs/second/result.json",),
        ),
        Step("scores of a run once more", "evaluate --run runs/second --html second.html", "rank-1", ("second.html",)),
        Step("for a tracker", "export --run runs/tuned --format onnx --input float_nchw --output t.onnx", "difference"),
    ]


def draw(folder: pathlib.Path) -> None:
    """Draws people as JPEG files: a flat folder, a folder per person, and a CSV file."""
    data = synthped.SynthPed("demo", seed=7)
    kept = {split: data.split(split) for split in ("train", "query", "gallery")}
    rows = ["path,pid,camid,split"]
    for split, specs in kept.items():
        people = sorted({spec.pid for spec in specs if spec.pid > 0})[:PEOPLE]
        for number, spec in enumerate(spec for spec in specs if spec.pid in people):
            image = Image.fromarray(data.render(spec)[0])
            person = folder / "people" / split / f"p{spec.pid}" / f"{number}_c{spec.camid}.jpg"
            for place in (person, folder / "shop" / split / spec.filename):
                place.parent.mkdir(parents=True, exist_ok=True)
                image.save(place, quality=90)
            rows.append(f"{split}/{spec.filename},{spec.pid},{spec.camid},{split}")
            if split == "gallery" and number < 24:
                (folder / "photos").mkdir(exist_ok=True)
                image.save(folder / "photos" / f"{number}.jpg", quality=90)
    (folder / "shop" / "list.csv").write_text("\n".join(rows) + "\n")
    (folder / "frame.py").write_text(_FRAME)


def weights(folder: pathlib.Path) -> bytes:
    """Returns a file in torchreid's format with random values, as its publisher would serve it."""
    tensors, storages = {}, {}
    for name, array in torchreid_names.draw(torchreid_names.shapes("x0_25", "plain", 4101)).items():
        key, whole = str(len(storages)), np.ascontiguousarray(array)
        kind = "LongStorage" if whole.dtype == np.int64 else "FloatStorage"
        stride = tuple(size // whole.itemsize for size in whole.strides)
        tensors[name] = torch_pickles.tensor(torch_pickles.Storage(kind, key, whole.size), 0, whole.shape, stride)
        storages[key] = whole
    path = folder / "published.pth"
    torch_pickles.write_zip(path, tensors, storages)
    return path.read_bytes()


def take(step: Step, folder: pathlib.Path, environment: dict[str, str]) -> dict[str, Any]:
    """Takes one step; returns its seconds, and what went wrong, if anything."""
    words = step.command.split()
    command = [sys.executable, *words[1:]] if words[0] == "python" else [sys.executable, "-m", "reid_jax.cli", *words]
    started = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    printed = []
    assert process.stdout is not None
    for line in process.stdout:
        printed.append(line)
        if step.kill_after and step.kill_after in line:
            process.send_signal(signal.SIGKILL)
    code, seconds = process.wait(), time.perf_counter() - started
    text = "".join(printed)
    wrong = []
    if code != (-signal.SIGKILL if step.kill_after else 0):
        wrong.append(f"exit code {code}")
    if step.shows not in text:
        wrong.append(f"does not print {step.shows!r}")
    wrong += [f"leaves no {name}" for name in step.leaves if not (folder / name).exists()]
    if "Traceback" in text:
        wrong.append("traceback")
    return {"what": step.what, "command": step.command, "seconds": round(seconds, 1), "wrong": wrong, "text": text}


def main(given: list[str]) -> int:
    """Walks, prints a line per step, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=pathlib.Path, required=True, help="empty working folder")
    parser.add_argument("--output", type=pathlib.Path)
    parser.add_argument("--demo", action="store_true", help="run the demo in full")
    parser.add_argument("--begin", type=int, default=0, help="go on at this step in the folder of an earlier walk")
    args = parser.parse_args(given)
    if not args.begin:
        shutil.rmtree(args.folder, ignore_errors=True)
        args.folder.mkdir(parents=True)
        draw(args.folder)
    taken: list[dict[str, Any]] = []
    with file_server.serving() as server:
        from reid_jax.weights import hub

        server.files[f"/{hub.ENTRIES[NAME].file}"] = weights(args.folder)
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("JAX_")},
            "REID_JAX_WEIGHTS_MIRROR": server.url,
            "XDG_CACHE_HOME": str(args.folder / "cache"),
            "PYTHONPATH": str(ROOT),
        }
        for step in steps(args.demo)[args.begin :]:
            done = take(step, args.folder, environment)
            taken.append(done)
            text, wrong = done.pop("text"), done["wrong"]
            print(f"{done['seconds']:7.1f} s  {step.what}{': ' if wrong else ''}{', '.join(wrong)}", flush=True)
            if wrong:
                print(text)
                break
    if args.output:
        file_io.write_json(
            args.output,
            {
                "date": datetime.date.today().isoformat(),
                "commit": provenance.commit(),
                "device": provenance.device_name(),
                "cores": os.cpu_count(),
                "steps": taken,
            },
        )
    return 1 if any(step["wrong"] for step in taken) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
