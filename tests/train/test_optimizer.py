"""The optimizer against hand-written numpy versions of PyTorch's update rules."""

import logging
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from reid_jax import trees
from reid_jax.errors import UserError
from reid_jax.train import optimizer

# Learning rates and an SGD trace of the TransReID code under PyTorch.
GOLDEN = pathlib.Path(__file__).parent.parent / "golden" / "transreid_parts.npz"
CONSTANT = {"name": "constant"}


def parameters():
    generator = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(generator.normal(size=shape), jnp.float32)
    return {
        "backbone": {"conv": {"kernel": draw(3, 4)}, "norm": {"scale": draw(4), "bias": draw(4)}},
        "head": {"kernel": draw(4, 5), "bias": draw(5)},
    }


def gradients(params, count):
    """`count` gradient trees of rising size, so that AMSGrad's maximum matters."""
    generator = np.random.default_rng(1)
    scales = [1.0, 8.0, 0.1, 0.1, 3.0][:count]
    return [
        jax.tree.map(lambda p, s=s: s * jnp.asarray(generator.normal(size=p.shape), jnp.float32), params)
        for s in scales
    ]


def run(config, params, grads, schedule=CONSTANT, total_steps=100, steps_per_epoch=10):
    """Parameters after each gradient, the last state and the report."""
    transformation, report = optimizer.build(config, schedule, params, total_steps, steps_per_epoch)
    state = transformation.init(params)
    update = jax.jit(transformation.update)
    trace = []
    for grad in grads:
        updates, state = update(grad, state, params)
        params = optax.apply_updates(params, updates)
        trace.append(params)
    return trace, state, report


# ---- numpy twins of torch.optim, one array at a time, float64


def torch_adam(p, grads, lr, decay, b1=0.9, b2=0.999, eps=1e-8, amsgrad=False, decoupled=False):
    p, m, v, largest = np.asarray(p, np.float64), 0.0, 0.0, 0.0
    for t, g in enumerate(grads, 1):
        g = np.asarray(g, np.float64)
        if decoupled:
            p = p - lr * decay * p
        else:
            g = g + decay * p
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        largest = np.maximum(largest, v)
        second = largest if amsgrad else v
        p = p - lr / (1 - b1**t) * m / (np.sqrt(second) / np.sqrt(1 - b2**t) + eps)
    return p


def torch_sgd(p, grads, lr, decay, momentum=0.0, nesterov=False):
    p, buffer = np.asarray(p, np.float64), None
    for g in grads:
        g = np.asarray(g, np.float64) + decay * p
        if momentum:
            buffer = g if buffer is None else momentum * buffer + g
            g = g + momentum * buffer if nesterov else buffer
        p = p - lr * g
    return p


def torch_rmsprop(p, grads, lr, decay, alpha=0.99, eps=1e-8, momentum=0.0):
    p, square, buffer = np.asarray(p, np.float64), 0.0, 0.0
    for g in grads:
        g = np.asarray(g, np.float64) + decay * p
        square = alpha * square + (1 - alpha) * g * g
        buffer = momentum * buffer + g / (np.sqrt(square) + eps)
        p = p - lr * buffer
    return p


CASES = {
    "adam": ({"name": "adam"}, torch_adam, {}),
    "adam_mgaf": ({"name": "adam", "b2": 0.99}, torch_adam, {"b2": 0.99}),
    "adamw": ({"name": "adamw"}, torch_adam, {"decoupled": True}),
    "amsgrad": ({"name": "amsgrad"}, torch_adam, {"amsgrad": True}),
    "sgd": ({"name": "sgd"}, torch_sgd, {}),
    "momentum": ({"name": "sgd", "momentum": 0.9}, torch_sgd, {"momentum": 0.9}),
    "nesterov": (
        {"name": "sgd", "momentum": 0.9, "nesterov": True},
        torch_sgd,
        {"momentum": 0.9, "nesterov": True},
    ),
    "rmsprop": ({"name": "rmsprop"}, torch_rmsprop, {}),
    "rmsprop_momentum": ({"name": "rmsprop", "momentum": 0.9}, torch_rmsprop, {"momentum": 0.9}),
}


@pytest.mark.parametrize("case", CASES)
def test_five_updates_equal_torch(case):
    config, twin, options = CASES[case]
    params = parameters()
    grads = gradients(params, 5)
    config = config | {
        "learning_rate": 0.01,
        "learning_rate_multipliers": (("head/.*", 2.0), (".*", 1.0)),
        "weight_decays": ((".*/bias", 0.0), (".*/scale", 0.05), (".*", 0.1)),
    }
    trace, _, _ = run(config, params, grads)
    final = trees.flatten(trace[-1])
    flat_grads = [trees.flatten(grad) for grad in grads]
    for path, start in trees.flatten(params).items():
        lr = 0.02 if path.startswith("head/") else 0.01
        decay = 0.0 if path.endswith("bias") else 0.05 if path.endswith("scale") else 0.1
        expected = twin(start, [grad[path] for grad in flat_grads], lr, decay, **options)
        np.testing.assert_allclose(final[path], expected, rtol=2e-5, atol=2e-6, err_msg=path)


def test_recorded_torch_sgd():
    golden = np.load(GOLDEN)
    config = {"name": "sgd", "learning_rate": 0.008, "momentum": 0.9, "weight_decays": ((".*", 1e-4),)}
    params = {"w": jnp.asarray(golden["sgd/w0"])}
    trace, _, _ = run(config, params, [{"w": jnp.asarray(grad)} for grad in golden["sgd/grads"]])
    np.testing.assert_allclose(
        [np.asarray(one["w"]) for one in trace], golden["sgd/traj_lr0.008_m0.9_wd1e-4"], rtol=1e-6
    )


def test_the_schedule_drives_every_group():
    params = parameters()
    ones = [jax.tree.map(jnp.ones_like, params)] * 4
    config = {"name": "sgd", "learning_rate": 0.5, "learning_rate_multipliers": (("head/.*", 0.5), (".*", 1.0))}
    schedule = {"name": "multistep", "milestones_epochs": (1,), "factor": 0.1}
    trace, state, report = run(config, params, ones, schedule, total_steps=4, steps_per_epoch=2)
    before = [params, *trace[:-1]]
    moved = [float(a["backbone"]["norm"]["bias"][0] - b["backbone"]["norm"]["bias"][0]) for a, b in zip(before, trace)]
    np.testing.assert_allclose(moved, [0.5, 0.5, 0.05, 0.05], rtol=1e-5)
    moved = [float(a["head"]["bias"][0] - b["head"]["bias"][0]) for a, b in zip(before, trace)]
    np.testing.assert_allclose(moved, [0.25, 0.25, 0.025, 0.025], rtol=1e-5)
    assert report.learning_rates(0) == {"learning_rate": 0.5, "learning_rate/x0.5": 0.25}
    assert report.learning_rates(3) == pytest.approx({"learning_rate": 0.05, "learning_rate/x0.5": 0.025})
    assert int(trees.flatten(state)["2/step"]) == 4


def test_frozen_parameters_have_no_moments_and_never_move():
    params = parameters()
    grads = gradients(params, 3)
    # A gradient that is not finite must not matter either.
    grads[0]["backbone"]["conv"]["kernel"] = jnp.full((3, 4), jnp.nan)
    config = {"name": "adam", "learning_rate": 0.1, "frozen": ("backbone/conv/.*",), "weight_decays": ((".*", 0.1),)}
    config["clip_norm"] = 1.0
    trace, state, report = run(config, params, grads)
    assert np.array_equal(trace[-1]["backbone"]["conv"]["kernel"], params["backbone"]["conv"]["kernel"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(trace[-1]))
    assert not np.array_equal(trace[-1]["head"]["bias"], params["head"]["bias"])
    assert not any("conv" in path for path in trees.flatten(state))
    assert sum("norm/scale" in path for path in trees.flatten(state)) == 2  # two moments
    assert report.frozen == ("backbone/conv/kernel",)
    assert "backbone/conv/kernel" not in report.decays


def test_clipping_comes_before_decay():
    params = {"w": jnp.asarray([3.0, 4.0])}
    config = {"name": "sgd", "learning_rate": 1.0, "weight_decays": ((".*", 0.1),), "clip_norm": 1.0}
    trace, _, _ = run(config, params, [{"w": jnp.asarray([30.0, 40.0])}])
    np.testing.assert_allclose(trace[0]["w"], [3 - 0.6 - 0.3, 4 - 0.8 - 0.4], rtol=1e-6)
    trace, _, _ = run(config, params, [{"w": jnp.asarray([0.3, 0.4])}])
    np.testing.assert_allclose(trace[0]["w"], [3 - 0.3 - 0.3, 4 - 0.4 - 0.4], rtol=1e-6)


def test_report_names_takers_and_idle_patterns(caplog):
    config = {
        "name": "adam",
        "learning_rate": 1e-3,
        "learning_rate_multipliers": (("head/.*", 2.0), ("stem/.*", 3.0), (".*", 1.0)),
        "weight_decays": (("backbone/.*", 0.1), ("head/.*", 0.2), (".*", 0.0)),
    }
    with caplog.at_level(logging.WARNING):
        _, report = optimizer.build(config, CONSTANT, parameters(), 10, 5)
    assert report.rows[:3] == (
        ("learning_rate_multipliers", "head/.*", 2.0, 2, 25),
        ("learning_rate_multipliers", "stem/.*", 3.0, 0, 0),
        ("learning_rate_multipliers", ".*", 1.0, 3, 20),
    )
    assert report.unused == (("learning_rate_multipliers", "stem/.*"),)  # a catch-all may stay idle
    assert "stem/.*" in caplog.text
    assert "matches nothing" in report.describe()
    assert set(report.multipliers.values()) == {1.0, 2.0}


def test_shapes_are_enough_to_build_and_the_state_is_arrays():
    params = parameters()
    shapes = jax.eval_shape(lambda: params)
    transformation, _ = optimizer.build({"name": "amsgrad", "learning_rate": 1e-3}, CONSTANT, shapes, 10, 5)
    state = transformation.init(params)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    assert trees.count_parameters(state) == 3 * trees.count_parameters(params) + 2


def test_nothing_is_transferred_inside_the_step():
    params = parameters()
    schedule = {"name": "warmup_cosine", "warmup_epochs": 1}
    transformation, _ = optimizer.build({"name": "amsgrad", "learning_rate": 1e-3}, schedule, params, 100, 10)
    state, grads = transformation.init(params), gradients(params, 1)[0]
    with jax.transfer_guard("disallow"):
        updates, _ = jax.jit(transformation.update)(grads, state, params)
    assert jax.tree.structure(updates) == jax.tree.structure(params)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "adamm"}, "did you mean 'adam'"),
        ({"learning_rate": None}, "learning_rate must be a number"),
        ({"momentum": 0.9}, "unknown option of optimizer 'adam' 'momentum'"),
        ({"weight_decay": 0.9}, "did you mean 'weight_decays'"),
        ({"weight_decays": ((".*/bias", 0.0),)}, r"leaves 3 of 5 parameters without a value \(backbone/conv/kernel"),
        ({"weight_decays": (".*/bias", 0.0)}, "list of \\(pattern, number\\) pairs"),
        ({"learning_rate_multipliers": (("(", 1.0),)}, "not a regular expression"),
        ({"frozen": (".*",)}, "nothing is left to train"),
    ],
)
def test_mistakes_are_named(change, message):
    with pytest.raises(UserError, match=message):
        optimizer.build({"name": "adam", "learning_rate": 1e-3} | change, CONSTANT, parameters(), 10, 5)


def test_an_option_set_to_none_counts_as_absent():
    config = {"name": "sgd", "learning_rate": 1e-3, "b1": None, "options": {"momentum": 0.9}, "clip_norm": 0.0}
    assert optimizer.build(config, CONSTANT, parameters(), 10, 5)


@pytest.mark.parametrize("name", ["adam", "adamw", "amsgrad", "rmsprop"])
def test_epsilon_is_outside_the_root(name):
    """A gradient of 1e-9 with epsilon 1e-8: the step is g / (|g| + epsilon), times 1 / sqrt(0.01) for RMSProp."""
    params, tiny = {"w": jnp.zeros(1)}, {"w": jnp.full(1, 1e-9)}
    made, _ = optimizer.build({"name": name, "learning_rate": 1.0}, {"name": "constant"}, params, 10, 10)
    update, _ = made.update(tiny, made.init(params), params)
    expected = 1e-9 / (1e-10 + 1e-8) if name == "rmsprop" else 1 / 11
    np.testing.assert_allclose(update["w"], -expected, rtol=1e-3)
