"""Nested dictionaries of arrays: paths, name patterns, counts, norms, hashes.

A *path* is the keys on the way to a leaf joined by "/", for example `"backbone/conv1/kernel"`. Optimizer groups, weight
conversion and checkpoints all refer to leaves by their path.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from reid_jax.errors import UserError

SEPARATOR = "/"


def flatten(tree: Any) -> dict[str, Any]:
    """Names each leaf of a tree by its path.

    Works on any pytree (dicts, tuples, dataclasses); sub-trees without leaves (`{}`, `None`) do not appear.

    Args:
        tree: the tree.

    Returns:
        `{"a/b/c": leaf}` in the order in which jax visits the leaves (dict keys sorted).

    Raises:
        ValueError: a key holds the separator, so that two leaves could share a path.

    >>> flatten({"b": {"c": 1, "d": 2}, "a": 0})
    {'a': 0, 'b/c': 1, 'b/d': 2}
    """
    flat = {}
    for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        parts = [jax.tree_util.keystr((key,), simple=True) for key in keys]
        if any(SEPARATOR in part for part in parts):
            raise ValueError(f"a key of the tree holds {SEPARATOR!r}: {parts}")
        flat[SEPARATOR.join(parts)] = leaf
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Builds nested dictionaries from paths; the inverse of `flatten` for trees of dictionaries.

    Raises:
        ValueError: one path is the beginning of another (`"a"` and `"a/b"`).

    >>> unflatten({"a": 0, "b/c": 1, "b/d": 2})
    {'a': 0, 'b': {'c': 1, 'd': 2}}
    """
    tree: dict[str, Any] = {}
    inner = {id(tree)}
    for path, leaf in flat.items():
        *parents, last = path.split(SEPARATOR)
        node = tree
        for parent in parents:
            if parent not in node:
                node[parent] = {}
                inner.add(id(node[parent]))
            node = node[parent]
            if id(node) not in inner:
                raise ValueError(f"{path!r} goes through another leaf")
        if last in node:
            raise ValueError(f"{path!r} is also the beginning of another path")
        node[last] = leaf
    return tree


class PatternMatch(NamedTuple):
    """Result of `match_patterns`."""

    assignment: dict[str, int]  # path -> position of the pattern that matched it
    leftovers: list[str]  # paths that no pattern matched
    unused: list[str]  # patterns that matched nothing


def match_patterns(paths: Iterable[str], patterns: Sequence[str]) -> PatternMatch:
    """Assigns each path to the first regular expression that matches the whole of it.

    Args:
        paths: the paths, as from `flatten`.
        patterns: regular expressions; earlier ones win.

    Returns:
        The assignment, the paths left over and the patterns that matched nothing.

    Raises:
        UserError: a pattern is not a regular expression.

    >>> match_patterns(["a/bias", "a/kernel"], [".*/bias", "b/.*"])
    PatternMatch(assignment={'a/bias': 0}, leftovers=['a/kernel'], unused=['b/.*'])
    """
    compiled = []
    for pattern in patterns:
        try:
            compiled.append(re.compile(pattern))
        except re.error as error:
            raise UserError(f"the name pattern {pattern!r} is not a regular expression: {error}.") from error
    assignment, leftovers = {}, []
    for path in paths:
        position = next((i for i, expression in enumerate(compiled) if expression.fullmatch(path)), None)
        if position is None:
            leftovers.append(path)
        else:
            assignment[path] = position
    taken = set(assignment.values())
    return PatternMatch(assignment, leftovers, [p for i, p in enumerate(patterns) if i not in taken])


def count_parameters(tree: Any) -> int:
    """Returns the number of array elements in a tree; leaves need only a `shape` (`jax.eval_shape` output will do)."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


SMALL = 16_384  # entries up to which `global_norm` joins arrays to one vector


def global_norm(tree: Any) -> jax.Array:
    """Returns the Euclidean norm of all leaves as a single vector, summed in float32; 0 for a tree without leaves."""
    leaves = [leaf.astype(jnp.float32) for leaf in jax.tree.leaves(tree)]
    # A reduction for each of hundreds of small arrays is a good part of a program: they form one vector.
    small = [leaf.reshape(-1) for leaf in leaves if leaf.size <= SMALL]
    joined = [jnp.concatenate(small)] if small else []
    squares = [jnp.sum(jnp.square(leaf)) for leaf in (*joined, *(leaf for leaf in leaves if leaf.size > SMALL))]
    return jnp.sqrt(sum(squares, start=jnp.zeros((), jnp.float32)))


def sha256(tree: Any) -> str:
    """Returns the SHA-256 of a tree's paths, types, shapes and values, the same on every machine and device."""
    digest = hashlib.sha256()
    for path, leaf in sorted(flatten(tree).items()):
        array = np.asarray(leaf)
        digest.update(f"{path} {array.dtype.name} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()


def cast(tree: Any, dtype: Any) -> Any:
    """Casts the floating-point leaves of a tree; integers, booleans and random keys stay as they are."""

    def cast_leaf(leaf: Any) -> Any:
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast_leaf, tree)
