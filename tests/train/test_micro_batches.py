"""Micro-batches make the update of the whole batch."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reid_jax import errors
from reid_jax.nn import norm
from reid_jax.ops import batch_parts
from reid_jax.runtime import mesh as mesh_lib
from reid_jax.train import extras, micro_batches, objective, optimizer, state, step
from tests.train import toy

TERMS = {
    **toy.TERMS,
    "center": {"loss": "center", "on": ("feature", "extra/centers"), "weight": 0.1},
    "penalty": {"loss": "mean_squared", "on": ("penalty", "penalty/target"), "weight": 0.5},
}


class Tokens(nn.Module):
    """A transformer block with outputs of every kind, without batch statistics unless its norm has them."""

    statistics: bool = False

    @nn.compact
    def __call__(self, batch, *, train):
        tokens = nn.Dense(8, name="embed")(batch["image"].reshape(batch["image"].shape[0], 8, 3))
        x = norm.BatchNorm(name="norm")(tokens, train=train) if self.statistics else nn.LayerNorm(name="norm")(tokens)
        weights = jax.nn.softmax(jnp.einsum("btd,bsd->bts", nn.Dense(8, name="query")(x), x))  # attention
        x = tokens + weights @ x
        kernel = self.param("kernel", nn.initializers.normal(0.1), (8, toy.CLASSES))
        penalty = jnp.square(kernel).sum(0)  # of parameters alone
        return {
            "feature": x.mean(1),
            "logits": x.mean(1) @ kernel,
            "penalty": penalty,
            "penalty/target": jnp.ones_like(penalty) * (x.mean() > 1e9),
            "choice": x.mean(1).argmax(-1),
        }


def _updated(model, devices, accumulate, statistics="global", steps=2):
    """State and losses after some steps."""
    mesh = mesh_lib.create_mesh(jax.devices()[:devices])
    initial = toy.initial_state(model, mesh)
    transformation, _ = optimizer.build(toy.OPTIMIZER, {"name": "constant"}, initial.params, 10, 5)
    owned = extras.build({"centers": {"kind": "centers", "dimension": 8}}, num_classes=toy.CLASSES)
    apply = batch_parts.applied(model.apply, batch_parts.Parts(mesh, statistics))
    goal = objective.Objective(apply, lambda batch, key: dict(batch), {"main": objective.Pass()}, TERMS)
    train_step = step.make_train_step(goal, transformation, owned, seed=0, mesh=mesh, accumulate=accumulate)
    train_state = state.begin_phase(initial, transformation, owned, jax.random.key(7))
    train_state, losses = mesh_lib.place(train_state, mesh), []
    for number in range(steps):
        train_state, metrics = train_step(train_state, mesh_lib.to_global(toy.batch(number), mesh))
        losses.append(jax.device_get(metrics))
    return jax.device_get((train_state.params, train_state.batch_stats, train_state.extra)), losses


def _assert_same(first, second):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=3e-5, atol=3e-6), first, second)


@pytest.mark.parametrize(
    ("model", "statistics", "whole", "parts"),
    [
        (Tokens(), "global", (1, 1), [(2, 2)]),
        (Tokens(statistics=True), "device", (4, 1), [(1, 4)]),
    ],
    ids=["no batch statistics", "statistics of each device"],
)
def test_an_update_by_micro_batches_is_that_of_the_whole_batch(model, statistics, whole, parts):
    """Hard mining, centers, means over the batch and outputs of parameters alone included."""
    expected = _updated(model, *whole, statistics)
    for devices, accumulate in parts:
        _assert_same(_updated(model, devices, accumulate, statistics), expected)


def test_division_keeps_images_on_their_device_and_the_order():
    mesh = mesh_lib.create_mesh(jax.devices()[:2])
    parts = micro_batches.Parts(2, mesh)
    divided = parts.divide(jnp.arange(8))
    np.testing.assert_array_equal(divided, [[0, 1, 4, 5], [2, 3, 6, 7]])
    np.testing.assert_array_equal(parts.join(divided), np.arange(8))


def test_number_of_micro_batches():
    auto = [micro_batches.count("auto", 64, devices, 8) for devices in (1, 2, 4, 8, 16)]
    assert auto == [8, 4, 2, 1, 1]
    assert micro_batches.count("auto", 60, 2, 7) == 5  # 6 images at once: 30 is not divisible by 7
    assert micro_batches.count(2, 64, 8, 0) == 2
    with pytest.raises(errors.UserError, match="divisible into 3 micro-batches on 2 devices, got 64 images"):
        micro_batches.count(3, 64, 2, 0)


def test_an_output_that_couples_images_is_refused():
    whole = jax.ShapeDtypeStruct((4, 4), jnp.float32)
    with pytest.raises(errors.UserError, match=r"a row per image for train.accumulate=2, 'd' has the shape \(4, 4\)"):
        micro_batches._joined("d", jnp.ones((2, 2, 2)), whole, 2, micro_batches.Parts(2))
