"""Tables of a gallery to search: engines, kills of a writer, the evaluation's scores, open-set rates."""

from __future__ import annotations

import pathlib
import sys
from typing import Any

sys.path.append(str(pathlib.Path(__file__).resolve().parent))  # this folder is no package

from table_parts import grid, read

_NAMES = {
    "sqlite": "SQLite, exact product in memory (ours)",
    "faiss": "faiss, flat index with ids",
    "pgvector": "PostgreSQL with pgvector, no index",
    "lancedb": "LanceDB, no index",
}


def engines() -> str:
    """Seconds, memory and sizes of every engine at every number of entries."""
    document = read("gallery_engines.json")
    titles = ["entries", "engine", "search", "one camera of 8", "1 % by time", "add 1,000", "remove 1,000", "open"]
    titles += ["build", "memory", "on disk", "installed", "same answers"]
    lines = []
    for one in sorted(document["results"], key=lambda one: (one["entries"], list(_NAMES).index(one["engine"]))):
        searches = [one[f"search_{kind}_seconds"] for kind in ("all", "camera", "time")]
        cells = [_milliseconds(seconds) for seconds in (*searches, one["add_seconds"], one["remove_seconds"])]
        cells += [f"{one[name]:.1f} s" for name in ("open_seconds", "build_seconds")]
        cells += [f"{one[name] / 1e6:,.0f} MB" for name in ("memory_bytes", "bytes", "installed_bytes")]
        same = one.get("same_answers")
        lines.append([f"{one['entries']:,}", _NAMES[one["engine"]], *cells, "-" if same is None else f"{same} of 15"])
    commits = sorted({one["commit"] for one in document["results"]})
    loads = [one.get("load", 0) for one in document["results"]]
    about = (
        f"Vectors of {document['dimension']} numbers, the {document['top']} nearest of one query, medians. "
        f"{document['device']}, load up to {max(loads):.0f}, commit {', '.join(commits)}."
    )
    return grid(titles, lines) + f"\n<small>{about}</small>\n"


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.3g} ms" if seconds < 1 else f"{seconds:.2f} s"


def kills() -> str:
    """How often a writer was killed, at what, and what was lost."""
    document = read("gallery_kills.json")
    during = ", ".join(f"{count} {what}" for what, count in document["during"].items())
    ends = document["interrupted_changes"]
    lines = [
        ["kills", str(document["kills"])],
        ["during", during],
        ["interrupted changes", ", ".join(f"{count} {end}" for end, count in ends.items())],
        ["changes reported as done", f"{document['finished_changes']:,}"],
        ["entries lost", str(document["lost"])],
        ["entries half there", str(document["half_there"])],
    ]
    return grid(["", ""], lines) + f"\n<small>Seed {document['seed']}, commit {document['commit']}.</small>\n"


def scores() -> str:
    """Scores of the gallery's rankings and of the evaluation."""
    document = read("gallery_scores.json")
    names = {"mAP": "mAP", "rank1": "Rank-1", "rank5": "Rank-5", "rank10": "Rank-10", "mINP": "mINP"}
    lines = [
        [what, *(f"{100 * document[key][name]:.2f}" for name in names)]
        for what, key in (("every query asks the gallery", "gallery"), ("`evaluate.py`", "evaluate"))
    ]
    verdict = "Equal to the last bit" if document["scores_equal"] else "Not equal"
    about = (
        f"{verdict}, as are {document['rankings_equal']} of {document['queries']} whole rankings of "
        f"{document['entries']:,} entries; {document['model']} on {document['dataset']}, commit {document['commit']}."
    )
    return grid(["", *(f"{name} (%)" for name in names.values())], lines) + f"\n<small>{about}</small>\n"


def open_set() -> str:
    """False-match rates that were promised, and those on other people."""
    document = read("gallery_open_set.json")
    titles = ["promised", "per", "measured", "95 % interval", "mean of all splits", "range", "missed"]
    lines = [_rate(one) for one in document["cases"]]
    first = document["cases"][0]
    about = (
        f"{document['model']}, {document['people']} people that it was not trained on, {document['queries']:,} "
        f"queries, {document['entries']:,} entries; thresholds from one half of the people, rates on the other; "
        f"{first['splits']} random splits, the interval by a bootstrap over the people of the first. "
        f"Commit {document['commit']}."
    )
    return grid(titles, lines) + f"\n<small>{about}</small>\n"


def _rate(one: dict[str, Any]) -> list[str]:
    low, high = one["rate_interval"]
    return [
        _percent(one["promised"]),
        one["per"],
        _percent(one["rate"]),
        f"{_percent(low)} to {_percent(high)}",
        _percent(one["mean_rate"]),
        f"{_percent(one['range'][0])} to {_percent(one['range'][1])}",
        f"{100 * one['miss']:.1f} %",
    ]


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"
