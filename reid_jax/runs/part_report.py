"""What a trained model knows of body parts, and what that is worth: gates to pass before rows are compared.

    python scripts/evaluate.py --run runs/amfor-street --parts --output parts.json

* *Parser*: overlap (IoU) of predicted and true tokens of each part, beside a fixed map, the most frequent label of each
  token in training. Gate: above it for every part, on queries and on the gallery.
* *Visibility*: AUC of the prediction on queries, over all parts together and as the mean over parts, where a constant
  prediction has 0.5; beside the part's frequency in training. Gate: 0.75 for both.
* *Retrieval*: mAP where parts count by the truth, by the prediction (0 or 1, or its probability), or all alike.
* *Reconstruction of features* (HPR): for parts that an occluder hides, the cosine with the same picture without the
  occluder, before and after; and mAP by parts before and after, also by the hidden ones alone.
* *Drawn pixels*: PSNR on persons beside the camera's average. Gate: 1 dB above it.

A model has the methods `examine_parts` and `part_targets` (`reid_jax.models.amfor.amfor`).
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from reid_jax import build, errors
from reid_jax import config as config_lib
from reid_jax.data import feature_set, records
from reid_jax.evaluation import image_quality, image_regions, part_scores, ranking
from reid_jax.inference import extractor as extractor_lib
from reid_jax.runs import drawn_patches, occluder_pairs, part_examiner, trained
from reid_jax.runtime import provenance

LEAST_AUC, LEAST_DECIBELS = 0.75, 1.0

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class PartReport:
    """Scores with intervals.

    Attributes:
        values: by name, a score and both ends of its interval of 95 %.
        gates: whether each gate is passed.
        about: counts and origin, as JSON values.
    """

    values: Mapping[str, list[float]]
    gates: Mapping[str, bool]
    about: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Returns the content of the JSON file."""
        return {"values": dict(self.values), "gates": dict(self.gates), **self.about}

    def table(self) -> str:
        """Returns the scores as text, a line each, and the gates."""
        width = max(map(len, self.values), default=0) + 2
        lines = [f"{self.about['run']} on {self.about['dataset']}, with intervals of 95 % over people"]
        for name, (value, low, high) in self.values.items():
            span = "" if low == high else f"  [{low:.3f}, {high:.3f}]"
            lines.append(f"  {name:<{width}}{value:8.3f}{span}")
        lines += [f"gate {name}: {'passed' if good else 'missed'}" for name, good in self.gates.items()]
        return "\n".join(lines)


def evaluate(path: str | pathlib.Path, *, best: bool = False, dataset: str | None = None) -> PartReport:
    """Returns the report of a run folder.

    Args:
        path: run folder.
        best: whether to use the checkpoint with the best mAP in place of the newest.
        dataset: a preset of `reid_jax.config.DATASETS` with label maps; None is the run's own data set.

    Raises:
        UserError: a model without body parts, or a data set without label maps.
    """
    extractor, variables = trained.from_run(path, best=best)
    about = {"run": extractor.origin["run"], "step": extractor.origin["step"], "commit": provenance.commit()}
    return measure(extractor, variables, extractor.settings, dataset, about)


def measure(
    extractor: extractor_lib.Extractor,
    variables: build.Variables,
    settings: config_lib.Settings,
    dataset: str | None,
    about: Mapping[str, Any],
) -> PartReport:
    """Returns the report of a model with its variables, see `evaluate`."""
    model = extractor.model
    if not hasattr(model, "examine_parts") or not model.parsing:
        raise errors.UserError(
            "expected a model with body parts for --parts (AMFOR with model.parsing=True); name another run."
        )
    opened = build.evaluation_data(settings, dataset)
    examiner = part_examiner.Examiner(extractor, variables)
    labels, seen = examiner.prior(build.open_own(settings.data).split("train"))
    query, gallery = opened.split("query"), opened.split("gallery")
    shelf = _Shelf(settings, query, gallery, examiner)
    values: dict[str, np.ndarray] = {}
    for side, found in shelf.found.items():
        values |= _parser(side, part_scores.draw_weights(shelf.people[side]), found, labels)
    if model.ts:
        values |= _visibility(shelf.weights, shelf.found["query"], seen)
        values |= shelf.by_visibility()
    if model.hpr:
        values |= shelf.by_pooled()
        pairs = occluder_pairs.of_queries(query, *build.data_of(settings, dataset))
        if pairs is not None:
            clean = examiner.examine(pairs.split, np.arange(len(pairs.split)))
            occluded = {name: each[pairs.rows] for name, each in shelf.found["query"].items()}
            hidden = (occluded["visible"] == 0) & (clean["visible"] == 1)
            values |= _rebuilt(occluded, clean, hidden, pairs.split.pids)
            values |= shelf.by_hidden(pairs.rows, hidden)
    drawn = drawn_patches.evaluate(model, variables, opened, settings)
    if drawn is not None and drawn.comparable:
        values |= _drawn(drawn, drawn_patches.surroundings(opened, settings))
    scores = {name: part_scores.interval(each) for name, each in values.items()}
    scores |= {f"fusion/{name}": [share] * 3 for name, share in examiner.shares().items()}
    counts = {"dataset": opened.name, "queries": len(query), "gallery": len(shelf.people["gallery"])}
    return PartReport(scores, gates(scores), {**about, **counts, "draws": part_scores.DRAWS})


def gates(scores: Mapping[str, list[float]]) -> dict[str, bool]:
    """Returns which gates are passed, of those that the scores speak of."""
    found = {}
    differences = [score[0] for name, score in scores.items() if "/iou/" in name and name.endswith("/difference")]
    if differences:
        found["parser"] = min(differences) > 0
    if "query/visibility/auc" in scores:
        both = (scores[f"query/visibility/{name}"][0] for name in ("auc", "auc_within"))
        found["visibility"] = all(score >= LEAST_AUC for score in both)
    if "pixels/person/drawn-camera_fill" in scores:
        found["pixels"] = scores["pixels/person/drawn-camera_fill"][0] >= LEAST_DECIBELS
    return found


def _parser(side: str, weights: np.ndarray, found: Arrays, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the overlap of each part's tokens, of the parser, the fixed map, and their difference.

    "no_token" is the share of images in which a visible part is the label of no token.
    """
    true = found["true"]
    own, fixed = (
        part_scores.mean_ratio(weights, *part_scores.overlaps(each, true)) for each in (found["labels"], labels)
    )
    values = {
        f"{side}/accuracy": part_scores.mean_where(weights, found["labels"] == true, true >= 0),
        f"{side}/accuracy/prior": part_scores.mean_where(weights, labels == true, true >= 0),
    }
    seen = found["visible"] == 1
    without = seen & ~(true[..., None] == np.arange(1, 1 + seen.shape[1])).any(axis=1)
    lost = part_scores.mean_ratio(weights, without, seen)
    for place, part in enumerate(part_scores.PARTS):
        name = f"{side}/iou/{part.replace(' ', '_')}"
        columns = {"": own, "/prior": fixed, "/difference": own - fixed, "/no_token": lost}
        values |= {f"{name}{ending}": each[:, place] for ending, each in columns.items()}
    return values


def _visibility(weights: np.ndarray, found: Arrays, seen: np.ndarray) -> dict[str, np.ndarray]:
    """Returns how well hidden parts are told from visible ones.

    Of the prediction, of the area that the parser gives to a part (which the network does not use at test time), and of
    the parts' frequencies.
    """
    visible = found["visible"]
    values = {"query/visibility/hidden": part_scores.mean_where(weights, visible == 0, visible >= 0)}
    for ending, scores in (("", found["visibility"]), ("/parser", found["area"]), ("/prior", seen)):
        values[f"query/visibility/auc{ending}"] = part_scores.auc(weights, scores, visible)
        values[f"query/visibility/auc_within{ending}"] = part_scores.auc_within(weights, scores, visible)
    for place in np.flatnonzero((visible.min(axis=0) == 0) & (visible.max(axis=0) == 1)):
        part = part_scores.PARTS[place].replace(" ", "_")
        each = (found[name][:, [place]] for name in ("visibility", "visible"))
        values[f"query/visibility/auc_of/{part}"] = part_scores.auc(weights, *each)
    return values


def _rebuilt(occluded: Arrays, clean: Arrays, hidden: np.ndarray, people: np.ndarray) -> dict[str, np.ndarray]:
    """Returns cosines of hidden parts with those of the picture without occluder, and of another person's.

    "pooled" is before HPR, "rebuilt" after it on both sides, "rebuilt_to_pooled" with the clean picture before it.
    """
    weights = part_scores.draw_weights(people)
    other = np.roll(np.arange(len(people)), len(people) // 2)
    values: dict[str, np.ndarray] = {}
    for name, one, against in (
        ("pooled", "pooled", "pooled"),
        ("rebuilt", "rebuilt", "rebuilt"),
        ("rebuilt_to_pooled", "rebuilt", "pooled"),
    ):
        center = clean[against].mean(axis=0)
        for ending, target in (("", clean[against]), ("/others", clean[against][other])):
            each = part_scores.cosines(occluded[one], target, center)
            values[f"hidden/cosine/{name}{ending}"] = part_scores.mean_where(weights, each, hidden)
    for name in ("rebuilt", "rebuilt_to_pooled"):
        values[f"hidden/cosine/{name}-pooled"] = values[f"hidden/cosine/{name}"] - values["hidden/cosine/pooled"]
    return values


def _drawn(drawn: image_quality.Reconstruction, around: drawn_patches.Surroundings) -> dict[str, np.ndarray]:
    """Returns the PSNR of drawing and fills by region, and the lead over the camera's average."""
    weights = part_scores.draw_weights(np.zeros(len(drawn.true), np.int64))
    columns = drawn_patches.columns(drawn, around)
    values: dict[str, np.ndarray] = {}
    for region, mask in image_regions.regions(drawn.mask, around.parts).items():
        found = {name: part_scores.decibels(weights, each, drawn.true, mask) for name, each in columns.items()}
        if "camera_fill" in found:
            found["drawn-camera_fill"] = found["drawn"] - found["camera_fill"]
        values |= {f"pixels/{region}/{name}": each for name, each in found.items()}
    return values


class _Shelf:
    """Queries and gallery with what the model knows of them, ranked in several ways.

    Args:
        settings: the protocol of `evals` is used.
        query: the queries.
        gallery: the gallery; its junk is left out.
        examiner: of the model.

    Attributes:
        found: by side, the arrays of `Examiner.examine`.
        people: by side, the identities.
        weights: of the queries, see `part_scores.draw_weights`.
    """

    def __init__(
        self,
        settings: config_lib.Settings,
        query: records.Split,
        gallery: records.Split,
        examiner: part_examiner.Examiner,
    ) -> None:
        rows = {"query": np.arange(len(query)), "gallery": np.flatnonzero(gallery.pids != records.JUNK)}
        splits = {"query": query, "gallery": gallery}
        self._evals = settings.evals
        self._cameras = {side: split.camids[rows[side]] for side, split in splits.items()}
        self.people = {side: split.pids[rows[side]] for side, split in splits.items()}
        self.found = {side: examiner.examine(split, rows[side]) for side, split in splits.items()}
        self.weights = part_scores.draw_weights(query.pids)

    def _precision(
        self, features: Arrays, visibility: Arrays, rows: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the average precision of queries, and whether each counts."""
        rows = np.arange(len(self.people["query"])) if rows is None else rows
        ranked = ranking.evaluate(
            feature_set.FeatureSet(
                features["query"][rows],
                features["gallery"],
                self.people["query"][rows],
                self.people["gallery"],
                self._cameras["query"][rows],
                self._cameras["gallery"],
                query_visibility=visibility["query"][rows].astype(np.float32),
                gallery_visibility=visibility["gallery"].astype(np.float32),
            ),
            metric="euclidean",
            ap=self._evals.ap,
            same_camera_filter=self._evals.same_camera_filter,
        )
        return np.nan_to_num(ranked.ap), np.isfinite(ranked.ap)

    def _each(self, *names: str) -> list[Arrays]:
        return [{side: found[name] for side, found in self.found.items()} for name in names]

    def by_visibility(self) -> dict[str, np.ndarray]:
        """Returns mAP by what the slots of the descriptor count by, and differences from counting all alike."""
        features, predicted, visible = self._each("features", "predicted", "visible")
        if features["query"].shape[1] == 1:
            return {}
        ones = {side: np.ones_like(each) for side, each in predicted.items()}
        first = predicted["query"].shape[1] - visible["query"].shape[1]  # 1 with the global slot
        truth = {side: np.concatenate((ones[side][:, :first], each), axis=1) for side, each in visible.items()}
        alone = {side: np.eye(1, each.shape[1]) * each for side, each in ones.items()}
        ways = {
            "alike": ones,
            "oracle": truth,
            "hard": {side: each > 0.5 for side, each in predicted.items()},
            "soft": predicted,
            **({"global": alone} if first else {}),
        }
        values = {
            f"mAP/{name}": part_scores.mean_ratio(self.weights, *self._precision(features, way))
            for name, way in ways.items()
        }
        others = [name for name in ways if name != "alike"]
        values |= {f"mAP/{name}-alike": values[f"mAP/{name}"] - values["mAP/alike"] for name in others}
        return {**values, "mAP/soft-hard": values["mAP/soft"] - values["mAP/hard"]}

    def _slots(self, name: str) -> Arrays:
        """Returns the parts, each with the mean and deviation of the gallery, at unit length."""
        gallery = self.found["gallery"][name]
        return {side: part_scores.standardized(found[name], gallery) for side, found in self.found.items()}

    def by_pooled(self) -> dict[str, np.ndarray]:
        """Returns mAP by the eight parts before and after HPR, all alike, and by how much HPR changes them.

        "rebuilt/change" is the mean length of the change over that of its input, on queries.
        """
        (visible,) = self._each("visible")
        before, after = (self.found["query"][name] for name in ("pooled", "rebuilt"))
        lengths = np.linalg.norm(after - before, axis=-1) / np.maximum(np.linalg.norm(before, axis=-1), 1e-12)
        ones = {side: np.ones_like(each) for side, each in visible.items()}
        values = {
            f"mAP/{name}": part_scores.mean_ratio(self.weights, *self._precision(self._slots(name), ones))
            for name in ("pooled", "rebuilt")
        }
        values["rebuilt/change"] = part_scores.mean_where(self.weights, lengths, lengths >= 0)
        return {**values, "mAP/rebuilt-pooled": values["mAP/rebuilt"] - values["mAP/pooled"]}

    def by_hidden(self, rows: np.ndarray, hidden: np.ndarray) -> dict[str, np.ndarray]:
        """Returns mAP of the queries in `rows` [M] by their hidden parts [M, 8] alone, before and after HPR."""
        some = hidden.any(axis=1)
        if not some.any():
            return {}
        rows, count = rows[some], len(self.people["query"])
        (visible,) = self._each("visible")
        counted = {"query": np.zeros((count, hidden.shape[1])), "gallery": np.ones_like(visible["gallery"])}
        counted["query"][rows] = hidden[some]
        weights = part_scores.draw_weights(self.people["query"][rows])
        values = {
            f"hidden/mAP/{name}": part_scores.mean_ratio(weights, *self._precision(self._slots(name), counted, rows))
            for name in ("pooled", "rebuilt")
        }
        return {**values, "hidden/mAP/rebuilt-pooled": values["hidden/mAP/rebuilt"] - values["hidden/mAP/pooled"]}
