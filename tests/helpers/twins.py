"""Slow numpy versions of the evaluation, written to be read."""

from __future__ import annotations

import numpy as np


def rank_metrics(matrix, query_ids, gallery_ids, query_cams, gallery_cams, rule="step", same_camera_filter=True):
    """One query at a time: sort, filter, count. Returns per-query AP, INP (NaN without a match) and first hit (-1)."""
    ap, inp = np.full(len(query_ids), np.nan), np.full(len(query_ids), np.nan)
    first = np.full(len(query_ids), -1)
    for row, (identity, camera) in enumerate(zip(query_ids, query_cams, strict=True)):
        order = np.argsort(matrix[row], kind="stable")
        kept = []
        for item in order:
            same = gallery_ids[item] == identity
            if same_camera_filter and same and camera != -1 and gallery_cams[item] == camera:
                continue
            kept.append(bool(same))
        total = sum(kept)
        if not total:
            continue
        found, precisions = 0, []
        for place, hit in enumerate(kept):
            if hit:
                before = found / place if place else 1.0
                found += 1
                now = found / (place + 1)
                precisions.append(now if rule == "step" else (before + now) / 2)
                if found == 1:
                    first[row] = place
                if found == total:
                    inp[row] = total / (place + 1)
        ap[row] = np.mean(precisions)
    return ap, inp, first


def squared_euclidean(query, gallery):
    """[Q, G] in float64."""
    query, gallery = query.astype(np.float64), gallery.astype(np.float64)
    return ((query[:, None] - gallery[None]) ** 2).sum(axis=-1)


def slot_distances(query, gallery, query_visibility, gallery_visibility):
    """Visibility-weighted mean of slot distances, [Q, G] in float64; infinite without a common slot."""
    out = np.full((len(query), len(gallery)), np.inf)
    for i in range(len(query)):
        for j in range(len(gallery)):
            weight = query_visibility[i] * gallery_visibility[j]
            if weight.sum() > 0:
                lengths = np.linalg.norm(query[i].astype(np.float64) - gallery[j].astype(np.float64), axis=1)
                out[i, j] = (weight * lengths).sum() / weight.sum()
    return out


def rerank(distances, num_query, k1, k2, original_weight):
    """k-reciprocal encoding with full matrices; `distances` [N, N] is squared Euclidean."""
    count = len(distances)
    scaled = distances / distances.max(axis=1, keepdims=True)
    rank = np.argsort(scaled, axis=1, kind="stable")

    def reciprocal(image, k):
        return [other for other in rank[image, : k + 1] if image in rank[other, : k + 1]]

    encoding = np.zeros((count, count))
    for image in range(count):
        mine = reciprocal(image, k1)
        expanded = set(mine)
        for other in mine:
            theirs = reciprocal(other, int(np.around(k1 / 2)))
            if len(set(theirs) & set(mine)) > 2 / 3 * len(theirs):
                expanded |= set(theirs)
        columns = sorted(expanded)
        weight = np.exp(-scaled[image, columns])
        encoding[image, columns] = weight / weight.sum()
    encoding = np.stack([encoding[rank[image, :k2]].mean(axis=0) for image in range(count)])
    jaccard = np.empty((num_query, count))
    for image in range(num_query):
        common = np.minimum(encoding[image], encoding).sum(axis=1)
        jaccard[image] = 1 - common / (2 - common)
    return ((1 - original_weight) * jaccard + original_weight * scaled[:num_query])[:, num_query:]


def verification(distances, same, rates):
    """AUC, EER and (TPR at most at each FPR) from all pairs: `distances` [n] and `same` [n] bool."""
    genuine, impostor = distances[same], distances[~same]
    auc = np.mean([(impostor > value).mean() + 0.5 * (impostor == value).mean() for value in genuine])
    thresholds = np.unique(distances)
    false_positive = np.array([0.0] + [(impostor <= t).mean() for t in thresholds])
    true_positive = np.array([0.0] + [(genuine <= t).mean() for t in thresholds])
    at_rates = [true_positive[false_positive <= rate].max() for rate in rates]
    gap = false_positive - (1 - true_positive)
    after = int(np.argmax(gap >= 0))
    share = -gap[after - 1] / (gap[after] - gap[after - 1])
    eer = false_positive[after - 1] + share * (false_positive[after] - false_positive[after - 1])
    return auc, eer, at_rates
