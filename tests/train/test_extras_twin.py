"""Updates of extras, number by number, and their defaults."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from reid_jax.train import extras, schedules, state, step

OLD = {"params": {"w": np.array([1.0, 2.0])}, "batch_stats": {"mean": np.array([4.0])}}
NEW = {"params": {"w": np.array([3.0, 0.0])}, "batch_stats": {"mean": np.array([0.0])}}


def test_a_moving_average_keeps_its_decay_of_parameters_and_statistics():
    after = extras.MovingAverage(decay=0.75).update(OLD, None, NEW)
    np.testing.assert_allclose(after["params"]["w"], [1.5, 1.5])
    np.testing.assert_allclose(after["batch_stats"]["mean"], [3.0])
    assert extras.MovingAverage().decay == 0.999
    assert extras.MovingAverage().differentiable is False


def test_a_frozen_copy_stays():
    assert extras.FrozenCopy().update(OLD, None, NEW) is OLD
    assert extras.FrozenCopy().differentiable is False
    given = extras.FrozenCopy(weights="a.pth", load=lambda variables, path: {"a.pth": NEW}[path])
    np.testing.assert_array_equal(given.init(jax.random.key(0), OLD)["params"]["w"], NEW["params"]["w"])
    np.testing.assert_array_equal(extras.FrozenCopy().init(jax.random.key(0), OLD)["params"]["w"], OLD["params"]["w"])


@pytest.mark.parametrize(("scale", "moved"), [(1.0, 0.5), (10.0, 5.0)])
def test_centers_take_a_step_of_their_rate_times_their_scale_against_the_gradient(scale, moved):
    centers = extras.Centers(num_classes=2, dimension=2, scale=scale)
    assert (centers.learning_rate, centers.trainable, centers.differentiable) == (0.5, True, True)
    value, gradient = np.zeros((2, 2)), np.array([[1.0, 0.0], [0.0, -2.0]])
    np.testing.assert_allclose(centers.update(value, gradient, NEW), [[-moved, 0.0], [0.0, 2 * moved]])
    frozen = extras.Centers(num_classes=2, dimension=2, trainable=False)
    assert frozen.differentiable is False
    assert frozen.update(value, None, NEW) is value


def test_centers_start_standard_normal_each_set_with_numbers_of_its_own():
    owned = {name: extras.Centers(num_classes=100, dimension=8) for name in ("one", "other")}
    drawn = state.begin_phase(state.create(OLD), optax.identity(), owned, jax.random.key(0)).extra
    for value in drawn.values():
        np.testing.assert_allclose([np.mean(value), np.std(value)], [0.0, 1.0], atol=0.15)
    assert np.all(np.asarray(drawn["one"]) != np.asarray(drawn["other"]))


def test_an_average_is_of_the_variables_after_the_step():
    loss = lambda variables, extra, batch, key: (jnp.sum(variables["params"]["w"] ** 2), ({}, {}))
    owned, half = {"average": extras.MovingAverage(decay=0.5)}, optax.sgd(0.25)
    begun = state.begin_phase(state.create({"params": {"w": jnp.ones(2)}}), half, owned, jax.random.key(0))
    after, _ = step.make_update(loss, half, owned)(begun, {}, jax.random.key(0))
    np.testing.assert_allclose(after.params["w"], 0.5)
    np.testing.assert_allclose(after.extra["average"]["params"]["w"], 0.75)


def test_a_phase_begins_an_extra_again_only_where_it_restarts():
    begun = state.create(OLD).replace(extra={"kept": NEW, "anew": NEW}, opt_state="of the phase before")
    owned = {"kept": extras.MovingAverage(), "anew": extras.MovingAverage(restart=True)}
    after = state.begin_phase(begun, optax.identity(), owned, jax.random.key(0))
    assert after.extra["kept"] is NEW
    assert after.opt_state == optax.EmptyState()
    np.testing.assert_array_equal(after.extra["anew"]["params"]["w"], OLD["params"]["w"])
    other = state.begin_phase(begun, optax.identity(), {}, jax.random.key(0), start_from="extra/kept")
    np.testing.assert_array_equal(other.params["w"], NEW["params"]["w"])


def test_defaults_of_schedules():
    defaults = {
        name: {key: value.default for key, value in inspect.signature(function).parameters.items()}
        for name, function in schedules.SCHEDULES.items()
    }
    assert {name: options["warmup_start"] for name, options in defaults.items()} == dict.fromkeys(defaults, 0.01)
    assert (defaults["cosine"]["floor"], defaults["linear"]["floor"]) == (0.002, 0.0)
    assert defaults["cosine"]["decay_from_warmup"] is False
    assert defaults["multistep"]["factor"] == 0.1
