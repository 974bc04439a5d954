"""The residual backbones: published sizes, PyTorch's values and gradients, slices."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reid_jax import errors
from reid_jax.models.backbones import resnet
from reid_jax.weights import convert

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "golden" / "resnet.npz"


def _shapes(model, height=256, width=128):
    images = jax.ShapeDtypeStruct((2, height, width, 3), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(lambda key, images: model.init(key, images, train=False), key, images)


def _size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


# Trunks without classifier: the published totals less the 1000-class layer.
SIZES = {
    "resnet18": 11_176_512,
    "resnet34": 21_284_672,
    "resnet50": 23_508_032,
    "resnet101": 42_500_160,
    "resnet152": 58_143_808,
    "resnet50_ibn_a": 23_508_032,
    "resnet18_ibn_a": 11_176_512,
    "resnet34_ibn_a": 21_284_672,
    "resnet101_ibn_a": 42_500_160,
    "resnet152_ibn_a": 58_143_808,
}


def test_every_variant_has_its_published_size():
    assert set(SIZES) == set(resnet.SIZES)
    for variant, size in SIZES.items():
        if "152" not in variant:  # the same code at another depth, and slow to trace
            assert _size(_shapes(resnet.resnet(variant), 32, 32)["params"]) == size, variant


def test_resnet50_stages_have_their_published_sizes_and_shapes():
    model = resnet.resnet("resnet50")
    variables = _shapes(model)
    sizes = {}
    for name, tree in variables["params"].items():
        stage = "stem" if name in ("conv1", "bn1") else name.split("_")[0]
        sizes[stage] = sizes.get(stage, 0) + _size(tree)
    assert sizes == {"stem": 9_536, "layer1": 215_808, "layer2": 1_219_584, "layer3": 7_098_368, "layer4": 14_964_736}
    images = jax.ShapeDtypeStruct((2, 256, 128, 3), jnp.float32)
    maps = jax.eval_shape(lambda variables, images: model.apply(variables, images, train=False), variables, images)
    assert {name: value.shape[1:] for name, value in maps.items()} == {
        "stem": (64, 32, 64),
        "stage1": (64, 32, 256),
        "stage2": (32, 16, 512),
        "stage3": (16, 8, 1024),
        "stage4": (8, 4, 2048),
    }
    assert {name: value.shape[-1] for name, value in maps.items()} == model.channels


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as archive:
        return dict(archive)


@pytest.fixture(scope="module")
def narrow(golden):
    """The golden file's network with its weights, loaded through the converter."""
    model = resnet.ResNet(depths=(2, 1, 2, 1), width=8)
    weights = {name.removeprefix("weights/"): value for name, value in golden.items() if name.startswith("weights/")}
    ignore = convert.IGNORED + convert.IGNORED_CLASSIFIER
    variables, report = convert.load_into(_shapes(model, 64, 32), weights, ignore=ignore)
    assert not report.named("missing", "misfit", "extra", "reshaped")
    return model, variables


def test_maps_equal_pytorch_in_eval_mode(golden, narrow):
    model, variables = narrow
    maps = jax.jit(lambda images: model.apply(variables, images, train=False))(golden["images"])
    for name in ("stem", "stage1", "stage2", "stage3", "stage4"):
        expected = golden[f"eval/{name}"]
        np.testing.assert_allclose(maps[name], expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max(), err_msg=name)


def test_train_step_equals_pytorch(golden, narrow):
    """Output, running statistics (unbiased variance) and gradients through every kind of layer."""
    model, variables = narrow

    def loss(params, images):
        full = {"params": params, "batch_stats": variables["batch_stats"]}
        maps, update = model.apply(full, images, train=True, mutable=["batch_stats"])
        return jnp.square(maps["stage4"]).mean(), (maps["stage4"], update)

    step = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
    (gradients, image_gradient), (stage4, update) = step(variables["params"], golden["images"])
    np.testing.assert_allclose(stage4, golden["train/stage4"], atol=1e-4)
    statistics = convert.to_torch(update)
    for name, value in statistics.items():
        np.testing.assert_allclose(value, golden[f"train/statistics/{name}"], atol=1e-5, err_msg=name)
    assert len(statistics) == sum(name.startswith("train/statistics/") for name in golden)
    named = {**convert.to_torch({"params": gradients}), "images": image_gradient}
    for name, expected in golden.items():
        if name.startswith("train/gradient/"):
            value = named[name.removeprefix("train/gradient/")]
            np.testing.assert_allclose(value, expected, atol=2e-4 * np.abs(expected).max(), err_msg=name)


def test_bfloat16_computes_in_bfloat16_with_float32_statistics(golden, narrow):
    _, variables = narrow
    model = resnet.ResNet(depths=(2, 1, 2, 1), width=8, dtype=jnp.bfloat16)
    train = lambda images: model.apply(variables, images, train=True, mutable=["batch_stats"])
    _, update = jax.eval_shape(train, golden["images"])
    assert {leaf.dtype for leaf in jax.tree.leaves(update)} == {jnp.dtype("float32")}
    maps = jax.jit(lambda images: model.apply(variables, images, train=False))(golden["images"])
    expected = golden["eval/stage4"]
    assert maps["stage4"].dtype == jnp.bfloat16
    error = np.abs(np.asarray(maps["stage4"], np.float32) - expected)
    assert error.mean() < 0.02 * np.abs(expected).mean()


def test_slices_compose_to_the_whole(golden, narrow):
    """A shared trunk and a branch that copies layer3[1:] and layer4 give what the whole network gives."""
    model, variables = narrow
    trunk = resnet.ResNet(depths=model.depths, width=8, stop=(3, 1))
    branch = resnet.ResNet(depths=model.depths, width=8, start=(3, 1))
    names = set(variables["params"])
    inside = {"layer3_1", "layer4_0"}
    parts = [
        {collection: {name: tree[name] for name in some if name in tree} for collection, tree in variables.items()}
        for some in (names - inside, inside)
    ]

    @jax.jit
    def both(images):
        shared = trunk.apply(parts[0], images, train=False)
        return shared, branch.apply(parts[1], shared["stage3"], train=False)

    shared, own = both(golden["images"])
    assert set(shared) == {"stem", "stage1", "stage2", "stage3"}
    assert set(own) == {"stage3", "stage4"}
    np.testing.assert_allclose(own["stage4"], golden["eval/stage4"], atol=1e-4)


def test_last_stride_stem_relu_and_ibn():
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 64, 32, 3)), jnp.float32)
    model = resnet.resnet("resnet18_ibn_a", depths=(1, 1, 1, 1), width=4, last_stride=1, stem_relu=False)
    random = np.random.default_rng(1)
    fill = lambda leaf: (
        random.uniform(0.5, 1.0, leaf.shape).astype(np.float32) * random.choice([1, -1], leaf.shape[-1:])
    )
    variables = jax.tree.map(fill, _shapes(model, 64, 32))
    variables["batch_stats"] = jax.tree.map(np.abs, variables["batch_stats"])
    assert set(variables["params"]["layer3_0"]["bn1"]) == {"IN", "BN"}
    assert set(variables["params"]["layer4_0"]["bn1"]) == {"scale", "bias"}
    maps = jax.jit(lambda images: model.apply(variables, images, train=False))(images)
    assert maps["stage4"].shape == (2, 4, 2, 32)
    assert float(maps["stem"].min()) < 0
    assert float(maps["stage1"].min()) >= 0


def test_unknown_variant_is_named():
    with pytest.raises(errors.UserError, match="did you mean 'resnet50'"):
        resnet.resnet("resnet-50")
