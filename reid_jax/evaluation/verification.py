"""Verification: do two images show the same person? ROC, AUC, EER, and thresholds at given false positive rates.

Every query is paired with every gallery image (pairs of one identity and one camera are left out, as in ranking).
Distances are computed in blocks and counted in fine histograms, which take the same small memory at any size, or all
kept and sorted for an exact result. A pair is accepted when its distance is at most the threshold; distances and
thresholds are those usually reported (`distance_blocks.readable`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from reid_jax import errors, progress
from reid_jax.data.feature_set import UNKNOWN_CAMERA, FeatureSet
from reid_jax.data.gallery_share import Share
from reid_jax.evaluation import distance_blocks, own_metrics, reranking

FALSE_POSITIVE_RATES = (1e-1, 1e-2, 1e-3, 1e-4)
_BINS = 2**18
_QUERY_BLOCK, _GALLERY_BLOCK = 512, 4096
_DIFFERENT, _SAME, _LEFT_OUT = 0, 1, 2
_ROC_POINTS = 512
_DRAWN_BINS = 60


@dataclasses.dataclass(frozen=True)
class Histogram:
    """Distances of the pairs, coarse enough to be drawn, without infinite ones (descriptors with nothing in common).

    Attributes:
        edges: [n + 1] distances as usually reported.
        same: [n] number of same-person pairs.
        different: [n] number of other pairs.
    """

    edges: np.ndarray
    same: np.ndarray
    different: np.ndarray


@dataclasses.dataclass(frozen=True)
class OperatingPoint:
    """A threshold and its rates.

    Attributes:
        false_positive_rate: the requested rate; the rate reached is the largest possible not above it.
        true_positive_rate: share of accepted same-person pairs.
        threshold: accept pairs whose distance is at most this.
    """

    false_positive_rate: float
    true_positive_rate: float
    threshold: float


@dataclasses.dataclass(frozen=True)
class VerificationResult:
    """Separation of same-person pairs from other pairs by a threshold. Rates are fractions.

    Attributes:
        auc: area under the ROC curve; ties count half.
        eer: rate at which false positives and false negatives are equally frequent.
        eer_threshold: the threshold at that rate.
        points: operating points at the requested false positive rates.
        false_positive_rates: [n] ROC curve.
        true_positive_rates: [n] ROC curve.
        num_same: number of pairs of one person.
        num_different: number of pairs of two persons.
        exact: whether distances were sorted rather than counted in bins.
        resolution: width of a histogram bin at the EER threshold; 0 where exact.
        histogram: distances of both kinds of pairs.
    """

    auc: float
    eer: float
    eer_threshold: float
    points: tuple[OperatingPoint, ...]
    false_positive_rates: np.ndarray
    true_positive_rates: np.ndarray
    num_same: int
    num_different: int
    exact: bool
    resolution: float
    histogram: Histogram

    def as_dict(self, prefix: str = "") -> dict[str, float | int]:
        """Returns the results by name: `<prefix>/auc`, `eer`, `eer_threshold`, `tpr_at_fpr_1e-3`, ..."""
        values: dict[str, float | int] = {"auc": self.auc, "eer": self.eer, "eer_threshold": self.eer_threshold}
        for point in self.points:
            name = f"{point.false_positive_rate:.0e}".replace("e-0", "e-")
            values |= {f"tpr_at_fpr_{name}": point.true_positive_rate, f"threshold_at_fpr_{name}": point.threshold}
        values |= {"num_pairs_same": self.num_same, "num_pairs_different": self.num_different}
        return {f"{prefix}/{key}" if prefix else key: value for key, value in values.items()}


def verify(
    feature_set: FeatureSet,
    *,
    metric: str | None = None,
    same_camera_filter: bool = True,
    drop_junk: bool = True,
    rates: tuple[float, ...] = FALSE_POSITIVE_RATES,
    exact: bool = False,
    bins: int = _BINS,
) -> VerificationResult:
    """Returns the verification result over all pairs of queries and gallery images.

    Args:
        feature_set: descriptors, identities and cameras.
        metric: "euclidean", "cosine" or the path of a function; None takes what the features were made for.
        same_camera_filter: leave out pairs of one identity and one camera.
        drop_junk: leave out gallery images of identity -1.
        rates: false positive rates at which thresholds are reported.
        exact: keep and sort all distances (4 bytes per pair) instead of counting them in bins.
        bins: number of histogram bins over the possible range.

    Raises:
        UserError: there is no same-person pair or no other pair, an own metric gives NaN or infinity, or the exact
            distances would not fit into memory.
    """
    metric = feature_set.metric if metric is None else metric
    if drop_junk:
        feature_set = feature_set.without_junk()
    query, gallery = distance_blocks.prepare_both(feature_set, metric)
    slots = query.visibility is not None
    share = feature_set.gallery_share
    blocks = functools.partial(_blocks, feature_set, query, gallery, same_camera_filter)
    quote = functools.partial(distance_blocks.readable, metric=metric, slots=slots, scale=query.scale)
    if exact:
        _refuse_too_large(query.num_rows, gallery.num_rows)
        same, different = _collect(blocks(), share)
        own_metrics.refuse_not_finite(query.measure, same, different)
        curve = _exact_curve(same, different)
        between = _thresholds(same, different, rates)
        edges = None
        histogram = _drawn((same, different), (None, None), quote)
    else:
        low, high = (
            (0.0, _upper_bound(query, gallery, share))
            if query.measure is None
            else _range(blocks(), query.measure, share)
        )
        edges = np.linspace(low, high, bins + 1)
        same, different = _histograms(blocks(), edges, share)
        curve = _histogram_curve(same, different, edges)
        between = []
        # No distance reaches the last bin, except of descriptors that have nothing in common.
        centers = (edges[:-2] + edges[1:-1]) / 2
        histogram = _drawn((centers, centers), (same[:-1], different[:-1]), quote)
    _refuse_one_sided(curve, same_camera_filter)
    return _result(curve, rates, between, quote, edges, histogram)


@dataclasses.dataclass(frozen=True)
class _Curve:
    """Numbers of accepted pairs at ascending thresholds, from none to all."""

    thresholds: np.ndarray
    same: np.ndarray
    different: np.ndarray


def _result(
    curve: _Curve,
    rates: tuple[float, ...],
    between: list[float],
    quote: Callable[[np.ndarray], np.ndarray],
    edges: np.ndarray | None,
    histogram: Histogram,
) -> VerificationResult:
    num_same, num_different = int(curve.same[-1]), int(curve.different[-1])
    true_positive, false_positive = curve.same / num_same, curve.different / num_different
    points = []
    for number, rate in enumerate(rates):
        last = int(np.searchsorted(false_positive, rate, side="right")) - 1
        threshold = between[number] if between else curve.thresholds[last]
        points.append(OperatingPoint(rate, float(true_positive[last]), float(quote(np.asarray(threshold)))))
    eer, eer_threshold = _equal_error(curve, true_positive, false_positive)
    resolution = 0.0
    if edges is not None:
        around = np.asarray([eer_threshold, eer_threshold + edges[1] - edges[0]])
        resolution = float(np.diff(quote(around))[0])
    kept = _thinned(false_positive, true_positive)
    return VerificationResult(
        auc=float(np.sum(np.diff(false_positive) * (true_positive[1:] + true_positive[:-1]) / 2)),
        eer=eer,
        eer_threshold=float(quote(np.asarray(eer_threshold))),
        points=tuple(points),
        false_positive_rates=false_positive[kept],
        true_positive_rates=true_positive[kept],
        num_same=num_same,
        num_different=num_different,
        exact=edges is None,
        resolution=resolution,
        histogram=histogram,
    )


def _drawn(
    distances: tuple[np.ndarray, np.ndarray],
    counts: tuple[np.ndarray, np.ndarray] | tuple[None, None],
    quote: Callable[[np.ndarray], np.ndarray],
) -> Histogram:
    """Returns the histogram in equal steps of what is reported.

    Args:
        distances: of same-person pairs and of other pairs.
        counts: number of pairs at each of these distances; None stands for one each.
        quote: maps distances to what is reported.
    """
    sides = []
    for side, count in zip(distances, counts, strict=True):
        reported, weights = quote(side), np.ones(len(side), np.int64) if count is None else count
        kept = np.isfinite(reported) & (weights > 0)
        sides.append((reported[kept], weights[kept]))
    together = np.concatenate([reported for reported, _ in sides])
    low, high = (float(together.min()), float(together.max())) if len(together) else (0.0, 1.0)
    edges = np.linspace(low, max(high, low + 1e-6), _DRAWN_BINS + 1)
    same, different = (np.histogram(reported, edges, weights=weights)[0] for reported, weights in sides)
    return Histogram(edges, same.astype(np.int64), different.astype(np.int64))


def _equal_error(curve: _Curve, true_positive: np.ndarray, false_positive: np.ndarray) -> tuple[float, float]:
    """Returns the rate and threshold at which false positive and false negative rate cross, by linear interpolation."""
    gap = false_positive - (1 - true_positive)
    after = int(np.argmax(gap >= 0))
    before = max(after - 1, 0)
    span = gap[after] - gap[before]
    share = -gap[before] / span if span > 0 else 0.0
    rate = false_positive[before] + share * (false_positive[after] - false_positive[before])
    low, high = curve.thresholds[before], curve.thresholds[after]
    return float(rate), float(high if not np.isfinite(low) else low + share * (high - low))


def _thinned(false_positive: np.ndarray, true_positive: np.ndarray) -> np.ndarray:
    """Returns some hundred positions that represent the curve on linear and on logarithmic axes."""
    shares = np.concatenate([np.linspace(0, 1, _ROC_POINTS // 2), np.geomspace(1e-6, 1, _ROC_POINTS // 2)])
    places = np.concatenate([np.searchsorted(false_positive, shares), np.searchsorted(true_positive, shares)])
    return np.unique(np.clip(np.append(places, 0), 0, len(false_positive) - 1))


# ---- exact


def _collect(blocks: Iterator[tuple[jax.Array, jax.Array]], share: Share) -> tuple[np.ndarray, np.ndarray]:
    same, different = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)]
    for block in blocks:
        values, kind = np.asarray(block[0]), np.asarray(block[1])
        same.append(values[kind == _SAME])
        different.append(values[kind == _DIFFERENT])
    everyone = (share.exchange.gather(np.concatenate(side)) for side in (same, different))
    sides = [np.sort(np.concatenate(side)) for side in everyone]
    return sides[0], sides[1]


def _exact_curve(same: np.ndarray, different: np.ndarray) -> _Curve:
    # Corners of the ROC curve: it rises only where a same-person pair is accepted.
    values = np.unique(np.concatenate([same, different[:1], different[-1:]]))
    values = np.unique(np.concatenate([values, _before(values)]))
    counts = [np.concatenate([[0], np.searchsorted(side, values, side="right")]) for side in (same, different)]
    return _Curve(np.concatenate([[-np.inf], values]), *counts)


def _before(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.nextafter(values, np.float32(-np.inf)))


def _thresholds(same: np.ndarray, different: np.ndarray, rates: tuple[float, ...]) -> list[float]:
    """Returns for each rate the middle between the last accepted distance and the first that must be refused."""
    out = []
    for rate in rates if len(different) else ():
        refused = different[min(int(rate * len(different) + 1e-9), len(different) - 1)]
        accepted = [side[place - 1] for side in (same, different) if (place := np.searchsorted(side, refused))]
        out.append((float(max(accepted, default=0.0)) + float(refused)) / 2)
    return out


def _refuse_too_large(num_query: int, num_gallery: int) -> None:
    needed, free = 10 * num_query * num_gallery, reranking.available_memory()
    if free is not None and needed > free:
        raise errors.UserError(
            f"sorting {num_query:,} x {num_gallery:,} distances takes about {needed / 1e9:.1f} GB, but "
            f"{free / 1e9:.1f} GB are free: use the histograms (exact=False), whose thresholds are fine to one bin."
        )


# ---- histograms


def _upper_bound(query: distance_blocks.Side, gallery: distance_blocks.Side, share: Share) -> float:
    """Returns an upper bound of all distances of a built-in metric."""
    lengths = [float(np.sqrt(side.squares.max(initial=0))) for side in (query, gallery)]
    lengths[1] = share.largest(lengths[1])
    bound = sum(lengths)
    return max(bound if query.visibility is not None else bound**2, 1e-6) * 1.0001


def _range(
    blocks: Iterator[tuple[jax.Array, jax.Array]], measure: own_metrics.Measure, share: Share
) -> tuple[float, float]:
    """Returns the range of an own metric's distances, found by computing all of them once more than needed."""
    low, high = [], []
    for values, kind in blocks:
        some = np.asarray(values)[np.asarray(kind) != _LEFT_OUT]
        some = some[(some < distance_blocks.NOTHING_IN_COMMON) | np.isnan(some)]
        if some.size:
            low.append(some.min())
            high.append(some.max())
    own_metrics.refuse_not_finite(measure, np.asarray(low), np.asarray(high))
    nothing = -np.inf
    bottom = -share.largest(max((-float(value) for value in low), default=nothing))
    top = share.largest(max(map(float, high), default=nothing))
    bottom, top = (value if np.isfinite(value) else 0.0 for value in (bottom, top))
    return bottom, max(top, bottom + 1e-6) + 1e-4 * (top - bottom)


@functools.partial(jax.jit, static_argnames="bins")
def _codes(values: jax.Array, kind: jax.Array, low: jax.Array, scale: jax.Array, bins: int) -> jax.Array:
    """Returns the bin of each pair; same-person pairs have a second set of bins, pairs left out the last number."""
    number = jnp.clip(jnp.floor((values - low) * scale), 0, bins - 1).astype(jnp.int32)
    return jnp.where(kind == _LEFT_OUT, 2 * bins, number + bins * kind)


def _histograms(
    blocks: Iterator[tuple[jax.Array, jax.Array]], edges: np.ndarray, share: Share
) -> tuple[np.ndarray, np.ndarray]:
    bins = len(edges) - 1
    low, scale = np.float32(edges[0]), np.float32(bins / (edges[-1] - edges[0]))
    total = np.zeros(2 * bins + 1, np.int64)
    waiting = None
    for values, kind in blocks:
        codes = _codes(values, kind, low, scale, bins)
        if waiting is not None:  # counted on the host while the device computes the next block
            total += np.bincount(np.asarray(waiting).reshape(-1), minlength=len(total))
        waiting = codes
    if waiting is not None:
        total += np.bincount(np.asarray(waiting).reshape(-1), minlength=len(total))
    total = share.exchange.sum(total)
    return total[bins : 2 * bins], total[:bins]


def _histogram_curve(same: np.ndarray, different: np.ndarray, edges: np.ndarray) -> _Curve:
    return _Curve(edges, *(np.concatenate([[0], np.cumsum(side)]) for side in (same, different)))


# ---- blocks


@functools.partial(jax.jit, static_argnames="same_camera_filter")
def _block(
    gallery: distance_blocks.Side,
    gallery_labels: tuple[jax.Array, jax.Array, jax.Array],
    query: distance_blocks.Side,
    query_labels: tuple[jax.Array, jax.Array, jax.Array],
    same_camera_filter: bool,
) -> tuple[jax.Array, jax.Array]:
    """Returns distances [g, q] and the kinds of the pairs; labels are (identity, camera, whether it is an image)."""
    ids, cams, real = ((a[:, None], b[None, :]) for a, b in zip(gallery_labels, query_labels, strict=True))
    same = ids[0] == ids[1]
    kind = jnp.where(same, _SAME, _DIFFERENT)
    left_out = ~(real[0] & real[1])
    if same_camera_filter:
        left_out |= same & (cams[0] == cams[1]) & (cams[1] != UNKNOWN_CAMERA)
    return distance_blocks.block(gallery, query), jnp.where(left_out, _LEFT_OUT, kind)


def _blocks(
    feature_set: FeatureSet, query: distance_blocks.Side, gallery: distance_blocks.Side, same_camera_filter: bool
) -> Iterator[tuple[jax.Array, jax.Array]]:
    query_block = distance_blocks.round_up(min(_QUERY_BLOCK, query.num_rows), distance_blocks.QUERY_UNIT)
    gallery_block = distance_blocks.round_up(min(_GALLERY_BLOCK, gallery.num_rows), distance_blocks.GALLERY_UNIT)

    def cut(
        side: distance_blocks.Side, ids: np.ndarray, cams: np.ndarray, size: int
    ) -> Iterator[tuple[distance_blocks.Side, tuple[np.ndarray, ...]]]:
        for first in range(0, side.num_rows, size):
            rows = slice(first, first + size)
            labels = (ids[rows], cams[rows], np.ones(len(ids[rows]), bool))
            yield side.take(rows).pad(size), tuple(distance_blocks.pad_rows(label, size) for label in labels)

    places = feature_set.gallery_share.places
    own_labels = feature_set.gallery_ids[places], feature_set.gallery_cams[places]
    blocks = -(-query.num_rows // query_block) * -(-gallery.num_rows // gallery_block)
    with progress.bar("verification", blocks, "blocks of pairs") as advance:
        for gallery_part in cut(gallery, *own_labels, gallery_block):
            gallery_part = jax.device_put(gallery_part)
            for query_part in cut(query, feature_set.query_ids, feature_set.query_cams, query_block):
                yield _block(*gallery_part, *query_part, same_camera_filter)
                advance(1)


def _refuse_one_sided(curve: _Curve, same_camera_filter: bool) -> None:
    if not curve.same[-1]:
        hint = " or count pairs within a camera with evals.same_camera_filter=False "
        hint += "(scripts/evaluate.py --no-same-camera-filter)"
        raise errors.UserError(
            "verification needs pairs of one person, but no query shares its identity with a gallery image it may be "
            f"compared with: check identities and cameras{hint if same_camera_filter else ''}."
        )
    if not curve.different[-1]:
        raise errors.UserError(
            "verification needs pairs of two persons, but all images are of one identity: add other identities."
        )
