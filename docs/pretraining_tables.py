"""The curve of a run of masked pretraining: probes of the frozen encoder and PSNR of its drawings.

    python docs/pretraining_tables.py runs/mim-demo mim-demo 1860     # writes results/mim-demo.json from the run folder

The last number is that of the run's steps, for a run that is not complete.
"""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

sys.path.append(str(pathlib.Path(__file__).resolve().parent))  # this folder is no package

from table_parts import RESULTS, grid, read

COLUMNS = ("drawn", "mean_fill", "camera_fill", "smooth_fill")
PROBES = (("mAP", "k-NN"), ("centered/mAP", "k-NN, cameras centered"), ("linear/mAP", "linear map"))


def pretraining(name: str) -> str:
    """Scores at every evaluation of a run, with those of the baselines, and PSNR by region."""
    run = read(f"{name}.json")
    dataset = run["dataset"]
    lines = [
        [f"{each['images_seen']:,}", *(_percent(each, f"{dataset}/{key}") for key, _ in PROBES)]
        for each in run["evaluations"]
    ]
    parts = [grid(["images seen", *(f"{title}, mAP (%)" for _, title in PROBES)], lines)]
    names = dict.fromkeys(key.split("/")[2] for key in run["baselines"])
    rows = [[each.replace("_", " "), _percent(run["baselines"], f"{dataset}/baseline/{each}/mAP")] for each in names]
    parts += ["\n" + grid(["before training, and without learning", "mAP (%)"], rows)] if rows else []
    last = run["evaluations"][-1]
    prefix = f"{dataset}/drawn/"
    drawn = [key.removesuffix("/drawn") for key in last if key.startswith(prefix) and key.endswith("/drawn")]
    for title, patterns in (
        ("PSNR over hidden pixels (dB)", False),
        ("pattern within hidden patches, explained (%)", True),
    ):
        rows = [
            [_masks(key.removeprefix(prefix)), *(_score(last.get(f"{key}/{column}"), patterns) for column in COLUMNS)]
            for key in drawn
            if key.endswith("/pattern") == patterns
        ]
        header = [title, "drawn", "mean color", "average of the camera", "smooth"]
        parts += ["\n" + grid(header, rows)] if rows else []
    linear = run.get("drawn_by_the_linear_head", {})
    rows = [
        [_masks(key.removeprefix(prefix)), _score(linear[f"{key}/drawn"], False)]
        for key in drawn
        if f"{key}/drawn" in linear
    ]
    parts += ["\n" + grid(["PSNR with a linear head for the scale (dB)", "drawn"], rows)] if rows else []
    whole = "complete" if run["complete"] else f"stopped at step {run['step']:,} of {run['steps']:,}"
    note = f" {run['note']}" if "note" in run else ""
    parts.append(f"\n<small>`{run['command']}`, {whole}, commit {run['commit']}, {run['device']}.{note}</small>\n")
    return "".join(parts)


def _masks(key: str) -> str:
    """What a score is of, "random masks, person"."""
    return key.removesuffix("/pattern").replace("/", " masks, ") + (" masks" if key.endswith("/pattern") else "")


def _score(value: float | None, share: bool) -> str:
    return "-" if value is None else f"{100 * value:.1f}" if share else f"{value:.2f}"


def _percent(scores: dict[str, Any], key: str) -> str:
    return f"{100 * scores[key]:.1f}" if key in scores else "-"


def collect(folder: pathlib.Path) -> dict[str, Any]:
    """The content of a file of `results/` from a run folder, complete or not."""
    from reid_jax import config
    from reid_jax.runs import folder as folder_lib
    from reid_jax.runtime import provenance

    run = folder_lib.RunFolder(folder)
    settings = run.read_config()
    dataset = settings.data.name
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    result = run.read_result() if run.result.is_file() else {}
    evaluations = []
    batch, last = settings.data.sampler.batch_size, lines[-1]["step"]
    for line in [*lines, *([result] if result else [])]:
        own = [key for key in line if key.startswith(f"{dataset}/") and "/baseline/" not in key]
        scores = {key: round(line[key], 5) for key in own if isinstance(line[key], float)}
        if any(key.endswith("linear/mAP") for key in scores):
            step = line.get("step", line.get("steps"))
            evaluations.append({"step": step, "images_seen": step * batch, **scores})
    baselines = {key: value for key, value in result.items() if "/baseline/" in key and key.endswith("/mAP")}
    extra = folder / "baselines.json"
    baselines |= json.loads(extra.read_text()) if extra.is_file() else {}
    argument = ",".join([settings.preset, *settings.variants])
    return {
        "command": f"python scripts/main.py --config configs/mim.py:{argument} --config.seed={settings.seed}",
        "config_hash": config.config_hash(settings),
        "dataset": dataset,
        "complete": bool(result),
        "step": last,
        "steps": result.get("steps", 0),
        "baselines": baselines,
        "evaluations": evaluations,
        "loss": [[line["step"], round(line["loss/main"], 5)] for line in lines if "loss/main" in line],
        "device": result.get("device", provenance.device_name()),
        "commit": result.get("commit", "not recorded by a run that is not complete"),
    }


def main(arguments: list[str]) -> int:
    """Writes the file; the exit code."""
    folder, name, steps = [*arguments, "0"][:3]
    content = collect(pathlib.Path(folder))
    content["steps"] = content["steps"] or int(steps)
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
