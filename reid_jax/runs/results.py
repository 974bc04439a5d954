"""Results of a run: final scores, `result.json`, the page of ranked lists, and the printed table."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
from collections.abc import Mapping
from typing import Any, Protocol

from reid_jax import build
from reid_jax import config as config_lib
from reid_jax.config import sections
from reid_jax.data import feature_set, records
from reid_jax.evaluation import ranking, report, robustness, suite
from reid_jax.inference import extractor as extractor_lib
from reid_jax.inference import features as features_lib
from reid_jax.runs import drawn_patches, further_descriptors, pretraining, report_page, score_table
from reid_jax.runs import folder as folder_lib
from reid_jax.runtime import determinism, processes, provenance

LOG = logging.getLogger(__name__)


class Evaluated(Protocol):
    """Interface of `reid_jax.runs.experiment.Experiment` that `finish` uses."""

    config: Any
    settings: config_lib.Settings
    dataset: records.ReIDDataset
    others: list[records.ReIDDataset]
    model: Any
    extractor: extractor_lib.Extractor
    further: dict[str, extractor_lib.Extractor]
    pretraining: pretraining.Pretraining | None

    def evaluation(self, variables: build.Variables, dataset: records.ReIDDataset) -> Evaluation:
        """Returns the features and the ranking of a data set, those of the last step where it was evaluated."""


# Of a test set: queries, those of them without a match, gallery images.
COUNTS = ("num_query", "num_query_without_match", "num_gallery")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Features of a data set's query and gallery, and their ranking."""

    features: feature_set.FeatureSet
    ranking: ranking.RankingResult


def finish(
    run: Evaluated,
    folder: folder_lib.RunFolder,
    variables: build.Variables,
    history: Mapping[str, Any],
    *,
    complete: bool,
) -> dict[str, Any]:
    """Runs the final evaluation, writes its files to the run folder, and returns the content of `result.json`.

    Args:
        run: model and data.
        folder: run folder for the page of ranked lists, pictures of reconstructed patches, and `result.json`.
        variables: variables to evaluate.
        history: entries that describe the training.
        complete: whether training is complete; `result.json` is written only then, because it marks a complete run.
    """
    settings, dataset = run.settings, run.dataset
    evaluated = run.evaluation(variables, dataset)
    drawn = drawn_patches.evaluate(run.model, variables, dataset, settings)
    drawn_scores = {}
    if drawn is not None:
        around = drawn_patches.surroundings(dataset, settings)
        drawn_scores = {**drawn.scores(), **drawn_patches.by_region(drawn, around)}
    masked = None
    if run.pretraining is not None:
        seen = {"step": history["steps"], "images": history["images_seen"]}
        masked = run.pretraining.finish(variables, evaluated.features, folder.path, **seen, complete=complete)
    measured = suite.run(dataset.name, evaluated.features, protocol(settings.evals), plain=evaluated.ranking)
    result = {
        "dataset": dataset.name,
        **({"trained_on": list(settings.data.sources)} if settings.data.sources else {}),
        **corrupted_scores(run, variables, evaluated.features),
        **measured.flat(),
        **further_descriptors.scores(run.further, variables, dataset),
        **measure_others(run, variables),
        **{f"{dataset.name}/reconstruction/{name}": value for name, value in drawn_scores.items()},
        **({} if masked is None else masked[0]),
        **history,
        "extract_images_per_second": round(run.extractor.images_per_second or 0.0, 1),
        "seed": settings.seed,
        "config_hash": config_lib.config_hash(run.config),
        "index_hash": dataset.index_hash(),
        "content_hash": dataset.content,
        "device": provenance.device_name(),
        "commit": provenance.commit(),
        **({"deterministic": True} if determinism.active() else {}),
    }
    # All processes have a part in the lists where the gallery is divided.
    shown = report.page_parts(measured, settings.evals.ranked_lists) if settings.evals.ranked_lists else None
    if processes.is_main():
        folder.check_present()
        if shown is not None:
            about = report.about(measured.feature_set, folder.path.resolve().name, history["steps"])
            write_page(folder.ranked_lists, measured, dataset, shown, about)
        if drawn is not None:
            drawn.write(folder.reconstructions)
        if masked is not None:
            masked[1].write(folder.reconstructions)
        # Before the result, which says that all is there.
        report_page.write(folder, result, complete=complete)
        if complete:
            folder.write_result(result)
        else:
            LOG.warning(
                "evaluated after %d steps: training is not complete, result.json is not written.", history["steps"]
            )
    return result


def corrupted_scores(run: Evaluated, variables: build.Variables, clean: feature_set.FeatureSet) -> dict[str, Any]:
    """Returns the scores on corrupted images, empty if the config does not request them.

    Args:
        run: model and data.
        variables: variables to evaluate.
        clean: features of the clean images, which are not computed again.
    """
    evals, settings = run.settings.evals, run.settings
    if not evals.corruption_rounds:
        return {}
    meta = features_lib.feature_meta(settings)

    def extract(data: records.ReIDDataset) -> feature_set.FeatureSet:
        if data is run.dataset:
            return clean
        return features_lib.describe_dataset(run.extractor, variables, data, meta)

    return robustness.evaluate(
        extract,
        run.dataset,
        rounds=evals.corruption_rounds,
        train_corruption=features_lib.train_corruption(settings),
        progress=LOG.info,
        metric=evals.metric,
        ap=evals.ap,
        same_camera_filter=evals.same_camera_filter,
    ).as_dict()


def measure_others(run: Evaluated, variables: build.Variables) -> dict[str, Any]:
    """Returns the scores on further data sets; the keys start with the names of the data sets."""
    values: dict[str, Any] = {}
    for other in run.others:
        evaluated = run.evaluation(variables, other)
        measured = suite.run(
            other.name, evaluated.features, protocol(run.settings.evals), plain=evaluated.ranking
        ).flat()
        # Keys without a data set's name are reserved for the run's own data set.
        values |= {key: value for key, value in measured.items() if key.startswith(f"{other.name}/")}
        values |= {f"{other.name}/{key}": measured[key] for key in COUNTS}
    return values


def protocol(evals: sections.Evals) -> suite.Protocol:
    """Returns the protocol of the final evaluation from a config's `evals` section."""
    return suite.Protocol(
        metric=evals.metric,
        ap=evals.ap,
        same_camera_filter=evals.same_camera_filter,
        rerank=evals.rerank,
        verification=evals.verification,
        scores=tuple(evals.scores),
    )


def rank(features: feature_set.FeatureSet, evals: sections.Evals) -> ranking.RankingResult:
    """Returns the ranking without further scores, for evaluations during training."""
    return ranking.evaluate(features, metric=evals.metric, ap=evals.ap, same_camera_filter=evals.same_camera_filter)


def write_page(
    path: pathlib.Path,
    measured: suite.Report,
    dataset: records.ReIDDataset,
    shown: Mapping[str, Any],
    facts: Mapping[str, str],
) -> None:
    """Writes the page of ranked lists: each query with its ten nearest gallery images, framed by correctness.

    Args:
        path: HTML file.
        measured: evaluation report.
        dataset: data set with the images.
        shown: lists and distances, see `report.page_parts`.
        facts: run, model and date.
    """
    report.write_page(
        path,
        measured,
        lambda side, index: dataset.split(side).image(index),
        facts=facts,
        **shown,
    )


def summary(result: Mapping[str, Any]) -> str:
    """Returns the final table of a run as text, in per cent."""
    dataset = result["dataset"]
    lines = [f"{dataset} ({result['ap_rule']} AP, %)".ljust(36) + "".join(f"{name:>9}" for name in score_table.COLUMNS)]
    for name, scores in score_table.rows(result):
        cells = ("        -" if score is None else f"{100 * score:9.2f}" for score in scores)
        lines.append(f"  {name:<34}{''.join(cells)}")
    if f"{dataset}/corrupted/mAP" in result:
        rounds = result[f"{dataset}/corrupted/rounds"]
        lines.append(f"  corrupted: mean of {rounds} rounds; corruptions in training: {result['train_corruption']}")
    if f"{dataset}/reconstruction/psnr" in result:
        drawn, plain = (result[f"{dataset}/reconstruction/{name}"] for name in ("psnr", "mean_fill_psnr"))
        lines.append(f"  PSNR of reconstructed patches: {drawn:.2f} dB; of the mean color: {plain:.2f} dB")
    lines += pretraining.summary(result)
    lines.append(f"  {_counts(result, '')}")
    others = (key.removesuffix("/num_query") for key in result if key.endswith("/num_query"))
    lines += [f"  {other}: {_counts(result, f'{other}/')}" for other in others]
    if trained_on := result.get("trained_on"):
        lines.append(f"  trained on {', '.join(trained_on)} (data.sources)")
    return "\n".join(lines)


def _counts(result: Mapping[str, Any], prefix: str) -> str:
    queries, unmatched, gallery = (result.get(f"{prefix}{key}", "?") for key in COUNTS)
    return f"{queries} queries ({unmatched} without a match excluded), {gallery} gallery images"
