"""Heads and pooling layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reid_jax import errors
from reid_jax.nn import global_pool, heads


def test_bnneck_has_no_shift_and_no_classifier_bias():
    feature = jnp.asarray(np.random.default_rng(0).normal(size=(6, 8)), jnp.bfloat16)
    model = heads.BNNeck(5)
    (neck, logits), variables = model.init_with_output(jax.random.key(0), feature, train=True)
    assert jax.tree.map(jnp.shape, variables["params"]) == {
        "bottleneck": {"scale": (8,)},
        "classifier": {"kernel": (8, 5)},
    }
    assert neck.dtype == logits.dtype == jnp.float32
    np.testing.assert_allclose(neck.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(logits, neck @ variables["params"]["classifier"]["kernel"], atol=1e-6)
    named = heads.head_outputs("b", feature, neck, logits)
    assert set(named) == {"feature/b", "neck/b", "logits/b"}
    assert named["neck/b"] is neck
    assert all(named[f"{kind}/b"] is one for kind, one in (("feature", feature), ("logits", logits)))
    # It begins small, and the identity loss reaches the encoder through it.
    assert 0 < float(jnp.abs(variables["params"]["classifier"]["kernel"]).max()) < 0.005
    through = jax.grad(lambda x: jnp.sum(model.apply(variables, x, train=False)[1]))(feature.astype(jnp.float32))
    assert float(jnp.abs(through).min()) > 0


@pytest.mark.parametrize(("kind", "parameters"), [("average", 0), ("max", 0), ("gem", 1)])
def test_global_pool(kind, parameters):
    maps = jnp.asarray(np.random.default_rng(0).uniform(0.1, 1, (2, 3, 4, 5)), jnp.float32)
    value, variables = global_pool.GlobalPool(kind).init_with_output(jax.random.key(0), maps)
    assert value.shape == (2, 5)
    assert len(jax.tree.leaves(variables)) == parameters
    expected = {
        "average": np.mean(maps, (1, 2)),
        "max": np.max(maps, (1, 2)),
        "gem": np.mean(np.asarray(maps) ** 3, (1, 2)) ** (1 / 3),
    }
    np.testing.assert_allclose(value, expected[kind], rtol=1e-5)
    # GeM learns its power: a larger one gives larger values.
    slope = jax.grad(lambda variables: jnp.sum(global_pool.GlobalPool(kind).apply(variables, maps)))(variables)
    assert all(float(one[0]) > 0 for one in jax.tree.leaves(slope))


def test_unknown_pooling_is_named():
    with pytest.raises(errors.UserError, match="did you mean 'average'"):
        global_pool.GlobalPool("averege").init(jax.random.key(0), jnp.ones((1, 2, 2, 3)))
