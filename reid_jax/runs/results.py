"""Scores of a model on a data set: features of query and gallery, ranking, the page of ranked lists, the table.

Used at the end of a run, by `scripts/evaluate.py --run DIR` and by `scripts/extract.py`.
"""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from reid_jax import build
from reid_jax.data import feature_set, records
from reid_jax.evaluation import ranking, report, suite
from reid_jax.inference import extractor as extractor_lib
from reid_jax.inference import features as features_lib

LOG = logging.getLogger(__name__)


def measure_others(
    extractor: extractor_lib.Extractor,
    variables: build.Variables,
    others: Sequence[records.ReIDDataset],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """All that the config's protocol asks for, on further data sets; the keys begin with their names."""
    values: dict[str, Any] = {}
    for other in others:
        features = features_lib.describe_dataset(extractor, variables, other, features_lib.feature_meta(settings))
        measured = suite.run(other.name, features, protocol(settings["evals"])).flat()
        # Counts without a name belong to the run's own data set.
        values |= {key: value for key, value in measured.items() if key.startswith(f"{other.name}/")}
    return values


def protocol(evals: Mapping[str, Any]) -> suite.Protocol:
    """What a config's `evals` section asks to measure."""
    keys = ("metric", "ap", "same_camera_filter", "rerank", "verification")
    return suite.Protocol(**{key: evals[key] for key in keys})


def rank(features: feature_set.FeatureSet, evals: Mapping[str, Any]) -> ranking.RankingResult:
    """The plain ranking alone, for scores during training."""
    return ranking.evaluate(
        features, metric=evals["metric"], ap=evals["ap"], same_camera_filter=evals["same_camera_filter"]
    )


def write_page(path: pathlib.Path, measured: suite.Report, dataset: records.ReIDDataset, queries: int) -> None:
    """Writes the page of ranked lists: query, top ten, right and wrong ones framed."""
    report.write_ranked_lists(
        path,
        measured.feature_set,
        measured.plain,
        lambda side, index: dataset.split(side).image(index),
        max_queries=queries,
    )


def summary(result: Mapping[str, Any]) -> str:
    """The final table of a run, in per cent."""
    dataset = result["dataset"]
    columns = ("mAP", "rank1", "rank5", "rank10", "mINP")
    lines = [f"{dataset} ({result['ap_rule']} AP, %)".ljust(36) + "".join(f"{column:>9}" for column in columns)]

    def line(name: str, prefix: str) -> str:
        cells = (result.get(f"{prefix}/{column}") for column in columns)
        return f"  {name:<34}" + "".join("        -" if cell is None else f"{100 * cell:9.2f}" for cell in cells)

    marker = f"{dataset}/baseline/"
    for name in dict.fromkeys(key.removeprefix(marker).split("/")[0] for key in result if key.startswith(marker)):
        lines.append(line(name.replace("_", " "), marker + name))
    lines.append(line("trained", dataset))
    if f"{dataset}/unweighted/mAP" in result:
        lines.append(line("trained, all slots alike", f"{dataset}/unweighted"))
    if f"{dataset}/rerank/mAP" in result:
        lines.append(line("trained, re-ranked", f"{dataset}/rerank"))
    for other in (key.removesuffix("/mAP") for key in result if key.count("/") == 1 and key.endswith("/mAP")):
        if other != dataset:
            lines.append(line(f"trained, on {other}", other))
    if f"{dataset}/corrupted/mAP" in result:
        for protocol_name in ("corrupted", "corrupted_query", "corrupted_gallery"):
            lines.append(line(f"trained, {protocol_name.replace('_', ' ')}", f"{dataset}/{protocol_name}"))
        rounds = result[f"{dataset}/corrupted/rounds"]
        lines.append(f"  corrupted: mean of {rounds} rounds; corruptions in training: {result['train_corruption']}")
    if f"{dataset}/reconstruction/psnr" in result:
        drawn, plain = (result[f"{dataset}/reconstruction/{name}"] for name in ("psnr", "mean_fill_psnr"))
        lines.append(f"  erased patches drawn with {drawn:.2f} dB PSNR; filled with the mean color: {plain:.2f} dB")
    lines.append(
        f"  {result['num_query']} queries ({result['num_query_without_match']} without a match left out), "
        f"{result['num_gallery']} gallery images"
    )
    return "\n".join(lines)
