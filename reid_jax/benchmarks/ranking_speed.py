"""Time and memory of ranking, re-ranking, verification and the page of results, on random features.

The sizes are those of real benchmarks.

Each function returns rows (dicts) for a table. Memory and time are those of `measuring`: memory beyond the inputs, time
without compilation, which is a column of its own.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from reid_jax import errors
from reid_jax.benchmarks import measuring
from reid_jax.data.feature_set import FeatureSet
from reid_jax.data.synthped import dataset as synthped
from reid_jax.evaluation import distance_blocks, ranking, reranking, suite, verification
from reid_jax.evaluation import report as ranked_list_page

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Size:
    """Size of a benchmark's test set.

    Attributes:
        num_query: number of queries.
        num_gallery: number of ranked gallery images.
        identities: number of identities.
        cameras: number of cameras.
        distractors: share of the gallery images that are distractors.
    """

    num_query: int
    num_gallery: int
    identities: int
    cameras: int
    distractors: float


SIZES: dict[str, Size] = {
    "tiny": Size(200, 1000, 50, 4, 0.15),
    "market1501": Size(3368, 15913, 750, 6, 0.175),  # 2,793 distractors
    "msmt17": Size(11659, 82161, 3060, 15, 0.0),
}
WARM_UP = Size(600, 4200, 100, 6, 0.0)  # of re-ranking: compiles its programs
GROWTH = (10_000, 50_000, 100_000, 300_000, 1_000_000)


def synthetic(size: Size, dimensions: int, seed: int = 0, separation: float = 0.55) -> FeatureSet:
    """Returns random features of identities with different numbers of images, with noise of different strength."""
    generator = np.random.default_rng(seed)
    weights = generator.lognormal(0, 0.6, size.identities)
    inside = round(size.num_gallery * (1 - size.distractors))
    drawn = generator.choice(size.identities, inside, p=weights / weights.sum()) + 1
    gallery_ids = generator.permutation(np.concatenate([drawn, np.zeros(size.num_gallery - inside, np.int64)]))
    query_ids = generator.integers(1, size.identities + 1, size.num_query)
    centers = separation * generator.standard_normal((size.identities + 1, dimensions), dtype=np.float32)
    centers[0] = 0

    def features(ids: np.ndarray) -> np.ndarray:
        noise = generator.uniform(0.6, 2.2, (len(ids), 1)).astype(np.float32)
        out = generator.standard_normal((len(ids), dimensions), dtype=np.float32)
        out *= noise
        for first in range(0, len(ids), 8192):  # no second array of the size of the gallery
            out[first : first + 8192] += centers[ids[first : first + 8192]]
        return out

    return FeatureSet(
        query_features=features(query_ids),
        gallery_features=features(gallery_ids),
        query_ids=query_ids,
        gallery_ids=gallery_ids,
        query_cams=generator.integers(0, size.cameras, size.num_query),
        gallery_cams=generator.integers(0, size.cameras, size.num_gallery),
        meta={"metric": "cosine"},
    )


def _size(name: str) -> Size:
    if name not in SIZES:
        raise errors.unknown("size", name, SIZES)
    return SIZES[name]


def _row(what: str, size: Size, cost: measuring.Cost, **more: Any) -> Row:
    return {
        "what": what,
        "queries": size.num_query,
        "gallery": size.num_gallery,
        "seconds": round(cost.seconds, 3),
        "core_seconds": round(cost.core_seconds, 3),
        "extra_MB": round(cost.extra_bytes / 1e6),
        "process_MB": round(cost.peak_bytes / 1e6),
        **more,
    }


def _device() -> str:
    return f"{jax.devices()[0].device_kind} x{jax.device_count()}, {os.cpu_count()} cores"


def rank(
    size: str = "market1501", *, dimensions: int = 512, twin: bool | int | None = None, repeats: int = 3, seed: int = 0
) -> list[Row]:
    """Returns the cost of ranking a test set (distances, CMC, mAP, mINP), and of a plain numpy evaluation of the same.

    Args:
        size: a name in `SIZES`.
        dimensions: dimensions of the features.
        twin: queries that the slow numpy evaluation ranks: True all, False none, None all up to Market-1501 size, else
            200. The time of a part is scaled to all queries, and the row says so.
        repeats: timed calls after the first; the fastest is reported.
        seed: seed of the features.
    """
    shape = _size(size)
    features = synthetic(shape, dimensions, seed)
    result, cost, compile_seconds = measuring.compiled(lambda: ranking.evaluate(features), repeats)
    rows = [
        _row(
            f"rank {size}", shape, cost, compile_seconds=round(compile_seconds, 2), mAP=result.mAP,
            rank1=result.rank(1), mINP=result.mINP, ap_rule=result.ap_rule, dimensions=dimensions, device=_device(),
        )
    ]  # fmt: skip
    if twin is None:
        twin = True if shape.num_query <= SIZES["market1501"].num_query else 200
    if twin:
        part = shape.num_query if twin is True else min(int(twin), shape.num_query)
        with measuring.measured() as slow:
            twin_ap = slow_numpy_ap(features, part)
        scale = shape.num_query / part
        note = "" if part == shape.num_query else f"measured on {part} queries, times scaled by {scale:.1f}"
        slow.seconds, slow.core_seconds = slow.seconds * scale, slow.core_seconds * scale
        # The twin sums in another order, so that near-ties of single queries may be ranked differently.
        difference = float(abs(np.nanmean(twin_ap) - np.nanmean(result.ap[:part])))
        more = {"mAP": float(np.nanmean(twin_ap)), "mAP_difference": difference, "note": note}
        rows.append(_row(f"numpy twin {size}", shape, slow, dimensions=dimensions, **more))
    return rows


def slow_numpy_ap(features: FeatureSet, num_query: int) -> np.ndarray:
    """Returns the AP of the first queries, by full distances and a stable sort of each row."""
    query, gallery = (
        distance_blocks.unit_length(f) for f in (features.query_features[:num_query], features.gallery_features)
    )
    squares = (gallery**2).sum(axis=1)
    out = np.full(num_query, np.nan)
    for first in range(0, num_query, 256):
        part = query[first : first + 256]
        matrix = (part**2).sum(axis=1)[:, None] + squares[None] - 2 * part @ gallery.T
        for row, values in enumerate(matrix, start=first):
            order = np.argsort(values, kind="stable")
            same = features.gallery_ids[order] == features.query_ids[row]
            keep = ~(same & (features.gallery_cams[order] == features.query_cams[row]))
            hits = np.flatnonzero(same[keep])
            if len(hits):
                out[row] = np.mean((np.arange(len(hits)) + 1) / (hits + 1))
    return out


def rank_growth(
    galleries: tuple[int, ...] = GROWTH, *, num_query: int = 100, dimensions: int = 512, seed: int = 0
) -> list[Row]:
    """Returns the cost of ranking for growing galleries."""
    rows = []
    for gallery in galleries:
        shape = Size(num_query, gallery, max(50, gallery // 25), 6, 0.1)
        features = synthetic(shape, dimensions, seed)
        side = [
            distance_blocks.prepare(array, "euclidean")
            for array in (features.query_features, features.gallery_features)
        ]
        labels = (features.query_ids, features.gallery_ids, features.query_cams, features.gallery_cams)
        work = lambda side=side, labels=labels: ranking.rank_metrics(*side, *labels)
        result, cost, compile_seconds = measuring.compiled(work, 1)
        rows.append(
            _row("rank, growing gallery", shape, cost, compile_seconds=round(compile_seconds, 2), mAP=result.mAP,
                 dimensions=dimensions, device=_device())
        )  # fmt: skip
        del features, side, labels, work
    return rows


def rerank(
    size: str = "market1501", *, dimensions: int | None = None, k1: int = 20, k2: int = 6, seed: int = 0
) -> list[Row]:
    """Returns the cost of k-reciprocal re-ranking and ranking of a test set; features are 768-d at MSMT17 size."""
    shape = _size(size)
    dimensions = dimensions or (768 if size == "msmt17" else 512)
    features = synthetic(shape, dimensions, seed)
    small = synthetic(WARM_UP, dimensions, seed)
    with measuring.measured() as compiling:
        reranking.evaluate(small, k1=k1, k2=k2)
    with measuring.measured() as cost:
        result = reranking.evaluate(features, k1=k1, k2=k2)
    more = {"k1": k1, "k2": k2, "ap_rule": result.ap_rule, "dimensions": dimensions, "device": _device()}
    warm_up = round(compiling.seconds, 2)
    return [_row(f"rerank {size}", shape, cost, warm_up_seconds=warm_up, mAP=result.mAP, rank1=result.rank(1), **more)]


def verify(size: str = "market1501", *, dimensions: int = 512, seed: int = 0) -> list[Row]:
    """Returns the cost of verification over all pairs, from histograms."""
    shape = _size(size)
    features = synthetic(shape, dimensions, seed)
    with measuring.measured() as cost:
        result = verification.verify(features)
    return [
        _row(f"verify {size}", shape, cost, auc=result.auc, eer=result.eer, dimensions=dimensions, device=_device())
    ]


def page(size: str = "market1501", *, dimensions: int = 512, seed: int = 0, drawn: int = 300) -> list[Row]:
    """Returns the cost and the size of the page of ranked lists with all queries, of drawn people, 128 x 64 pixels.

    Args:
        size: a name in `SIZES`.
        dimensions: dimensions of the features.
        seed: seed of the features.
        drawn: number of different pictures.
    """
    shape = _size(size)
    features = synthetic(shape, dimensions, seed)
    report = suite.run(size, features, suite.Protocol(verification=True))
    people = synthped.SynthPed("demo")
    images = [people.render(spec)[0] for spec in people.split("gallery")[:drawn]]
    with tempfile.TemporaryDirectory() as folder, measuring.measured() as cost:
        path = ranked_list_page.write_page(
            pathlib.Path(folder) / "page.html", report, lambda side, row: images[row % drawn]
        )
        text = path.read_text(encoding="utf-8")
    # Each picture is a file of its own in base64, which begins with the letters of "RIFF".
    more = {"page_MB": round(len(text) / 1e6, 1), "pictures": text.count('"UklGR'), "dimensions": dimensions}
    return [_row(f"page {size}", shape, cost, **more, device=_device())]


RANKING: dict[str, Callable[[str], list[Row]]] = {
    "rank": lambda size: rank_growth() if size == "growth" else rank(size),
    "rerank": rerank,
    "verify": verify,
    "page": page,
}


def measure(kind: str, sizes: Sequence[str]) -> list[Row]:
    """Returns the cost of ranking, re-ranking, verification or the page at the sizes of benchmarks.

    Args:
        kind: a key of `RANKING`.
        sizes: names in `SIZES`; for "rank" also "growth", galleries of five sizes.
    """
    return [row for size in sizes for row in RANKING[kind](size)]
