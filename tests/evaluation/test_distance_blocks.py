"""Blocked distances: right, the same wherever a row stands, on one or many devices."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from reid_jax import errors
from reid_jax.evaluation import distance_blocks


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("metric", distance_blocks.METRICS)
def test_pairwise(twins, metric):
    query, gallery = draw(0, 5, 7), draw(1, 300, 7)
    sides = [distance_blocks.prepare(one, metric) for one in (query, gallery)]
    got = distance_blocks.pairwise(*sides, gallery_block=256)
    if metric == "cosine":
        query, gallery = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (query, gallery))
    want = twins.squared_euclidean(query, gallery)
    np.testing.assert_allclose(got, want, atol=2e-5)
    quoted = distance_blocks.readable(got, metric)
    if metric == "cosine":
        np.testing.assert_allclose(quoted, 1 - query @ gallery.T, atol=2e-5)
    else:
        np.testing.assert_allclose(quoted, np.sqrt(want), atol=2e-5)


def test_pairs_and_slots(twins):
    x, y, seen = draw(0, 6, 3, 4), draw(1, 6, 3, 4), (draw(2, 12, 3) > 0).astype(np.float32)
    sides = distance_blocks.prepare(x, "euclidean", seen[:6]), distance_blocks.prepare(y, "euclidean", seen[6:])
    want = twins.slot_distances(x, y, seen[:6], seen[6:])
    got = distance_blocks.readable(distance_blocks.pairwise(*sides), "euclidean", slots=True)
    np.testing.assert_allclose(got, want, atol=1e-5)
    rows = distance_blocks.readable(distance_blocks.pairs(*sides), "euclidean", slots=True)
    np.testing.assert_allclose(rows, np.diag(want), atol=1e-5)


def test_slots_without_visibility_count_alike(twins):
    x, y = draw(0, 4, 3, 4), draw(1, 5, 3, 4)
    got = distance_blocks.pairwise(*(distance_blocks.prepare(one, "euclidean") for one in (x, y)))
    np.testing.assert_allclose(got, twins.slot_distances(x, y, np.ones((4, 3)), np.ones((5, 3))), atol=1e-5)


def test_devices_and_places_do_not_matter():
    query, gallery = (distance_blocks.prepare(draw(seed, n, 33), "euclidean") for seed, n in ((0, 70), (1, 1100)))
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:4])
    one = distance_blocks.pairwise(query, gallery)
    np.testing.assert_array_equal(one, distance_blocks.pairwise(query, gallery, gallery_block=256, mesh=mesh))
    order = np.random.default_rng(0).permutation(1100)
    np.testing.assert_array_equal(one[:, order], distance_blocks.pairwise(query, gallery.take(order)))
    near = distance_blocks.nearest(query, gallery, 9, mesh=mesh)
    np.testing.assert_array_equal(near.rows, distance_blocks.nearest(query, gallery, 9, gallery_block=256).rows)


def test_nearest_breaks_ties_by_gallery_order():
    gallery = np.random.default_rng(0).integers(-2, 3, (700, 3)).astype(np.float32)
    sides = distance_blocks.prepare(gallery[:20], "euclidean"), distance_blocks.prepare(gallery, "euclidean")
    near = distance_blocks.nearest(*sides, 30, gallery_block=256)
    matrix = distance_blocks.pairwise(*sides)
    order = np.argsort(matrix, axis=1, kind="stable")
    np.testing.assert_array_equal(near.rows, order[:, :30])
    np.testing.assert_array_equal(near.distances, np.take_along_axis(matrix, order[:, :30], axis=1))
    np.testing.assert_array_equal(near.farthest, matrix.max(axis=1))


def test_zero_vectors_stay_zero_and_overflow_is_refused():
    assert distance_blocks.unit_length(np.zeros((1, 3), np.float32)).sum() == 0
    with pytest.raises(errors.UserError, match="1e37"):
        distance_blocks.prepare(np.full((2, 2), 1e20, np.float32), "euclidean")
