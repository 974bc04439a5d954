"""MGN and MGAF against numpy written from the method: windows, pooling, reductions, classifiers, attention."""

import functools

import jax
import numpy as np
import pytest
from flax import linen as nn

from reid_jax.models import mgaf
from reid_jax.nn import attention, global_pool
from tests.helpers import numpy_networks as twin

IMAGES = np.random.default_rng(1).normal(size=(2, 96, 32, 3)).astype(np.float32)
NETWORK = {"num_classes": 5, "width": 2, "depths": (1, 1, 2, 1), "feature_width": 6, "attention_reduction": 8}
ORDER = ("g1", "g2", "g3", "p2_0", "p2_1", "p3_0", "p3_1", "p3_2")


class Part(mgaf.MGAF):
    """A method of the network on its own."""

    @nn.compact
    def __call__(self, part, *arguments):
        return getattr(self, part)(*arguments, False)


def shapes_of(model, *arguments):
    return jax.eval_shape(lambda key: model.init_with_output(key, *arguments)[1], jax.random.key(0))


def variables_of(module, *arguments, seed=0, **options):
    shapes = jax.eval_shape(functools.partial(module.init, **options), jax.random.key(0), *arguments)
    return twin.random_variables(shapes, seed)


@functools.cache
def network():
    model = mgaf.MGAF(**NETWORK)
    batch = {"image": IMAGES}
    variables = variables_of(model, batch, train=False)

    def outputs(variables, batch):
        found = model.apply(variables, batch, train=False)
        return found, model.describe(found).features

    return variables, *twin.compiled(outputs)(variables, batch)


def channel_gate(x, p):
    """Woo et al.: one perceptron for mean and maximum, its results added before the sigmoid."""
    perceptron = lambda pooled: twin.dense(twin.relu(twin.dense(pooled, p["fc1"])), p["fc2"])
    return twin.sigmoid(perceptron(x.mean((1, 2))) + perceptron(x.max((1, 2))))


def spatial_gate(x, p, s):
    """Woo et al.: 7×7 over maximum and mean of the channels, normalized."""
    assert p["conv"]["kernel"].shape == (7, 7, 2, 1)
    pooled = np.stack((x.max(-1), x.mean(-1)), -1)
    return twin.sigmoid(twin.batch_norm(twin.conv(pooled, p["conv"]), p["bn"], s["bn"]))


def cbam(x, p, s):
    x = x * channel_gate(x, p["channel"])[:, None, None]
    return x * spatial_gate(x, p["spatial"], s["spatial"])


def reduction(x, p, s):
    """1×1 without bias, normalization, ReLU, in this order."""
    assert set(p["conv"]) == {"kernel"}
    return twin.relu(twin.batch_norm(x @ p["conv"]["kernel"][0, 0].astype(np.float64), p["bn"], s["bn"]))


def expected(p, s):
    trunk, stats = p["trunk"], s["trunk"]
    x = twin.resnet_stem(IMAGES, trunk, stats, with_relu=True)
    for number, stride in ((1, 1), (2, 2), (3, 2)):
        x = twin.resnet_stage(x, trunk, stats, number, stride)
    assert sorted(name for name in trunk if name.startswith("layer3")) == ["layer3_0"]
    out = {}
    for branch, stride, whole, stripes in (("g", 2, "g1", 0), ("p2", 1, "g2", 2), ("p3", 1, "g3", 3)):
        q, t = p[f"branch_{branch}"], s[f"branch_{branch}"]
        y = twin.resnet_stage(twin.resnet_stage(x, q, t, 3, 1, first=1), q, t, 4, stride)
        out[f"map/{branch}"] = y
        y = y + cbam(y, p[f"attention_{branch}"], s[f"attention_{branch}"])
        windows = {whole: y}
        for index in range(stripes):
            rows = y.shape[1] // stripes
            windows[f"{branch}_{index}"] = y[:, index * rows : (index + 1) * rows]
        for head, window in windows.items():
            feature = reduction(window.max((1, 2)), p[f"reduction_{head}"], s[f"reduction_{head}"])
            out |= {f"feature/{head}": feature, f"logits/{head}": twin.dense(feature, p[f"classifier_{head}"])}
    return out, np.concatenate([out[f"feature/{head}"] for head in ORDER], -1)


def test_every_output_is_that_of_the_method():
    variables, outputs, feature = network()
    wanted, wanted_feature = expected(variables["params"], variables["batch_stats"])
    assert set(outputs) == set(wanted)
    for name, value in wanted.items():
        twin.close(outputs[name], value, name)
    twin.close(feature, wanted_feature, "test feature")
    assert outputs["map/g"].shape[1:3] == (3, 1)
    assert outputs["map/p2"].shape[1:3] == outputs["map/p3"].shape[1:3] == (6, 2)


def test_defaults_are_the_published_ones():
    for model, reads in ((mgaf.MGN(num_classes=2), "pooled"), (mgaf.MGAF(num_classes=2), "reduced")):
        assert (model.depths, model.width, model.feature_width) == ((3, 4, 6, 3), 64, 256)
        assert (model.branches, model.p3_stripes, model.p3_map) == (("g", "p2", "p3"), 3, "24x8")
        assert (model.pooling, model.global_ce_input, model.heads) == ("max", reads, ORDER)
    assert (model.attention, model.attention_scope, model.attention_residual) == ("cbam", "map", True)
    assert model.attention_reduction == 16
    assert (attention.CBAM().reduction, attention.ChannelAttention().reduction) == (16, 16)
    assert attention.SpatialAttention().kernel_size == 7


@pytest.mark.parametrize("head", ["g1", "p2_0"])
def test_mgn_classifies_the_pooled_vector_of_whole_maps_alone(head):
    window = np.random.default_rng(2).normal(size=(2, 3, 2, 4)).astype(np.float32)
    model = Part(num_classes=3, feature_width=5, global_ce_input="pooled")
    variables = twin.random_variables(shapes_of(model, "_head", head, window), seed=3)
    p, s = variables["params"], variables["batch_stats"]
    feature, logits = model.apply(variables, "_head", head, window)
    wanted = reduction(window.max((1, 2)), p[f"reduction_{head}"], s[f"reduction_{head}"])
    twin.close(feature, wanted)
    read = window.max((1, 2)) if head == "g1" else wanted
    twin.close(logits, twin.dense(read, p[f"classifier_{head}"]))


@pytest.mark.parametrize("scope", ["map", "stripe"])
def test_windows_after_attention(scope):
    """A module for the whole map; with "stripe" one for each stripe of the map before attention, too."""
    x = np.random.default_rng(4).normal(size=(2, 4, 2, 16)).astype(np.float32)
    model = Part(num_classes=3, attention="se", attention_scope=scope, attention_reduction=8)
    p = twin.random_variables(shapes_of(model, "windows", "p2", x), seed=5)["params"]
    attend = lambda name, y: y * (1 + squeeze(y, p[f"attention_{name}"]))
    whole = attend("p2", x)
    wanted = {"g2": whole, "p2_0": whole[:, :2], "p2_1": whole[:, 2:]}
    if scope == "stripe":
        wanted |= {"p2_0": attend("p2_0", x[:, :2]), "p2_1": attend("p2_1", x[:, 2:])}
    found = model.apply({"params": p}, "windows", "p2", x)
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        twin.close(found[name], value, name)


def squeeze(x, p):
    """Hu et al.: the gate of the mean alone, without biases."""
    assert set(p["fc1"]) == set(p["fc2"]) == {"kernel"}
    return twin.sigmoid(twin.dense(twin.relu(twin.dense(x.mean((1, 2)), p["fc1"])), p["fc2"]))[:, None, None]


def test_the_non_local_block():
    """Wang et al., embedded Gaussian: unscaled products, softmax over the positions read; with its input added."""
    x = np.random.default_rng(6).normal(size=(2, 2, 3, 4)).astype(np.float32)
    module = attention.NonLocal(3)
    variables = variables_of(module, x, train=False, seed=7)
    p, s = variables["params"], variables["batch_stats"]
    rows = lambda name: twin.conv(x, p[name]).reshape(2, 6, 3)
    weights = twin.softmax(rows("theta") @ rows("phi").swapaxes(1, 2), axis=-1)
    gathered = (weights @ rows("g")).reshape(2, 2, 3, 3)
    wanted = x + twin.batch_norm(twin.conv(gathered, p["out"]), p["bn"], s["bn"])
    twin.close(twin.compiled(module.apply, train=False)(variables, x), wanted)
    begun = twin.compiled(module.init, train=False)(jax.random.key(0), x)
    assert np.all(begun["params"]["bn"]["scale"] == 0)
    shapes = shapes_of(Part(num_classes=3, attention="nonlocal"), "_attend", "p2", x)
    assert shapes["params"]["attention_p2"]["theta"]["kernel"].shape == (1, 1, 4, 2)


def test_kinds_of_pooling():
    x = np.random.default_rng(8).normal(size=(2, 3, 2, 4)).astype(np.float32)
    floor = np.maximum(x.astype(np.float64), 1e-6)
    wanted = {"average": x.mean((1, 2)), "max": x.max((1, 2)), "gem": (floor**3.0).mean((1, 2)) ** (1 / 3.0)}
    for kind, value in wanted.items():
        pool = global_pool.GlobalPool(kind)
        twin.close(pool.apply(pool.init(jax.random.key(0), x), x), value, kind)


def test_initial_values_of_reductions_and_classifiers():
    """He's, by fan-in for reductions, by fan-out for classifiers of reduced vectors; gains are N(1, 0.02)."""
    window = np.zeros((2, 1, 1, 400), np.float32)
    model = Part(num_classes=20, feature_width=100)
    init = twin.compiled(lambda key: model.init_with_output(key, "_head", "g1", window)[1]["params"])
    p = init(jax.random.key(0))
    deviations = {
        "reduction": (p["reduction_g1"]["conv"]["kernel"], np.sqrt(2 / 400)),
        "gain": (p["reduction_g1"]["bn"]["scale"] - 1, 0.02),
        "classifier": (p["classifier_g1"]["kernel"], np.sqrt(2 / 20)),
    }
    for name, (values, deviation) in deviations.items():
        assert 0.8 < np.std(values) / deviation < 1.2, name


@pytest.mark.parametrize(("init", "low", "high"), [("he", 0.35, 0.6), ("torch", 0.0, 0.05)])
def test_he_starts_the_channel_gates_saturated_and_torch_does_not(init, low, high):
    """Shares of CBAM's first gates below .05 or above .95 on a map as the backbone leaves it: positive, near one."""
    x = np.random.default_rng(9).gamma(1.0, size=(4, 6, 4, 256)).astype(np.float32)
    model = Part(num_classes=3, attention_init=init)
    init = twin.compiled(lambda key: model.init_with_output(key, "_attend", "p2", x)[1]["params"]["attention_p2"])
    p = jax.device_get(init(jax.random.key(0)))
    gate = channel_gate(x.astype(np.float64), p["channel"])
    assert low <= np.mean((gate < 0.05) | (gate > 0.95)) <= high
    assert mgaf.MGAF(num_classes=2).attention_init == "he"


@pytest.mark.parametrize(("p3_map", "rows"), [("24x8", (6, 6)), ("48x16", (6, 12))])
def test_a_larger_map_of_branch_3_has_twice_the_rows(p3_map, rows):
    """It begins with layer3's first block at stride 1, on the trunk's second stage."""
    model = mgaf.MGAF(**NETWORK, p3_map=p3_map, branches=("p2", "p3"), attention="none")
    shapes = jax.eval_shape(
        lambda key: model.init_with_output(key, {"image": IMAGES}, train=False)[0], jax.random.key(0)
    )
    assert tuple(shapes[f"map/{branch}"].shape[1] for branch in ("p2", "p3")) == rows


def test_branches_start_as_copies_of_the_first_and_a_larger_one_of_the_trunks_block():
    branch = {"layer3_1": 1, "layer4_0": 2}
    drawn = {"trunk": {"conv1": 3, "layer3_0": 4}, "branch_g": branch, "branch_p2": dict.fromkeys(branch, 9)}
    drawn |= {"branch_p3": dict.fromkeys(("layer3_0", *branch), 9), "classifier_g1": {"kernel": 5}}
    started = mgaf.start_equal({"params": drawn}, ("g", "p2", "p3"))["params"]
    assert started == {**drawn, "branch_p2": branch, "branch_p3": {"layer3_0": 4, **branch}}
