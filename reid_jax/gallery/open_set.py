"""Thresholds for "nobody in the gallery", chosen on images with identities at a stated false-match rate.

Two rates can be promised:

* **per comparison**: of comparisons of two different people, the share that is accepted (the false-match rate of
  verification). A search makes as many comparisons as there are entries, so that among 10,000 of them a rate of 1 in
  1,000 finds somebody nearly always.
* **per search**: of searches for a person who is not in the gallery, the share that finds anybody (the false-positive
  identification rate). It holds for galleries of about the size of the one it was measured on; more entries mean more
  chances of an accident, so calibrate again when a gallery has grown.

Both are properties of the people, cameras and model they were measured on. Other people are accepted more or less
often; how far the rate moved on drawn people is in the documentation.

References:
    ISO/IEC 19795-1:2021, biometric performance testing (FMR, FPIR).
"""

from __future__ import annotations

import numpy as np

from reid_jax import errors
from reid_jax.data import feature_set
from reid_jax.evaluation import distance_blocks, verification
from reid_jax.gallery import answers, exact, matrix, store

PER = ("comparison", "search")
LARGEST = 0.5
_EVIDENCE = 3  # 3 / rate comparisons without an error show the rate with 95 % confidence; with fewer nothing is shown
_EXACT = 20_000_000  # comparisons that are sorted; more are counted in bins
_MOST = 4000  # labeled entries of a gallery that are asked as queries
_BLOCK = 64


def calibrate(
    features: feature_set.FeatureSet,
    rate: float,
    *,
    per: str = "comparison",
    metric: str | None = None,
    source: str = "",
) -> answers.Threshold:
    """Returns the threshold at a false-match rate.

    Args:
        features: labeled queries and gallery images of the gallery's model; junk is left out.
        rate: the rate to promise, a fraction above 0 and at most `LARGEST`.
        per: "comparison" or "search".
        metric: the gallery's metric; None takes that of the features.
        source: what the features are, in words, stored with the threshold.

    Raises:
        UserError: a rate out of range, too few comparisons or searches to show it, or no pair of one person.
    """
    if per not in PER:
        raise errors.unknown("kind of rate", per, PER)
    if not 0 < rate <= LARGEST:
        raise errors.UserError(
            f"expected a false-match rate above 0 and at most {LARGEST}, got {rate:g}; give another."
        )
    features = features.without_junk()
    metric = features.metric if metric is None else metric
    if per == "search":
        return _per_search(features, rate, metric, source)
    pairs = features.num_query * features.num_gallery
    _refuse_little(rate, pairs, "comparisons of two different people")
    verified = verification.verify(features, metric=metric, rates=(rate,), exact=pairs <= _EXACT)
    _refuse_little(rate, verified.num_different, "comparisons of two different people")
    point = verified.points[0]
    missed = 1 - point.true_positive_rate
    return answers.Threshold(point.threshold, rate, per, missed, verified.num_different, None, source)


def _per_search(features: feature_set.FeatureSet, rate: float, metric: str, source: str) -> answers.Threshold:
    """Returns the threshold by the nearest entry of another person, for every query."""
    _refuse_little(rate, features.num_query, "searches")
    stranger, own = nearest_of_others(features, metric)
    number = int(np.isfinite(stranger).sum())
    _refuse_little(rate, number, "searches")
    ordered = np.sort(stranger[np.isfinite(stranger)])
    refused = ordered[min(int(rate * number + 1e-9), number - 1)]
    below = ordered[ordered < refused]
    accepted = own[np.isfinite(own) & (own < refused)]
    last = max([*below[-1:].tolist(), *np.sort(accepted)[-1:].tolist()], default=0.0)
    threshold = (last + float(refused)) / 2
    mates = own[np.isfinite(own)]
    if not len(mates):
        raise errors.UserError("no query has an image of its person in the gallery; give labeled images of both.")
    missed = float((mates > threshold).mean())
    return answers.Threshold(threshold, rate, "search", missed, number, features.num_gallery, source)


def nearest_of_others(features: feature_set.FeatureSet, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns for every query the smallest distance to other people, and to its own person in other cameras.

    Args:
        features: queries and gallery.
        metric: "euclidean", "cosine" or the path of a function.

    Returns:
        Two arrays [Q] float64 of distances as reported; infinity where there is no such image.
    """
    query, gallery = distance_blocks.prepare_both(features, metric)
    slots = features.query_features.ndim == 3
    stranger, own = np.full((2, features.num_query), np.inf)
    for first in range(0, features.num_query, _BLOCK):
        rows = slice(first, first + _BLOCK)
        values = exact.distances(query.take(rows), gallery)
        reported = distance_blocks.readable(values, metric, slots, query.scale)
        same = features.query_ids[rows, None] == features.gallery_ids[None]
        cams = features.query_cams[rows, None]
        left_out = same & (cams == features.gallery_cams[None]) & (cams != feature_set.UNKNOWN_CAMERA)
        stranger[rows] = np.where(same, np.inf, reported).min(axis=1)
        own[rows] = np.where(same & ~left_out, reported, np.inf).min(axis=1)
    return stranger, own


def of_gallery(opened: store.Store, now: matrix.Snapshot, seed: int = 0) -> feature_set.FeatureSet:
    """Returns the labeled entries of a gallery as a feature set, each compared with all others.

    Of more than 4,000, so many are drawn as queries. An image is never compared with itself.

    Raises:
        UserError: fewer than two people have a name in the gallery.
    """
    rows = np.flatnonzero(now.alive & (now.identities > 0))
    if len(np.unique(now.identities[rows])) < 2:
        raise errors.UserError(
            f"expected labeled images of at least two people in the gallery {opened.name}, to compare them; give a "
            "features file with identities (--features), or add labeled images."
        )
    features, visibility = opened.vectors(now.ids[rows].tolist())
    asked = np.arange(len(rows))
    if len(rows) > _MOST:
        asked = np.sort(np.random.default_rng(seed).choice(len(rows), _MOST, replace=False))
    # Images of an unknown camera get one each: then the rule that leaves out a person's images of the same camera
    # leaves out the image itself and nothing else.
    cameras = np.where(now.cameras[rows] > 0, now.cameras[rows], len(now.names["cameras"]) + np.arange(len(rows)))
    ids = now.identities[rows]
    return feature_set.FeatureSet(
        features[asked],
        features,
        ids[asked],
        ids,
        cameras[asked],
        cameras,
        query_visibility=None if visibility is None else visibility[asked],
        gallery_visibility=visibility,
        meta={"metric": opened.binding.metric},
    )


def _refuse_little(rate: float, number: int, what: str) -> None:
    if number * rate < _EVIDENCE:
        raise errors.UserError(
            f"a false-match rate of {rate:g} needs at least {int(np.ceil(_EVIDENCE / rate)):,} {what} to be shown, "
            f"there are {number:,}; give more labeled images (--features), or promise a larger rate."
        )
