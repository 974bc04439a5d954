"""Robustness to corruptions: scores of clean and corrupted images, on either side or both, over repeated rounds.

    result = robustness.evaluate(extract, dataset, selection=sampling.Selection(), rounds=10)
    print(result.table())

A round corrupts every query and gallery image once, at its native size; the same corrupted images serve the three
corrupted protocols, so that R rounds take 1 + R passes over the data. (The original draws anew for each protocol; the
expectation is the same.)

References:
    Chen, Wang and Zheng, Benchmarks for Corruption Invariant Person Re-identification, NeurIPS 2021 Datasets and
    Benchmarks, arXiv 2111.00880.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reid_jax import errors
from reid_jax.data import records
from reid_jax.data.corruptions import frost, sampling, splits
from reid_jax.data.feature_set import FeatureSet
from reid_jax.evaluation import protocols, published_robustness, ranking

# name: which sides are corrupted.
PROTOCOLS = {
    "clean": (),
    "corrupted": ("query", "gallery"),
    "corrupted_query": ("query",),
    "corrupted_gallery": ("gallery",),
}
COLUMNS = (("mINP", "mINP"), ("mAP", "mAP"), ("rank1", "rank-1"), ("rank5", "rank-5"), ("rank10", "rank-10"))

Extract = Callable[[records.ReIDDataset], FeatureSet]


@dataclasses.dataclass(frozen=True)
class Robustness:
    """Rankings of all protocols and the settings they were measured with.

    Attributes:
        name: name of the data set.
        results: by protocol, one ranking per round ("clean": one).
        selection: the corruptions drawn from.
        seed: seed of the draws.
        train_corruption: the corruptions used in training, "none" for clean images only.
    """

    name: str
    results: Mapping[str, Sequence[ranking.RankingResult]]
    selection: sampling.Selection
    seed: int
    train_corruption: str = "unknown"

    @property
    def rounds(self) -> int:
        """Number of repetitions."""
        return len(self.results["corrupted"])

    def as_dict(self) -> dict[str, Any]:
        """Returns `<data set>/<protocol>/mAP`, `mAP_std`, ... as fractions, and the settings."""
        values: dict[str, Any] = {}
        for protocol, results in self.results.items():
            values |= protocols.mean_and_spread(results, f"{self.name}/{protocol}")
        clean = self.results["clean"][0]
        return {
            **values,
            **{key: value for key, value in clean.as_dict(self.name).items() if "/" not in key},
            "train_corruption": self.train_corruption,
            "corruption_types": list(self.selection.types),
            "corruption_severities": list(self.selection.severities),
            "corruption_seed": self.seed,
            "frost_textures": frost.textures(self.selection.frost_dir).name,
        }

    def table(self) -> str:
        """Returns the scores as text, in per cent with standard deviations, and published ones if there are any."""
        width = max(len("corrupted_gallery"), *(len(row.method) for row in self._references()), 0) + 2
        lines = [f"{self.name}; corruptions in training: {self.train_corruption}"]
        lines.append(" " * width + "".join(f"{title:>16}" for _, title in COLUMNS))
        for protocol, results in self.results.items():
            values = protocols.mean_and_spread(results)
            cells = (f"{100 * values[key]:.2f}" for key, _ in COLUMNS)
            if protocol != "clean":
                cells = (f"{100 * values[key]:.2f} ± {100 * values[key + '_std']:.2f}" for key, _ in COLUMNS)
            lines.append(f"{protocol.replace('_', ' '):<{width}}" + "".join(f"{cell:>16}" for cell in cells))
        return "\n".join([*lines, "", *self._notes(), *self._published(width)])

    def _references(self) -> tuple[published_robustness.Reference, ...]:
        return published_robustness.of_dataset(self.name) if self.selection.is_benchmark else ()

    def _notes(self) -> list[str]:
        chosen = self.selection
        types = "all 20 types" if len(chosen.types) == 20 else ", ".join(chosen.types)
        severities = "severities 1 to 5" if len(chosen.severities) == 5 else f"severities {chosen.severities}"
        clean = self.results["clean"][0]
        rounds = f"{self.rounds} round" + ("s" if self.rounds > 1 else "")
        return [
            f"Per cent; mean ± standard deviation of {rounds}, seed {self.seed}. {types}, {severities}; "
            f"frost textures: {frost.textures(chosen.frost_dir).name}.",
            f"{clean.num_query} queries, {clean.num_gallery} gallery images. AP rule: {clean.ap_rule}. Distance: "
            f"{clean.metric}.",
        ]

    def _published(self, width: int) -> list[str]:
        """Returns the published rows, those trained on clean images first: the two groups cannot be compared."""
        lines = []
        groups = (("none", "trained on clean images"), ("all20", "trained on the test corruptions"))
        for policy, title in groups:
            rows = [row for row in self._references() if row.train_corruption == policy]
            if rows:
                lines += ["", f"Published, {title} (mINP / mAP / rank-1):"]
            for row in rows:
                clean = " / ".join(f"{score:.2f}" for score in row.clean) if row.clean else "-"
                corrupted = " / ".join(f"{score:.2f}" for score in row.corrupted)
                lines.append(f"{row.method:<{width}}  clean {clean:<22}  corrupted {corrupted:<22}  ({row.source})")
        note = published_robustness.NOTES.get(self.name) if lines else None
        return [*lines, f"  ({note})"] if note else lines


def evaluate(
    extract: Extract,
    dataset: records.ReIDDataset,
    *,
    selection: sampling.Selection | None = None,
    rounds: int = 10,
    seed: int = 0,
    train_corruption: str = "unknown",
    progress: Callable[[str], None] | None = None,
    **protocol: Any,
) -> Robustness:
    """Returns the scores of the four protocols.

    Args:
        extract: returns the features of the query and gallery of a data set; called once for clean images, then once
            per round.
        dataset: a data set with query and gallery.
        selection: which corruptions; None takes all.
        rounds: repetitions with fresh draws.
        seed: seed of the draws.
        train_corruption: see `Robustness`.
        progress: called with a line of text after each pass.
        **protocol: of `ranking.evaluate` (metric, ap, same_camera_filter).

    Raises:
        UserError: no rounds, or a data set that cannot be evaluated.
    """
    if rounds < 1:
        raise errors.UserError(f"expected at least one round of corruptions, got {rounds}.")
    dataset.require("query", "gallery")
    selection = sampling.Selection() if selection is None else selection
    rank: Callable[..., ranking.RankingResult] = functools.partial(ranking.evaluate, **protocol)
    report = progress or (lambda text: None)
    clean = extract(dataset)
    results: dict[str, list[ranking.RankingResult]] = {name: [] for name in PROTOCOLS}
    results["clean"].append(rank(clean))
    report(f"clean: mAP {100 * results['clean'][0].mAP:.2f} %")
    for round_ in range(rounds):
        corrupted = extract(corrupted_dataset(dataset, selection, round_=round_, seed=seed))
        for name, sides in PROTOCOLS.items():
            if sides:
                results[name].append(rank(_combine(clean, corrupted, sides)))
        report(f"round {round_ + 1} of {rounds}: corrupted mAP {100 * results['corrupted'][-1].mAP:.2f} %")
    return Robustness(dataset.name, results, selection, seed, train_corruption)


def corrupted_dataset(
    dataset: records.ReIDDataset, selection: sampling.Selection, *, round_: int, seed: int
) -> records.ReIDDataset:
    """Returns the data set with query and gallery corrupted as they are read."""
    corrupt = functools.partial(splits.corrupted, selection=selection, round_=round_, seed=seed)
    return dataclasses.replace(
        dataset, query=corrupt(dataset.split("query")), gallery=corrupt(dataset.split("gallery"))
    )


def _combine(clean: FeatureSet, corrupted: FeatureSet, sides: Sequence[str]) -> FeatureSet:
    """Returns the clean features with those of some sides replaced by features of the corrupted images."""
    fields = [f"{side}_{what}" for side in sides for what in ("features", "visibility")]
    return dataclasses.replace(clean, **{field: getattr(corrupted, field) for field in fields})
