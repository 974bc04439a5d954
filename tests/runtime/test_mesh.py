"""The mesh and the placement of arrays on eight simulated devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reid_jax.errors import UserError
from reid_jax.runtime import mesh as mesh_lib


def test_mesh_and_shardings():
    mesh = mesh_lib.create_mesh()
    assert mesh.axis_names == ("data",)
    assert mesh.size == jax.device_count() == 8
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}
    assert mesh_lib.replicated(mesh).is_fully_replicated
    assert not mesh_lib.sharded(mesh).is_fully_replicated
    assert mesh_lib.create_mesh(jax.devices()[:2]).size == 2


def test_a_batch_is_split_and_comes_back_whole():
    mesh = mesh_lib.create_mesh()
    batch = {"image": np.arange(16 * 3, dtype=np.uint8).reshape(16, 3), "label": np.arange(16, dtype=np.int32)}
    arrays = mesh_lib.to_global(batch, mesh)
    assert arrays["image"].sharding == mesh_lib.sharded(mesh)
    assert arrays["image"].dtype == np.uint8
    assert arrays["label"].addressable_shards[1].data.tolist() == [2, 3]
    back = mesh_lib.gather(arrays)
    assert isinstance(back["image"], np.ndarray)
    np.testing.assert_array_equal(back["image"], batch["image"])
    np.testing.assert_array_equal(mesh_lib.local_rows(arrays["label"]), batch["label"])


def test_only_axes_of_very_many_classes_are_split():
    mesh = mesh_lib.create_mesh()
    many = mesh_lib.SPLIT_FROM
    shapes = {"kernel": (512, many), "centers": (many, 512), "odd": (512, many + 1), "small": (512, many - 1)}
    found = mesh_lib.placement({name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}, mesh)
    split = {name: tuple(sharding.spec) for name, sharding in found.items()}
    axis = mesh_lib.AXIS
    # Of 16,385 classes the compiler takes no eighth; the other axis saves the same memory between steps.
    assert split == {"kernel": (None, axis), "centers": (axis, None), "odd": (axis, None), "small": ()}
    alone = mesh_lib.placement(jnp.zeros((2, many)), mesh_lib.create_mesh(jax.devices()[:1]))
    assert alone.is_fully_replicated


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"x": np.zeros((12, 2))}, "12 does not divide evenly over 8 devices; .* multiple of 8"),
        ({"x": np.zeros((8, 2)), "y": np.zeros(16)}, "one first axis in common"),
        ({"x": np.zeros((8, 2)), "y": np.float32(1)}, "one first axis in common"),
    ],
)
def test_batches_that_do_not_fit_are_refused(batch, message):
    with pytest.raises(UserError, match=message):
        mesh_lib.to_global(batch, mesh_lib.create_mesh())


def test_replicate_copies_to_every_device():
    mesh = mesh_lib.create_mesh()
    tree = {"w": np.ones((2, 3), np.float32), "step": jnp.zeros((), jnp.int32), "key": jax.random.key(0)}
    copies = mesh_lib.replicate(tree, mesh)
    assert all(leaf.is_fully_replicated and len(leaf.devices()) == 8 for leaf in jax.tree.leaves(copies))
    again = mesh_lib.replicate(copies, mesh)
    assert again["w"] is copies["w"]
    np.testing.assert_array_equal(mesh_lib.gather(copies["w"]), tree["w"])
