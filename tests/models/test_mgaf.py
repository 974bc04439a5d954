"""MGN and MGAF: sizes and cost of the ablation table, stripes, attention, equal beginnings, names of weights."""

import functools
import importlib.util
import math
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reid_jax import errors, losses, models, trees
from reid_jax.models import macs, mgaf
from reid_jax.weights import convert

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TINY: dict[str, Any] = {"num_classes": 5, "width": 4, "depths": (1, 1, 2, 1), "feature_width": 6}
BATCH = {
    "image": np.random.default_rng(1).normal(size=(4, 96, 32, 3)).astype(np.float32),
    "label": np.array([0, 0, 3, 3], np.int32),
}

# Compiling is what these cost: the optimizer of machine code stays off.
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def shapes(model: mgaf.MGN, batch: int = 2, size: tuple[int, int] = (384, 128)) -> tuple[dict, dict]:
    """Shapes of outputs and variables, without computing anything."""
    images = {"image": jax.ShapeDtypeStruct((batch, *size, 3), jnp.float32)}
    return jax.eval_shape(functools.partial(model.init_with_output, train=False), jax.random.key(0), images)


def count(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def config_of(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def tiny(**changes: Any) -> tuple[mgaf.MGAF, dict, dict]:
    """A narrow MGAF, its initial variables and outputs for `BATCH`."""
    model = mgaf.MGAF(**{**TINY, **changes})
    variables = compiled(functools.partial(model.init, train=False))(jax.random.key(0), BATCH)
    return model, variables, compiled(functools.partial(model.apply, train=False))(variables, BATCH)


# ---- sizes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "parameters", "giga", "width"),
    [
        ("mgaf_base", 24_225_839, 4.00, 256),
        ("mgaf_base_att", 24_752_403, 4.00, 256),
        ("mgaf_g_p2", 46_929_916, 7.94, 1024),
        ("mgaf_p2_p3", 49_083_337, 10.02, 1792),
        ("mgaf_noatt", 70_351_800, 11.88, 2048),
        ("mgaf", 71_931_492, 11.88, 2048),
    ],
)
def test_rows_of_the_ablation_table(row, parameters, giga, width):
    """Parameters, multiply-accumulates (cut after two digits in the table), features; every loss finds its head."""
    settings = config_of("mgaf").get_config(f"market1501,{row}")
    options = settings.model.to_dict()
    model = models.build(options.pop("name"), num_classes=751, **options)
    size = macs.measure(model, 384, 128)
    assert size.parameters == parameters
    assert math.floor(size.macs / 1e7) / 100 == giga
    described = jax.eval_shape(model.describe, size.outputs)
    assert described.features.shape == (1, width)
    assert {term.on for term in settings.losses.values() if term.loss == "cross_entropy"} == {
        f"logits/{head}" for head in model.heads
    }
    assert {term.on for term in settings.losses.values() if term.loss == "triplet"} == {
        f"feature/{head}" for head in model.heads if head.startswith("g")
    }
    for loss in ("cross_entropy", "triplet"):
        assert sum(term.weight for term in settings.losses.values() if term.loss == loss) == pytest.approx(1)
    assert settings.monitors.accuracy.on in size.outputs


def test_tensors_of_the_full_network():
    outputs, variables = shapes(mgaf.MGAF(751))
    params = variables["params"]
    assert count(params["trunk"]) == 2_957_376
    assert [count(params[f"branch_{name}"]) for name in ("g", "p2", "p3")] == [20_550_656] * 3
    assert [count(params[f"attention_{name}"]) for name in ("g", "p2", "p3")] == [526_564] * 3
    assert outputs["map/g"].shape == (2, 12, 4, 2048)
    assert outputs["map/p2"].shape == outputs["map/p3"].shape == (2, 24, 8, 2048)
    heads = ("g1", "g2", "g3", "p2_0", "p2_1", "p3_0", "p3_1", "p3_2")
    assert mgaf.MGAF(751).heads == heads
    for head in heads:
        assert count(params[f"reduction_{head}"]) == 524_800
        assert count(params[f"classifier_{head}"]) == 193_007
        assert outputs[f"feature/{head}"].shape == (2, 256)
        assert outputs[f"logits/{head}"].shape == (2, 751)


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("mgn", {}, 74_389_176),
        ("mgn", {"global_ce_input": "reduced"}, 70_351_800),
        ("mgaf", {"attention": "se"}, 70_351_800 + 3 * 524_288),
        # Four 1×1 convolutions with biases, and the last normalization.
        ("mgaf", {"attention": "nonlocal"}, 70_351_800 + 3 * (4 * 2048 * 1024 + 3 * 1024 + 2048 + 2 * 2048)),
        ("mgaf", {"attention_scope": "stripe"}, 70_351_800 + 8 * 526_564),
        ("mgaf", {"p3_stripes": 4}, 71_931_492 + 524_800 + 193_007),
        # Branch 3 has a first block of layer3 of its own.
        ("mgaf", {"p3_map": "48x16"}, 71_931_492 + 1_512_448),
        ("mgaf", {"pooling": "gem", "attention_residual": False}, 71_931_492 + 8),
    ],
    ids=lambda value: ",".join(f"{key}={one}" for key, one in value.items()) if isinstance(value, dict) else "",
)
def test_parameters_of_the_flags(name, changes, expected):
    outputs, variables = shapes(models.build(name, num_classes=751, **changes))
    assert count(variables["params"]) == expected
    assert outputs["map/p3"].shape[1:3] == ((48, 16) if "p3_map" in changes else (24, 8))


# ---- behavior ------------------------------------------------------------------------------------------------------


def test_without_attention_it_is_mgn():
    """The same tree of parameters, and the same computation, operation by operation."""
    both = [mgaf.MGAF(751, attention="none"), mgaf.MGN(751, global_ce_input="reduced")]
    traced = []
    for model in both:
        _, variables = shapes(model)
        images = {"image": jax.ShapeDtypeStruct((2, 384, 128, 3), jnp.float32)}
        apply = functools.partial(model.apply, train=True, mutable=["batch_stats"])
        traced.append((jax.tree.map(str, variables), str(jax.make_jaxpr(apply)(variables, images))))
    assert traced[0][0] == traced[1][0]
    # Two traces of the same network differ in the addresses of functions that they print.
    operations = [re.sub(r"0x[0-9a-f]+", "", text) for _, text in traced]
    assert len(operations[0]) > 10_000
    assert operations[0] == operations[1]


def test_heads_read_their_windows():
    """A change in the lower half of P3's map leaves the top stripe alone, and stripes tile the map exactly."""
    model = mgaf.MGAF(**TINY, attention="none")
    x = jnp.arange(24.0).reshape(1, 24, 1, 1)
    bound = model.bind({})
    assert [list(np.unique(one)) for one in bound.stripes("p2", x).values()] == [[*range(12)], [*range(12, 24)]]
    assert [one.shape[1] for one in bound.stripes("p3", x).values()] == [8, 8, 8]
    assert list(np.concatenate(list(bound.stripes("p3", x).values()), axis=1).ravel()) == list(range(24))
    assert bound.stripes("g", x) == {}
    assert list(bound.windows("p2", x, False)) == ["g2", "p2_0", "p2_1"]
    with pytest.raises(errors.UserError, match="20 rows of branch p3's map to divide into 3 stripes"):
        bound.stripes("p3", x[:, :20])


def test_branches_begin_alike_and_part_after_a_step():
    model, variables, _ = tiny()
    params = variables["params"]
    branches = [params[f"branch_{name}"] for name in ("g", "p2", "p3")]
    for other in branches[1:]:
        jax.tree.map(np.testing.assert_array_equal, branches[0], other)
    terms = config_of("mgaf").get_config("market1501").losses.to_dict()

    @compiled
    def gradients(params):
        def loss(params):
            outputs, _ = model.apply({**variables, "params": params}, BATCH, train=True, mutable=["batch_stats"])
            return losses.evaluate_terms(terms, {**outputs, "batch/label": BATCH["label"]})

        return jax.grad(loss, has_aux=True)(params)

    found, values = gradients(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    # Every parameter is on the way to a loss; first gradients of one block may vanish by chance, of all cannot.
    still = [path for path, leaf in trees.flatten(found).items() if not np.any(leaf)]
    assert not still
    assert len(values) == 11
    moved = jax.tree.map(lambda value, gradient: value - 0.1 * gradient, *jax.device_get((params, found)))
    kernels = [moved[f"branch_{name}"]["layer4_0"]["conv1"]["kernel"] for name in ("g", "p2", "p3")]
    assert not np.array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[1], kernels[2])


def test_a_larger_third_branch_begins_alike_too():
    model = mgaf.MGAF(**TINY, p3_map="48x16", branches=("p3", "p2"))
    outputs, _ = shapes(model, size=(96, 32))
    assert outputs["map/p3"].shape == (2, 12, 4, 128)
    assert outputs["map/p2"].shape == (2, 6, 2, 128)
    params = compiled(functools.partial(model.init, train=False))(jax.random.key(0), BATCH)["params"]
    own = dict(params["branch_p3"])
    assert own.pop("layer3_0").keys() == params["trunk"]["layer3_0"].keys()
    jax.tree.map(np.testing.assert_array_equal, own, dict(params["branch_p2"]))


def test_a_test_image_does_not_see_the_others():
    model, variables, outputs = tiny()
    alone = compiled(functools.partial(model.apply, train=False))(variables, {"image": BATCH["image"][1:2]})
    for name, value in alone.items():
        np.testing.assert_allclose(value, outputs[name][1:2], rtol=1e-4, atol=1e-5, err_msg=name)
    assert np.min(outputs["feature/g1"]) >= 0
    described = model.describe(outputs).features
    np.testing.assert_array_equal(described[:, :6], outputs["feature/g1"])
    np.testing.assert_array_equal(described[:, -6:], outputs["feature/p3_2"])


def test_unknown_options_are_explained():
    for options, message in [
        ({"branches": ("g", "p4")}, "unknown branch 'p4'"),
        ({"attention": "cban"}, "did you mean 'cbam'"),
        ({"attention_scope": "maps"}, "did you mean 'map'"),
        ({"global_ce_input": "reduce"}, "did you mean 'reduced'"),
        ({"p3_map": "48x8"}, "map of branch 3"),
        ({"depths": (3, 4, 1, 3)}, "at least 2 blocks in stage 3"),
    ]:
        with pytest.raises(errors.UserError, match=message):
            shapes(models.build("mgaf", num_classes=5, **options))


# ---- weights --------------------------------------------------------------------------------------------------------


def test_names_of_the_public_reimplementation_both_ways():
    """Renamed to its names and back, every array of MGN arrives bit for bit."""
    model = mgaf.MGN(**{**TINY, "depths": (1, 1, 6, 2)}, global_ce_input="reduced")
    rng = np.random.default_rng(0)
    wanted = shapes(model, size=(96, 32))[1]
    variables = jax.tree.map(lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype(np.float32), wanted)
    theirs = convert.to_torch(variables, mgaf.TORCH_EXPORT_RULES)
    for name in (
        "backone.0.weight",
        "backone.4.0.downsample.0.weight",
        "backone.6.bn3.running_var",
        "p1.0.4.conv2.weight",
        "p3.1.1.bn1.weight",
        "reduction_7.0.weight",
        "reduction_3.1.running_mean",
        "fc_id_2048_2.bias",
        "fc_id_256_2_2.weight",
    ):
        assert name in theirs
    assert theirs["reduction_0.0.weight"].shape == (6, 128, 1, 1)
    assert all(name.startswith(("backone.", "p1.", "p2.", "p3.", "reduction_", "fc_id_")) for name in theirs)
    ignored = (*convert.IGNORED, *mgaf.TORCH_IGNORED)
    loaded, report = convert.load_into(wanted, theirs, mgaf.TORCH_RULES, ignore=ignored)
    assert len(report.named("loaded")) == len(report.entries) == len(jax.tree.leaves(wanted))
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    assert mgaf.backbone_parts(variables, theirs) == []


def test_one_resnet_file_fills_the_trunk_and_every_branch(tmp_path):
    """Every leaf of trunk and branches is the file's, all branches alike; written back, the file is the same."""
    with np.load(ROOT / "tests" / "golden" / "resnet.npz") as file:
        golden = {name: file[name] for name in file.files}
    published = {name.removeprefix("weights/"): value for name, value in golden.items() if name.startswith("weights/")}
    published |= {"fc.weight": np.zeros((10, 256), np.float32), "fc.bias": np.zeros(10, np.float32)}
    np.savez(tmp_path / "resnet.npz", **published)
    model = mgaf.MGAF(3, depths=(2, 1, 2, 1), width=8, p3_map="48x16")
    wanted = shapes(model, size=(96, 32))[1]
    filled, report = models.load_weights("mgaf", wanted, tmp_path / "resnet.npz")
    flat = trees.flatten(filled)
    loaded = {path: value for path, value in flat.items() if isinstance(value, np.ndarray)}
    owners = {path.split("/")[1] for path in loaded}
    assert owners == {"trunk", "branch_g", "branch_p2", "branch_p3"}
    assert {path for path in flat if path.split("/")[1] in owners} == set(loaded)
    assert len(report.named("loaded")) == len(loaded)
    for path, value in loaded.items():
        collection, owner, rest = path.split("/", 2)
        twin = "trunk" if rest.startswith("layer3_0/") else "branch_g"
        if owner != "trunk":
            np.testing.assert_array_equal(value, flat[f"{collection}/{twin}/{rest}"], err_msg=path)
    once = trees.unflatten({path: value for path, value in loaded.items() if "branch_p" not in path})
    back = convert.to_torch(once, ((r"^(trunk|branch_g)\.", ""),))
    assert back.keys() == {name for name in published if not name.startswith("fc.") and "num_batches" not in name}
    for name, value in back.items():
        np.testing.assert_array_equal(value, published[name], err_msg=name)

    del published["layer4.0.bn2.bias"]
    np.savez(tmp_path / "torn.npz", **published)
    with pytest.raises(convert.ConversionError, match="missing params/branch_g/layer4_0/bn2/bias"):
        models.load_weights("mgaf", wanted, tmp_path / "torn.npz")
