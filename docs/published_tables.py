"""Tables of what papers state (`docs/published.json`, and the package's list of published robustness)."""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

sys.path.append(str(pathlib.Path(__file__).resolve().parent))  # this folder is no package

from table_parts import ROOT, grid


def published(system: str) -> str:
    """The paper's own scores."""
    entry = document()[system]
    titles = ["data set", "mAP", "Rank-1", "setting", "source"]
    lines = [
        [
            score["dataset"],
            *(_figure(score.get(key)) for key in ("mAP", "rank1")),
            score.get("setting", ""),
            score["source"],
        ]
        for score in entry["scores"]
    ]
    return grid(titles, lines)


def published_rows(system: str) -> str:
    """The rows of the paper's own ablation table."""
    rows = document()[system]["rows"]
    return grid(
        ["row", *rows["columns"]], [[f"`{name}`", *map(_figure, cells)] for name, cells in rows["table"].items()]
    )


def references(dataset: str) -> str:
    """Published scores under corruptions, from the package's own list; models that saw the test's stand apart."""
    from reid_jax.evaluation import published_robustness

    titles = ["method", "clean: mINP / mAP / Rank-1", "corrupted: mINP / mAP / Rank-1", "source"]
    entries = [entry for entry in published_robustness.REFERENCES if entry.dataset == dataset]
    if not entries:
        raise ValueError(f"expected published scores of {dataset!r}, there are none.")
    parts = []
    for policy in dict.fromkeys(entry.train_corruption for entry in entries):
        lines = []
        for entry in entries:
            if entry.train_corruption == policy:
                scores = [" / ".join(f"{one:.2f}" for one in side) for side in (entry.clean or (), entry.corrupted)]
                lines.append([entry.method, *(score or "-" for score in scores), entry.source])
        note = "" if policy == "none" else f"Trained on corruptions of the test (`{policy}`):\n\n"
        parts.append(note + grid(titles, lines))
    return "\n".join(parts)


def document() -> dict[str, Any]:
    """The content of `docs/published.json`."""
    return json.loads((ROOT / "docs" / "published.json").read_text())


def _figure(value: Any) -> str:
    return "-" if value is None else str(value)
