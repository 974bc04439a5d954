"""Losses of CFAT and CIL: the released code's numbers, slow numpy versions, and the properties they promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reid_jax import errors
from reid_jax.losses.bridge import gaussian_divergence, mean_squared
from reid_jax.losses.consistency import consistency
from reid_jax.losses.contrastive import contrastive


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def numpy_contrastive(first, second, tau=0.5, *, weighted=True, labels=None) -> float:
    """Anchor by anchor in float64; with labels, other images of the anchor's identity are left out."""
    vectors = unit(np.concatenate((first, second)).astype(np.float64))
    count = len(first)
    total = 0.0
    for a in range(2 * count):
        p = (a + count) % (2 * count)
        others = [
            b
            for b in range(2 * count)
            if b != a and (labels is None or b == p or labels[b % count] != labels[a % count])
        ]
        cosines = vectors @ vectors[a]
        loss = -cosines[p] / tau + np.log(np.exp(cosines[others] / tau).sum())
        total += (1 - cosines[p] if weighted else 1.0) * loss
    return total / (2 * count)


@pytest.fixture(scope="module")
def golden(root) -> dict[str, np.ndarray]:
    with np.load(root / "tests" / "golden" / "cfat_losses.npz") as file:
        return dict(file)


@pytest.fixture
def views() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 12, 20)).astype(np.float32)
    return first, first + second, np.repeat(np.arange(4), 3).astype(np.int32)


@pytest.mark.parametrize(("tau", "suffix"), [(0.5, ""), (0.1, "_tau0.1")])
@pytest.mark.parametrize(("weighted", "name"), [(True, "WeightedContrastiveLoss4"), (False, "ContrastiveLoss")])
def test_contrast_equals_the_stored_one(golden, tau, suffix, weighted, name):
    found = contrastive(golden["in/feat_clean"], golden["in/feat_cor"], labels=None, temperature=tau, weighted=weighted)
    np.testing.assert_allclose(found, golden[f"contrast/{name}{suffix}"], rtol=5e-6)


def test_contrast_equals_numpy_with_every_option(views):
    first, second, labels = views
    for options in ({}, {"weighted": False}, {"temperature": 0.1}, {"mask_same_identity": True}):
        expected = numpy_contrastive(
            first,
            second,
            options.get("temperature", 0.5),
            weighted=options.get("weighted", True),
            labels=labels if "mask_same_identity" in options else None,
        )
        np.testing.assert_allclose(contrastive(first, second, labels=labels, **options), expected, rtol=1e-5)


def test_contrast_is_zero_for_equal_views_and_knows_no_order(views):
    """Property 12."""
    first, second, labels = views
    assert abs(contrastive(first, 3.0 * first, labels=labels)) < 1e-6
    found = contrastive(first, second, labels=labels)
    order = np.random.default_rng(1).permutation(len(first))
    np.testing.assert_allclose(contrastive(first[order], second[order], labels=labels[order]), found, rtol=1e-6)
    np.testing.assert_allclose(contrastive(second, first, labels=labels), found, rtol=1e-6)


def test_no_gradient_where_the_views_agree_and_the_weight_is_fixed(views):
    """Property 16, its last part: w = 0; and what the switch does elsewhere."""
    first, second, labels = views
    gradient = jax.jit(
        jax.grad(lambda x, y, stop: contrastive(y, x, labels=labels, stop_weight=stop)), static_argnums=2
    )
    np.testing.assert_allclose(gradient(first, unit(first), True), 0.0, atol=1e-7)
    free, stopped = gradient(first, second, False), gradient(first, second, True)
    assert np.isfinite(free).all()
    assert np.abs(free - stopped).max() > 1e-3
    # In float64 the weight is a constant, or moves along.
    direction = np.random.default_rng(2).normal(size=first.shape)
    ahead, behind = (numpy_contrastive(second, first + s * 1e-6 * direction) for s in (1, -1))
    np.testing.assert_allclose(np.sum(free * direction), (ahead - behind) / 2e-6, rtol=1e-3)


def test_divergence_equals_the_stored_ones(golden):
    codes = [golden[f"bfg/{name}/{what}"] for name in ("cor", "bridge_t0.3") for what in ("mu", "sigma")]
    closed = golden["kl/closed_form_sum_dims_mean_batch_no_normalise"]
    np.testing.assert_allclose(gaussian_divergence(*codes), closed, rtol=1e-6)
    reference = golden["kl/KL_Loss2_cor_vs_bridge"]
    np.testing.assert_allclose(gaussian_divergence(*codes, mode="reference"), reference, rtol=1e-6)


def test_divergence_is_zero_for_equal_codes_only_and_equals_sampling():
    """Property 14."""
    rng = np.random.default_rng(3)
    mean, target_mean = rng.normal(size=(2, 1, 4)).astype(np.float32)
    sigma, target_sigma = rng.uniform(0.5, 1.5, (2, 1, 4)).astype(np.float32)
    assert gaussian_divergence(mean, sigma, mean, sigma) == 0.0
    found = float(gaussian_divergence(mean, sigma, target_mean, target_sigma))
    assert found > 0.1
    drawn = mean + sigma * rng.normal(size=(400_000, 4))
    log_density = lambda x, m, s: (-np.log(s) - (x - m) ** 2 / (2 * s**2)).sum(axis=1)
    sampled = (log_density(drawn, mean, sigma) - log_density(drawn, target_mean, target_sigma)).mean()
    assert found == pytest.approx(sampled, rel=0.02)
    # The mean does not grow with the batch.
    repeated = [np.repeat(one, 5, axis=0) for one in (mean, sigma, target_mean, target_sigma)]
    assert float(gaussian_divergence(*repeated)) == pytest.approx(found, rel=1e-6)
    with pytest.raises(errors.UserError, match="did you mean 'mean'"):
        gaussian_divergence(mean, sigma, mean, sigma, mode="meen")


def test_mean_squared_is_over_all_elements():
    assert mean_squared(jnp.ones((2, 3)), jnp.array([[1.0, 1.0, 1.0], [3.0, 1.0, 1.0]])) == pytest.approx(4 / 6)


def test_consistency_equals_numpy():
    logits = np.random.default_rng(4).normal(size=(3, 5, 7)).astype(np.float32) * 2
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(axis=2, keepdims=True)
    mixture = np.log(np.clip(p.mean(axis=0), 1e-7, 1))
    expected = np.mean([(one * (np.log(one) - mixture)).sum(axis=1).mean() for one in p])
    np.testing.assert_allclose(consistency(*logits), expected, rtol=1e-5)
    assert abs(consistency(logits[0], logits[0], logits[0] + 3.0)) < 1e-6
    extreme = jnp.array([[200.0, 0.0], [0.0, 200.0]])
    gradient = jax.grad(lambda x: consistency(x, -x, x))(extreme)
    assert np.isfinite(gradient).all()
