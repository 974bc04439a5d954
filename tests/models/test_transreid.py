"""TransReID: the original's values, jigsaw patches, published files, and a tiny network that learns its images."""

from __future__ import annotations

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy

from reid_jax import errors, losses, models, trees
from reid_jax.config import files
from reid_jax.models import transreid
from reid_jax.models.backbones import vit
from reid_jax.weights import convert
from tests.helpers import torchreid_names, transreid_names

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = {"width": 16, "depth": 3, "heads": 2, "patch": 8, "stride": 8, "image_size": (32, 32)}
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(scope="module")
def parts() -> dict[str, np.ndarray]:
    with np.load(ROOT / "tests" / "golden" / "transreid_parts.npz") as file:
        return dict(file)


def shapes_of(model, **more):
    batch = {
        "image": jax.ShapeDtypeStruct((2, *model.image_size, 3), jnp.float32),
        "camid": jax.ShapeDtypeStruct((2,), jnp.int32),
        "viewid": jax.ShapeDtypeStruct((2,), jnp.int32),
        **more,
    }
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(functools.partial(model.init, train=False), key, batch)


@functools.cache
def case(name: str):
    """A model of the golden file, its PyTorch entries, and the batch."""
    fields = transreid_names.CASES[name]
    size = {"mlp_ratio" if key == "ratio" else key: value for key, value in transreid_names.SIZE.items()}
    side = {0: {}, 6: {"sie": "camera", "num_cameras": 6}}[fields["sides"]]
    batch = {"image": transreid_names.images(fields["image_size"]), "camid": np.array(transreid_names.SIDES)}
    if name == "views_384":
        side = {"sie": "camera_view", "num_cameras": 3, "num_views": 2}
        batch |= {"camid": np.array(transreid_names.SIDES) // 2, "viewid": np.array(transreid_names.SIDES) % 2}
    shape = {key: fields[key] for key in ("image_size", "stride", "jpm")}
    model = transreid.TransReID(num_classes=transreid_names.CLASSES, **size, **shape, **side)
    return model, torchreid_names.draw(transreid_names.shapes(**fields)), batch


def load(model, flat, tmp_path, **options):
    path = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file({key: np.ascontiguousarray(value) for key, value in flat.items()}, path)
    return models.load_weights("transreid", shapes_of(model), path, model=model, **options)


def run(model, variables, batch):
    with jax.default_matmul_precision("highest"):
        return compiled(functools.partial(model.apply, train=False))(variables, batch)


# ---- values of the original (property 2) ----------------------------------------------------------------------------


def test_the_authors_baseline(golden_folder, tmp_path):
    """Weights of the authors' code: class feature, feature behind the neck, scores."""
    with np.load(golden_folder / "vit_baseline_s16.npz") as file:
        golden = dict(file)
    meta = json.loads(str(golden["meta_json"]))
    flat = {name.removeprefix("sd/"): value for name, value in golden.items() if name.startswith("sd/")}
    for name in [name for name in golden if name.startswith("sd256/")]:
        flat[name.removeprefix("sd256/")] = golden[name].astype(np.float32) / 256
    model = transreid.TransReID(
        num_classes=meta["num_classes"], width=384, depth=2, heads=6, mlp_ratio=2.0, image_size=(256, 128)
    )
    variables, report = load(model, flat, tmp_path)
    assert not report.named("missing", "misfit", "extra")
    outputs = run(model, variables, {"image": golden["in/x_nchw"].transpose(0, 2, 3, 1)})
    for ours, theirs in (("feature/g", "feat_before"), ("neck/g", "feat_after"), ("logits/g", "eval_bn_scores")):
        np.testing.assert_allclose(outputs[ours], golden[f"out/{theirs}"], atol=5e-5, err_msg=theirs)
    np.testing.assert_allclose(outputs["feature/g"], golden["out/feat_before_f64"], atol=5e-5)


@pytest.mark.parametrize("name", transreid_names.CASES)
def test_values_with_cameras_views_and_overlap(name, tmp_path):
    with np.load(ROOT / "tests" / "golden" / "transreid.npz") as file:
        golden = {key.partition("/")[2]: value for key, value in file.items() if key.startswith(f"{name}/")}
    model, flat, batch = case(name)
    outputs = run(model, load(model, flat, tmp_path)[0], batch)
    heads = ("g", "1", "2", "3", "4") if model.jpm else ("g",)
    for kind, wanted in (("feature", golden["features"]), ("neck", golden["necks"]), ("logits", golden["logits"])):
        found = np.stack([outputs[f"{kind}/{head}"] for head in heads])
        np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max(), err_msg=kind)
    joined = golden["joined"]
    np.testing.assert_allclose(
        model.describe(outputs).features, joined / np.linalg.norm(joined, axis=1, keepdims=True), atol=1e-5
    )
    after = model.clone(test_feature="neck").describe(outputs).features
    wanted = np.concatenate([outputs["neck/g"], *(outputs[f"neck/{head}"] / 4 for head in heads[1:])], axis=1)
    np.testing.assert_allclose(after, wanted / np.linalg.norm(wanted, axis=1, keepdims=True), atol=1e-6)
    with pytest.raises(errors.UserError, match="did you mean 'neck'"):
        model.clone(test_feature="nack").describe(outputs)


# ---- jigsaw patches (properties 3, 4 and 6) -------------------------------------------------------------------------


def test_shuffling_as_the_authors_do(parts):
    compared = 0
    for name in parts:
        if not name.endswith("/in") or not name.startswith("shuffle"):
            continue
        folder = name.removesuffix("/in")
        shift, groups = (8, 4) if folder == "shuffle_s8_g4" else (5, 2)
        out = next(key for key in parts if key.startswith(f"{folder}/out"))
        found = transreid.shuffle(transreid.rotate(jnp.asarray(parts[name][:, 1:]), shift), groups)
        np.testing.assert_array_equal(found[:, : parts[out].shape[1]], parts[out], err_msg=folder)
        compared += 1
    assert compared == 9


def test_shuffling_by_number():
    """Property 3."""
    numbered = lambda count: jnp.arange(1.0, count + 1)[None, :, None]
    deal = lambda count: np.asarray(transreid.shuffle(transreid.rotate(numbered(count), 5), 2))[0, :, 0]
    assert deal(128)[:4].tolist() == [5, 69, 6, 70]
    assert sorted(deal(128)) == list(range(1, 129))
    odd = deal(189).tolist()
    assert len(odd) == 190
    # Behind the rotation the last but one is the third.
    assert sorted(odd) == sorted([*range(1, 190), 3])
    np.testing.assert_array_equal(transreid.shuffle(transreid.rotate(numbered(30), 1), 1), numbered(30))
    stripes = transreid.jigsaw(numbered(30), parts=4, shift=5, groups=2, rearrangement=False)
    assert [stripe[0, 0, 0] for stripe in stripes] == [1, 8, 15, 22]
    with pytest.raises(errors.UserError, match="shuffle_groups"):
        transreid.shuffle(numbered(30), 4)


@functools.cache
def tiny_jpm():
    """A model with a grid of which four parts leave two tokens over, and a function of its memory's tokens."""
    model = transreid.TransReID(num_classes=5, jpm=True, **{**TINY, "image_size": (48, 24)})
    batch = {"image": np.random.default_rng(0).normal(size=(2, 48, 24, 3)).astype(np.float32)}
    variables = compiled(functools.partial(model.init, train=False))(jax.random.key(0), batch)
    return model, batch, variables


def test_two_left_over_tokens_reach_the_global_feature_alone():
    """Property 4: of 18 tokens each part takes 4; the last two of the shuffled ones are patches 13 and 4."""
    model, batch, variables = tiny_jpm()
    left_over = np.asarray(transreid.shuffle(transreid.rotate(jnp.arange(18)[None, :, None], 5), 2))[0, 16:, 0]
    changed = {**batch, "image": batch["image"].copy()}
    assert sorted(left_over.tolist()) == [3, 12]
    # Without the blocks in front, a patch's pixels reach its own token only.
    model = model.clone(depth=1)
    kept = {key: value for key, value in variables["params"]["backbone"].items() if not key.startswith("blocks")}
    variables = {**variables, "params": {**variables["params"], "backbone": kept}}
    for patch in left_over:
        row, column = divmod(int(patch), 3)
        changed["image"][:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += 3.0
    before, after = run(model, variables, batch), run(model, variables, changed)
    for part in "1234":
        np.testing.assert_array_equal(before[f"feature/{part}"], after[f"feature/{part}"])
    assert np.abs(before["feature/g"] - after["feature/g"]).max() > 1e-3


def test_length_of_the_joined_feature():
    """Property 6."""
    model, batch, variables = tiny_jpm()
    outputs = run(model, variables, batch)
    joined = model.joined(outputs, "feature")
    square = lambda x: np.square(x).sum(-1)
    parts_ = sum(square(outputs[f"feature/{part}"]) for part in "1234")
    np.testing.assert_allclose(square(joined), square(outputs["feature/g"]) + parts_ / 16, rtol=1e-5)
    silent = jax.tree.map(jnp.zeros_like, variables["params"]["jpm_local"])
    quiet = run(model, {**variables, "params": {**variables["params"], "jpm_local": silent}}, batch)
    np.testing.assert_array_equal(quiet["feature/g"], outputs["feature/g"])
    assert not np.any(model.joined(quiet, "feature")[:, 16:])


# ---- published files (properties 7 and 17) --------------------------------------------------------------------------


@pytest.mark.parametrize("name", transreid_names.CASES)
def test_published_files_there_and_back(name, tmp_path):
    """Property 17: every entry is used or ignored for a reason; what comes back is the same to the bit."""
    model, flat, _ = case(name)
    unused = {f"base.{key}": np.ones(3, np.float32) for key in ("fc.weight", "fc.bias")}
    if model.jpm:
        unused |= {key: value for key, value in flat.items() if key.startswith(("base.blocks.2.", "base.norm."))}
    variables, report = load(model, flat | unused, tmp_path)
    assert {entry.fate for entry in report.entries} <= {"loaded", "ignored"}
    back = convert.to_torch(variables, transreid.TORCH_EXPORT_RULES)
    left = {key for key in flat if key not in back}
    assert all(key in unused or key.endswith((".bias", "num_batches_tracked")) for key in left)
    assert {key for key in left if key not in unused} == {
        key for key in flat if key.startswith("bottleneck") and key.endswith((".bias", "num_batches_tracked"))
    }
    shifted = {key for key in back if "running_mean" in key}
    for key in back.keys() - shifted:
        assert back[key].tobytes() == flat[key].tobytes(), key
    # The drawn file has shifts, which move into the means; a published one has zeros there.
    zero = {
        key: value * 0 if key.startswith("bottleneck") and key.endswith("bias") else value
        for key, value in flat.items()
    }
    again = convert.to_torch(load(model, zero, tmp_path)[0], transreid.TORCH_EXPORT_RULES)
    assert all(again[key].tobytes() == zero[key].tobytes() for key in again)
    with pytest.raises(convert.ConversionError, match=r"extra b3\.weight"):
        load(model, {**flat, "b3.weight": np.ones(2, np.float32)}, tmp_path)


def test_imagenet_weights_begin_both_branches(tmp_path):
    """Property 7, with a distilled DeiT: its second token goes, positions are resampled, heads are new."""
    model, _, batch = case("jpm_stride12")
    flat = torchreid_names.draw(transreid_names.trunk(196, prefix=""), seed=3)
    width = transreid_names.SIZE["width"]
    plain, _ = load(model, flat | {"head.weight": np.ones((10, width), np.float32)}, tmp_path)
    position = flat["pos_embed"]
    distilled = {
        **flat,
        "pos_embed": np.insert(position, 1, 9.0, axis=1),
        "dist_token": np.ones((1, 1, width), np.float32),
        "head_dist.weight": np.ones((10, width), np.float32),
    }
    loaded, report = load(model, distilled, tmp_path)
    missing = {entry.target.split("/")[1] for entry in report.named("missing")}
    assert missing == {"head_g", "head_1", "head_2", "head_3", "head_4", "backbone"}
    assert [entry.target for entry in report.named("missing") if "backbone" in entry.target] == [
        "params/backbone/sie_embed"
    ]
    params = loaded["params"]
    np.testing.assert_array_equal(params["backbone"]["pos_embed"], plain["params"]["backbone"]["pos_embed"])
    wanted = vit.resize_positions(position, (14, 14), (21, 10))
    np.testing.assert_array_equal(params["backbone"]["pos_embed"], wanted)
    assert "blocks_2" not in params["backbone"]
    last = flat["blocks.2.mlp.fc1.weight"].T
    for branch in ("jpm_global", "jpm_local"):
        np.testing.assert_array_equal(params[branch]["block"]["mlp"]["fc1"]["kernel"], last)
        np.testing.assert_array_equal(params[branch]["norm"]["scale"], flat["norm.weight"])

    # One step later they differ.
    concrete = jax.tree.map(
        lambda leaf: leaf if not isinstance(leaf, jax.ShapeDtypeStruct) else np.ones(leaf.shape, leaf.dtype), loaded
    )

    def loss(params):
        outputs = model.apply({**concrete, "params": params}, batch, train=False)
        return sum(jnp.square(outputs[f"feature/{head}"][:, 0]).sum() for head in ("g", "1", "2", "3", "4"))

    gradients = compiled(jax.grad(loss))(concrete["params"])
    assert np.abs(gradients["jpm_global"]["norm"]["bias"] - gradients["jpm_local"]["norm"]["bias"]).max() > 1e-3


def test_a_file_says_how_many_cameras_it_knows():
    assert transreid.options_of_weights(case("jpm_stride12")[1]) == {"num_cameras": 6}
    assert transreid.options_of_weights(case("baseline")[1]) == {"sie": "none"}


def test_parameter_counts():
    full = lambda **fields: trees.count_parameters(shapes_of(transreid.TransReID(num_classes=751, **fields))["params"])
    head = 768 + 751 * 768  # gain of the neck, classifier
    assert full() == 85_746_432 + head
    # The branches are two last blocks and norms, in place of the trunk's own.
    assert full(jpm=True) == 85_746_432 + 7_089_408 + 5 * head
    assert full(stride=12, sie="camera", num_cameras=6) == 85_746_432 + (210 - 128 + 6) * 768 + head


# ---- objective and learning (properties 9, 10 and 18) ---------------------------------------------------------------


def test_objective_of_the_config(parts):
    """Property 10: half global, half the mean of the locals, for both losses."""
    outputs = {}
    for index, head in enumerate(("g", "1", "2", "3", "4")):
        outputs |= {f"logits/{head}": parts[f"loss/score_{index}"], f"feature/{head}": parts[f"loss/feat_{index}"]}
    outputs["batch/label"] = parts["loss/labels"].astype(np.int32)
    for variants, smoothing, soft in (
        ("", "off", True),
        (",label_smoothing", "on", True),
        (",margin_triplet", "off", False),
        (",label_smoothing,margin_triplet", "on", False),
    ):
        for jpm, rows in (("jpm", "transreid_star"), ("global", "baseline")):
            # Rows that take terms away come last: a switch sets what is still there.
            terms = files.load_config(f"{ROOT}/configs/transreid.py:market1501{variants},{rows}").losses
            terms = {name: term for name, term in terms.to_dict().items() if term is not None and "loss" in term}
            total, _ = losses.evaluate_terms(terms, outputs)
            wanted = float(parts[f"loss/total_{jpm}_smooth-{smoothing}_softtriplet-{soft}"])
            assert float(total) == pytest.approx(wanted, rel=2e-6), (variants, rows)


def test_optimizer_of_the_config():
    """Property 9 at the recipe's level: momentum, decay of every parameter, biases at twice the rate."""
    config = files.load_config(f"{ROOT}/configs/transreid.py:market1501")
    assert (config.optimizer.name, config.optimizer.momentum, config.optimizer.learning_rate) == ("sgd", 0.9, 0.008)
    assert config.optimizer.learning_rate_multipliers == ((".*bias", 2.0), (".*", 1.0))
    assert config.optimizer.weight_decays == ((".*", 1e-4),)
    assert config.schedule.to_dict().items() >= {"name": "warmup_cosine", "warmup_epochs": 5, "first_epoch": 1}.items()
    assert (config.train.epochs, config.seed is not None) == (120.0, True)


def test_a_tiny_network_learns_its_images_by_heart():
    """Property 18: 8 people x 4 images, 2 blocks, D = 64: every image finds one of its own first."""
    random = np.random.default_rng(6)
    labels = np.repeat(np.arange(8, dtype=np.int32), 4)
    images = random.normal(size=(8, 1, 1, 3))[labels] + 2.0 * random.normal(size=(32, 32, 16, 3))
    batch = {"image": images.astype(np.float32)}
    size = {**TINY, "width": 64, "depth": 2, "image_size": (32, 16)}
    model = transreid.TransReID(num_classes=8, drop_path=0.0, **size)
    variables = compiled(functools.partial(model.init, train=False))(jax.random.key(0), batch)
    optimizer = optax.adam(1e-3)
    terms = {
        "ce": {"loss": "cross_entropy", "on": "logits/g"},
        "tri": {"loss": "triplet", "on": "feature/g", "margin": "soft"},
    }

    def step(carry, _):
        variables, moments = carry

        def loss(params):
            given = {**variables, "params": params}
            outputs, update = model.apply(given, batch, train=True, mutable=["batch_stats"])
            return losses.evaluate_terms(terms, {**outputs, "batch/label": labels})[0], update

        gradients, update = jax.grad(loss, has_aux=True)(variables["params"])
        change, moments = optimizer.update(gradients, moments)
        return ({"params": optax.apply_updates(variables["params"], change), **update}, moments), None

    describe = compiled(lambda variables: model.describe(model.apply(variables, batch, train=False)).features)

    def rank1(variables) -> float:
        features = np.asarray(describe(variables))
        distances = -features @ features.T + 9 * np.eye(32)
        return float(np.mean(labels[np.argmin(distances, axis=1)] == labels))

    train = compiled(lambda carry: jax.lax.scan(step, carry, length=50)[0])
    trained, _ = train((variables, compiled(optimizer.init)(variables["params"])))
    assert rank1(trained) == 1.0
    assert rank1(variables) < 0.9
