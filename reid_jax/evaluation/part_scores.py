"""Scores of body parts with intervals: labels of tokens, visibility, similarity of features, and retrieval.

All scores are functions of one weight per image. So an interval comes from drawing people with replacement (the
bootstrap), and two scores of the same draws can be subtracted.

References:
    Efron and Tibshirani, "An introduction to the bootstrap", 1993, chapter 13 (percentile intervals).
"""

from __future__ import annotations

import numpy as np

DRAWS = 1000
LEVEL = 0.95
PARTS = ("head", "left arm", "right arm", "torso", "left leg", "right leg", "left foot", "right foot")


def draw_weights(people: np.ndarray, *, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Returns how often each image counts in each draw of people, [1 + draws, N] float32; all once in the first row.

    Args:
        people: [N] identities of the images; an image of identity 0 or below stands for a person of its own.
        draws: number of draws.
        seed: seed of the draws.
    """
    people = np.asarray(people)
    own = np.where(people > 0, people, -1 - np.arange(len(people)))
    _, place = np.unique(own, return_inverse=True)
    count = int(place.max()) + 1 if len(place) else 0
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / max(count, 1)), draws)
    return np.concatenate((np.ones((1, count)), drawn)).astype(np.float32)[:, place]


def interval(values: np.ndarray) -> list[float]:
    """Returns a score and the ends of its interval of 95 %, from the scores [1 + draws] of `draw_weights`' rows."""
    drawn = values[1:][np.isfinite(values[1:])]
    if not np.isfinite(values[0]) or not len(drawn):
        return [float("nan")] * 3
    low, high = np.quantile(drawn, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return [float(values[0]), float(low), float(high)]


def overlaps(predicted: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the tokens of each part in both labelings and in either of them.

    Args:
        predicted: [N, T] or [T] labels of tokens, 0 for background, 1 ... 8 for parts.
        true: [N, T].

    Returns:
        Intersections and unions [N, 8].
    """
    labels = np.arange(1, len(PARTS) + 1)
    found, wanted = (np.asarray(each)[..., None] == labels for each in (np.broadcast_to(predicted, true.shape), true))
    return (found & wanted).sum(axis=1), (found | wanted).sum(axis=1)


def mean_ratio(weights: np.ndarray, above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Returns weighted sums of one quantity over those of another, NaN where the second is zero.

    Args:
        weights: [R, N].
        above: [N, ...].
        below: [N, ...].

    Returns:
        [R, ...].
    """
    sums = [np.tensordot(weights, np.asarray(each, np.float64), axes=(1, 0)) for each in (above, below)]
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio: np.ndarray = np.where(sums[1] > 0, sums[0] / sums[1], np.nan)
    return ratio


def mean_where(weights: np.ndarray, values: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Returns weighted means [R] of values [N, ...] over the places that are counted, bool [N, ...]."""
    flat = [np.where(counted, each, 0.0).reshape(len(counted), -1).sum(axis=1) for each in (values, 1.0)]
    return mean_ratio(weights, *flat)


def auc(weights: np.ndarray, scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Returns the probability that a positive has a higher score than a negative, ties counting half.

    Args:
        weights: [R, N], of the images.
        scores: [N, P], or [P] for the same in all images.
        targets: [N, P] 0 or 1.

    Returns:
        [R]; NaN without positives or negatives.
    """
    scores = np.broadcast_to(scores, targets.shape)
    _, place = np.unique(scores, return_inverse=True)
    place, image = place.reshape(-1), np.repeat(np.arange(len(targets)), targets.shape[1])
    positive = np.asarray(targets, np.float64).reshape(-1)
    count = int(place.max()) + 1 if len(place) else 0
    found = np.full(len(weights), np.nan)
    for row, weight in enumerate(weights):
        each = weight[image]
        up = np.bincount(place, each * positive, count)
        down = np.bincount(place, each * (1 - positive), count)
        if up.sum() > 0 and down.sum() > 0:
            found[row] = np.sum(up * (np.cumsum(down) - down / 2)) / (up.sum() * down.sum())
    return found


def auc_within(weights: np.ndarray, scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Returns the mean [R] of `auc` over the parts that are hidden in some images and seen in others.

    A score that is the same in all images has 0.5 here, however well it tells parts that are often hidden from others.
    """
    scores = np.broadcast_to(scores, targets.shape)
    mixed = [part for part in range(targets.shape[1]) if 0 < targets[:, part].mean() < 1]
    if not mixed:
        return np.full(len(weights), np.nan)
    each = [auc(weights, scores[:, [part]], targets[:, [part]]) for part in mixed]
    return np.nanmean(each, axis=0) if len(each) > 1 else each[0]


def cosines(one: np.ndarray, other: np.ndarray, center: np.ndarray) -> np.ndarray:
    """Returns cosines [N, P] of features [N, P, D] minus a center [P, D], which all images have in common."""
    one, other = (np.asarray(each, np.float64) - center for each in (one, other))
    lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    found: np.ndarray = np.sum(one * other, axis=-1) / np.maximum(lengths, 1e-12)
    return found


def standardized(features: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Returns features [N, P, D] with the mean and deviation that those of the reference have, at unit length.

    Args:
        features: [N, P, D].
        reference: [M, P, D], such as the gallery's; no labels are used.
    """
    reference = np.asarray(reference, np.float64)
    scaled = (features - reference.mean(axis=0)) / np.maximum(reference.std(axis=0), 1e-6)
    return np.asarray(scaled / np.maximum(np.linalg.norm(scaled, axis=-1, keepdims=True), 1e-12), np.float32)


def decibels(weights: np.ndarray, drawn: np.ndarray, true: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns the PSNR [R] over the masked pixels of all images together, see `image_quality.psnr`.

    Args:
        weights: [R, N].
        drawn: [N, H, W, 3] in [0, 1].
        true: [N, H, W, 3] in [0, 1].
        mask: [N, H, W] bool.
    """
    squares = np.where(mask, np.square(drawn.astype(np.float64) - true).mean(axis=-1), 0.0).sum(axis=(1, 2))
    with np.errstate(divide="ignore"):
        found: np.ndarray = -10.0 * np.log10(mean_ratio(weights, squares, mask.sum(axis=(1, 2))))
    return found
