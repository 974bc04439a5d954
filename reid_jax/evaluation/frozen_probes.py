"""Probes of a frozen encoder in addition to plain ranking: features without their cameras' means, and a linear map."""

from __future__ import annotations

import dataclasses

import numpy as np

from reid_jax.data import feature_set

MOST_DIMENSIONS = 128
RIDGE = 1e-3  # of the mean eigenvalue of the scatter within classes


def centered(features: feature_set.FeatureSet) -> feature_set.FeatureSet:
    """Returns features minus the mean feature of their camera, over queries and gallery together."""
    cameras = np.concatenate((features.query_cams, features.gallery_cams))
    values = np.concatenate((features.query_features, features.gallery_features)).astype(np.float64)
    for camera in np.unique(cameras):
        values[cameras == camera] -= values[cameras == camera].mean(axis=0)
    return _replaced(features, values)


def linear(features: feature_set.FeatureSet, map_: np.ndarray) -> feature_set.FeatureSet:
    """Returns features behind a linear map [D, d], such as that of `discriminant`."""
    values = np.concatenate((features.query_features, features.gallery_features)).astype(np.float64)
    return _replaced(features, values @ map_)


def _replaced(features: feature_set.FeatureSet, values: np.ndarray) -> feature_set.FeatureSet:
    """Returns the set with other features at unit length, queries first."""
    lengths = np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    values = (values / lengths).astype(np.float32)
    queries = len(features.query_features)
    return dataclasses.replace(features, query_features=values[:queries], gallery_features=values[queries:])


def discriminant(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the map of linear discriminant analysis in closed form.

    The scatter within classes is whitened, and the directions of largest scatter between classes are kept.

    Args:
        features: [N, D], of labeled images.
        labels: [N], classes; two or more.

    Returns:
        [D, d] float64, d = min(classes - 1, D, `MOST_DIMENSIONS`).

    References:
        Fisher, "The use of multiple measurements in taxonomic problems", 1936.
    """
    values = np.asarray(features, np.float64)
    _, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    means = np.zeros((len(counts), values.shape[1]))
    np.add.at(means, index, values)
    means /= counts[:, None]
    rest = values - means[index]
    within = rest.T @ rest / len(values)
    spectrum, directions = np.linalg.eigh(within)
    scale = np.maximum(spectrum, 0.0) + RIDGE * max(float(spectrum.mean()), 1e-12)
    whitening = directions / np.sqrt(scale)
    between = (means - values.mean(axis=0)) @ whitening * np.sqrt(counts / len(values))[:, None]
    _, _, rotation = np.linalg.svd(between, full_matrices=False)
    kept = min(len(counts) - 1, values.shape[1], MOST_DIMENSIONS)
    found: np.ndarray = whitening @ rotation[:kept].T
    return found
