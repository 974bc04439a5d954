"""OSNet's block and gate against numpy, written from section 3 of the paper (arXiv 1905.00953)."""

import functools

import jax
import numpy as np
import pytest

from reid_jax.models.backbones import osnet
from tests.helpers import numpy_networks as twin

WIDTH = 64  # of the block; 16 channels inside, 1 in the gate's hidden layer
MAPS = np.random.default_rng(0).normal(size=(2, 5, 3, 32)).astype(np.float32)


def light(x, p, s):
    """Equation 4: 1×1 without activation, depthwise 3×3, normalization, ReLU."""
    x = twin.conv(twin.conv(x, p["conv1"]), p["conv2"], groups=x.shape[-1])
    return twin.relu(twin.batch_norm(x, p["bn"], s["bn"]))


def gate(x, p):
    """Equation 3: average over positions, two dense layers with ReLU between, sigmoid; one value per channel."""
    pooled = x.mean(axis=(1, 2), keepdims=True)
    return twin.sigmoid(twin.conv(twin.relu(twin.conv(pooled, p["fc1"])), p["fc2"]))


def layer(x, p, s):
    return twin.batch_norm(twin.conv(x, p["conv"]), p["bn"], s["bn"])


def stream_layers(depth):
    """The published files name a stream's layers conv2a, conv2b_0, conv2b_1, …"""
    name = f"conv2{'abcd'[depth - 1]}"
    return [name] if depth == 1 else [f"{name}_{index}" for index in range(depth)]


def block(x, p, s):
    h = twin.relu(layer(x, p["conv1"], s["conv1"]))
    mixed = 0.0
    for depth in (1, 2, 3, 4):
        y = functools.reduce(lambda y, name: light(y, p[name], s[name]), stream_layers(depth), h)
        mixed = mixed + gate(y, p["gate"]) * y
    shortcut = layer(x, p["downsample"], s["downsample"])
    return twin.relu(layer(mixed, p["conv3"], s["conv3"]) + shortcut)


@pytest.mark.usefixtures("native")
def test_four_streams_are_weighted_by_one_gate_each_by_its_own_average():
    module = osnet.OSBlock(WIDTH)
    shapes = jax.eval_shape(functools.partial(module.init, train=False), jax.random.key(0), MAPS)
    variables = twin.random_variables(shapes)
    found = twin.compiled(module.apply, train=False)(variables, MAPS)
    expected = block(MAPS.astype(np.float64), variables["params"], variables["batch_stats"])
    assert variables["params"]["gate"]["fc1"]["kernel"].shape == (1, 1, WIDTH // 4, WIDTH // 64)
    assert (expected > 0).mean() > 0.2
    twin.close(found, expected)


def test_the_feature_is_the_rectified_hidden_layer():
    """One block per stage; head: average, dense, normalization, ReLU; the classifier reads that feature."""
    model = osnet.OSNet(3, size="x0_25", feature_width=8, depths=(1, 1, 1))
    batch = {"image": np.random.default_rng(1).normal(size=(2, 32, 16, 3)).astype(np.float32)}
    shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), batch)
    variables = twin.random_variables(shapes)
    params, statistics = variables["params"], variables["batch_stats"]
    outputs = twin.compiled(model.apply, train=False)(variables, batch)
    pooled = np.asarray(outputs["map/conv5"], np.float64).mean(axis=(1, 2))
    feature = twin.relu(twin.batch_norm(twin.dense(pooled, params["fc_0"]), params["fc_1"], statistics["fc_1"]))
    assert 0 < (feature > 0).mean() < 1
    twin.close(outputs["feature/b"], feature)
    twin.close(outputs["logits/b"], twin.dense(feature, params["classifier"]))
    np.testing.assert_array_equal(model.describe(outputs).features, outputs["feature/b"])


def test_the_identity_loss_reaches_the_hidden_layer_and_the_map(monkeypatch):
    """OSNet's recipe has no other loss; the trunk is left out here."""
    monkeypatch.setattr(osnet.Trunk, "__call__", lambda self, images, *, train: images)
    model = osnet.OSNet(3, size="x0_25", feature_width=8, depths=(1, 1, 1))
    maps = np.random.default_rng(1).normal(size=(4, 2, 1, 6)).astype(np.float32)
    variables = model.init(jax.random.key(0), {"image": maps}, train=False)

    def logits(params, maps):
        return model.apply({**variables, "params": params}, {"image": maps}, train=False)["logits/b"][:, 0].sum()

    slopes = jax.tree.leaves(jax.grad(logits, (0, 1))(variables["params"], maps))
    assert all(float(np.abs(slope).max()) > 0 for slope in slopes)
