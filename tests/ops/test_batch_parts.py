"""Batches that are joined and separated part by part: equal values, and nothing sent."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from reid_jax.benchmarks import program_text
from reid_jax.ops import batch_parts
from reid_jax.runtime import mesh as mesh_lib


def test_on_one_device_one_stands_behind_the_other():
    first, second = jnp.arange(6.0).reshape(3, 2), -jnp.ones((3, 2))
    joined = batch_parts.join((first, second))
    np.testing.assert_array_equal(joined, np.concatenate((first, second)))
    np.testing.assert_array_equal(batch_parts.separate(joined, 2)[1], second)


def test_on_several_devices_no_row_moves():
    mesh = mesh_lib.create_mesh(jax.devices()[:4])
    batches = [np.arange(16.0, dtype=np.float32).reshape(8, 2) + 100 * index for index in range(3)]

    def function(batches):
        joined = batch_parts.join(batches)
        return joined, batch_parts.separate(jnp.sin(joined), 3)

    function = batch_parts.applied(function, batch_parts.Parts(mesh))
    spread = [jax.device_put(batch, mesh_lib.sharded(mesh)) for batch in batches]
    compiled = jax.jit(function).lower(spread).compile()
    joined, separated = compiled(spread)
    assert sorted(np.asarray(joined)[:, 0]) == sorted(np.concatenate(batches)[:, 0])
    for found, batch in zip(separated, batches, strict=True):
        np.testing.assert_allclose(found, np.sin(batch), rtol=1e-6)
    sent = program_text.collectives(program_text.parse(compiled.as_text()), 4)
    assert not any(each["count"] for each in sent.values())
    assert [len(part) for part in batch_parts.separate(batch_parts.join([np.ones(3)] * 2), 2)] == [3, 3]
