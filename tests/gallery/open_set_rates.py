"""Holds a false-match rate on people that neither the model nor the threshold has seen? Measured on SynthPed.

    python scripts/main.py --config configs/mfv.py --workdir runs/mfv-demo
    python -m tests.gallery.open_set_rates --run runs/mfv-demo     # writes results/gallery_open_set.json

People of the large SynthPed's test population, in the four cameras that the demo has, are drawn and described by the
run's model, which was trained on other people. They are split in halves at random, many times: on one half a threshold
is calibrated as `search.py calibrate` does, on the other the rates are counted. The interval is that of the first
split, by a bootstrap over the people who ask; the range is over all splits.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from typing import Any

import numpy as np

from reid_jax import file_io
from reid_jax.data import feature_set, records
from reid_jax.data.synthped import dataset
from reid_jax.evaluation import distance_blocks
from reid_jax.gallery import answers, open_set
from reid_jax.inference import extractor as extractor_lib
from reid_jax.inference import features as features_lib
from reid_jax.runs import trained
from reid_jax.runtime import provenance

OUTPUT = pathlib.Path(__file__).resolve().parents[2] / "results" / "gallery_open_set.json"
CASES = (("comparison", 0.01), ("comparison", 0.001), ("search", 0.1), ("search", 0.05), ("search", 0.02))
CAMERAS = 4
BOOTSTRAP = 2000


def described(run: str, people: int) -> feature_set.FeatureSet:
    """Features of queries and gallery of the first people of the test population."""
    drawn = dataset.SynthPed("large", seed=0)
    extractor, variables = trained.from_run(run)
    sides = {}
    for name in ("query", "gallery"):
        specs = [
            spec
            for spec in drawn.split(name)
            if spec.pid > 0 and not spec.junk and spec.person < people and spec.camid < CAMERAS
        ]
        elements = dataset.Elements(drawn, specs)
        pids = np.asarray([spec.pid for spec in specs], np.int32)
        camids = np.asarray([spec.camid for spec in specs], np.int32)
        names = tuple(spec.filename for spec in specs)
        split = records.Split(f"synthped/{name}", elements, pids, camids, names)
        sides[name] = extractor.split(variables, split), (pids, camids, names)
    meta = features_lib.model_meta(extractor, variables)
    return extractor_lib.feature_set(
        sides["query"][0], sides["gallery"][0], sides["query"][1], sides["gallery"][1], meta
    )


def half(features: feature_set.FeatureSet, people: np.ndarray) -> feature_set.FeatureSet:
    """The queries and the gallery of some people."""
    queries = np.flatnonzero(np.isin(features.query_ids, people))
    visible = features.query_visibility
    kept = features.with_gallery(np.flatnonzero(np.isin(features.gallery_ids, people)))
    return feature_set.FeatureSet(
        features.query_features[queries],
        kept.gallery_features,
        features.query_ids[queries],
        kept.gallery_ids,
        features.query_cams[queries],
        kept.gallery_cams,
        query_visibility=None if visible is None else visible[queries],
        gallery_visibility=kept.gallery_visibility,
        meta=features.meta,
    )


def counted(features: feature_set.FeatureSet, threshold: answers.Threshold) -> dict[str, Any]:
    """Errors of a threshold on a half: for every query accepted and all impostors, missed and all true matches."""
    if threshold.per == "search":
        stranger, own = open_set.nearest_of_others(features, features.metric)
        has = np.isfinite(own)
        accepted, impostors = (stranger <= threshold.distance).astype(int), np.ones(len(stranger), int)
        missed, mates = (has & (own > threshold.distance)).astype(int), has.astype(int)
    else:
        query, gallery = distance_blocks.prepare_both(features, features.metric)
        slots = features.query_features.ndim == 3
        values = distance_blocks.readable(distance_blocks.pairwise(query, gallery), features.metric, slots, query.scale)
        same = features.query_ids[:, None] == features.gallery_ids[None]
        seen = same & (features.query_cams[:, None] != features.gallery_cams[None])
        near = values <= threshold.distance
        accepted, impostors = (near & ~same).sum(1), (~same).sum(1)
        missed, mates = (~near & seen).sum(1), seen.sum(1)
    return {
        "people": features.query_ids,
        "accepted": accepted,
        "impostors": impostors,
        "missed": missed,
        "mates": mates,
    }


def interval(counts: dict[str, Any], wrong: str, everything: str) -> list[float]:
    """The 95 % interval of a rate, by a bootstrap over people."""
    people, owner = np.unique(counts["people"], return_inverse=True)
    sums = [np.bincount(owner, counts[name], minlength=len(people)) for name in (wrong, everything)]
    drawn = np.random.default_rng(0).integers(0, len(people), (BOOTSTRAP, len(people)))
    rates = sums[0][drawn].sum(1) / sums[1][drawn].sum(1)
    return [float(value) for value in np.quantile(rates, (0.025, 0.975))]


def case(features: feature_set.FeatureSet, per: str, rate: float, splits: int) -> dict[str, Any]:
    """What was promised, and what came out."""
    people = np.unique(features.gallery_ids)
    rates, misses = [], []
    first: dict[str, Any] = {}
    for number in range(splits):
        order = np.random.default_rng(number).permutation(people)
        asked, other = half(features, order[: len(order) // 2]), half(features, order[len(order) // 2 :])
        threshold = open_set.calibrate(asked, rate, per=per)
        counts = counted(other, threshold)
        rates.append(counts["accepted"].sum() / counts["impostors"].sum())
        misses.append(counts["missed"].sum() / counts["mates"].sum())
        if not number:
            first = {
                "threshold": threshold.distance,
                "impostors": int(counts["impostors"].sum()),
                "entries": other.num_gallery,
                "rate": float(rates[0]),
                "rate_interval": interval(counts, "accepted", "impostors"),
                "miss_promised": threshold.miss_rate,
                "miss": float(misses[0]),
                "miss_interval": interval(counts, "missed", "mates"),
            }
    return {
        "per": per,
        "promised": rate,
        **first,
        "splits": splits,
        "mean_rate": float(np.mean(rates)),
        "range": [float(min(rates)), float(max(rates))],
        "mean_miss": float(np.mean(misses)),
    }


def main() -> int:
    """Measures and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="a run on SynthPed's demo")
    parser.add_argument("--people", type=int, default=400)
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--output", default=str(OUTPUT))
    args = parser.parse_args()
    features = described(args.run, args.people)
    result = {
        "model": dict(features.meta["model"])["name"],
        "metric": features.metric,
        "people": args.people,
        "queries": features.num_query,
        "entries": features.num_gallery,
        "cases": [case(features, per, rate, args.splits) for per, rate in CASES],
        "commit": provenance.commit(),
    }
    file_io.write_json(args.output, result, "the results")
    for line in result["cases"]:
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
