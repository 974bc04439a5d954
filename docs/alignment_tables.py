"""CFAT's teacher while it is trained, sizes of the loss terms of its alignment, and what its generator learns.

python docs/alignment_tables.py runs/ablate/cfat/cfat_start/seed0 cfat-teacher   # results/cfat-teacher.json
python scripts/term_sizes.py RUN --phase align --at start --output results/cfat-terms-start.json
python docs/generator_study.py before=RUN after=RUN                              # results/cfat-generator.json
"""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

sys.path.append(str(pathlib.Path(__file__).resolve().parent))  # this folder is no package

from table_parts import RESULTS, grid, read

SCORES = ("mAP", "rank1", "mINP")


def curve(name: str) -> str:
    """Clean scores of the trained network at every evaluation of a run, by phase."""
    run = read(f"{name}.json")
    lines = [
        [each["phase"], f"{each['epoch']:g}", *(f"{100 * each[score]:.1f}" for score in SCORES)]
        for each in run["evaluations"]
    ]
    table = grid(["phase", "epochs of it", *(f"{score} (%)" for score in SCORES)], lines)
    others = ", ".join(f"{each.replace('_', ' ')} {100 * score:.1f}" for each, score in run["baselines"].items())
    about = f"{run['dataset']}, images of {run['height']} x {run['width']}, commit {run['commit']}, {run['device']}"
    return f"{table}\n<small>Without learning, mAP in per cent: {others}. {about}.</small>\n"


def terms(*names: str) -> str:
    """Sizes of loss terms side by side: value, weight, gradient and angle of each file of `results/`.

    The last word of a file's name is the title of its columns.
    """
    files = {name.rpartition("-")[2]: read(f"{name}.json") for name in names}
    titles = ["term", *(f"{kind}, {title}" for title in files for kind in ("value", "weight", "gradient", "cosine"))]
    lines = []
    for term in dict.fromkeys(term for each in files.values() for term in each["terms"]):
        cells = [f"`{term}`"]
        for each in files.values():
            found = each["terms"].get(term)
            numbers = found and (f"{found['weight']:g}", f"{found['gradient']:.4f}", f"{found['cosine']:.2f}")
            cells += [f"{found['value']:.3f}", *numbers] if found else ["-"] * 4
        lines.append(cells)
    for monitor in dict.fromkeys(monitor for each in files.values() for monitor in each["monitors"]):
        cells = [monitor.replace("_", " ")]
        for each in files.values():
            value = each["monitors"].get(monitor)
            cells += ["-" if value is None else f"{value:.3f}", "", "", ""]
        lines.append(cells)
    return grid(titles, lines)


def generator(name: str) -> str:
    """What a generator learns from frozen features of each run, by the weights of its terms (generator_study.py)."""
    titles = [
        "features",
        "weight of `kl`",
        "of `tri_generated`",
        "cosine to the teacher",
        "6 epochs later",
        "mean length",
    ]
    titles += ["triplet loss", "student's cosine", "student's triplet loss"]
    columns = ("cosine_bridge", "cosine", "mean_length", "triplet", "student_cosine", "student_triplet")
    lines = []
    for features, cases in read(f"{name}.json").items():
        for case in cases:
            weights = (f"{case['kl']:g}", f"{case['tri_generated']:g}")
            lines.append([features, *weights, *(f"{case[column]:.2f}" for column in columns)])
    return grid(titles, lines)


def collect(folder: pathlib.Path) -> dict[str, Any]:
    """The content of a file of `results/` from a finished run with phases that was evaluated during training."""
    from reid_jax.config import phases
    from reid_jax.runs import folder as folder_lib
    from reid_jax.runs import settings as settings_lib

    run = folder_lib.RunFolder(folder)
    result, settings = run.read_result(), settings_lib.of(run.read_config())
    if result is None:
        raise SystemExit(f"expected a finished run, {folder} has no result.json.")
    name = result["dataset"]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rate = next(line["step"] / line["epoch"] for line in lines if line.get("epoch"))
    order = [(phase, settings.train.epochs) for phase, settings in phases.resolve(settings)]
    evaluations = []
    for line in (line for line in lines if f"{name}/mAP" in line):
        epoch = line["step"] / rate
        for phase, epochs in order:
            if epoch <= epochs + 1e-6:
                scores = {score: line[f"{name}/{score}"] for score in SCORES}
                evaluations.append({"phase": phase, "epoch": round(epoch, 2), **scores})
                break
            epoch -= epochs
    prefix = f"{name}/baseline/"
    names = dict.fromkeys(key.split("/")[2] for key in result if key.startswith(prefix))
    return {
        "dataset": name,
        "height": settings.data.height,
        "width": settings.data.width,
        "evaluations": evaluations,
        "baselines": {each: result[f"{prefix}{each}/mAP"] for each in names},
        **{key: result[key] for key in ("commit", "device", "train_seconds", "steps")},
    }


if __name__ == "__main__":
    source, target = sys.argv[1:]
    text = json.dumps(collect(pathlib.Path(source)), indent=2) + "\n"
    (RESULTS / f"{target}.json").write_text(text, encoding="utf-8")
