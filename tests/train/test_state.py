"""The train state carries every collection of a model's variables: through steps, phases, averages and checkpoints."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from reid_jax import build, errors
from reid_jax.config import sections
from reid_jax.runtime import mesh as mesh_lib
from reid_jax.train import checkpoints, extras, state, step
from tests.train import toy


class Banked(nn.Module):
    """A classifier that adds a constant to its logits."""

    collection: str = "constants"

    @nn.compact
    def __call__(self, batch, *, train):
        bank = self.variable(self.collection, "bank", jnp.zeros, (toy.CLASSES,), jnp.float32)
        x = batch["image"].reshape(batch["image"].shape[0], -1)
        return {"logits": nn.Dense(toy.CLASSES, name="classifier")(x) + bank.value[None]}

    def fill(self, variables):
        return {**variables, "constants": {"bank": jnp.arange(toy.CLASSES, dtype=jnp.float32)}}


def test_constants_are_filled_between_phases_and_kept_by_steps_and_checkpoints(tmp_path):
    model, mesh = Banked(), mesh_lib.create_mesh(jax.devices()[:1])
    initial = toy.initial_state(model, mesh)
    assert not np.any(initial.constants["bank"])
    transformation = optax.sgd(0.1)
    owned = extras.build({"average": {"kind": "moving_average", "decay": 0.5}}, num_classes=toy.CLASSES)
    begun = state.begin_phase(initial, transformation, owned, jax.random.key(0), "model/fill", model)
    filled = np.arange(toy.CLASSES, dtype=np.float32)
    np.testing.assert_array_equal(begun.variables["constants"]["bank"], filled)
    np.testing.assert_array_equal(begun.extra["average"]["constants"]["bank"], filled)
    before = np.asarray(begun.params["classifier"]["kernel"])

    goal = toy.objective_of(model, {"ce": toy.TERMS["ce"]})
    update = step.make_train_step(goal, transformation, owned, seed=0, mesh=mesh)
    after, _ = update(begun, mesh_lib.to_global(toy.batch(1), mesh))
    assert np.any(np.asarray(after.params["classifier"]["kernel"]) != before)
    np.testing.assert_array_equal(after.constants["bank"], filled)
    np.testing.assert_array_equal(after.extra["average"]["constants"]["bank"], filled)

    with checkpoints.Checkpoints(tmp_path) as saved:
        saved.save(1, after, {}, wait=True)
        restored, _ = saved.restore(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), after))
    np.testing.assert_array_equal(restored.constants["bank"], filled)
    for average in (None, "average"):
        variables, _ = checkpoints.restore_variables(tmp_path, average=average)
        np.testing.assert_array_equal(variables["constants"]["bank"], filled)


def test_a_model_without_constants_has_none_in_its_variables():
    begun = toy.initial_state(toy.Toy(), mesh_lib.create_mesh(jax.devices()[:1]))
    assert set(begun.variables) == {"params", "batch_stats"}
    assert begun.with_variables({"params": begun.params}).batch_stats == {}


def test_variables_that_no_run_carries_are_refused():
    preprocess = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "erase_fill": "zero"}
    settings = sections.Settings.of({"seed": 0, "preprocess": preprocess})
    batch = {"image": np.zeros((1, 4, 2, 3), np.uint8)}
    assert set(build.init_variables(Banked(), settings, batch)) == {"params", "batch_stats", "constants"}
    with pytest.raises(errors.UserError, match="got cache as well; keep what no step changes in constants"):
        build.init_variables(Banked("cache"), settings, batch)
