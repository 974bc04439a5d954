"""The evaluation report of a feature set: all scores that a protocol asks for, as numbers and as a table.

`run` measures, `Report.flat` gives the keys of `result.json`, `table` the text for the screen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

from reid_jax.data.feature_set import FeatureSet
from reid_jax.evaluation import expansion, own_scores, protocols, ranking, reranking, verification

Flat = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What to measure and how.

    Attributes:
        metric: "euclidean", "cosine" or the path of a function; None takes what the features were made for.
        ap: "step" or "trapezoid".
        same_camera_filter: leave out gallery images of the query's identity and camera.
        max_rank: length of CMC curves.
        rerank: also score k-reciprocal re-ranking.
        k1: k1 of re-ranking.
        k2: k2 of re-ranking.
        original_weight: weight of the original distance in re-ranking, lambda in the paper.
        expand: gallery images that join a query before everything else; 0 for none.
        alpha: weights of query expansion, see `expansion.expand_queries`.
        verification: also ROC, AUC, EER and thresholds.
        exact_verification: sort all distances for it.
        single_shot_draws: draws of the single-gallery-shot protocol; 0 for none.
        rounds: random galleries of one image per identity and camera; 0 for none.
        seed: seed of the draws.
        scores: functions of the user's own (`package.module:Name`) whose scores are added, see `own_scores`.
    """

    metric: str | None = None
    ap: str = "step"
    same_camera_filter: bool = True
    max_rank: int = 50
    rerank: bool = False
    k1: int = 20
    k2: int = 6
    original_weight: float = 0.3
    expand: int = 0
    alpha: float | None = None
    verification: bool = False
    exact_verification: bool = False
    single_shot_draws: int = 0
    rounds: int = 0
    seed: int = 0
    scores: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Report:
    """Results of one feature set.

    Attributes:
        name: name of the test set.
        feature_set: what was ranked (after query expansion).
        plain: the ranking.
        unweighted: the ranking when hidden slots count like visible ones; None for descriptors without visibility.
        reranked: after re-ranking, or None.
        verified: verification, or None.
        single_shot: single-gallery-shot protocol, or None.
        rounds: one result per random gallery.
        scores: scores of the user's own functions, by name.
    """

    name: str
    feature_set: FeatureSet
    plain: ranking.RankingResult
    unweighted: ranking.RankingResult | None = None
    reranked: ranking.RankingResult | None = None
    verified: verification.VerificationResult | None = None
    single_shot: protocols.SingleShotResult | None = None
    rounds: tuple[ranking.RankingResult, ...] = ()
    scores: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def flat(self) -> Flat:
        """Returns all numbers by name, the keys of `result.json`. Scores are fractions."""
        values: Flat = self.plain.as_dict(self.name)
        if "train_corruption" in self.feature_set.meta:
            values["train_corruption"] = self.feature_set.meta["train_corruption"]
        if self.unweighted is not None:
            values |= self.unweighted.scores(f"{self.name}/unweighted")
        if self.reranked is not None:
            values |= self.reranked.scores(f"{self.name}/rerank")
        if self.verified is not None:
            values |= self.verified.as_dict(f"{self.name}/verification")
        if self.single_shot is not None:
            values |= self.single_shot.as_dict(f"{self.name}/single_shot")
        if self.rounds:
            values |= protocols.mean_and_spread(self.rounds, f"{self.name}/rounds")
        values |= {f"{self.name}/{key}": value for key, value in self.scores.items()}
        return values


def run(
    name: str,
    feature_set: FeatureSet,
    protocol: Protocol,
    mesh: Mesh | None = None,
    plain: ranking.RankingResult | None = None,
) -> Report:
    """Returns the report of one feature set: all that the protocol asks for.

    Args:
        name: name of the test set.
        feature_set: descriptors, identities and cameras.
        protocol: what to measure.
        mesh: devices to spread the gallery over.
        plain: the ranking of these features by this protocol, where it is known; it is not computed again.

    Raises:
        UserError: an unknown metric, rule or score, or a feature set that cannot be scored.
    """
    own_scores.find(protocol.scores)  # refused before a distance is computed
    if protocol.expand or protocol.single_shot_draws or protocol.rounds:
        feature_set = feature_set.gathered()
    common: dict[str, Any] = {"metric": protocol.metric, "same_camera_filter": protocol.same_camera_filter}
    ranked: dict[str, Any] = {**common, "ap": protocol.ap, "max_rank": protocol.max_rank}
    if protocol.expand:
        feature_set = expansion.expand_queries(
            feature_set, neighbors=protocol.expand, alpha=protocol.alpha, metric=protocol.metric
        )
        plain = None
    plain = ranking.evaluate(feature_set, mesh=mesh, **ranked) if plain is None else plain
    unweighted = reranked = verified = single_shot = None
    if feature_set.query_visibility is not None:
        everything = dataclasses.replace(feature_set, query_visibility=None, gallery_visibility=None)
        unweighted = ranking.evaluate(everything, mesh=mesh, **ranked)
    if protocol.rerank:
        settings: dict[str, Any] = {"k1": protocol.k1, "k2": protocol.k2, "original_weight": protocol.original_weight}
        reranked = reranking.evaluate(feature_set, mesh=mesh, **settings, **ranked)
    if protocol.verification or protocol.exact_verification:
        verified = verification.verify(feature_set, exact=protocol.exact_verification, **common)
    if protocol.single_shot_draws:
        single_shot = protocols.single_gallery_shot(
            feature_set, draws=protocol.single_shot_draws, seed=protocol.seed, max_rank=protocol.max_rank, **common
        )
    rounds: tuple[ranking.RankingResult, ...] = ()
    if protocol.rounds:
        rounds = tuple(protocols.repeated_rounds(feature_set, rounds=protocol.rounds, seed=protocol.seed, **ranked))
    scores = own_scores.compute(protocol.scores, feature_set, plain)
    return Report(name, feature_set, plain, unweighted, reranked, verified, single_shot, rounds, scores)


def merge(reports: Mapping[str, Report] | list[Report]) -> Flat:
    """Returns the numbers of all reports; with several test sets the counts carry the set's name, too."""
    reports = list(reports.values()) if isinstance(reports, Mapping) else reports
    values: Flat = {}
    for report in reports:
        flat = report.flat()
        if len(reports) > 1:
            counts = ("num_query", "num_gallery", "num_query_without_match", "metric")
            flat = {(f"{report.name}/{key}" if key in counts else key): value for key, value in flat.items()}
        values |= flat
    return values


def with_descriptors(reports: Mapping[str, Report], dataset: str) -> Flat:
    """Returns the numbers of a run's descriptors as its `result.json` has them.

    Args:
        reports: of its own descriptor by the name of the data set, of further ones by `<data set>/<descriptor>`.
        dataset: name of the data set.
    """
    values = reports[dataset].flat()
    further = [name for name in reports if name != dataset]
    for name in further:
        values |= {key: value for key, value in reports[name].flat().items() if key.startswith(f"{name}/")}
    return values | ({"descriptors": [name.removeprefix(f"{dataset}/") for name in further]} if further else {})


# ---- text


def table(reports: list[Report]) -> str:
    """Returns the scores as text, in per cent, with the AP rule and the protocol below."""
    rows: list[tuple[str, ranking.RankingResult]] = []
    for report in reports:
        rows.append((report.name, report.plain))
        if report.unweighted is not None:
            rows.append((f"{report.name}, equal slot weights", report.unweighted))
        if report.reranked is not None:
            rows.append((f"{report.name}, re-ranked", report.reranked))
    width = max(len("test set"), *(len(name) for name, _ in rows))
    titles = ("mAP", "mINP", "rank-1", "rank-5", "rank-10")
    lines = [f"{'test set':<{width}}" + "".join(f"{title:>9}" for title in titles)]
    lines.append("-" * len(lines[0]))
    for name, result in rows:
        values = (result.mAP, result.mINP, result.rank(1), result.rank(5), result.rank(10))
        lines.append(f"{name:<{width}}" + "".join(f"{100 * value:9.2f}" for value in values))
    lines += ["", *_notes(reports)]
    for report in reports:
        lines += _extra(report)
    return "\n".join(lines)


def _notes(reports: list[Report]) -> list[str]:
    lines = []
    for report in reports:
        result = report.plain
        name = f"{report.name}: " if len(reports) > 1 else ""
        junk = report.feature_set.num_gallery - result.num_gallery
        parts = [f"{result.num_query} queries, {result.num_gallery} gallery images"]
        parts += [f"{junk} junk images left out"] if junk else []
        trained = report.feature_set.meta.get("train_corruption", "none")
        parts += [f"corruptions in training: {trained}"] if trained != "none" else []
        missing = result.num_query_without_match
        parts += [f"{missing} queries without a match not scored"] if missing else []
        lines.append(f"{name}{', '.join(parts)}.")
    result = reports[0].plain
    filtered = "left out" if result.same_camera_filter else "ranked too"
    lines.append(
        f"Per cent. AP rule: {result.ap_rule}. Distance: {result.metric}. Images of the query's identity and camera: "
        f"{filtered}."
    )
    return lines


def _extra(report: Report) -> list[str]:
    """Returns the lines of a report's scores other than its rankings."""
    lines = []
    if report.scores:
        shown = ", ".join(f"{name} {value:.4g}" for name, value in report.scores.items())
        lines += ["", f"{report.name}, own scores (not in per cent): {shown}"]
    if report.verified is not None:
        verified = report.verified
        kind = "sorted" if verified.exact else f"in bins of {verified.resolution:.1e}"
        lines += [
            "",
            f"{report.name}, verification: AUC {100 * verified.auc:.3f}, EER {100 * verified.eer:.2f} at distance "
            f"{verified.eer_threshold:.4f} ({verified.num_same} pairs of one person, "
            f"{verified.num_different} others; {kind})",
            f"{'  false positive rate':<24}{'true positive rate':>20}{'threshold':>12}",
        ]
        lines += [
            f"  {point.false_positive_rate:<22.0e}{100 * point.true_positive_rate:>20.2f}{point.threshold:>12.4f}"
            for point in verified.points
        ]
    if report.single_shot is not None:
        shot = report.single_shot
        ranks = ", ".join(
            f"rank-{rank} {100 * shot.cmc[rank - 1]:.2f} ± {100 * shot.cmc_std[rank - 1]:.2f}"
            for rank in (1, 5, 10)
            if rank <= len(shot.cmc)
        )
        lines += ["", f"{report.name}, single gallery shot, {shot.draws} draws: {ranks}"]
    if report.rounds:
        values = protocols.mean_and_spread(report.rounds)
        shown = ", ".join(
            f"{key} {100 * values[key]:.2f} ± {100 * values[key + '_std']:.2f}" for key in ("mAP", "rank1")
        )
        lines += ["", f"{report.name}, {values['rounds']} random galleries: {shown}"]
    return lines
