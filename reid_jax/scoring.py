"""Scores of a model on a data set: features of query and gallery, ranking, the page of ranked lists, the table.

Used at the end of a run, by `scripts/evaluate.py --run DIR` and by `scripts/extract.py`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import pathlib
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from reid_jax import config as config_lib
from reid_jax import errors, inference, parallel, run_folder
from reid_jax.data import images as images_lib
from reid_jax.data import prepare, records, simple_features, union
from reid_jax.evaluation import evaluator, features_file, ranking, report, suite
from reid_jax.train import phases

LOG = logging.getLogger(__name__)

# What any trained network must beat; each maps uint8 [N, H, W, 3] to float32 [N, D].
SIMPLE_FEATURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "raw_pixels": simple_features.raw_pixels,
    "hsv_histogram": simple_features.hsv_histogram,
}


def open_data(data: Mapping[str, Any]) -> records.ReIDDataset:
    """Opens the data set a config's `data` section names, with the training images of others where it says so."""
    dataset = _open(data["name"], data["root"], data["options"])
    sources = [_open_preset(name, data["root"]) for name in data.get("sources", ())]
    return union.transfer(dataset, sources) if sources else dataset


def open_others(settings: Mapping[str, Any]) -> list[records.ReIDDataset]:
    """The further data sets that a config asks to be scored on (`evals.datasets`), under their presets' names."""
    data, names = settings["data"], settings["evals"].get("datasets", ())
    if not names:
        return []
    if data["name"] in names:
        raise errors.UserError(f"evals.datasets names {data['name']!r}, which is scored anyway; take it out.")
    # `open_data` has told what is odd about these.
    trained_on = [_open_preset(name, data["root"], tell=False) for name in data.get("sources", ())]
    trained_on = trained_on or [_open(data["name"], data["root"], data["options"], tell=False)]
    opened = [(name, union.transfer(_open_preset(name, data["root"]), trained_on)) for name in names]
    return [dataclasses.replace(dataset, name=name, train=None) for name, dataset in opened]


def _open_preset(name: str, root: str, tell: bool = True) -> records.ReIDDataset:
    if name not in config_lib.DATASETS:
        raise errors.unknown("data set (data.sources, evals.datasets)", str(name), config_lib.DATASETS)
    preset = config_lib.DATASETS[name]
    return _open(preset["data.name"], root, preset.get("data.options", {}), tell)


def _open(name: str, root: str, options: Mapping[str, Any], tell: bool = True) -> records.ReIDDataset:
    """Opens a data set; the main process prepares it first where it is not, and tells what is odd about it."""
    if parallel.is_main():
        dataset = prepare.ensure(name, root, **options)
        for warning in _warnings_of(dataset) if tell else ():
            LOG.warning("warning: %s", warning)
    parallel.barrier("data prepared")
    if not parallel.is_main():
        dataset = records.open_dataset(name, root, **options)
    return dataset


def _warnings_of(dataset: records.ReIDDataset) -> list[str]:
    """What preparation found odd: told at every start, for training may have prepared the data by itself."""
    report = dataset.path / records.REPORT_FILE if dataset.path else None
    return json.loads(report.read_text(encoding="utf-8"))["warnings"] if report and report.is_file() else []


def extract(
    extractor: inference.Extractor,
    variables: inference.Variables,
    dataset: records.ReIDDataset,
    meta: Mapping[str, Any],
) -> features_file.FeatureSet:
    """Features of a data set's query and gallery, junk included."""
    query, gallery = (extractor.split(variables, dataset.split(name)) for name in ("query", "gallery"))
    return evaluator.feature_set(query, gallery, _labels(dataset, "query"), _labels(dataset, "gallery"), meta)


def measure_others(
    extractor: inference.Extractor,
    variables: inference.Variables,
    others: Sequence[records.ReIDDataset],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """All that the config's protocol asks for, on further data sets; the keys begin with their names."""
    values: dict[str, Any] = {}
    for other in others:
        features = extract(extractor, variables, other, feature_meta(settings))
        measured = suite.run(other.name, features, protocol(settings["evals"])).flat()
        # Counts without a name belong to the run's own data set.
        values |= {key: value for key, value in measured.items() if key.startswith(f"{other.name}/")}
    return values


def extract_simple(
    describe: Callable[[np.ndarray], np.ndarray], dataset: records.ReIDDataset, size: Mapping[str, Any]
) -> features_file.FeatureSet:
    """Features of a learning-free baseline, from images at the model's size."""
    query, gallery = (
        evaluator.Extracted(describe(np.stack([_load(split, row, size) for row in range(len(split))])), None, 0.0, 0.0)
        for split in (dataset.split("query"), dataset.split("gallery"))
    )
    return evaluator.feature_set(query, gallery, _labels(dataset, "query"), _labels(dataset, "gallery"))


def _labels(dataset: records.ReIDDataset, name: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    split = dataset.split(name)
    return split.pids, split.camids, split.filenames


def _load(split: records.Split, index: int, size: Mapping[str, Any] | None = None) -> np.ndarray:
    image = split.source[index]["image"]
    image = images_lib.decode(image, split.filenames[index]) if isinstance(image, bytes) else image
    return image if size is None else images_lib.resize(image, size["height"], size["width"], size["interpolation"])


def protocol(evals: Mapping[str, Any]) -> suite.Protocol:
    """What a config's `evals` section asks to measure."""
    keys = ("metric", "ap", "same_camera_filter", "rerank", "verification")
    return suite.Protocol(**{key: evals[key] for key in keys})


def rank(features: features_file.FeatureSet, evals: Mapping[str, Any]) -> ranking.RankingResult:
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
        lambda side, index: _load(dataset.split(side), index),
        max_queries=queries,
    )


def evaluate_run(path: str | pathlib.Path, *, best: bool = False, **evals: Any) -> dict[str, Any]:
    """Evaluates a run folder again, with other protocol settings if wished.

    Args:
        path: run folder.
        best: the checkpoint with the best mAP instead of the newest.
        **evals: replace keys of the config's `evals` section (`metric`, `ap`, `same_camera_filter`, ...).

    Returns:
        Scores as in `result.json`.
    """
    features, dataset, settings = features_of_run(path, best=best, **evals)
    return suite.run(dataset.name, features, protocol(settings["evals"])).flat()


def features_of_run(
    path: str | pathlib.Path, *, best: bool = False, dataset: str | None = None, **evals: Any
) -> tuple[features_file.FeatureSet, records.ReIDDataset, dict[str, Any]]:
    """Features of a data set by a run's model, the data set, and the settings used.

    Args:
        path: run folder.
        best: the checkpoint with the best mAP instead of the newest.
        dataset: a preset of `reid_jax.config.DATASETS`; None is the run's own.
        **evals: replace keys of the config's `evals` section.
    """
    settings = config_lib.to_dict(run_folder.RunFolder(path).read_config())
    settings["evals"].update(evals)
    extractor, variables = inference.from_run(path, best=best)
    opened = evaluation_data(settings, dataset)
    meta = {**feature_meta(settings), "dataset": opened.name}
    return extract(extractor, variables, opened, meta), opened, settings


def evaluation_data(settings: Mapping[str, Any], dataset: str | None = None) -> records.ReIDDataset:
    """The data set a run is tested on: its own, or another preset's under that name."""
    if dataset in (None, settings["data"]["name"]):
        return open_data(settings["data"])
    return open_others({**settings, "evals": {**settings["evals"], "datasets": (dataset,)}})[0]


def feature_meta(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a features file says of itself."""
    data = settings["data"]
    # Of published weights (no preset) it is not known.
    corruption = {"train_corruption": train_corruption(settings)} if settings["preset"] else {}
    return {
        **corruption,
        "system": settings["system"],
        "model": settings["model"],
        "dataset": data["name"],
        "preprocessing": {**settings["preprocess"], **{key: data[key] for key in ("height", "width", "interpolation")}},
        "flip": settings["evals"]["flip"],
        "metric": settings["evals"]["metric"],
    }


def train_corruption(settings: Mapping[str, Any]) -> str:
    """Which corruptions a config's training sees: "none", "augmix", "all20", "leave_family_out(noise)", ...

    Looks at the transforms of the main view and of all further views, in every phase that is run. Several are joined by
    "+". A number under corruptions means little without it.
    """
    found: set[str] = set()
    for _, resolved in phases.phase_configs(settings):
        data = resolved["data"]
        augment = data.get("augment", {})
        # A view without transforms of its own has those of the main one.
        for chain in (augment, *(view.get("augment", augment) for view in data.get("views", {}).values())):
            corrupt = (chain or {}).get("corrupt")
            if corrupt is not None and corrupt is not False:
                options = {} if corrupt is True else corrupt
                found.add(options.get("policy", "all20") if options.get("probability", 1) else "none")
            if (chain or {}).get("augmix") not in (None, False):
                found.add("augmix")
    return "+".join(sorted(found - {"none"})) or "none"


def device_name() -> str:
    """Such as "8 x TPU v4" or "1 x cpu"."""
    return f"{jax.device_count()} x {jax.devices()[0].device_kind}"


def commit() -> str:
    """The commit of the code, with "+" where files differ from it; empty outside a repository."""
    here = pathlib.Path(__file__).resolve().parent
    try:
        show = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except OSError:
        return ""
    return show.stdout.strip()


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
