"""The device mesh with its one axis `data`, and the placement of arrays on it.

Parameters are replicated, batches are split over `data` on their first axis, and compiled code computes over the global
batch: batch normalization and hard mining mean the same on one device, on eight, and on several machines.

Arrays of the train state with an axis for very many classes, such as a classifier and its optimizer state, are split
along that axis instead, see `placement`. The compiler then sends features between devices, not classifiers.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from reid_jax.errors import UserError

AXIS = "data"

# An axis from this length on is one of classes: the longest of the ten systems' other axes is 3,072.
SPLIT_FROM = 16_384


def create_mesh(devices: Any = None) -> Mesh:
    """Returns the mesh of all devices of all processes (or of those given): one axis `data`, automatic axis types."""
    devices = jax.devices() if devices is None else list(devices)
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that puts the whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def sharded(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that splits the first axis over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def placement(tree: Any, mesh: Mesh) -> Any:
    """Returns the sharding of every array of a train state: replicated, or split along an axis of very many classes.

    Such an axis has `SPLIT_FROM` entries or more. Where they do not divide evenly over the devices, another axis that
    does is split: that saves the same memory between steps, but the step puts the array together again.

    Args:
        tree: arrays or their shapes.
        mesh: the mesh.
    """

    def sharding(leaf: Any) -> NamedSharding:
        shape = np.shape(leaf)
        if mesh.size == 1 or not shape or max(shape) < SPLIT_FROM:
            return replicated(mesh)
        axes = sorted(range(len(shape)), key=lambda axis: -shape[axis])
        split = next((axis for axis in axes if shape[axis] % mesh.size == 0), None)
        return NamedSharding(mesh, PartitionSpec(*(AXIS if axis == split else None for axis in range(len(shape)))))

    return jax.tree.map(sharding, tree)


def abstract(tree: Any, mesh: Mesh) -> Any:
    """Returns a train state's shapes, types and `placement` as a tree of `jax.ShapeDtypeStruct`."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        placement(tree, mesh),
    )


def to_global(batch: Any, mesh: Mesh) -> Any:
    """Returns this process's share of a batch as part of global device arrays.

    Args:
        batch: a tree of numpy arrays `[b, ...]` with b = global batch / processes, the same on every process.
        mesh: the mesh.

    Returns:
        The tree with arrays `[b * processes, ...]`, split over `data`; process 0's rows come first.

    Raises:
        UserError: the rows do not spread evenly over the devices, or the arrays differ in length.
    """
    sharding = sharded(mesh)
    lengths = {np.shape(leaf)[0] if np.ndim(leaf) else -1 for leaf in jax.tree.leaves(batch)}
    if len(lengths) > 1 or -1 in lengths:
        raise UserError(
            f"the arrays of a batch must have one first axis in common, but have lengths {sorted(lengths)}."
        )
    length = lengths.pop() if lengths else 0
    local = len(sharding.addressable_devices)
    if length % local:
        raise UserError(
            f"a batch of {length * jax.process_count()} does not divide evenly over {mesh.size} devices; choose a "
            f"batch size that is a multiple of {mesh.size}."
        )
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), batch)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Copies every leaf to every device; each process must pass the same values."""
    return jax.tree.map(lambda leaf: _put(leaf, replicated(mesh)), tree)


def place(tree: Any, mesh: Mesh) -> Any:
    """Puts the arrays of a train state where `placement` has them; each process must pass the same values."""
    return jax.tree.map(_put, tree, placement(tree, mesh))


def _put(leaf: Any, sharding: NamedSharding) -> Any:
    if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
        return leaf
    if jax.process_count() == 1 or _is_key(leaf):
        return jax.device_put(leaf, sharding)
    # Without the check of equality, and the collective for it, that device_put makes across processes.
    return jax.make_array_from_callback(np.shape(leaf), sharding, lambda index: np.asarray(leaf)[index])


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def gather(tree: Any) -> Any:
    """Returns whole arrays on the host of every process. A collective: all processes must call it.

    Args:
        tree: global arrays, split or replicated. Arrays of one process alone (numpy included) are taken to be equal
            everywhere.

    Returns:
        The tree as numpy.
    """

    def copy(leaf: Any) -> np.ndarray:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
            return np.asarray(leaf)
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))

    return jax.tree.map(copy, tree)


def local_rows(array: jax.Array) -> np.ndarray:
    """Returns this process's rows of an array split on its first axis, in their order, on the host."""
    if not isinstance(array, jax.Array) or array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    rows = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(rows[first]) for first in sorted(rows)])
