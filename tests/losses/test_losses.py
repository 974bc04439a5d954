"""Each loss against numpy and the stored PyTorch values, on ordinary and on degenerate batches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from reid_jax import errors
from reid_jax.losses.accuracy import accuracy
from reid_jax.losses.center import center
from reid_jax.losses.cross_entropy import cross_entropy
from reid_jax.losses.triplet import triplet


def numpy_cross_entropy(logits: np.ndarray, labels: np.ndarray, label_smoothing: float = 0.0) -> float:
    """The formula, row by row in float64."""
    total = 0.0
    for row, label in zip(logits.astype(np.float64), labels, strict=True):
        log_probability = row - row.max() - np.log(np.exp(row - row.max()).sum())
        target = np.full(len(row), label_smoothing / len(row))
        target[label] += 1.0 - label_smoothing
        total -= (target * log_probability).sum()
    return total / len(labels)


def numpy_triplet(features: np.ndarray, labels: np.ndarray, margin: float | str = 0.3) -> float:
    """Batch-hard mining anchor by anchor in float64."""
    x = features.astype(np.float64).reshape(len(features), -1)
    losses = []
    for anchor in range(len(x)):
        distance = np.sqrt(np.maximum(((x - x[anchor]) ** 2).sum(axis=1), 1e-12))
        same = labels == labels[anchor]
        if same.all():
            continue
        gap = distance[same].max() - distance[~same].min()
        losses.append(np.log1p(np.exp(gap)) if margin == "soft" else max(0.0, gap + margin))
    return float(np.mean(losses)) if losses else 0.0


@pytest.fixture(scope="module")
def golden(golden_folder) -> dict[str, np.ndarray]:
    """Losses of the TransReID code."""
    with np.load(golden_folder / "transreid_parts.npz") as file:
        return {name: file[name] for name in file.files if name.startswith("loss/")}


@pytest.fixture
def batch() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    features, logits = rng.normal(size=(24, 16)) * 2.0, rng.normal(size=(24, 7)) * 3.0
    return features.astype(np.float32), logits.astype(np.float32), np.repeat(np.arange(6), 4).astype(np.int32)


@functools.partial(jax.jit, static_argnames=("margin", "normalize"))
def triplet_and_gradient(features, labels, **options):
    return jax.value_and_grad(lambda x: triplet(x, labels=labels, **options))(features)


def test_losses_equal_the_stored_ones(golden):
    labels = golden["loss/labels"].astype(np.int32)
    for i in range(5):
        logits, features = golden[f"loss/score_{i}"], golden[f"loss/feat_{i}"]
        found = (
            cross_entropy(logits, labels=labels),
            cross_entropy(logits, labels=labels, label_smoothing=0.1),
            triplet(features, labels=labels, margin="soft"),
            triplet(features, labels=labels, margin=0.3),
        )
        for name, value in zip(("ce", "ce_smooth01", "triplet_soft", "triplet_margin03"), found, strict=True):
            np.testing.assert_allclose(value, golden[f"loss/{name}_each"][i], rtol=1e-6, err_msg=f"{name} {i}")


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_cross_entropy_equals_numpy(batch, smoothing):
    _, logits, labels = batch
    found = cross_entropy(logits, labels=labels, label_smoothing=smoothing)
    np.testing.assert_allclose(found, numpy_cross_entropy(logits, labels, smoothing), rtol=1e-6)


def test_cross_entropy_of_uniform_logits_is_log_of_the_class_count():
    found = cross_entropy(jnp.full((3, 751), 2.5), labels=jnp.array([0, 3, 750]), label_smoothing=0.1)
    np.testing.assert_allclose(found, np.log(751), rtol=1e-6)


def test_cross_entropy_of_several_heads_is_their_mean(batch):
    _, logits, labels = batch
    heads = np.stack([logits, logits[::-1], 0.5 * logits], axis=1)
    expected = np.mean([numpy_cross_entropy(heads[:, i], labels, 0.1) for i in range(3)])
    np.testing.assert_allclose(cross_entropy(heads, labels=labels, label_smoothing=0.1), expected, rtol=1e-6)


@pytest.mark.parametrize("label", [-1, 7])
def test_a_label_outside_the_classes_gives_nan(batch, label):
    features, logits, labels = batch
    wrong = labels.copy()
    wrong[3] = label
    assert np.isnan(cross_entropy(logits, labels=wrong))
    assert np.isnan(center(features, jnp.zeros((7, 16)), labels=wrong))


@pytest.mark.parametrize("margin", [0.0, 0.3, 1.2, "soft"])
def test_triplet_equals_numpy(batch, margin):
    features, _, labels = batch
    np.testing.assert_allclose(
        triplet(features, labels=labels, margin=margin), numpy_triplet(features, labels, margin), rtol=1e-5
    )
    # Anchors of a person far from all others have no loss, and count in the mean all the same.
    far = features + 40 * (labels == 0)[:, None]
    np.testing.assert_allclose(
        triplet(far, labels=labels, margin=margin), numpy_triplet(far, labels, margin), rtol=1e-5
    )


def test_triplet_of_maps_normalized_features_and_parts(batch):
    features, _, labels = batch
    maps = features.reshape(24, 2, 2, 4)
    np.testing.assert_allclose(triplet(maps, labels=labels), numpy_triplet(features, labels), rtol=1e-5)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    found = triplet(features, labels=labels, normalize=True)
    np.testing.assert_allclose(found, numpy_triplet(unit, labels), rtol=1e-5)

    halves = features.reshape(24, 2, 8).astype(np.float64)  # distances of the halves, averaged before mining
    between = np.sqrt(((halves[:, None] - halves[None]) ** 2).sum(-1)).mean(-1)
    same = labels[:, None] == labels[None]
    gap = np.where(same, between, 0).max(1) - np.where(same, np.inf, between).min(1)
    found = triplet(jnp.asarray(halves, jnp.float32), labels=labels, parts=True)
    np.testing.assert_allclose(found, np.maximum(gap + 0.3, 0).mean(), rtol=1e-5)


def test_triplet_of_tight_far_clusters_is_zero_and_of_equal_features_is_the_margin():
    labels = jnp.array([0, 0, 1, 1])
    clusters = jnp.array([[0.0, 0.0], [0.0, 0.1], [9.0, 0.0], [9.0, 0.1]])
    assert triplet(clusters, labels=labels, margin=0.3) == 0.0
    np.testing.assert_allclose(triplet(jnp.ones((4, 8)), labels=labels, margin=0.3), 0.3, rtol=1e-6)
    np.testing.assert_allclose(triplet(jnp.ones((4, 8)), labels=labels, margin="soft"), np.log(2), rtol=1e-6)


@pytest.mark.parametrize("margin", [0.3, "soft"])
@pytest.mark.parametrize(
    "labels",
    [[5, 5, 5, 5], [0, 0, 0, 1], [0, 1, 2, 3], [7]],
    ids=["one identity", "lone negative", "all differ", "one image"],
)
def test_triplet_of_degenerate_batches_is_defined(labels, margin):
    labels = np.array(labels, np.int32)
    features = np.random.default_rng(1).normal(size=(len(labels), 8)).astype(np.float32)
    value, gradient = triplet_and_gradient(features, labels, margin=margin)
    np.testing.assert_allclose(value, numpy_triplet(features, labels, margin), rtol=1e-5)
    assert np.isfinite(gradient).all()
    if len(set(labels.tolist())) == 1:
        assert value == 0.0
        assert not np.any(gradient)


def test_gradients_at_zero_distance_are_finite(batch):
    _, _, labels = batch
    for features in (jnp.zeros((24, 16)), jnp.full((24, 16), 3.7)):
        for options in ({"margin": 0.3}, {"margin": "soft"}, {"normalize": True}):
            assert np.isfinite(triplet_and_gradient(features, labels, **options)[1]).all()


def test_triplet_gradient_equals_finite_differences(batch):
    features, _, labels = batch
    direction = np.random.default_rng(2).normal(size=features.shape)
    step = 1e-6
    ahead, behind = (numpy_triplet(features + s * step * direction, labels, "soft") for s in (1, -1))
    _, gradient = triplet_and_gradient(features, labels, margin="soft")
    # The reference takes differences in float64; features stay far apart, so the same pairs are mined.
    np.testing.assert_allclose(np.sum(gradient * direction), (ahead - behind) / (2 * step), rtol=1e-4)


def test_results_are_float32_and_jit_equals_eager(batch):
    features, logits, labels = batch
    half = jnp.asarray(features, jnp.bfloat16)
    for value in (triplet(half, labels=labels), cross_entropy(jnp.asarray(logits, jnp.bfloat16), labels=labels)):
        assert value.dtype == jnp.float32
    np.testing.assert_allclose(triplet(half, labels=labels), numpy_triplet(np.asarray(half), labels), rtol=1e-5)
    eager = triplet(features, labels=labels)
    np.testing.assert_allclose(jax.jit(lambda x: triplet(x, labels=labels))(features), eager, rtol=1e-6)


def test_a_batch_split_over_devices_gives_the_same_loss_and_gradient(batch):
    features, logits, labels = batch
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("data"))

    def total(features, logits, labels):
        return triplet(features, labels=labels) + cross_entropy(logits, labels=labels, label_smoothing=0.1)

    step = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))
    one, one_gradient = step(features, logits, labels)
    many, many_gradient = step(*(jax.device_put(x, split) for x in (features, logits, labels)))
    np.testing.assert_allclose(many, one, rtol=1e-6)
    for a, b in zip(many_gradient, one_gradient, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("shape", "options", "part"), [((4, 8), {"margin": "hard"}, "'soft'"), ((4, 8), {"parts": True}, r"\(4, 8\)")]
)
def test_wrong_triplet_options_are_explained(shape, options, part):
    with pytest.raises(errors.UserError, match=part):
        triplet(jnp.zeros(shape), labels=jnp.zeros(4, jnp.int32), **options)


def test_center_loss_and_its_center_gradient():
    centers = jnp.asarray(np.random.default_rng(3).normal(size=(5, 4)), jnp.float32)
    labels = jnp.array([1, 3, 3])
    np.testing.assert_allclose(center(centers[labels], centers, labels=labels), 0.0, atol=1e-11)
    shifted = centers[labels] + jnp.array([[2.0, 0.0, 0.0, 0.0]])
    np.testing.assert_allclose(center(shifted, centers, labels=labels), 4.0, rtol=1e-6)
    gradient = np.asarray(jax.grad(lambda c: center(shifted, c, labels=labels))(centers))
    assert not np.any(gradient[[0, 2, 4]])
    np.testing.assert_allclose(gradient[[1, 3], 0], [-4 / 3, -8 / 3], rtol=1e-5)


def test_accuracy_counts_the_largest_logits():
    logits = jnp.eye(4)[jnp.array([0, 1, 2, 3])]
    assert accuracy(logits, labels=jnp.array([0, 1, 3, 3])) == 0.75
