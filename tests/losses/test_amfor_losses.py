"""Losses of AMFOR: focal, parsing, diversity, both kinds of distillation; and triplets on several parts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reid_jax import errors, losses
from reid_jax.losses import distillation

PARTS, WIDTH = 8, 16


def draw(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def loss(name: str, *arrays, **options) -> jax.Array:
    return losses.LOSSES[name](*arrays, **options)


def unit(x) -> np.ndarray:
    return np.asarray(x) / np.linalg.norm(x, axis=-1, keepdims=True)


# ---- focal, parsing, diversity (property 10)


def test_focal_at_even_odds():
    """Property 10."""
    zero = jnp.zeros((2, 8))
    np.testing.assert_allclose(loss("focal", zero, jnp.ones((2, 8))), 0.0433, atol=5e-5)
    np.testing.assert_allclose(loss("focal", zero, jnp.zeros((2, 8))), 0.1300, atol=5e-5)


def test_focal_is_its_formula_and_stays_finite():
    logits, targets = draw(5, 8), draw(5, 8, seed=1) > 0
    p = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    right = np.where(targets, p, 1 - p)
    expected = np.mean(np.where(targets, 0.25, 0.75) * (1 - right) ** 2 * -np.log(right))
    np.testing.assert_allclose(loss("focal", logits, targets), expected, rtol=1e-5)
    value, gradient = jax.value_and_grad(lambda x: loss("focal", x, targets))(200.0 * logits)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_parsing_at_uniform_logits_and_at_its_floor():
    """Property 10."""
    targets = jnp.arange(12).reshape(2, 6) % 9
    np.testing.assert_allclose(loss("parsing", jnp.zeros((2, 6, 9)), targets), np.log(9), rtol=1e-6)
    # The best that smoothing by 0.1 leaves over: the entropy of the smoothed label.
    wrong = 0.1 / 9
    right = 0.9 + wrong
    best = jnp.log(jnp.where(jax.nn.one_hot(targets, 9) > 0, right, wrong))
    entropy = -(right * np.log(right) + 8 * wrong * np.log(wrong))
    np.testing.assert_allclose(loss("parsing", best, targets), entropy, rtol=1e-5)
    assert loss("parsing", best + draw(2, 6, 9), targets) > entropy


def test_diversity_counts_pairs_of_different_kinds():
    """Property 10."""
    orthogonal = jnp.eye(PARTS, WIDTH)[None, None] * 3.0
    assert loss("part_diversity", orthogonal) == 0
    # Left like right, for arms, legs and feet: not held against them.
    twins = jnp.eye(PARTS, WIDTH)[jnp.array([0, 1, 1, 3, 4, 4, 6, 6])][None, None]
    assert loss("part_diversity", twins) == 0
    # Head like torso: 2 of the 56 - 6 ordered pairs.
    alike = jnp.eye(PARTS, WIDTH)[jnp.array([0, 1, 2, 0, 4, 5, 6, 7])][None, None]
    np.testing.assert_allclose(loss("part_diversity", alike), 2 / 50, rtol=1e-6)
    # Opposed parts are as different as can be.
    opposed = alike.at[:, :, 3].multiply(-1.0)
    assert loss("part_diversity", opposed) == 0
    # Sets of parts add up.
    both = jnp.concatenate((alike, jnp.ones_like(alike)), axis=1)
    np.testing.assert_allclose(loss("part_diversity", both), 2 / 50 + 1, rtol=1e-6)


# ---- distillation


def test_generative_distillation_is_a_mean_of_squares():
    """Property 9: zero where the teacher's parts were generated."""
    ours, teacher = draw(3, PARTS, WIDTH), draw(3, PARTS, WIDTH, seed=1)
    np.testing.assert_allclose(
        loss("generative_distillation", ours, teacher), np.mean((ours - teacher) ** 2), rtol=1e-6
    )
    assert loss("generative_distillation", teacher, teacher) == 0
    with pytest.raises(errors.UserError, match="amgd_granularities"):
        loss("generative_distillation", ours, teacher, granularities=("part", "body"))


def test_levels_weigh_by_their_loss_and_without_gradient():
    """Property 9: w adds up to 1 and has no gradient; the groups are means of parts."""
    granularities = ("part", "group", "body")
    ours, teacher = draw(3, 14, WIDTH), draw(3, PARTS, WIDTH, seed=1)
    t = np.asarray(teacher)
    group = np.stack([t[:, 0], t[:, 1:3].mean(1), t[:, 3], t[:, 4:6].mean(1), t[:, 6:].mean(1)], axis=1)
    targets = (t, group, t.mean(1, keepdims=True))
    pieces = np.split(np.asarray(ours), (8, 13), axis=1)
    values = jnp.array([np.mean((x - y) ** 2) for x, y in zip(pieces, targets, strict=True)])
    weights = distillation.level_weights(values)
    np.testing.assert_allclose(weights.sum(), 1.0, rtol=1e-6)
    assert np.argmax(weights) == np.argmax(values)
    assert not np.any(jax.jacobian(distillation.level_weights)(values))
    value = lambda x: loss("generative_distillation", x, teacher, granularities=granularities)
    np.testing.assert_allclose(value(ours), jnp.sum(weights * values), rtol=1e-5)
    with pytest.raises(errors.UserError, match="did you mean 'group'"):
        loss("generative_distillation", ours, teacher, granularities=("part", "groups"))


@pytest.mark.parametrize("name", ["generative_distillation", "cosine_distillation"])
def test_the_teacher_is_a_constant(name):
    """Property 8."""
    student, teacher = draw(3, PARTS, WIDTH), draw(3, PARTS, WIDTH, seed=1)
    to_student, to_teacher = jax.grad(lambda s, t: loss(name, s, t), argnums=(0, 1))(student, teacher)
    assert not np.any(to_teacher)
    assert np.all(np.isfinite(to_student))
    assert np.any(to_student)


def test_cosine_distillation_joins_the_parts():
    student, teacher = draw(3, PARTS, WIDTH), draw(3, PARTS, WIDTH, seed=1)
    expected = 1 - np.sum(unit(student.reshape(3, -1)) * unit(teacher.reshape(3, -1)), axis=1)
    np.testing.assert_allclose(loss("cosine_distillation", student, teacher), expected.mean(), rtol=1e-6)
    np.testing.assert_allclose(loss("cosine_distillation", 3 * teacher, teacher), 0.0, atol=1e-6)


# ---- triplets (property 12)


def test_triplets_mine_by_the_mean_distance_over_parts():
    """Property 12: one image's hardest positive differs from part to part; averaged first, there is one."""
    labels = jnp.array([0, 0, 0, 1])
    # [image, part, dimension]; distances of image 0: to 1 (4, 0), to 2 (1, 1), to 3 (6, 6).
    features = jnp.array([[[0.0], [0.0]], [[4.0], [0.0]], [[1.0], [1.0]], [[6.0], [6.0]]])
    between = np.abs(np.asarray(features)[:, None, :, 0] - np.asarray(features)[None, :, :, 0]).mean(-1)
    positives = [max(between[i, j] for j in range(4) if labels[i] == labels[j]) for i in range(4)]
    negatives = [min(between[i, j] for j in range(4) if labels[i] != labels[j]) for i in range(4)]
    assert positives == [2.0, 2.0, 2.0, 0.0]
    assert negatives == [6.0, 4.0, 5.0, 4.0]
    expected = np.mean(np.log1p(np.exp(np.subtract(positives, negatives))))
    found = loss("triplet", features, labels=labels, margin="soft", parts=True)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    mined_by_part = np.mean(
        [float(loss("triplet", features[:, part], labels=labels, margin="soft")) for part in range(2)]
    )
    assert abs(found - mined_by_part) > 1e-3
