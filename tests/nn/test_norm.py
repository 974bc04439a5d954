"""Normalization against plain numpy: values, running statistics, global batch, large means."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from reid_jax.benchmarks import program_text
from reid_jax.nn import norm
from reid_jax.ops import batch_parts, platforms
from reid_jax.runtime import mesh as mesh_lib


def _batch(*shape, offset=0.0):
    return np.asarray(np.random.default_rng(0).normal(size=shape) * 2 + offset, np.float32)


def _initial(model, x, **options):
    return model.init(jax.random.key(0), jnp.asarray(x), **options)


@pytest.mark.parametrize("shape", [(6, 5), (3, 4, 5), (2, 3, 4, 5)], ids=["vectors", "tokens", "maps"])
def test_training_normalizes_by_biased_and_collects_unbiased_variance(shape):
    x = _batch(*shape, offset=1.5)
    model = norm.BatchNorm()
    variables = _initial(model, x, train=True)
    assert not variables["batch_stats"]["mean"].any()  # initializing does not count as a step
    value, update = model.apply(variables, x, train=True, mutable=["batch_stats"])
    rows = x.reshape(-1, 5).astype(np.float64)
    expected = (x - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5)
    np.testing.assert_allclose(value, expected, atol=1e-5)
    np.testing.assert_allclose(update["batch_stats"]["mean"], 0.1 * rows.mean(0), rtol=1e-5)
    np.testing.assert_allclose(update["batch_stats"]["var"], 0.9 + 0.1 * rows.var(0, ddof=1), rtol=1e-5)


def test_evaluation_uses_running_statistics_and_leaves_them():
    x = _batch(4, 5)
    model = norm.BatchNorm()
    variables = _initial(model, x, train=False)
    variables = {**variables, "batch_stats": {"mean": jnp.full((5,), 2.0), "var": jnp.full((5,), 4.0)}}
    value = model.apply(variables, x, train=False)
    np.testing.assert_allclose(value, (x - 2) / np.sqrt(4 + 1e-5), atol=1e-6)


def test_large_mean_keeps_its_digits():
    x = _batch(64, 3, offset=3000.0)
    value, _ = norm.BatchNorm().init_with_output(jax.random.key(0), jnp.asarray(x), train=True)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(value, (exact - exact.mean(0)) / np.sqrt(exact.var(0) + 1e-5), atol=2e-3)


def test_one_image_trains_without_a_non_finite_value():
    x = jnp.ones((1, 4))
    value, update = norm.BatchNorm().init_with_output(jax.random.key(0), x, train=True)
    value, update = norm.BatchNorm().apply(update, x, train=True, mutable=["batch_stats"])
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves((value, update)))


def test_statistics_are_those_of_the_global_batch():
    x = _batch(8, 2, 2, 4, offset=1.0) * np.arange(1, 9, dtype=np.float32).reshape(8, 1, 1, 1)
    model = norm.BatchNorm()
    variables = _initial(model, x, train=True)
    step = jax.jit(lambda x: model.apply(variables, x, train=True, mutable=["batch_stats"]))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    alone, together = step(jnp.asarray(x)), step(spread)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), alone, together)


def test_moments_in_one_pass_equal_those_in_two():
    x = _batch(16, 3, 2, 4, offset=300.0) * np.array([1e-2, 1, 30, 0], np.float32)  # the last channel is constant
    x[0] += np.array([0, 5, 0, 0], np.float32)  # and an image far from the others
    model = norm.BatchNorm()
    variables = _initial(model, x, train=True)

    def loss(x):
        value, update = model.apply(variables, x, train=True, mutable=["batch_stats"])
        return jnp.sin(value).sum(), (value, update)

    expected, (value, statistics) = jax.grad(loss, has_aux=True)(x)
    with platforms.tracing_for("gpu"):
        gradient, (found, updated) = jax.grad(lambda x: loss(x), has_aux=True)(x)
    np.testing.assert_allclose(found, value, atol=1e-3)
    largest = np.maximum(np.abs(np.asarray(expected)).max((0, 1, 2)), 1e-6)
    np.testing.assert_allclose(np.asarray(gradient) / largest, np.asarray(expected) / largest, atol=1e-3)
    for name, moment in (("mean", x.mean((0, 1, 2))), ("var", x.astype(np.float64).var((0, 1, 2), ddof=1))):
        np.testing.assert_allclose(updated["batch_stats"][name], statistics["batch_stats"][name], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(
            updated["batch_stats"][name] - (name == "var") * 0.9, 0.1 * moment, rtol=1e-4, atol=1e-6
        )


def test_bfloat16_input_keeps_float32_statistics():
    x = jnp.asarray(_batch(64, 5, offset=1.0), jnp.bfloat16)
    model = norm.BatchNorm(dtype=jnp.bfloat16, use_bias=False)
    variables = _initial(model, x, train=True)
    assert set(variables["params"]) == {"scale"}
    value, update = model.apply(variables, x, train=True, mutable=["batch_stats"])
    assert value.dtype == jnp.bfloat16
    assert update["batch_stats"]["mean"].dtype == jnp.float32
    np.testing.assert_allclose(update["batch_stats"]["mean"], 0.1 * x.astype(jnp.float32).mean(0), rtol=1e-5)


def test_instance_norm_and_ibn_halves():
    x = _batch(2, 3, 4, 6, offset=1.0)
    model = norm.InstanceBatchNorm()
    variables = _initial(model, x, train=True)
    assert set(variables["batch_stats"]) == {"BN"}
    value, _ = model.apply(variables, x, train=True, mutable=["batch_stats"])
    mean, variance = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
    np.testing.assert_allclose(value[..., :3], ((x - mean) / np.sqrt(variance + 1e-5))[..., :3], atol=1e-5)
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(value[..., 3:], ((x - mean) / np.sqrt(variance + 1e-5))[..., 3:], atol=1e-5)


def _normalized(variables, x, statistics, devices):
    """Returns outputs, gradients and running statistics of a batch on some devices, and the collectives for them."""
    mesh = mesh_lib.create_mesh(jax.devices()[:devices])

    def loss(params, x):
        apply = batch_parts.applied(norm.BatchNorm().apply, batch_parts.Parts(mesh, statistics))
        value, update = apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        return jnp.sin(value).sum(), (value, update["batch_stats"])

    function = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    arguments = variables["params"], jax.device_put(x, mesh_lib.sharded(mesh))
    compiled = function.lower(*arguments).compile()
    program = program_text.parse(compiled.as_text())
    return jax.device_get(compiled(*arguments)), program_text.collectives(program, devices)


@pytest.mark.parametrize(("shared", "gathers", "sums"), [(False, 1, 1), (True, 0, 4)], ids=["apart", "shared memory"])
def test_moments_of_devices_are_gathered_once_and_equal_those_of_one_device(shared, gathers, sums, monkeypatch):
    monkeypatch.setattr(norm, "_share_memory", lambda: shared)
    x = _batch(8, 3, 2, 5, offset=10.0)
    variables = _initial(norm.BatchNorm(), x, train=True)
    expected, _ = _normalized(variables, x, "global", 1)
    found, counts = _normalized(variables, x, "global", 4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-4), found, expected)
    assert (counts["all-gather"]["count"], counts["all-reduce"]["count"]) == (gathers, sums)


def test_statistics_of_each_device_are_those_of_its_part():
    x = _batch(8, 3, 2, 5)
    variables = _initial(norm.BatchNorm(), x, train=True)
    (_, (values, statistics)), _ = _normalized(variables, x, "device", 4)
    model = norm.BatchNorm()
    each = [model.apply(variables, part, train=True, mutable=["batch_stats"]) for part in np.split(x, 4)]
    np.testing.assert_allclose(values, np.concatenate([value for value, _ in each]), atol=1e-5)
    for name, value in statistics.items():
        mean = np.mean([update["batch_stats"][name] for _, update in each], axis=0)
        np.testing.assert_allclose(value, mean, rtol=1e-5, atol=1e-6)
