"""The rows of a run's final table, as printed at its end and shown in its report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COLUMNS = ("mAP", "rank1", "rank5", "rank10", "mINP")


def rows(result: Mapping[str, Any]) -> list[tuple[str, list[float | None]]]:
    """Returns names and scores, fractions in the order of `COLUMNS`; None for a score that a row does not have.

    Args:
        result: content of `result.json`.
    """
    dataset, found = result["dataset"], []

    def add(name: str, prefix: str) -> None:
        found.append((name, [result.get(f"{prefix}/{column}") for column in COLUMNS]))

    marker = f"{dataset}/baseline/"
    for name in dict.fromkeys(key.removeprefix(marker).split("/")[0] for key in result if key.startswith(marker)):
        add(name.replace("_", " "), marker + name)
    add("trained", dataset)
    if f"{dataset}/unweighted/mAP" in result:
        add("trained, equal slot weights", f"{dataset}/unweighted")
    if f"{dataset}/rerank/mAP" in result:
        add("trained, re-ranked", f"{dataset}/rerank")
    for name in result.get("descriptors", ()):
        add(f"trained, {name.replace('_', ' ')}", f"{dataset}/{name}")
    for name in result.get("networks", ()):
        add(name.replace("_", " "), f"{dataset}/{name}")
    for probe, title in (("centered", "without the mean of each camera"), ("linear", "behind a linear map")):
        if f"{dataset}/{probe}/mAP" in result:
            add(f"trained, {title}", f"{dataset}/{probe}")
    for other in (key.removesuffix("/mAP") for key in result if key.count("/") == 1 and key.endswith("/mAP")):
        if other != dataset:
            add(f"trained, on {other}", other)
    if f"{dataset}/corrupted/mAP" in result:
        for protocol_name in ("corrupted", "corrupted_query", "corrupted_gallery"):
            add(f"trained, {protocol_name.replace('_', ' ')}", f"{dataset}/{protocol_name}")
        for name in (*result.get("descriptors", ()), *result.get("networks", ())):
            add(f"corrupted, {name.replace('_', ' ')}", f"{dataset}/{name}/corrupted")
    return found
