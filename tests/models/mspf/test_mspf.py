"""OSFA and MSPF: sizes and cost of the ablation table, losses, descriptor, training, schedule, weights."""

import dataclasses
import functools
import importlib.util
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from reid_jax import config, errors, losses, models, trees
from reid_jax.models import macs as macs_lib
from reid_jax.models.backbones import osnet
from reid_jax.models.mspf import mspf, multi_patch
from reid_jax.runs import starting_point
from reid_jax.train import extras, schedules
from reid_jax.weights import convert
from tests.helpers import torchreid_names
from tests.helpers.tiny_mspf import IMAGES, RANDOM, compiled, initial, shapes

pytestmark = pytest.mark.usefixtures("native")
ROOT = pathlib.Path(__file__).resolve().parents[3]
OSFA_ATTENTION = {"attention": "spatial_channel", "attention_kind": "osfa"}


def count(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def config_of(argument: str) -> Any:
    spec = importlib.util.spec_from_file_location("mspf_config", ROOT / "configs" / "mspf.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(argument)


# ---- sizes (properties 1 and 2) -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "parameters", "without_classifiers", "macs"),
    [
        ({"mpf_patches": ()}, 7_528_574, 2_528_416, 1_172_736_000),
        ({"mpf_patches": (), "attention": "none"}, 7_509_634, 2_509_476, 1_071_153_040),
        ({"mpf_patches": (2,)}, 9_819_938, 4_435_268, 2_151_383_840),
        ({}, 11_725_766, 6_341_096, 3_130_095_968),
        ({"mpf_patches": (2, 4, 8)}, 13_631_594, 8_246_924, 4_108_936_672),
        ({"attention": "channel"}, 11_725_666, 6_340_996, 3_130_083_424),
        ({"attention": "spatial"}, 11_706_926, 6_322_256, 3_130_058_288),
        ({"attention": "none"}, 11_706_826, 6_322_156, 3_028_513_008),
    ],
)
def test_parameters_and_cost_are_those_of_the_table(options, parameters, without_classifiers, macs):
    size = macs_lib.measure(models.build("mspf", num_classes=751, **options))
    heads = {name: tree for name, tree in size.variables["params"].items() if name.startswith("classifier")}
    assert (size.parameters, size.parameters - count(heads)) == (parameters, without_classifiers)
    assert size.macs == macs


@pytest.mark.parametrize(
    ("options", "parameters", "macs"),
    [
        ({"attention": "none"}, 2_533_584, 1_071_153_040),
        ({**OSFA_ATTENTION}, None, 1_179_828_176),
        ({**OSFA_ATTENTION, "attention_at": (2, 3)}, None, 1_490_847_488),
    ],
)
def test_cost_is_that_of_the_released_training_logs(options, parameters, macs):
    size = macs_lib.measure(models.build("mspf", num_classes=751, mpf_patches=(), **options))
    assert size.macs == macs
    if parameters is not None:
        # The logs count the unified gates' layers once per use: four times in each of the six blocks.
        params = size.variables["params"]
        gates = sum(count(block["gate"]) for name, block in params["osfa"].items() if "gate" in block)
        classifiers = sum(count(params[f"classifier_{head}"]) for head in ("g", "l"))
        assert count(params) - classifiers + 3 * gates == parameters


def test_shapes_of_maps_and_features():
    outputs = shapes(mpf_patches=(2, 4, 8))[0]
    for level in (2, 4, 8):
        assert outputs[f"map/level{level}"].shape == (2, 16, 8, 512)
    assert outputs["feature/osfa"].shape == outputs["feature/patches"].shape == (2, 512)
    assert outputs["feature/l"].shape == (2, 6144)
    assert outputs["feature/g"].shape == (2, 1024)
    patches = {2: (8, 8), 4: (8, 4), 8: (4, 4)}
    for number, size in patches.items():
        rows, columns = multi_patch.grid(number)
        trunk = osnet.Trunk()
        cut = jax.ShapeDtypeStruct((number, 256 // rows, 128 // columns, 3), jnp.float32)
        found = jax.eval_shape(functools.partial(trunk.init_with_output, train=False), jax.random.key(0), cut)[0]
        assert found.shape == (number, *size, 512)


@pytest.mark.parametrize(("options", "length"), [({}, 7168), ({"mpf_patches": ()}, 6656), ({"sam_maps": (2, 3)}, 5120)])
def test_length_of_the_descriptor(options, length):
    outputs = shapes(**options)[0]
    model = models.build("mspf", num_classes=751, **options)
    assert jax.eval_shape(model.describe, outputs).features.shape == (2, length)


# ---- losses and descriptor (properties 10 and 11) -------------------------------------------------------------------


def test_the_total_is_the_mean_over_the_branches_with_the_papers_weights():
    config = config_of("market1501")
    labels = jnp.asarray([0, 0, 1, 1])
    values = {"batch/label": labels}
    for head, length in (("g", 3), ("l", 5)):
        values[f"logits/{head}"] = jnp.asarray(RANDOM.normal(size=(4, 2)), jnp.float32)
        values[f"feature/{head}"] = jnp.asarray(RANDOM.normal(size=(4, length)), jnp.float32)
        values[f"extra/centers_{head}"] = jnp.asarray(RANDOM.normal(size=(2, length)), jnp.float32)
    total, terms = losses.evaluate_terms(config.losses.to_dict(), values)
    mean = lambda kind: 0.5 * (terms[f"loss/{kind}_g"] + terms[f"loss/{kind}_l"])
    np.testing.assert_allclose(total, mean("ce") + 1.0 * mean("tri") + 0.0007 * mean("center"), rtol=1e-6)


def test_center_loss_and_the_step_of_the_centers():
    centers = jnp.asarray(RANDOM.normal(size=(3, 4)), jnp.float32)
    labels = jnp.asarray([0, 0, 2])
    center = losses.LOSSES["center"]
    assert center(centers[labels], centers, labels=labels) <= 1e-12
    shifted = centers[labels] + jnp.asarray([2.0, 0, 0, 0])[None]
    np.testing.assert_allclose(center(shifted, centers, labels=labels), 4.0, rtol=1e-5)
    slope = jax.grad(lambda own: center(shifted, own, labels=labels))(centers)
    np.testing.assert_array_equal(slope[1], 0.0)
    # The term's weight does not reach the centers' own step.
    settings = config_of("market1501")
    weight = settings.losses.center_g.weight
    assert weight == pytest.approx(0.5 * 0.0007)
    options = settings.extras.centers_g.to_dict() | {"dimension": 4}
    extra = extras.build({"centers": options}, num_classes=3)["centers"]
    np.testing.assert_allclose(extra.update(centers, weight * slope, {}), centers - 0.5 * slope, rtol=1e-5)


def test_centers_are_as_long_as_the_parameter_they_name():
    extra = extras.build(config_of("demo").extras.to_dict(), num_classes=7)
    params = shapes(image=(64, 32), size="x0_25")[1]["params"]
    drawn = {
        name: jax.eval_shape(functools.partial(one.init, variables={"params": params}), jax.random.key(0))
        for name, one in extra.items()
    }
    assert drawn["centers_g"].shape == (7, 256)
    assert drawn["centers_l"].shape == (7, 1536)
    wrong = extras.build({"c": {"kind": "centers", "dimension": "neck_x/bias"}}, num_classes=7)["c"]
    with pytest.raises(errors.UserError, match="neck_g/bias"):
        wrong.init(jax.random.key(0), {"params": {"neck_g": {"bias": jnp.zeros(3)}}})


def test_halves_have_unit_length_and_rank_by_both_cosines():
    necks = {f"neck/{head}": jnp.asarray(RANDOM.normal(size=(9, 6)), jnp.float32) for head in ("g", "l")}
    features = mspf.MSPF(num_classes=2).describe(necks).features
    np.testing.assert_allclose(jnp.linalg.norm(features[:, :6], axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(features[:, 6:], axis=1), 1.0, rtol=1e-5)
    distance = jnp.linalg.norm(features[:1] - features[1:], axis=1)
    unit = [one / jnp.linalg.norm(one, axis=1, keepdims=True) for one in necks.values()]
    cosines = sum(one[1:] @ one[0] for one in unit)
    np.testing.assert_array_equal(jnp.argsort(distance), jnp.argsort(-cosines))


# ---- training (properties 12 and 15) --------------------------------------------------------------------------------


def test_learning_rates_by_epoch():
    config = config_of("market1501")
    built = schedules.build(config.schedule.to_dict(), config.optimizer.learning_rate, 1.0, 200 * 7, 7)
    epochs = (1, 2, 20, 40, 41, 100, 101, 130, 131, 200)
    expected = (3.5e-5, 4.308e-5, 1.885e-4, 3.5e-4, 3.5e-4, 3.5e-4, 3.5e-5, 3.5e-5, 3.5e-6, 3.5e-6)
    np.testing.assert_allclose([built.exact(7 * (epoch - 1)) for epoch in epochs], expected, rtol=3e-4)
    constant = config_of("market1501,mspf_constant_rate")
    built = schedules.build(constant.schedule.to_dict(), constant.optimizer.learning_rate, 1.0, 1400, 7)
    assert built.exact(0) == built.exact(1399) == 3.5e-5


def test_a_few_steps_lower_the_loss_and_reach_every_parameter():
    model = models.build("mspf", num_classes=4, size="x0_25", mpf_patches=(2,), depths=(1, 1, 1))
    labels = jnp.arange(4).repeat(2)
    random = np.random.default_rng(0)
    images = random.normal(size=(4, 64, 32, 3)).repeat(2, axis=0) + 0.3 * random.normal(size=(8, 64, 32, 3))
    batch = {"image": jnp.asarray(images, jnp.float32)}
    variables = initial(model, batch, train=False)
    terms = {name: term for name, term in config_of("demo").losses.to_dict().items() if "center" not in name}
    optimizer = optax.flatten(optax.adam(1e-3))

    def loss(params, stats, share):
        held = {"params": params, "batch_stats": stats}
        outputs, updated = model.apply(held, batch, train=True, mutable=["batch_stats"])
        total, values = losses.evaluate_terms(terms, {"batch/label": labels, **outputs})
        whole = sum(term["weight"] * values[f"loss/{name}"] for name, term in terms.items() if name.endswith("_g"))
        return total - (1.0 - share) * whole, updated["batch_stats"]

    @compiled
    def step(params, stats, state, share):
        (value, stats), slopes = jax.value_and_grad(loss, has_aux=True)(params, stats, share)
        updates, state = optimizer.update(slopes, state)
        return optax.apply_updates(params, updates), stats, state, value, slopes

    params, stats, state = variables["params"], variables["batch_stats"], compiled(optimizer.init)(variables["params"])
    values = []
    for _ in range(5):
        params, stats, state, value, slopes = step(params, stats, state, jnp.float32(1.0))
        values.append(float(value))
    assert values[-1] < 0.8 * values[0]
    still = jax.tree.map(np.array_equal, stats, variables["batch_stats"])
    assert not any(jax.tree.leaves(still))  # every normalization is in training mode
    assert all(np.isfinite(slope).all() for slope in jax.tree.leaves(slopes))
    # Without the losses of the global head: the local path reads conv2 to conv4, and neither attention nor patches.
    slopes = step(params, stats, state, jnp.float32(0.0))[-1]
    largest = lambda tree: max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(tree))
    local = {name: largest(tree) for name, tree in slopes["osfa"].items()}
    assert min(local[name] for name in ("conv2_0", "conv3_0", "conv4_0", "align2", "align3")) > 0
    assert max(local["conv5"], local["attention3"], largest(slopes["mpf"])) == 0


# ---- weights --------------------------------------------------------------------------------------------------------


def test_one_osnet_file_fills_the_trunk_and_every_level(tmp_path):
    model = models.build("mspf", num_classes=3, size="x0_25")
    blank = jax.eval_shape(
        functools.partial(model.init, train=False), jax.random.key(0), {"image": jnp.asarray(IMAGES)}
    )
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), blank)
    published = torchreid_names.draw(torchreid_names.shapes("x0_25", "plain"))
    path = tmp_path / "osnet.npz"
    np.savez(path, **published)
    filled, report = models.load_weights("mspf", variables, path, allow_missing=("classifier",))
    for place in (filled["params"]["osfa"], *filled["params"]["mpf"].values()):
        kernel = place["conv3_1"]["conv2c_1"]["conv1"]["kernel"]
        np.testing.assert_array_equal(kernel, published["conv3.1.conv2c.1.conv1.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(
        filled["batch_stats"]["mpf"]["level4"]["conv5"]["bn"]["var"], published["conv5.bn.running_var"]
    )
    assert not filled["params"]["osfa"]["align2"]["kernel"].any()
    assert len(report.named("loaded", "reshaped")) == 3 * len(
        [name for name in published if not name.startswith(("fc.", "classifier.")) and "num_batches" not in name]
    )
    wrong = {name: value for name, value in published.items() if name != "conv4.1.conv3.conv.weight"}
    np.savez(path, **wrong)
    with pytest.raises(errors.UserError, match="conv4_1/conv3"):
        models.load_weights("mspf", variables, path, allow_missing=("classifier",))


def test_the_local_branch_alone_has_neither_global_path_nor_patches(tmp_path):
    options = {key: value for key, value in config_of("market1501,mspf_local").model.to_dict().items() if key != "name"}
    model = models.build("mspf", num_classes=3, size="x0_25", **options)
    outputs, variables = jax.eval_shape(
        functools.partial(model.init_with_output, train=False), jax.random.key(0), {"image": jnp.asarray(IMAGES)}
    )
    assert {name: value.shape for name, value in outputs.items() if name[0] != "m"} == {
        "feature/l": (4, 3 * 4 * 128),
        "neck/l": (4, 3 * 4 * 128),
        "logits/l": (4, 3),
    }
    assert set(variables["params"]) == {"osfa", "neck_l", "classifier_l"}
    assert not {"conv5", "fc", "attention3"} & set(variables["params"]["osfa"])
    np.savez(tmp_path / "osnet.npz", **torchreid_names.draw(torchreid_names.shapes("x0_25", "plain")))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), variables)
    filled, _ = models.load_weights("mspf", zeros, tmp_path / "osnet.npz", allow_missing=("classifier",))
    assert filled["params"]["osfa"]["conv4_1"]["conv2c_1"]["conv1"]["kernel"].any()
    features = mspf.MSPF(num_classes=2, branches=("l",)).describe({"neck/l": jnp.asarray([[3.0, 4.0]])}).features
    np.testing.assert_allclose(features, [[0.6, 0.8]])
    with pytest.raises(errors.UserError, match="branches is"):
        mspf.MSPF(num_classes=2, branches=("g",)).init(jax.random.key(0), {"image": IMAGES}, train=False)


def test_names_of_the_whole_model_go_to_torch_and_back():
    variables = initial(models.build("mspf", num_classes=3, size="x0_25"), {"image": IMAGES}, train=False)
    names = convert.to_torch(variables)
    back, _ = convert.load_into(variables, names)
    assert jax.tree.all(jax.tree.map(np.array_equal, variables, back))
    again = convert.to_torch(back)
    assert names.keys() == again.keys()
    assert all(np.array_equal(names[key], again[key]) for key in names)


# ---- starting from a trained OSFA -----------------------------------------------------------------------------------


def test_mspf_starts_from_a_trained_osfa(monkeypatch):
    init = config.Settings.of(config.to_dict(config_of("market1501,mspf_from_osfa"))).init
    parent = config_of("market1501,osfa").model.to_dict()
    osfa = jax.tree.map(lambda leaf: np.full(leaf.shape, 7, np.float32), shapes(**_without_name(parent))[1])
    monkeypatch.setattr(starting_point.folder_lib.RunFolder, "read_config", lambda self: None)
    monkeypatch.setattr(starting_point.checkpoints, "restore_variables", lambda *_, **__: (osfa, {}))
    filled, report = starting_point.load_run(shapes()[1], "runs/osfa", init)
    loaded = {path for path, leaf in trees.flatten(filled).items() if isinstance(leaf, np.ndarray)}
    rest = {path.split("/", 1)[1] for path in set(trees.flatten(filled)) - loaded}
    assert {"params/osfa/conv1/conv/kernel", "batch_stats/osfa/conv5/bn/mean", "params/neck_l/scale"} <= loaded
    assert all(path.startswith(("mpf/", "neck_g/", "classifier_g/", "osfa/attention")) for path in rest)
    assert not report.named("extra")
    with pytest.raises(errors.UserError, match="attention"):
        starting_point.load_run(shapes()[1], "runs/osfa", dataclasses.replace(init, ignore=()))


def test_mspf_starts_from_the_file_of_a_trained_osfa(tmp_path):
    init = config.Settings.of(config.to_dict(config_of("market1501,mspf_from_osfa"))).init
    parent = config_of("market1501,osfa").model.to_dict()
    osfa = jax.tree.map(lambda leaf: np.full(leaf.shape, 7, np.float32), shapes(**_without_name(parent))[1])
    convert.save(tmp_path / "osfa.npz", osfa)
    model, blank = shapes()
    options = {"model": model, "allow_missing": init.allow_missing, "ignore": init.ignore}
    filled, _ = models.load_weights("mspf", blank, tmp_path / "osfa.npz", **options)
    loaded = {path for path, leaf in trees.flatten(filled).items() if isinstance(leaf, np.ndarray)}
    assert {"params/osfa/conv1/conv/kernel", "batch_stats/osfa/conv5/bn/mean", "params/neck_l/scale"} <= loaded
    assert not any(path.split("/")[1] in ("mpf", "neck_g") for path in loaded)
    with pytest.raises(errors.UserError, match="attention"):
        models.load_weights("mspf", blank, tmp_path / "osfa.npz", allow_missing=init.allow_missing)


def _without_name(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key != "name"}
