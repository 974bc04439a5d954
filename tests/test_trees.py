"""Paths, patterns, counts and norms of parameter trees."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reid_jax import trees
from reid_jax.errors import UserError

TREE = {
    "backbone": {"conv1": {"kernel": np.ones((3, 3, 3, 8), np.float32)}, "norm1": {"scale": np.ones(8, np.float32)}},
    "head": {"kernel": np.full((8, 5), 2.0, np.float32), "bias": np.zeros(5, np.float32)},
}


def test_docstring_examples():
    outcome = doctest.testmod(trees)
    assert outcome.attempted >= 3
    assert outcome.failed == 0


def test_flatten_and_unflatten_are_inverse():
    flat = trees.flatten(TREE)
    assert list(flat) == ["backbone/conv1/kernel", "backbone/norm1/scale", "head/bias", "head/kernel"]
    again = trees.unflatten(flat)
    assert jax.tree.structure(again) == jax.tree.structure(TREE)
    assert again["head"]["kernel"] is TREE["head"]["kernel"]
    assert trees.flatten({}) == {}
    assert trees.flatten({"a": {}, "b": None}) == {}
    assert list(trees.flatten({"m": (1, [2])})) == ["m/0", "m/1/0"]


@pytest.mark.parametrize("flat", [{"a": 1, "a/b": 2}, {"a/b": 2, "a": 1}], ids=["leaf_first", "branch_first"])
def test_unflatten_refuses_a_leaf_that_is_also_a_branch(flat):
    with pytest.raises(ValueError, match="a"):
        trees.unflatten(flat)


def test_flatten_refuses_a_key_with_the_separator():
    with pytest.raises(ValueError, match="a/b"):
        trees.flatten({"a/b": 1})


def test_patterns_match_whole_paths_and_the_first_wins():
    paths = list(trees.flatten(TREE))
    found = trees.match_patterns(paths, [".*/bias", "head/.*", "backbone", "backbone/norm.*", "head/.*"])
    assert found.assignment == {"head/bias": 0, "head/kernel": 1, "backbone/norm1/scale": 3}
    assert found.leftovers == ["backbone/conv1/kernel"]
    assert found.unused == ["backbone", "head/.*"]
    assert trees.match_patterns(paths, []).leftovers == paths


def test_a_broken_pattern_is_a_user_error():
    with pytest.raises(UserError, match=r"'\(head'"):
        trees.match_patterns(["head/bias"], ["(head"])


def test_counts_need_only_shapes():
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, TREE))
    assert trees.count_parameters(shapes) == trees.count_parameters(TREE) == 216 + 8 + 40 + 5
    assert trees.count_parameters({"scalar": np.float32(1)}) == 1


def test_global_norm_matches_numpy():
    expected = np.sqrt(sum((leaf.astype(np.float64) ** 2).sum() for leaf in jax.tree.leaves(TREE)))
    np.testing.assert_allclose(trees.global_norm(jax.tree.map(jnp.asarray, TREE)), expected, rtol=1e-6)
    low = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), TREE)
    assert trees.global_norm(low).dtype == jnp.float32
    assert trees.global_norm({}) == 0


def test_cast_leaves_integers_and_keys_alone():
    tree = {"w": jnp.ones(2), "step": jnp.zeros((), jnp.int32), "key": jax.random.key(0)}
    low = trees.cast(tree, jnp.bfloat16)
    assert low["w"].dtype == jnp.bfloat16
    assert low["step"].dtype == jnp.int32
    assert low["key"].dtype == tree["key"].dtype
