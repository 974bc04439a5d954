"""Alignment of two masked views: a slow numpy version, chance, one-sided gradients, tracks, devices.

The numbers in names of tests are those of the properties that masked pretraining's description lists.
"""

import jax
import numpy as np

from reid_jax import losses
from reid_jax.losses import alignment
from reid_jax.runtime import mesh as mesh_lib


def slow(first, second, temperature, tracks=None):
    total = 0.0
    views = [view / np.linalg.norm(view, axis=1, keepdims=True) for view in (first, second)]
    for query, key in (views, views[::-1]):
        for row in range(len(query)):
            logits = [query[row] @ each / temperature for each in key]
            kept = [j for j in range(len(key)) if j == row or tracks is None or tracks[j] != tracks[row]]
            total += 2 * temperature * (np.log(sum(np.exp(logits[j]) for j in kept)) - logits[row]) / len(query)
    return total


def test_12_alignment():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 8, 4)).astype(np.float32)
    tracks = np.array([0, 0, 1, 2, 2, 2, 3, 4], np.int32)
    same = np.tile(first[:1], (8, 1))

    @jax.jit
    def program(first, second, same):
        grads = jax.grad(alignment.align, argnums=(0, 1))(first, second)
        # Weight zero is the loss without the term.
        values, own = {"a": first, "b": second}, {"loss": "mean_squared", "on": ("a", "b")}
        term = {"loss": "align", "on": ("a", "b"), "weight": 0.0}
        return {
            "without": losses.evaluate_terms({"own": own}, values)[0],
            "weight_zero": losses.evaluate_terms({"own": own, "align": term}, values)[0],
            "value": alignment.align(first, second),
            "swapped": alignment.align(second, first),
            "chance": alignment.align(same, same),
            "tracks": alignment.align_tracks(first, second, labels=tracks),
            "grads": grads,
        }

    result = jax.device_get(program(first, second, same))
    assert result["weight_zero"] == result["without"]
    np.testing.assert_allclose(result["value"], slow(first, second, 0.2), rtol=1e-5)
    np.testing.assert_allclose(result["swapped"], result["value"], rtol=1e-6)
    np.testing.assert_allclose(result["chance"], 0.8 * np.log(8), rtol=1e-6)
    np.testing.assert_allclose(result["tracks"], slow(first, second, 0.2, tracks), rtol=1e-5)
    # The gradient of `first` is that of the direction in which it asks: the other view is a constant there.
    step = np.zeros_like(first)
    step[2, 1] = 1e-3
    query = [view / np.linalg.norm(view, axis=1, keepdims=True) for view in (first - step, first + step)]
    keys = second / np.linalg.norm(second, axis=1, keepdims=True)
    values = [np.mean(np.log(np.exp(q @ keys.T / 0.2).sum(axis=1)) - (q * keys).sum(axis=1) / 0.2) for q in query]
    np.testing.assert_allclose(result["grads"][0][2, 1], 0.4 * (values[1] - values[0]) / 2e-3, rtol=1e-2)

    mesh = mesh_lib.create_mesh()
    sharded = mesh_lib.to_global({"first": first, "second": second, "same": same}, mesh)
    np.testing.assert_allclose(program(**sharded)["value"], result["value"], rtol=1e-6)
