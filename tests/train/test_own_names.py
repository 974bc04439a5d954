"""Extras, optimizers and schedules of a module outside the package, named by path."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reid_jax import errors
from reid_jax.train import extras, optimizer, schedules

PARAMS = {"layer": {"kernel": jnp.array([1.0, -2.0])}}
OWN = """
import dataclasses
import jax.numpy as jnp
import optax

def sign(*, sharpness=1.0):
    return optax.chain(optax.scale_by_sign(), optax.scale(sharpness))

def halving(xp, position, base, rate, *, every=10):
    return rate * 0.5 ** (position // every)

@dataclasses.dataclass(frozen=True)
class Counter:
    start: float
    num_classes: int = 0
    restart: bool = False
    differentiable = False

    def init(self, key, variables):
        return jnp.float32(self.start + self.num_classes)

    def update(self, value, gradient, variables):
        return value + 1.0
"""


@pytest.fixture(autouse=True)
def own_project(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_train_project.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_an_optimizer_and_a_schedule_by_path():
    config = {"name": "own_train_project:sign", "learning_rate": 0.5, "sharpness": 2.0}
    schedule = {"name": "own_train_project:halving", "granularity": "step", "every": 2}
    transformation, groups = optimizer.build(config, schedule, PARAMS, 10, 5)
    state = transformation.init(PARAMS)
    updates, state = transformation.update({"layer": {"kernel": jnp.array([3.0, -4.0])}}, state, PARAMS)
    np.testing.assert_allclose(updates["layer"]["kernel"], [-1.0, 1.0])
    assert [groups.learning_rates(step)["learning_rate"] for step in (0, 1, 2, 5)] == [0.5, 0.5, 0.25, 0.125]
    with pytest.raises(errors.UserError, match="unknown option of optimizer 'own_train_project:sign' 'momentum'"):
        optimizer.build({**config, "momentum": 0.9}, schedule, PARAMS, 10, 5)
    with pytest.raises(errors.UserError, match="unknown option of schedule 'own_train_project:halving' 'warmup_steps'"):
        schedules.build({**schedule, "warmup_steps": 1}, 0.1, 1.0, 10, 5)
    with pytest.raises(errors.UserError, match="unknown schedule 'halvin'"):
        schedules.build({"name": "halvin"}, 0.1, 1.0, 10, 5)


def test_an_optimizer_of_optax_by_path():
    config = {"name": "optax:scale_by_lion", "learning_rate": 0.1, "b1": 0.5}
    transformation, _ = optimizer.build(config, {"name": "constant"}, PARAMS, 10, 5)
    gradient = {"layer": {"kernel": jnp.array([3.0, -4.0])}}
    updates, _ = transformation.update(gradient, transformation.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["layer"]["kernel"], [-0.1, 0.1])


def test_an_extra_by_path():
    config = {"counter": {"kind": "own_train_project:Counter", "start": 4.0}}
    built = extras.build(config, num_classes=3)
    value = built["counter"].init(jax.random.key(0), {})
    assert float(value) == 7.0
    assert float(built["counter"].update(value, None, {})) == 8.0
    for options, message in (
        ({"kind": "own_train_project:Counter"}, "expected the option 'start' of extra 'counter'"),
        ({"kind": "own_train_project:Counter", "begin": 1}, "unknown option of extra 'counter' 'begin'"),
        ({"kind": "own_train_project:Conter"}, "did you mean 'Counter'"),
    ):
        with pytest.raises(errors.UserError, match=message):
            extras.build({"counter": options}, num_classes=3)
