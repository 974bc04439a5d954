"""MSPF and OSFA against numpy written from the method, on a trunk of one layer per stage.

OSNet itself is compared with its authors' numbers elsewhere; here stands what the two systems do with its stages.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from reid_jax.models.backbones import osnet
from reid_jax.models.mspf import channel_spatial, mspf, multi_patch
from tests.helpers import numpy_networks as twin

IMAGES = np.random.default_rng(1).normal(size=(2, 64, 32, 3)).astype(np.float32)
OSFA = {"attention": "spatial_channel", "attention_kind": "osfa", "attention_at": (2, 3), "sam_maps": (2, 3)}


CALLS: list[int] = []  # stages of a trunk in the order in which they run


class Trunk(nn.Module):
    """A stand-in of `osnet.Trunk`: every stage is a linear layer with ReLU; stages 2 and 3 keep every second row."""

    size: str = "x1_0"
    kind: str = "plain"
    dtype: type = jnp.float32
    depths: tuple = (2, 2, 2)

    def setup(self):
        widths = (*osnet.SIZES[self.size][1:], osnet.SIZES[self.size][3])
        self.layers = {str(number): nn.Dense(width, name=f"s{number}") for number, width in enumerate(widths, start=2)}

    def stem(self, images, *, train):
        return images[:, ::4, ::4]

    def stage(self, x, number, *, train):
        CALLS.append(number)
        x = nn.relu(self.layers[str(number)](x))
        return x[:, ::2, ::2] if number < 4 else x

    def __call__(self, images, *, train):
        x = self.stem(images, train=train)
        for number in (2, 3, 4, 5):
            x = self.stage(x, number, train=train)
        return x


def stage(x, p, number):
    x = twin.relu(twin.dense(x, p[f"s{number}"]))
    return x[:, ::2, ::2] if number < 4 else x


def channel(x, p, s, kind):
    if kind == "osfa":  # squeeze and excitation without the squeeze
        return x * twin.sigmoid(twin.conv(twin.relu(twin.conv(x, p["fc1"])), p["fc2"]))
    perceptron = lambda pooled: twin.dense(twin.relu(twin.dense(pooled, p["fc1"])), p["fc2"])
    return x * twin.sigmoid(perceptron(x.mean((1, 2))) + perceptron(x.max((1, 2))))[:, None, None]


def spatial(x, p, s, kind):
    if kind == "osfa":  # between positions: unscaled, no values' convolution, x + BN(gamma o)
        rows = lambda y: y.reshape(len(y), -1, y.shape[-1])
        weights = twin.softmax(rows(twin.conv(x, p["query"])) @ rows(twin.conv(x, p["key"])).swapaxes(1, 2), axis=-1)
        return x + twin.batch_norm(p["gamma"] * (weights @ rows(x)).reshape(x.shape), p["bn"], s["bn"])
    pooled = np.stack((x.max(-1), x.mean(-1)), -1)
    return x * twin.sigmoid(twin.batch_norm(twin.conv(pooled, p["conv"]), p["bn"], s["bn"]))


def attend(x, p, s, kind):
    """MSPF: channel, then spatial. OSFA: between positions, then channel."""
    for name in ("channel", "spatial") if kind == "cbam" else ("spatial", "channel"):
        gate = channel if name == "channel" else spatial
        x = gate(x, p[name], s.get(name), kind)
    return x


def expected(p, s, kind, at, sam_maps, patches):
    q, t = p["osfa"], s["osfa"]
    x1 = stage(IMAGES[:, ::4, ::4], q, 2)
    attended = attend(x1, q["attention2"], t["attention2"], kind) if 2 in at else x1
    attended = attend(stage(attended, q, 3), q["attention3"], t["attention3"], kind)
    f_global = twin.dense(stage(stage(attended, q, 4), q, 5).max((1, 2)), q["fc"])
    x2 = stage(x1, q, 3)  # the local path sees no attention
    maps = {2: twin.conv(x1, q["align2"]), 3: twin.conv(x2, q["align3"]), 4: stage(x2, q, 4)}
    stripes = [half for number in sam_maps for half in np.split(maps[number], 4, axis=1)]
    f_local = np.concatenate([half.mean((1, 2)) for half in stripes], -1)
    out = {"feature/osfa": f_global}
    if patches:
        maxima = []
        for level, cuts in ((2, (2, 1)), (4, (2, 2))):
            rows, columns = (64 // cuts[0], 32 // cuts[1])
            found = []
            for row in range(cuts[0]):
                across = []
                for column in range(cuts[1]):
                    x = IMAGES[:, row * rows : (row + 1) * rows, column * columns : (column + 1) * columns][:, ::4, ::4]
                    for number in (2, 3, 4, 5):
                        x = stage(x, p["mpf"][f"level{level}"], number)
                    across.append(x)
                found.append(np.concatenate(across, 2))
            out[f"map/level{level}"] = np.concatenate(found, 1)
            maxima.append(out[f"map/level{level}"].max((1, 2)))
        out["feature/patches"] = maxima[0] + maxima[1]
        f_global = np.concatenate((f_global, out["feature/patches"]), -1)
    for head, feature in (("g", f_global), ("l", f_local)):
        neck = twin.batch_norm(feature, p[f"neck_{head}"], s[f"neck_{head}"])
        assert set(p[f"neck_{head}"]) == {"scale", "bias"}
        out |= {f"feature/{head}": feature, f"neck/{head}": neck}
        out[f"logits/{head}"] = twin.dense(neck, p[f"classifier_{head}"])
    return out, np.concatenate((twin.unit(out["neck/g"]), twin.unit(out["neck/l"])), -1)


@pytest.mark.parametrize(
    ("options", "kind", "at", "sam_maps", "patches"),
    [({}, "cbam", (3,), (2, 3, 4), True), ({**OSFA, "mpf_patches": ()}, "osfa", (2, 3), (2, 3), False)],
    ids=["mspf", "osfa"],
)
def test_every_output_is_that_of_the_method(monkeypatch, options, kind, at, sam_maps, patches):
    monkeypatch.setattr(osnet, "Trunk", Trunk)
    model = mspf.MSPF(num_classes=5, size="x0_25", **options)
    batch = {"image": IMAGES}
    shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), batch)
    variables = twin.random_variables(shapes)
    outputs = twin.compiled(model.apply, train=False)(variables, batch)
    wanted, feature = expected(variables["params"], variables["batch_stats"], kind, at, sam_maps, patches)
    assert set(outputs) == set(wanted)
    attention = variables["params"]["osfa"]["attention3"]
    with_bias = ("channel/fc1", "channel/fc2", *(("spatial/query", "spatial/key") if kind == "osfa" else ()))
    for path in with_bias:
        module, layer = path.split("/")
        assert set(attention[module][layer]) == {"kernel", "bias"}
    for name, value in wanted.items():
        twin.close(outputs[name], value, name)
    twin.close(model.describe(outputs).features, feature, "test feature")


@pytest.mark.parametrize(
    ("options", "order"),
    [
        ({}, [2, 3, 4, 5, 4]),
        ({"attention_at": (2, 3)}, [2, 3, 3, 4, 5, 4]),
        ({"attention": "none"}, [2, 3, 4, 5]),
        (OSFA, [2, 3, 3, 4, 5]),
    ],
    ids=["mspf", "attention twice", "no attention", "osfa"],
)
def test_a_stage_that_runs_twice_normalizes_the_global_path_first(monkeypatch, options, order):
    """Its running statistics then take the attended map's first; without attention it runs once."""
    monkeypatch.setattr(osnet, "Trunk", Trunk)
    model = mspf.MSPF(num_classes=5, size="x0_25", mpf_patches=(), **options)
    CALLS.clear()
    jax.eval_shape(functools.partial(model.init, train=True), jax.random.key(0), {"image": IMAGES})
    assert order == CALLS


def test_patches_are_added_as_vectors_or_as_maps():
    maps = [np.random.default_rng(seed).normal(size=(2, 4, 2, 3)).astype(np.float32) for seed in range(3)]
    np.testing.assert_allclose(multi_patch.fuse(maps, "vector"), sum(x.max((1, 2)) for x in maps), rtol=1e-5)
    np.testing.assert_allclose(multi_patch.fuse(maps, "map"), sum(maps).max((1, 2)), rtol=1e-5)
    assert [multi_patch.grid(count) for count in (1, 2, 4, 8)] == [(1, 1), (2, 1), (2, 2), (4, 2)]
    assert [multi_patch.grid(count, "stripes") for count in (2, 4, 8)] == [(2, 1), (4, 1), (8, 1)]


@pytest.mark.parametrize("share", [False, True])
def test_levels_have_an_osnet_each_unless_they_share_one(monkeypatch, share):
    monkeypatch.setattr(osnet, "Trunk", Trunk)
    module = multi_patch.PatchFusion("x0_25", share_levels=share)
    shapes = jax.eval_shape(functools.partial(module.init, train=False), jax.random.key(0), IMAGES)
    assert set(shapes["params"]) == ({"level"} if share else {"level2", "level4"})


def test_defaults_are_those_of_the_paper():
    model = mspf.MSPF(num_classes=2)
    assert (model.size, model.kind, model.depths) == ("x1_0", "plain", (2, 2, 2))
    assert (model.attention, model.attention_kind, model.attention_at) == ("channel_spatial", "cbam", (3,))
    assert (model.sam_maps, model.mpf_patches) == ((2, 3, 4), (2, 4))
    assert (model.mpf_fuse, model.mpf_share_levels, model.patch_layout) == ("vector", False, "quadrants")
    module, patches = channel_spatial.MapAttention(), multi_patch.PatchFusion()
    assert (module.order, module.kind) == ("channel_spatial", "cbam")
    assert (patches.patches, patches.layout, patches.fusion) == ((2, 4), "quadrants", "vector")
    assert (channel_spatial.PositionAttention().reduction, channel_spatial.PixelGate().reduction) == (8, 16)


def test_initial_values():
    """Position attention starts as the identity, CBAM's layers uniform, linear layers normal of deviation 0.01."""
    x = np.random.default_rng(2).normal(size=(1, 2, 2, 64)).astype(np.float32)
    position, gate = channel_spatial.PositionAttention(), channel_spatial.MapAttention("channel")

    def draw(key):
        same, _ = position.init_with_output(key, x, train=False)
        return same, gate.init(key, x, train=False)["params"]["channel"], mspf._linear(key, (100, 50))

    same, cbam, kernel = twin.compiled(draw)(jax.random.key(0))
    np.testing.assert_array_equal(same, x)
    assert 0.9 / 8 < np.abs(cbam["fc1"]["kernel"]).max() <= 1 / 8
    assert 0.009 < np.std(kernel) < 0.011
