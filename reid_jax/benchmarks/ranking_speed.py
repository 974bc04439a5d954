"""Time and memory of ranking and re-ranking on random features with the shape of real benchmarks.

Each function returns rows (dicts) for a table. Memory is what the process takes beyond its inputs: the resident size
is sampled in a thread while the work runs, and the size before it is subtracted. Timings are taken after compilation,
whose own time is a column.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.monitoring
import numpy as np

from reid_jax import errors
from reid_jax.data.feature_set import FeatureSet
from reid_jax.evaluation import distance_blocks, ranking, reranking, verification

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Size:
    """Shape of a benchmark's test set (queries, ranked gallery, identities, cameras, share of distractors)."""

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
GROWTH = (10_000, 50_000, 100_000, 300_000, 1_000_000)


def synthetic(size: Size, dimensions: int, seed: int = 0, separation: float = 0.55) -> FeatureSet:
    """Random identities of uneven size, seen by cameras, with noise that differs from image to image."""
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


def resident_bytes() -> int:
    """Resident memory of this process."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@dataclasses.dataclass
class Measured:
    """What `measured` saw: seconds by the clock and of all cores together, bytes beyond those before, bytes in all."""

    seconds: float = 0.0
    core_seconds: float = 0.0
    extra_bytes: int = 0
    peak_bytes: int = 0


@contextlib.contextmanager
def measured() -> Iterator[Measured]:
    """Times a block and samples its memory."""
    gc.collect()
    result, stop = Measured(), threading.Event()
    before = peak = resident_bytes()

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.005):
            peak = max(peak, resident_bytes())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    started, core = time.perf_counter(), time.process_time()
    try:
        yield result
    finally:
        result.seconds, result.core_seconds = time.perf_counter() - started, time.process_time() - core
        stop.set()
        thread.join()
        result.peak_bytes = max(peak, resident_bytes())
        result.extra_bytes = result.peak_bytes - before


def _size(name: str) -> Size:
    if name not in SIZES:
        raise errors.unknown("size", name, SIZES)
    return SIZES[name]


def _row(what: str, size: Size, seen: Measured, **more: Any) -> Row:
    return {
        "what": what,
        "queries": size.num_query,
        "gallery": size.num_gallery,
        "seconds": round(seen.seconds, 3),
        "core_seconds": round(seen.core_seconds, 3),
        "extra_MB": round(seen.extra_bytes / 1e6),
        "process_MB": round(seen.peak_bytes / 1e6),
        **more,
    }


def _device() -> str:
    return f"{jax.devices()[0].device_kind} x{jax.device_count()}, {os.cpu_count()} cores"


_compile_seconds: list[float] = []


def _note_compilation(event: str, duration_secs: float, **_: Any) -> None:
    if event.startswith("/jax/core/compile"):
        _compile_seconds.append(duration_secs)


@functools.cache
def _listen_for_compilation() -> None:
    jax.monitoring.register_event_duration_secs_listener(_note_compilation)


def _compiled(work: Callable[[], Any], repeats: int) -> tuple[Any, Measured, float]:
    """First call, then the fastest of `repeats`.

    Memory is the largest of all calls, the first one included. Compilation is what jax reports of it (tracing,
    lowering and compiling) in the first call: the difference of two calls would also hold what other jobs do.
    """
    _listen_for_compilation()
    _compile_seconds.clear()
    with measured() as first:
        result = work()
    compile_seconds = sum(_compile_seconds)
    extra, peak = first.extra_bytes, first.peak_bytes
    best = first
    for number in range(repeats):
        with measured() as again:
            result = work()
        extra, peak = max(extra, again.extra_bytes), max(peak, again.peak_bytes)
        if number == 0 or again.seconds < best.seconds:
            best = again
    best.extra_bytes, best.peak_bytes = extra, peak
    return result, best, compile_seconds


def rank(
    size: str = "market1501", *, dimensions: int = 512, twin: bool | int | None = None, repeats: int = 3, seed: int = 0
) -> list[Row]:
    """Distances, CMC, mAP and mINP of a test set, beside a plain numpy evaluation of the same.

    Args:
        size: a name in `SIZES`.
        dimensions: of the features.
        twin: queries the slow numpy evaluation ranks: True all, False none, None all up to Market-1501 size, else 200.
            A part is scaled up to all queries and the row says so.
        repeats: timed calls after the first; the fastest counts.
        seed: of the features.
    """
    shape = _size(size)
    features = synthetic(shape, dimensions, seed)
    result, seen, compile_seconds = _compiled(lambda: ranking.evaluate(features), repeats)
    rows = [
        _row(
            f"rank {size}", shape, seen, compile_seconds=round(compile_seconds, 2), mAP=result.mAP,
            rank1=result.rank(1), mINP=result.mINP, ap_rule=result.ap_rule, dimensions=dimensions, device=_device(),
        )
    ]  # fmt: skip
    if twin is None:
        twin = True if shape.num_query <= SIZES["market1501"].num_query else 200
    if twin:
        part = shape.num_query if twin is True else min(int(twin), shape.num_query)
        with measured() as slow:
            twin_ap = slow_numpy_ap(features, part)
        scale = shape.num_query / part
        note = "" if part == shape.num_query else f"measured on {part} queries, times scaled by {scale:.1f}"
        slow.seconds, slow.core_seconds = slow.seconds * scale, slow.core_seconds * scale
        # The twin's products are summed in another order, so that near-ties of single queries may fall otherwise.
        difference = float(abs(np.nanmean(twin_ap) - np.nanmean(result.ap[:part])))
        more = {"mAP": float(np.nanmean(twin_ap)), "mAP_difference": difference, "note": note}
        rows.append(_row(f"numpy twin {size}", shape, slow, dimensions=dimensions, **more))
    return rows


def slow_numpy_ap(features: FeatureSet, num_query: int) -> np.ndarray:
    """AP of the first queries by full distances and a stable sort each, as a reader would write it."""
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
    """Ranking time and memory as the gallery grows."""
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
        result, seen, compile_seconds = _compiled(work, 1)
        rows.append(
            _row("rank, growing gallery", shape, seen, compile_seconds=round(compile_seconds, 2), mAP=result.mAP,
                 dimensions=dimensions, device=_device())
        )  # fmt: skip
        del features, side, labels, work
    return rows


def rerank(
    size: str = "market1501", *, dimensions: int | None = None, k1: int = 20, k2: int = 6, seed: int = 0
) -> list[Row]:
    """k-reciprocal re-ranking of a whole test set and the ranking of the result; features are 768-d at MSMT17 size."""
    shape = _size(size)
    dimensions = dimensions or (768 if size == "msmt17" else 512)
    features = synthetic(shape, dimensions, seed)
    small = synthetic(Size(600, 4200, 100, 6, 0.0), dimensions, seed)
    with measured() as compiling:
        reranking.evaluate(small, k1=k1, k2=k2)
    with measured() as seen:
        result = reranking.evaluate(features, k1=k1, k2=k2)
    more = {"k1": k1, "k2": k2, "ap_rule": result.ap_rule, "dimensions": dimensions, "device": _device()}
    warm_up = round(compiling.seconds, 2)
    return [_row(f"rerank {size}", shape, seen, warm_up_seconds=warm_up, mAP=result.mAP, rank1=result.rank(1), **more)]


def verify(size: str = "market1501", *, dimensions: int = 512, seed: int = 0) -> list[Row]:
    """Verification metrics of all pairs, from histograms."""
    shape = _size(size)
    features = synthetic(shape, dimensions, seed)
    with measured() as seen:
        result = verification.verify(features)
    return [
        _row(f"verify {size}", shape, seen, auc=result.auc, eer=result.eer, dimensions=dimensions, device=_device())
    ]


def markdown(rows: list[Row]) -> str:
    """A table of the columns any row has, in the order they first appear."""
    columns = list(dict.fromkeys(key for row in rows for key in row))

    def cell(value: Any) -> str:
        return f"{value:.5g}" if isinstance(value, float) else str(value)

    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(cell(row.get(column, "")) for column in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"
