"""Tables of what other programs make of an exported model: trackers, with and without our embedding."""

from __future__ import annotations

import pathlib
import statistics
import sys
from collections.abc import Sequence
from typing import Any

sys.path.append(str(pathlib.Path(__file__).resolve().parent))  # this folder is no package

from table_parts import SPACE, STUDENT, grid, read

_ARMS = {
    "none": "no appearance",
    "histogram": "color histogram",
    "ours": "our embedding",
    "ours, own threshold": "our embedding, our threshold",
}


def trackers() -> str:
    """Identity switches and IDF1 of each tracker over the drawn videos, and their differences from no appearance."""
    document = read("trackers.json")
    results = document["results"]
    lines = []
    for tracker in dict.fromkeys(row["tracker"] for row in results):
        for arm, label in _ARMS.items():
            cells = [
                _mean(_values(results, tracker, arm, "switches"), 1),
                _mean(_values(results, tracker, arm, "idf1"), 100),
            ]
            for metric, factor in (("switches", 1), ("idf1", 100)) if arm != "none" else ():
                with_, without = (_values(results, tracker, each, metric) for each in (arm, "none"))
                cells.append(_difference([factor * (a - b) for a, b in zip(with_, without, strict=True)]))
            lines.append([tracker, label, *cells, *(["", ""] if arm == "none" else [])])
    titles = ["tracker", "appearance", "switches", "IDF1, %", "switches, difference", "IDF1, difference"]
    videos, model = document["videos"], document["model"]
    versions = ", ".join(
        f"{name} {version}" for name, version in document["versions"].items() if name != "jax_imported"
    )
    about = (
        f"{videos['count']} videos of {videos['frames']} frames and {videos['people']} people; means of a video, and "
        f"differences of the same video with their 95 % interval. Embedding: {model['system']}'s demo "
        f"({100 * model['mAP']:.1f} mAP on SynthPed by cosine); our threshold: cosine distance "
        f"{document['threshold']:.3f}, at a false match rate of {document['false_match_rate']:g} on SynthPed. "
        f"{versions}; commit {document['commit']}; `{document['command']}`."
    )
    return grid(titles, lines) + f"\n<small>{about}</small>\n"


def tracker_parity() -> str:
    """What BoxMOT makes of our file."""
    document = read("trackers.json")
    found = document["parity"]
    shape = lambda value: f"`{value[0]}` [{', '.join(map(str, value[1:]))}]"
    pixels = ", ".join(f"{value:.1e} ({count})" for count, value in found["equal_pixels"].items())
    crops = lambda name: f"{found[name]['mean']:.4f} (least {found[name]['least']:.4f}, {found[name]['count']} crops)"
    file = found["file"]
    lines = [
        ["input, output", f"{shape(file['input'])}, {shape(file['output'])}"],
        ["operator set, IR version, one file", f"{file['opset'][0]}, {file['ir']}, {_yes(not file['external'])}"],
        ["equal pixels: largest difference (crops at once)", pixels],
        ["crops of a frame, its resizing: cosine", crops("crops")],
        ["the same three times as large", crops("large_crops")],
        ["boxes against crops, `get_features`", f"{found['boxes_and_crops']:.1e}, {found['get_features']:.1e}"],
        ["a box outside of the frame: length of its row", f"{found['box_outside']:.3f}"],
        ["packages installed by loading the file", "none" if found["installed_nothing"] else "some"],
    ]
    return grid(["check", f"BoxMOT {found['boxmot']}"], lines)


def _values(results: Sequence[dict[str, Any]], tracker: str, arm: str, metric: str) -> list[float]:
    """Returns a count of all videos, in their order."""
    return [row[metric] for row in results if row["tracker"] == tracker and row["arm"] == arm]


def _mean(values: Sequence[float], factor: float) -> str:
    return f"{factor * statistics.mean(values):.1f}"


def _difference(values: Sequence[float]) -> str:
    """Returns the mean of differences with its 95 % interval."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:+.1f}"
    half = STUDENT[len(values) - 2] * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:+.1f}{SPACE}[{mean - half:+.1f},{SPACE}{mean + half:+.1f}]"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
