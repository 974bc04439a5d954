"""OSNet: published sizes, PyTorch's values and gradients, torchreid's files both ways, the gate."""

import functools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import linen as nn
from PIL import Image

from reid_jax import errors, models
from reid_jax.cli import extract
from reid_jax.models import macs
from reid_jax.models.backbones import osnet
from reid_jax.nn import norm
from reid_jax.ops import convolution as convolution_lib
from reid_jax.ops import pooling
from reid_jax.weights import convert
from tests.helpers import torchreid_names

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "golden" / "osnet.npz"
# Compiling is what costs here.
QUICK = {"xla_backend_optimization_level": 0}


@functools.cache
def shapes_of(width: str, kind: str, classes: int = 751) -> dict:
    """Shapes of a model's variables."""
    model = models.build("osnet", num_classes=classes, size=width, kind=kind)
    key = jax.eval_shape(lambda: jax.random.key(0))
    batch = {"image": jax.ShapeDtypeStruct((2, 64, 32, 3), jnp.float32)}
    return jax.eval_shape(functools.partial(model.init, train=False), key, batch)


def size(tree) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@functools.cache
def drawn(kind: str, classes: int = 9) -> dict:
    """The golden file's variables of a kind at x0.25."""
    flat = torchreid_names.draw(torchreid_names.shapes("x0_25", kind, classes))
    return convert.load_into(shapes_of("x0_25", kind, classes), flat)[0]


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as archive:
        return dict(archive)


def close(value, expected, relative: float, name: str = "") -> None:
    np.testing.assert_allclose(value, expected, atol=relative * np.abs(expected).max(), rtol=0, err_msg=name)


# ---- sizes ----------------------------------------------------------------------------------------------------------

# (width, kind): parameters with 751 classes, without classifier, without head; multiply-accumulates.
SIZES = {
    ("x1_0", "plain"): (2_554_771, 2_169_508, 1_905_828, 978_878_352),
    ("x0_75", "plain"): (1_671_017, 1_285_754, 1_087_610, 571_754_536),
    ("x0_5", "plain"): (1_015_297, 630_034, 497_426, 272_901_064),
    ("x0_25", "plain"): (587_127, 201_864, 134_792, 82_316_000),
    ("x1_0", "ibn"): (2_555_795, 2_170_532, 1_906_852, 978_878_352),
    ("x1_0", "ain"): (2_554_771, 2_169_508, 1_905_828, 978_878_352),
    ("x0_75", "ain"): (1_671_017, 1_285_754, 1_087_610, 571_754_536),
    ("x0_5", "ain"): (1_015_297, 630_034, 497_426, 272_901_064),
    ("x0_25", "ain"): (587_127, 201_864, 134_792, 82_316_000),
}


@pytest.mark.parametrize(("width", "kind"), SIZES, ids=lambda value: value)
def test_published_sizes(width, kind):
    params = dict(shapes_of(width, kind)["params"])
    total = size(params)
    classifier = size(params.pop("classifier"))
    assert (total, total - classifier) == SIZES[width, kind][:2]
    assert size({name: leaf for name, leaf in params.items() if not name.startswith("fc_")}) == SIZES[width, kind][2]


@pytest.mark.parametrize(("width", "kind"), [("x1_0", "plain"), ("x0_75", "plain"), ("x0_5", "ain"), ("x0_25", "ibn")])
def test_published_multiply_accumulates(width, kind, native):
    expected = SIZES[width, "plain"][3]
    assert macs.measure(osnet.OSNet(751, size=width, kind=kind)).macs == expected


def test_stages_have_their_published_shapes_and_outputs_are_float32(native):
    variables = shapes_of("x1_0", "plain")
    batch = {"image": jax.ShapeDtypeStruct((2, 256, 128, 3), jnp.float32)}
    model = osnet.OSNet(751, dtype=jnp.bfloat16)

    def run(variables, batch):
        maps = lambda module, images: module.trunk.maps(images, train=False)
        return model.apply(variables, batch, train=False), model.apply(variables, batch["image"], method=maps)

    outputs, maps = jax.eval_shape(run, variables, batch)
    assert {name: (value.shape[1:], value.dtype) for name, value in maps.items()} == {
        "conv1": ((128, 64, 64), jnp.bfloat16),
        "conv2": ((32, 16, 256), jnp.bfloat16),
        "conv3": ((16, 8, 384), jnp.bfloat16),
        "conv4": ((16, 8, 512), jnp.bfloat16),
        "conv5": ((16, 8, 512), jnp.bfloat16),
    }
    assert osnet.Trunk().channels == (64, 256, 384, 512, 512)
    assert {name: (value.shape, value.dtype) for name, value in outputs.items()} == {
        "map/conv5": ((2, 16, 8, 512), jnp.float32),
        "feature/b": ((2, 512), jnp.float32),
        "logits/b": ((2, 751), jnp.float32),
    }


def test_unknown_size_and_kind_are_named():
    for options, sentence in (({"size": "x1"}, "unknown OSNet size 'x1'"), ({"kind": "ains"}, "did you mean 'ain'")):
        with pytest.raises(errors.UserError, match=sentence):
            models.build("osnet", num_classes=2, **options).init(jax.random.key(0), {"image": None}, train=False)


def test_initial_values_follow_the_papers_code():
    start = jax.jit(functools.partial(osnet.LightConv3x3(64).init, train=False), compiler_options=QUICK)
    light = start(jax.random.key(0), jnp.zeros((1, 4, 4, 64)))["params"]
    # Standard deviation sqrt(2 / fan out); a plain normal, which has values beyond two deviations.
    for name, fan_out in (("conv1", 64), ("conv2", 9 * 64)):
        kernel = np.asarray(light[name]["kernel"]) / math.sqrt(2 / fan_out)
        assert kernel.std() == pytest.approx(1, abs=0.1)
        assert np.abs(kernel).max() > 2.2
    head = osnet.OSNet(751).bind({}).classifier
    assert float(np.std(head.kernel_init(jax.random.key(0), (300, 300)))) == pytest.approx(0.01, rel=0.02)


def test_called_and_written_out_light_convolutions_agree():
    module = osnet.LightConv3x3(8)
    x = jax.random.normal(jax.random.key(0), (3, 4, 2, 8))
    variables = jax.jit(functools.partial(module.init, train=False), compiler_options=QUICK)(jax.random.key(1), x)

    def run(method):
        def loss(params, x):
            state = {"params": params, "batch_stats": variables["batch_stats"]}
            y, updated = module.apply(state, x, train=True, mutable="batch_stats", method=method)
            return (y * jnp.sin(jnp.arange(y.size, dtype=y.dtype).reshape(y.shape))).sum(), (y, updated)

        graded = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        return jax.jit(graded, compiler_options=QUICK)(variables["params"], x)

    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), run("__call__"), run("written"))


# ---- values ---------------------------------------------------------------------------------------------------------


def forward(kind: str, *, classes: int = 9):
    """From variables and images to outputs and maps in eval mode."""
    model = osnet.OSNet(classes, size="x0_25", kind=kind)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def run(variables, images):
        keep = lambda module, name: name == "maps"
        batch = {"image": images}
        with jax.default_matmul_precision("highest"):
            outputs, seen = model.apply(variables, batch, train=False, capture_intermediates=keep)
        return outputs, jax.tree.leaves(seen, is_leaf=lambda x: "conv1" in x)[0]

    return run


@pytest.mark.parametrize("kind", osnet.KINDS)
def test_every_kind_equals_pytorch(kind, golden, request):
    if kind != "plain":  # which goes through the formulation of this machine
        request.getfixturevalue("native")
    outputs, maps = forward(kind)(drawn(kind), torchreid_names.normalize(torchreid_names.pictures()))
    for name, value in maps.items():
        step = 4 if name == "conv1" else 1
        close(value[:, ::step, ::step], golden[f"{kind}/{name}"], 1e-5, name)
    close(outputs["feature/b"], golden[f"{kind}/feature"], 1e-5)
    close(outputs["logits/b"], golden[f"{kind}/logits"], 1e-5)
    np.testing.assert_array_equal(outputs["map/conv5"], maps["conv5"])
    features = osnet.OSNet(9).describe(outputs).features
    np.testing.assert_array_equal(features, outputs["feature/b"])
    assert 0 == float(features.min()) < float(features.max())


def test_the_original_networks_stages_and_feature(golden_folder, native):
    """The outputs of the authors' code at full size."""
    with np.load(golden_folder / "osnet_x0_25.npz") as archive:
        original = dict(archive)
    flat = {name.removeprefix("sd/"): value for name, value in original.items() if name.startswith("sd/")}
    classes = original["logits"].shape[1]  # a part of the 751
    variables, report = convert.load_into(shapes_of("x0_25", "plain", classes), flat)
    assert report.summary() == "487 loaded, 80 ignored"
    outputs, maps = forward("plain", classes=classes)(variables, original["input"].transpose(0, 2, 3, 1))
    for name, value in maps.items():
        step = 4 if name == "conv1" else 1
        close(value[:, ::step, ::step], original[f"inter/{name}"].transpose(0, 2, 3, 1), 2e-5, name)
    close(outputs["map/conv5"].mean((1, 2)), original["pooled"], 2e-5)
    close(outputs["feature/b"], original["feature"], 1e-5)
    close(outputs["logits/b"], original["logits"], 1e-5)


def _same_stem(convolution):
    return lambda images, kernel, **options: convolution(
        images, kernel, **options | ({"padding": ((2, 3), (2, 3))} if options["strides"] == 2 else {})
    )


def _same_pool(images, window, strides, padding):
    del padding
    box, step = (1, window, window, 1), (1, strides, strides, 1)
    return jax.lax.reduce_window(images, -jnp.inf, jax.lax.max, box, step, "SAME")


@pytest.mark.parametrize("mistake", ["stem", "pool", "epsilon"])
def test_near_misses_are_far_off(mistake, golden, native, monkeypatch):
    """What parity would show: XLA's uneven "SAME" padding, and another epsilon where variances are small."""
    variables, expected = drawn("plain"), golden["plain/feature"]
    images = torchreid_names.normalize(torchreid_names.pictures())
    features = lambda: forward("plain")(variables, images)[0]["feature/b"]
    if mistake == "stem":
        monkeypatch.setattr(convolution_lib, "convolution", _same_stem(convolution_lib.convolution))
    elif mistake == "pool":
        monkeypatch.setattr(pooling, "max_pool", _same_pool)
    else:
        small = lambda path, leaf: leaf * 0.05 if path[-1].key == "var" else leaf
        variables = {**variables, "batch_stats": jax.tree_util.tree_map_with_path(small, variables["batch_stats"])}
        expected = features()
        monkeypatch.setattr(norm, "BatchNorm", functools.partial(norm.BatchNorm, epsilon=1e-3))
    assert np.abs(features() - expected).max() > 0.1 * np.abs(expected).max()


def test_train_step_equals_pytorch(golden, native):
    """Gradients through the stem, two blocks and a transition, and running statistics.

    In float64: in float32 activations near zero fall on either side of the ReLU, and PyTorch's own gradients differ
    from its float64 ones by 5e-3.
    """
    trunk = osnet.Trunk("x0_25", dtype=jnp.float64)
    upto_conv2 = lambda trunk, images: trunk.stage(trunk.stem(images, train=True), 2, train=True)

    def loss(params, images):
        full = {"params": params, "batch_stats": variables["batch_stats"]}
        conv2, update = trunk.apply(full, images, mutable=["batch_stats"], method=upto_conv2)
        return jnp.square(conv2).mean(), update

    with jax.enable_x64(True):
        variables = jax.tree.map(lambda x: np.asarray(x, np.float64), drawn("plain"))
        images = np.asarray(torchreid_names.normalize(torchreid_names.pictures(6)), np.float64)
        gradients, update = jax.jit(jax.grad(loss, has_aux=True), compiler_options=QUICK)(variables["params"], images)
    named = convert.to_torch({"params": gradients}) | convert.to_torch(update)
    compared = [name for name in golden if name.startswith("train/")]
    assert len(compared) == 7 + 6
    for name in compared:
        close(named[name.split("/", 2)[2]], golden[name], 1e-4, name)


# ---- parts ----------------------------------------------------------------------------------------------------------


def test_stages_one_by_one_are_the_trunk_and_share_weights_between_calls(golden, native):
    trunk = osnet.Trunk("x0_25", "ain")
    images = jax.ShapeDtypeStruct((2, 64, 32, 3), jnp.float32)
    variables = drawn("ain")
    heads = ("fc_0", "fc_1", "classifier")
    own = {
        collection: {name: leaf for name, leaf in tree.items() if name not in heads}
        for collection, tree in variables.items()
    }

    def by_stage(trunk, images):
        x = trunk.stage(trunk.stem(images, train=False), 2, train=False)
        x = trunk.stage(x, 3, train=False)
        again = trunk.stage(x + 1, 4, train=False)
        return trunk.stage(trunk.stage(x, 4, train=False), 5, train=False), again

    key = jax.eval_shape(lambda: jax.random.key(0))
    made = jax.eval_shape(lambda key, images: trunk.init(key, images, method=by_stage), key, images)
    assert jax.tree.map(lambda leaf: leaf.shape, made) == jax.tree.map(lambda leaf: leaf.shape, own)
    run = jax.jit(functools.partial(trunk.apply, method=by_stage), compiler_options=QUICK)
    conv5, _ = run(own, torchreid_names.normalize(torchreid_names.pictures()))
    close(conv5, golden["ain/conv5"], 1e-5)


def test_gate_is_half_at_zero_and_open_at_a_large_bias():
    gate = osnet.UnifiedAggregationGate(32)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4, 32)), jnp.float32)
    layer = lambda inputs, outputs, bias: {
        "kernel": jnp.zeros((1, 1, inputs, outputs)),
        "bias": jnp.full((outputs,), bias),
    }
    for bias, expected in ((0.0, 0.5), (40.0, 1.0)):
        variables = {"params": {"fc1": layer(32, 2, 1.0), "fc2": layer(2, 32, bias)}}
        np.testing.assert_array_equal(gate.apply(variables, x), np.full((2, 1, 1, 32), expected, np.float32))


def test_a_block_sums_its_streams_each_under_its_own_gate():
    """Put together by hand from its parts, streams in the opposite order; gating the sum instead is far off."""
    variables = {
        collection: {name.removeprefix("conv4_0/"): leaf for name, leaf in tree["conv4_0"].items()}
        for collection, tree in drawn("plain").items()
    }
    sub = lambda name: {collection: tree[name] for collection, tree in variables.items() if name in tree}
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 4, 96)), jnp.float32)
    layer = lambda name, x, width, activate: osnet.ConvLayer(width, activate=activate).apply(sub(name), x, train=False)

    def finish(x, mixed):
        return nn.relu(layer("conv3", mixed, 128, False) + layer("downsample", x, 128, False))

    @functools.partial(jax.jit, compiler_options=QUICK)
    def run(x):
        h = layer("conv1", x, 32, True)
        streams = []
        for names in (
            ["conv2a"],
            *([f"conv2{one}_{i}" for i in range(n)] for one, n in (("b", 2), ("c", 3), ("d", 4))),
        ):
            stream = h
            for name in names:
                stream = osnet.LightConv3x3(32).apply(sub(name), stream, train=False)
            streams.append(stream)
        gate = lambda stream: osnet.UnifiedAggregationGate(32).apply(sub("gate"), stream)
        mixed = sum(gate(stream) * stream for stream in reversed(streams))
        whole = osnet.OSBlock(128).apply(variables, x, train=False)
        return whole, finish(x, mixed), finish(x, gate(sum(streams)) * sum(streams))

    whole, by_hand, wrong = run(x)
    close(by_hand, whole, 1e-6)
    assert np.abs(wrong - whole).max() > 0.1 * np.abs(whole).max()


# ---- torchreid's files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", osnet.KINDS)
@pytest.mark.parametrize("width", osnet.SIZES)
def test_files_of_every_kind_come_back_bit_for_bit(width, kind):
    flat = torchreid_names.draw(torchreid_names.shapes(width, kind))
    assert len(flat) == {"plain": 567, "ibn": 568, "ain": 552}[kind]
    variables, report = convert.load_into(shapes_of(width, kind), flat, osnet.TORCH_RULES)
    counters = {name for name in flat if name.endswith("num_batches_tracked")}
    assert {entry.fate for entry in report.entries} == {"loaded", "ignored"}
    assert {entry.source for entry in report.named("ignored")} == counters
    back = convert.to_torch(variables)
    assert set(back) == set(flat) - counters
    for name, value in back.items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, flat[name], err_msg=name)


def test_a_file_of_other_identities_and_with_a_prefix(tmp_path):
    flat = torchreid_names.draw(torchreid_names.shapes("x0_25", "plain", 1000))
    flat = {f"module.{name}": np.asarray(value) for name, value in flat.items()}
    path = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file(flat, path)
    shapes = shapes_of("x0_25", "plain", 9)
    loaded, report = models.load_weights("osnet", shapes, path, allow_missing=("classifier",))
    misfits = report.named("misfit")
    assert {entry.target for entry in misfits} == {"params/classifier/kernel", "params/classifier/bias"}
    assert "misfit classifier.weight (1000, 512) -> (512, 9), allowed" in str(report)
    assert loaded["params"]["classifier"] == shapes["params"]["classifier"]
    np.testing.assert_array_equal(loaded["params"]["fc_0"]["bias"], flat["module.fc.0.bias"])
    with pytest.raises(errors.UserError, match=r"2 misfit \(first: misfit classifier\.bias"):
        models.load_weights("osnet", shapes, path)
    for lacking in ("module.conv3.1.gate.fc2.bias", "module.conv5.bn.running_mean"):
        safetensors.numpy.save_file({name: value for name, value in flat.items() if name != lacking}, path)
        with pytest.raises(errors.UserError, match=r"1 missing \(first: missing .*(gate/fc2/bias|conv5/bn/mean)"):
            models.load_weights("osnet", shapes, path, allow_missing=("classifier",))


def test_weights_of_another_width_or_kind_are_refused():
    flat = torchreid_names.draw(torchreid_names.shapes("x0_25", "plain", 9))
    for width, kind in (("x0_25", "ibn"), ("x0_25", "ain"), ("x0_5", "plain")):
        with pytest.raises(errors.UserError, match="not those of this model"):
            convert.load_into(shapes_of(width, kind), flat, allow_missing=("classifier",))


def test_extract_gives_pytorchs_features_from_a_torchreid_file(root, golden, tmp_path, capsys):
    script = extract
    np.savez(tmp_path / "weights.npz", **torchreid_names.draw(torchreid_names.shapes("x0_25", "plain", 9)))
    (tmp_path / "images").mkdir()
    for index, picture in enumerate(torchreid_names.pictures()):
        Image.fromarray(picture).save(tmp_path / "images" / f"{index}.png")
    files = [f"--{name}={tmp_path / name}" for name in ("images",)]
    files += [f"--weights={tmp_path / 'weights.npz'}", f"--output={tmp_path / 'features.npz'}"]
    sizes = ["--height=64", "--width=32", "--batch-size=8"]
    assert script.main(["--model=osnet_x0_25", *files, *sizes, "--dtype=float32"]) == 0
    assert "2 images: 512 values each" in capsys.readouterr().out
    with np.load(tmp_path / "features.npz") as found:
        close(found["features"], golden["plain/feature"], 1e-5)
        assert '"metric": "euclidean"' in str(found["meta"])
