"""A long program in parts makes the same numbers, and forgets what it needs no more."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reid_jax.runtime import mesh, program_parts

SCALES = np.linspace(0.5, 1.5, 8, dtype=np.float32)[None]


@jax.jit
def layer(x, weight):
    return jnp.tanh(x @ weight) * SCALES


def gradients(weights, x, seed):
    """Twelve layers with noise and a loop: constants, called functions, random keys and loops in one program."""

    def loss(weights, key):
        value, state = x, {"steps": jnp.int32(0)}
        for weight in weights:
            key, now = jax.random.split(key)
            value = layer(value, weight) + 0.01 * jax.random.normal(now, value.shape)
            state = {"steps": state["steps"] + 1}
        value, _ = jax.lax.scan(lambda carry, row: (carry + row, None), jnp.zeros(8), value)
        return (value**2).sum(), {"state": state, "x": x}

    (value, more), found = jax.value_and_grad(loss, has_aux=True)(weights, jax.random.key(seed))
    return {"loss": value, **more}, found


@pytest.fixture
def arguments():
    random = np.random.default_rng(0)
    weights = [jnp.asarray(random.normal(size=(8, 8)), jnp.float32) for _ in range(12)]
    return weights, jnp.asarray(random.normal(size=(4, 8)), jnp.float32), np.uint32(3)


def divided(function, arguments, length, monkeypatch):
    monkeypatch.setattr(program_parts, "LENGTH", length)
    traced = jax.jit(function).trace(*arguments)
    place = mesh.replicated(mesh.create_mesh(jax.devices()[:1]))
    return traced, program_parts.divide(traced, arguments, place)


@pytest.mark.parametrize("length", [30, 45, 80])
def test_the_parts_make_what_the_whole_makes(length, arguments, monkeypatch):
    traced, found = divided(gradients, arguments, length, monkeypatch)
    parts, wiring = found
    assert len(parts) == round(sum(program_parts._lengths(traced.jaxpr.jaxpr)) / length) > 1
    expected = traced.lower().compile()(*arguments)
    compiled = [part.lower().compile() for part in parts]
    for programs in (compiled, [part.function for part in parts]):
        made = wiring.run(programs, *arguments)
        assert jax.tree.structure(made) == jax.tree.structure(expected)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), made, expected)


def test_each_part_is_shorter_and_values_go_when_nobody_needs_them(arguments, monkeypatch):
    traced, (parts, wiring) = divided(gradients, arguments, 40, monkeypatch)
    program = traced.jaxpr.jaxpr
    lengths = [len(part.function.trace(*part.shapes).jaxpr.eqns) for part in parts]
    assert sum(lengths) == len(program.eqns)
    assert max(lengths) < len(program.eqns) / 2
    dropped = [number for drops in wiring.drops for number in drops]
    assert len(dropped) == len(set(dropped))
    assert not set(dropped) & set(wiring.results)
    read = {number for reads in wiring.reads for number in reads}
    assert read <= set(dropped) | set(wiring.results)
    for later, drops in enumerate(wiring.drops, 1):
        assert not set(drops) & set(itertools.chain(*wiring.reads[later:]))


@pytest.mark.parametrize("length", [26, 30, 34, 38])
def test_cuts_lie_where_little_is_kept(length, monkeypatch):
    def narrow_every_fourth(x):
        for _ in range(20):
            wide = jnp.outer(x, x)
            x = jnp.tanh(jnp.sin(jnp.cos(wide))).mean(1)
        return x

    arguments = (jnp.ones(64),)
    _, (parts, _) = divided(narrow_every_fourth, arguments, length, monkeypatch)
    assert len(parts) > 2
    assert all(sum(shape.size for shape in part.shapes) <= 64 for part in parts)


def test_some_programs_are_left_whole(arguments, monkeypatch):
    def printing(*given):
        jax.debug.print("{}", given[2])
        return gradients(*given)

    def constant(*given):
        return gradients(*given), 1.0

    for function in (printing, constant):
        assert divided(function, arguments, 40, monkeypatch)[1] is None
    assert divided(gradients, arguments, 5_000, monkeypatch)[1] is None


def test_parts_know_the_arguments_that_they_take(arguments, monkeypatch):
    _, (_, wiring) = divided(gradients, arguments, 40, monkeypatch)
    weights, x, seed = arguments
    assert wiring.fits(weights, x, seed)
    assert wiring.fits(weights, x, np.uint32(9))
    for other in ((weights[1:], x, seed), (weights, x[:2], seed), (weights, x.astype(jnp.int32), seed)):
        assert not wiring.fits(*other)
