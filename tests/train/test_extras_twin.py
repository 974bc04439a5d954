"""Updates of extras, number by number, and their defaults."""

import numpy as np
import pytest

from reid_jax.train import extras

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


@pytest.mark.parametrize(("scale", "moved"), [(1.0, 0.5), (10.0, 5.0)])
def test_centers_take_a_step_of_their_rate_times_their_scale_against_the_gradient(scale, moved):
    centers = extras.Centers(num_classes=2, dimension=2, scale=scale)
    assert (centers.learning_rate, centers.trainable, centers.differentiable) == (0.5, True, True)
    value, gradient = np.zeros((2, 2)), np.array([[1.0, 0.0], [0.0, -2.0]])
    np.testing.assert_allclose(centers.update(value, gradient, NEW), [[-moved, 0.0], [0.0, 2 * moved]])
    frozen = extras.Centers(num_classes=2, dimension=2, trainable=False)
    assert frozen.differentiable is False
    assert frozen.update(value, None, NEW) is value
