"""Learning-rate schedules against the values printed in the recipes."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reid_jax.errors import UserError
from reid_jax.train import schedules

# Learning rates and an SGD trace of the TransReID code under PyTorch: epochs 0..125 (weights, biases), 4 updates.
GOLDEN = pathlib.Path(__file__).parent.parent / "golden" / "transreid_parts.npz"

MFV = {
    "name": "warmup_multistep",
    "warmup_epochs": 10,
    "warmup_start": 0.01,
    "milestones_epochs": (50, 70, 90, 110, 130, 150),
    "factor": 0.4,
}
TRANSREID = {"name": "warmup_cosine", "warmup_epochs": 5, "warmup_start": 0.01, "floor": 0.002, "first_epoch": 1}
MSPF = {
    "name": "warmup_multistep",
    "warmup_epochs": 39,
    "warmup_start": 0.1,
    "milestones_epochs": (100, 130),
    "factor": 0.1,
}


def build(config, base, multiplier=1.0, epochs=120, steps_per_epoch=7):
    return schedules.build(config, base, multiplier, epochs * steps_per_epoch, steps_per_epoch)


def per_epoch(schedule, epochs):
    """Exact rates of the first step of each epoch."""
    return np.array([schedule.exact(epoch * schedule.steps_per_epoch) for epoch in epochs])


def test_mfv():
    schedule = build(MFV, 4e-4, epochs=180)
    np.testing.assert_allclose(per_epoch(schedule, [0, 10, 49, 50, 69, 70]), [4e-6, 4e-4, 4e-4, 1.6e-4, 1.6e-4, 6.4e-5])
    warm = [4e-4 * (0.01 * (1 - e / 10) + e / 10) for e in range(10)]
    np.testing.assert_allclose(per_epoch(schedule, range(10)), warm, rtol=1e-12)
    np.testing.assert_allclose(schedule.exact(150 * 7), 4e-4 * 0.4**6, rtol=1e-12)
    half = build(MFV, 4e-4, 0.5, epochs=180)
    np.testing.assert_allclose(per_epoch(half, range(180)), per_epoch(schedule, range(180)) / 2, rtol=1e-12)


def test_mgaf():
    schedule = build({"name": "multistep", "milestones_epochs": (320, 370), "factor": 0.1}, 2e-4, epochs=400)
    expected = [2e-4, 2e-4, 2e-5, 2e-5, 2e-6, 2e-6]
    np.testing.assert_allclose(per_epoch(schedule, [0, 319, 320, 369, 370, 399]), expected, rtol=1e-12)


def test_mspf():
    schedule = build(MSPF, 3.5e-4, epochs=200)
    numbers = np.arange(1, 41)
    np.testing.assert_allclose(per_epoch(schedule, numbers - 1), 3.5e-5 * (1 + 9 * (numbers - 1) / 39), rtol=1e-12)
    assert round(schedule.exact(7), 6) == 4.3e-5
    expected = [3.5e-4, 3.5e-4, 3.5e-5, 3.5e-5, 3.5e-6, 3.5e-6]
    np.testing.assert_allclose(per_epoch(schedule, [39, 99, 100, 129, 130, 199]), expected, rtol=1e-12)
    literal = build({"name": "constant"}, 3.5e-5, epochs=200)
    assert {literal.exact(step) for step in (0, 700, 1399)} == {3.5e-5}


@pytest.mark.parametrize("base", [0.008, 0.001])
def test_transreid_table(base):
    table = np.load(GOLDEN)[f"lr/base_{base}"]  # epochs 0..125: weights, biases
    for column, multiplier in enumerate((1.0, 2.0)):
        schedule = build(TRANSREID, base, multiplier)
        # The recipe numbers its epochs from 1; number 0 is never trained with.
        np.testing.assert_allclose(per_epoch(schedule, range(125)), table[1:, column], rtol=1e-8)
        zero = build(TRANSREID | {"first_epoch": 0}, base, multiplier)
        np.testing.assert_allclose(zero.exact(0), table[0, column], rtol=1e-8)


def test_transreid_values_of_the_recipe():
    weights, biases = build(TRANSREID, 0.008), build(TRANSREID, 0.008, 2.0)
    listed = {1: 1.664e-3, 4: 6.416e-3, 60: 4.008e-3, 120: 1.6e-5}
    np.testing.assert_allclose(per_epoch(weights, np.array(list(listed)) - 1), list(listed.values()), rtol=1e-8)
    np.testing.assert_allclose(per_epoch(weights, [4, 118]), [7.96585e-3, 1.7368e-5], rtol=1e-5)
    np.testing.assert_allclose(per_epoch(biases, [59, 119]), [8.008e-3, 1.6e-5], rtol=1e-8)


def test_amfor():
    stage2 = build(TRANSREID, 0.004)
    expected = [8.32e-4, 3.98e-3, 2.00e-3, 7.60e-5, 8.00e-6]
    np.testing.assert_allclose(per_epoch(stage2, [0, 4, 59, 109, 119]), expected, rtol=5e-3)
    stage1 = build(TRANSREID | {"warmup_start": 1e-5 / 3.5e-4, "floor": 1e-6 / 3.5e-4}, 3.5e-4)
    np.testing.assert_allclose(per_epoch(stage1, [0, 4, 119]), [7.80e-5, 3.49e-4, 1.00e-6], rtol=5e-3)


def test_cfat_parity_preset():
    # One group of rate 0.05 while floor and warm-up start belong to a base of 0.001.
    schedule = build(TRANSREID, 0.001, 50.0)
    first = 1e-5 + (0.05 - 1e-5) / 5
    np.testing.assert_allclose(per_epoch(schedule, [0, 119]), [first, 2e-6], rtol=1e-8)


def test_textbook_cosine_and_linear():
    cosine = build(
        {
            "name": "cosine",
            "granularity": "step",
            "warmup_steps": 10,
            "warmup_start": 0.0,
            "floor": 0.0,
            "decay_from_warmup": True,
        },
        1.0,
        epochs=10,
        steps_per_epoch=11,
    )
    np.testing.assert_allclose([cosine.exact(s) for s in (0, 5, 10, 60, 110)], [0, 0.5, 1, 0.5, 0], atol=1e-12)
    linear = build({"name": "linear", "granularity": "step", "floor": 0.1}, 2.0, epochs=10, steps_per_epoch=10)
    np.testing.assert_allclose([linear.exact(s) for s in (0, 50, 100, 130)], [2, 1.1, 0.2, 0.2], rtol=1e-12)


@pytest.mark.parametrize("granularity", ["epoch", "step"])
@pytest.mark.parametrize("config", [MFV, TRANSREID, MSPF], ids=["mfv", "transreid", "mspf"])
def test_compiled_equals_exact(config, granularity):
    options = dict(config, granularity=granularity)
    schedule = build(options, 0.008, 2.0, epochs=180, steps_per_epoch=3)
    steps = np.arange(0, 700)  # also past the end
    got = np.asarray(jax.jit(jax.vmap(schedule))(jnp.asarray(steps, jnp.int32)))
    assert got.dtype == np.float32
    # float32 cosines near their floor cancel; the per-epoch table is rounded once.
    tolerance = 1e-6 * 0.016 if granularity == "step" else 0
    np.testing.assert_allclose(got, [schedule.exact(step) for step in steps], rtol=2e-7, atol=tolerance)


def test_epoch_granularity_holds_within_an_epoch_and_step_granularity_moves():
    slow, fast = build(MFV, 4e-4), build(dict(MFV, granularity="step"), 4e-4)
    assert len({slow.exact(step) for step in range(7)}) == 1
    assert len({fast.exact(step) for step in range(7)}) == 7
    assert slow.exact(7) == pytest.approx(fast.exact(7), rel=1e-12)


def test_durations():
    assert schedules.steps(2, "epochs", 93) == 186
    assert schedules.steps(0.5, "epochs", 10) == 5
    assert schedules.steps(0.29, "epochs", 100) == 29  # the product is 28.999999999999996
    assert schedules.steps(40, "steps", 93) == 40
    assert schedules.duration({"warmup_steps": 4}, "warmup", 10) == 4
    assert schedules.duration({"warmup_epochs": 4, "warmup_steps": None}, "warmup", 10) == 40
    assert schedules.duration({"milestones_epochs": [1, 2]}, "milestones", 10) == (10, 20)
    assert schedules.duration({}, "warmup", 10, default=7) == 7
    with pytest.raises(UserError, match="not both"):
        schedules.duration({"warmup_steps": 4, "warmup_epochs": 1}, "warmup", 10)
    with pytest.raises(UserError, match="is missing"):
        schedules.duration({}, "total", 10)
    with pytest.raises(UserError, match="did you mean 'epochs'"):
        schedules.steps(1, "epoch", 10)
    with pytest.raises(UserError, match="at least 0"):
        schedules.steps(-1, "steps", 10)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "cosin"}, "did you mean 'cosine'"),
        ({"name": "constant", "granularity": "epochs"}, "did you mean 'epoch'"),
        ({"name": "multistep", "milestone_epochs": (1,)}, "did you mean 'milestones_epochs'"),
        ({"name": "multistep", "milestones_epochs": (1, 2), "factor": (0.1,)}, "1 values for 2 milestones"),
        ({"name": "multistep", "milestones_epochs": (2, 1)}, "in ascending order"),
        ({"name": "warmup_cosine"}, "needs a warm-up"),
        ({"name": "warmup_cosine", "warmup_epochs": 120}, "must be shorter"),
        ({"name": "linear", "warmup_epochs": 120}, "must be shorter"),
    ],
)
def test_mistakes_are_named(config, message):
    with pytest.raises(UserError, match=message):
        build(config, 0.1)


@pytest.mark.parametrize("name", ["warmup_cosine", "linear"])
def test_a_run_no_longer_than_its_warm_up_gets_a_shorter_one(name):
    config = {"name": name, "warmup_epochs": 5, "warmup_start": 0.0, "granularity": "step"}
    changed, note = schedules.fitted(config, 20, 10)
    assert note == (
        "schedule.warmup_epochs=5 is no shorter than the run (2 epochs, 20 steps): the warm-up is shortened to half of "
        "it, 10 steps."
    )
    short = schedules.build(changed, 0.1, 1.0, 20, 10)
    assert [short.exact(step) for step in (0, 5)] == [0.0, 0.05]
    assert 0.04 < short.exact(10) <= 0.1 * (1 + 1e-12)
    assert schedules.fitted(config, 60, 10) == (config, "")  # longer runs keep theirs
    assert schedules.fitted({**config, "total_epochs": 4}, 20, 10)[1] == ""  # so do schedules of their own length
    step = {"name": "multistep", "warmup_epochs": 5}
    assert schedules.fitted(step, 20, 10) == (step, "")  # a part of a stepwise schedule is what it is
    with pytest.raises(UserError, match=r"schedule\.warmup_epochs \(or warmup_steps\) must be .* 5 of 4 epochs"):
        schedules.build({**config, "total_epochs": 4}, 0.1, 1.0, 20, 10)


def test_options_may_stand_apart_and_a_warm_up_may_be_none_on_purpose():
    config = {"name": "warmup_multistep", "options": {"warmup_epochs": 0, "milestones_epochs": (1,), "factor": 0.5}}
    np.testing.assert_allclose(per_epoch(build(config, 1.0), [0, 1]), [1, 0.5])


def test_one_factor_per_milestone():
    schedule = build({"name": "multistep", "milestones_epochs": (1, 2), "factor": (0.5, 0.1)}, 1.0)
    np.testing.assert_allclose(per_epoch(schedule, [0, 1, 2]), [1, 0.5, 0.05], rtol=1e-12)


def test_a_run_without_steps_is_refused():
    with pytest.raises(UserError, match="needs steps"):
        schedules.build({"name": "constant"}, 0.1, 1.0, 0, 10)
