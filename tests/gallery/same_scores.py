"""Asks a gallery with every query of a features file, and compares the scores with `evaluate.py`.

    python -m tests.gallery.same_scores --features features.npz      # writes results/gallery_scores.json

The gallery is built by `search.py build` in a folder of its own. Every query asks for the whole gallery; the images of
its own identity and camera are left out of the answer, as the protocol demands. Exit code 0 means that CMC, mAP and
mINP are equal to the last bit, and that every ranking is that of the evaluation's distances.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import tempfile
import time

import numpy as np

from reid_jax import file_io
from reid_jax.cli import search
from reid_jax.data import feature_set
from reid_jax.evaluation import distance_blocks, ranking
from reid_jax.gallery import answers, binding, gallery
from reid_jax.runtime import provenance

OUTPUT = pathlib.Path(__file__).resolve().parents[2] / "results" / "gallery_scores.json"


def main() -> int:
    """Runs the comparison and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", required=True)
    parser.add_argument("--output", default=str(OUTPUT))
    args = parser.parse_args()
    features = feature_set.FeatureSet.load(args.features).without_junk()
    expected = distance_blocks.pairwise(*distance_blocks.prepare_both(features, features.metric))
    order = np.argsort(expected, axis=1, kind="stable")
    with tempfile.TemporaryDirectory() as folder:
        place = f"{folder}/people.gallery"
        search.main(["build", place, "--features", args.features, "--no-audit", "--thumbnails=no"])
        with gallery.Gallery.open(place) as opened:
            shape, visible = features.query_features.shape[1:], features.query_visibility is not None
            bound = binding.Binding.of_meta(features.meta, shape, visible)
            asked = answers.Query(features.query_features, bound, features.query_visibility)
            began = time.monotonic()
            replies = opened.query(asked, k=features.num_gallery)
            seconds = time.monotonic() - began
    places = np.empty(expected.shape, np.float32)
    for row, reply in enumerate(replies):
        places[row, [hit.entry.id - 1 for hit in reply.hits]] = np.arange(len(reply.hits))
    labels = (features.query_ids, features.gallery_ids, features.query_cams, features.gallery_cams)
    mine, theirs = ranking.rank_metrics_from_distances(places, *labels), ranking.evaluate(features)
    mine_order = [[hit.entry.id - 1 for hit in reply.hits] for reply in replies]
    result = {
        "dataset": features.meta.get("dataset"),
        "model": dict(features.meta.get("model") or {}).get("name"),
        "queries": features.num_query,
        "entries": features.num_gallery,
        "gallery": mine.scores(),
        "evaluate": theirs.scores(),
        "scores_equal": mine.scores() == theirs.scores() and np.array_equal(mine.ap, theirs.ap, equal_nan=True),
        "rankings_equal": int(sum(a == b.tolist() for a, b in zip(mine_order, order, strict=True))),
        "seconds": round(seconds, 2),
        "commit": provenance.commit(),
    }
    file_io.write_json(args.output, result, "the results")
    print(result)
    return 0 if result["scores_equal"] and result["rankings_equal"] == features.num_query else 1


if __name__ == "__main__":
    sys.exit(main())
