"""Ablation runs without training: a script that writes the result of a run at once."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from reid_jax.runs import ablation

# Replaces `reid-jax train`: writes `result.json` with scores that depend on row and seed, and logs its arguments.
SCRIPT = """
import json, pathlib, sys
given = dict(argument.lstrip("-").split("=", 1) for argument in sys.argv[1:])
folder = pathlib.Path(given["workdir"])
folder.mkdir(parents=True, exist_ok=True)
with open(folder.parent.parent / "calls.txt", "a") as calls:
    calls.write(json.dumps(given) + "\\n")
variants = given["config"].partition(":")[2].split(",")[1:]
seed = int(given["config.seed"])
if "broken" in variants:
    sys.exit(2)
score = 0.5 + 0.1 * len(variants) + 0.01 * seed
scores = {f"toy/{name}": score for name in ("mAP", "rank1", "rank5", "rank10", "mINP")}
about = {"parameters": 1234567, "steps": 30, "train_seconds": 12.4, "config_hash": "c", "device": "d", "commit": "e"}
(folder / "result.json").write_text(json.dumps({"dataset": "toy", **scores, **about}))
"""


def plan(
    workdir: pathlib.Path, rows: Sequence[str] = ("full", "a", "a+b"), seeds: Sequence[int] = (0, 1), **options: Any
) -> ablation.Plan:
    """Returns a plan of the config "toy"."""
    return ablation.Plan("configs/toy.py", "demo", tuple(rows), tuple(seeds), pathlib.Path(workdir), **options)


def calls(workdir: pathlib.Path) -> list[dict[str, str]]:
    """Returns the arguments of every run so far, in order of their start."""
    return [json.loads(line) for line in (workdir / "calls.txt").read_text().splitlines()]
