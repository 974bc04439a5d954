"""MFV: sizes of the paper, both readings, every flag, and the numbers of the released code."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reid_jax import errors, losses, models, trees
from reid_jax.models.mfv import mfv, release_layout, transformer_extractor

HEADS = ("b", "t1", "t2", "t3")
TINY: dict[str, Any] = {
    "num_classes": 5,
    "width": 8,
    "depths": (1, 1, 1, 1),
    "level_depth": 1,
    "tfe_width": 32,
    "tfe_depths": (1, 1, 1),
    "slots": 6,
    "heads": 2,
    "head_width": 4,
    "ffn_width": 16,
}


# The programs here are tiny: what they cost is compiling, so the optimizer of machine code stays off.
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def images_like(batch: int = 2, size: tuple[int, int] = (256, 128)) -> dict[str, jax.ShapeDtypeStruct]:
    return {"image": jax.ShapeDtypeStruct((batch, *size, 3), jnp.float32)}


def variables_of(model: mfv.MFV, size: tuple[int, int] = (256, 128)) -> dict:
    """Shapes of the variables, without computing or compiling anything."""
    return jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images_like(size=size))


def outputs_of(model: mfv.MFV, batch: int = 2, size: tuple[int, int] = (256, 128)) -> dict:
    """Shapes of the outputs, without computing or compiling anything."""
    apply = lambda key, images: model.init_with_output(key, images, train=False)[0]
    return jax.eval_shape(apply, jax.random.key(0), images_like(batch, size))


def count(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def draw(shapes: Any, seed: int = 0) -> Any:
    """Random variables of the given shapes, of a size that keeps activations near one."""
    rng = np.random.default_rng(seed)

    def fill(path: str, shape: tuple[int, ...]) -> np.ndarray:
        if path.endswith(("scale", "var")):
            value = rng.uniform(0.5, 1.5, shape)
        elif path.endswith(("bias", "mean")):
            value = 0.1 * rng.normal(size=shape)
        else:
            value = rng.normal(size=shape) / math.sqrt(max(math.prod(shape[:-1]), 1))
        return value.astype(np.float32)

    return trees.unflatten({path: fill(path, leaf.shape) for path, leaf in trees.flatten(shapes).items()})


@functools.cache
def tiny(**changes: Any) -> tuple[mfv.MFV, Any, dict[str, jax.Array]]:
    """A narrow model, its variables, and a batch of four images of 64 x 32."""
    model = mfv.MFV(**{**TINY, **changes})
    variables = draw(variables_of(model, size=(64, 32)))
    images = np.random.default_rng(1).normal(size=(4, 64, 32, 3)).astype(np.float32)
    return model, variables, {"image": images, "label": np.array([0, 0, 3, 3], np.int32)}


# ---- sizes ----------------------------------------------------------------------------------------------------------


def test_parameters_of_the_default_reading():
    params = variables_of(mfv.MFV(751))["params"]
    assert count(params["backbone"]) == 23_508_032
    assert [count(params[f"level{k}"]) for k in (1, 2, 3)] == [211_200, 840_192, 3_351_552]
    stages = [params["sdfa"][f"tfe{k}"] for k in (1, 2, 3)]
    assert [count(stage) for stage in stages] == [4_074_752, 4_205_824, 7_689_216]
    assert [count(stage["stem"]) for stage in stages] == [722_432, 853_504, 984_576]
    assert [count(stage["transformer"]) for stage in stages] == [3_352_320, 3_352_320, 6_704_640]
    heads = [value for name, value in params.items() if name.startswith(("bottleneck", "classifier"))]
    assert count(heads) == 2_117_632
    assert count(params) == 45_998_400


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"stage_head": "grid"}, 50_041_152),
        ({"stages": ()}, 23_508_032 + 2048 * 752),
        ({"stages": (), "width": 88}, 46_530_264),  # the row `mfv_base_wide`
        ({"chain": False}, 45_998_400),
        ({"attention": "none"}, 45_998_400 - 2 * 3_352_320 - 6_704_640),
        ({"ea_shared_memory": True}, 45_998_400 - 11 * 2 * 256 * 128),
        # Query, key, value and output projections of 16 heads x 64 in place of two memories of 128 slots.
        ({"attention": "self"}, 45_998_400 + 12 * (4 * 256 * 1024 + 256 - 2 * 256 * 128)),
        ({"cls_token": True, "pos_embed": True}, 45_998_400 + 3 * 256 * (128 + 1)),
        ({"prenorm": False}, 45_998_400 - 12 * 4 * 256),
        ({"last_stride": 1, "stem_relu": True, "ea_norm": "release", "stage_triplet_on": "map"}, 45_998_400),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_parameters_of_the_variants(changes, expected):
    assert count(variables_of(mfv.MFV(751, **changes))["params"]) == expected


@pytest.mark.parametrize(
    ("num_classes", "expected"), [(702, 46_953_280), (751, 47_153_984), (767, 47_219_520), (1041, 48_341_824)]
)
def test_parameters_of_the_release(num_classes, expected):
    params = variables_of(mfv.MFV(num_classes, layout="release"))["params"]
    assert count(params) == expected
    assert [count(params["sdfa"][f"tfe{k}"]) for k in (1, 2, 3)] == [4_269_824, 4_269_824, 7_619_072]


def test_the_release_without_the_stem_channels_it_discards():
    """Computing only the 256 of 1024 channels that are kept saves exactly this many parameters."""
    params = variables_of(mfv.MFV(751, layout="release", stem_expansion=1))["params"]
    assert count(params) == 47_153_984 - 594_432


def test_output_shapes_of_the_default_reading():
    model = mfv.MFV(751)
    outputs = outputs_of(model, batch=3)
    shapes = {name: value.shape for name, value in outputs.items()}
    assert {value.dtype for value in outputs.values()} == {jnp.dtype("float32")}
    assert all(shapes[f"logits/{head}"] == (3, 751) for head in HEADS)
    for kind in ("feature", "neck", "triplet"):
        assert [shapes[f"{kind}/{head}"] for head in HEADS] == [(3, 2048), (3, 256), (3, 256), (3, 256)]
    assert all(shapes[f"map/t{k}"] == (3, 16, 8, 256) for k in (1, 2, 3))
    assert shapes["map/stage4"] == (3, 8, 4, 2048)
    assert jax.eval_shape(lambda out: model.describe(out).features, outputs).shape == (3, 2304)


def test_output_shapes_of_the_release():
    model = mfv.MFV(702, layout="release")
    outputs = outputs_of(model, batch=3)
    assert all(outputs[f"logits/{head}"].shape == (3, 702) for head in HEADS)
    assert all(outputs[f"neck/{head}"].shape == (3, 2048) for head in HEADS)
    assert math.prod(outputs["triplet/t1"].shape[1:]) == 32_768
    assert jax.eval_shape(lambda out: model.describe(out).features, outputs).shape == (3, 4096)


@pytest.mark.parametrize(
    ("changes", "width"),
    [
        ({"stages": ()}, 256),
        ({"stages": (3,)}, 288),
        ({"attention": "none"}, 288),
        ({"attention": "self"}, 288),
        ({"layout": "release", "attention": "self"}, 272),
        ({"layout": "release", "stage_head": "gap", "prenorm": True, "ea_norm": "tokens"}, 288),
        ({"layout": "release", "shared_stage_classifier": False, "pos_embed": True, "ea_shared_memory": True}, 272),
        ({"stage_head": "grid", "shared_stage_classifier": True, "test_fusion": "concat"}, 272),
        ({"cls_token": True, "last_stride": 1}, 288),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_every_combination_of_flags_builds(changes, width):
    model = models.build("mfv", **{**TINY, **changes})
    outputs = outputs_of(model, size=(128, 64) if changes.get("layout") else (64, 32))
    width += 3 * 16 if changes.get("layout") and model.reading()["stage_head"] == "grid" else 0  # 8 x 4 x 2 values
    assert jax.eval_shape(lambda out: model.describe(out).features, outputs).shape == (2, width)
    heads = ["b", *(f"t{k}" for k in model.stages)]
    assert [name for name in outputs if name.startswith("logits")] == [f"logits/{head}" for head in heads]


# ---- behavior ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["tokens", "release"])
def evaluated(request: pytest.FixtureRequest) -> tuple[mfv.MFV, Any, dict, dict]:
    """A narrow model of each reading with its outputs in evaluation mode, compiled."""
    model, variables, batch = tiny(layout=request.param)
    return model, variables, batch, compiled(functools.partial(model.apply, train=False))(variables, batch)


def test_a_batch_of_one_gives_the_same_row(evaluated):
    model, variables, batch, outputs = evaluated
    one = compiled(functools.partial(model.apply, train=False))(variables, {"image": batch["image"][2:3]})
    for name, value in outputs.items():
        np.testing.assert_allclose(one[name][0], value[2], rtol=1e-4, atol=1e-5, err_msg=name)


def test_compiled_equals_eager():
    layers = functools.partial(transformer_extractor.Transformer, 1, slots=5, ffn_width=12)
    stage = transformer_extractor.TFE(8, "tokens", 1, "external", True, True, layers)
    x = np.random.default_rng(0).normal(size=(2, 4, 2, 12)).astype(np.float32)
    variables = draw(jax.eval_shape(functools.partial(stage.init, train=False), jax.random.key(0), x))
    eager = stage.apply(variables, x, train=False)
    for found, expected in zip(compiled(functools.partial(stage.apply, train=False))(variables, x), eager, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert [value.shape for value in eager] == [(2, 4, 2, 8), (2, 8)]


def test_the_test_feature_joins_two_unit_parts(evaluated):
    model, _, _, outputs = evaluated
    feature = np.asarray(model.describe(outputs).features)
    np.testing.assert_allclose(np.linalg.norm(feature, axis=1), 1.0, rtol=1e-5)
    parts = [np.asarray(outputs["neck/b"]), np.asarray(outputs["neck/t3"])]
    if model.layout == "tokens":
        parts = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts]
    joined = np.concatenate(parts, axis=1)
    np.testing.assert_allclose(feature, joined / np.linalg.norm(joined, axis=1, keepdims=True), rtol=1e-4, atol=1e-6)


def test_training_gives_finite_gradients_everywhere_and_dropout_acts():
    model, variables, batch = tiny()
    terms = {f"ce_{h}": {"loss": "cross_entropy", "on": f"logits/{h}", "label_smoothing": 0.1} for h in HEADS}
    terms |= {f"tri_{h}": {"loss": "triplet", "on": f"triplet/{h}", "margin": "soft"} for h in HEADS}

    @compiled
    def step(params, key):
        def loss(params):
            state = {"params": params, "batch_stats": variables["batch_stats"]}
            outputs, updated = model.apply(state, batch, train=True, rngs={"dropout": key}, mutable=["batch_stats"])
            return losses.evaluate_terms(terms, {**outputs, "batch/label": batch["label"]})[0], updated

        return jax.value_and_grad(loss, has_aux=True)(params)

    (value, updated), gradients = step(variables["params"], jax.random.key(0))
    assert np.isfinite(value)
    for path, gradient in trees.flatten(gradients).items():
        assert np.isfinite(gradient).all(), path
        assert np.any(np.asarray(gradient) != 0), path
    before, after = trees.flatten(variables["batch_stats"]), trees.flatten(updated["batch_stats"])
    assert all(not np.allclose(before[path], after[path]) for path in before)

    (again, _), _ = step(variables["params"], jax.random.key(0))
    (other, _), _ = step(variables["params"], jax.random.key(1))
    assert again == value
    assert other != value


def test_evaluation_needs_no_dropout_key_and_bfloat16_keeps_heads_in_float32(evaluated):
    model, variables, batch, outputs = evaluated
    half = model.clone(dtype=jnp.bfloat16)
    found = compiled(functools.partial(half.apply, train=False))(variables, batch)
    assert {value.dtype for value in found.values()} == {jnp.dtype("float32")}
    similarity = np.sum(
        np.asarray(model.describe(found).features) * np.asarray(model.describe(outputs).features), axis=1
    )
    assert (similarity > 0.98).all()


def test_necks_have_no_shift_and_the_transformer_has_its_own_rate():
    params = trees.flatten(variables_of(mfv.MFV(**{**TINY, "ea_shared_memory": True}), size=(64, 32))["params"])
    assert all(f"bottleneck_{head}/scale" in params for head in HEADS)
    assert not [path for path in params if path.startswith("bottleneck") and path.endswith("bias")]
    match = trees.match_patterns(params, [transformer_extractor.TRANSFORMER_PATTERN, ".*"])
    slow = {path for path, pattern in match.assignment.items() if pattern == 0}
    kinds = ("memory_key", "memory_value", "fc0", "fc1", "norm0_attention", "norm0_ffn")
    assert slow == {path for path in params if path.split("/")[-2] in kinds}
    assert "sdfa/transformer/memory_key/kernel" in slow


# ---- external attention ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 12, 5), (2, 4, 3, 5)], ids=["sequence", "grid"])
def test_double_normalization_over_tokens_then_slots(shape):
    scores = np.random.default_rng(0).normal(size=shape).astype(np.float32) * 3
    found = np.asarray(transformer_extractor.double_normalize(scores)).reshape(2, 12, 5)
    exponent = np.exp(scores.reshape(2, 12, 5).astype(np.float64))
    softmax = exponent / exponent.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, softmax / softmax.sum(axis=2, keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(found.sum(axis=2), 1.0, rtol=1e-5)


def test_double_normalization_of_the_release():
    scores = np.random.default_rng(0).normal(size=(2, 4, 3, 5)).astype(np.float32)
    exponent = np.exp(scores.astype(np.float64))
    softmax = exponent / exponent.sum(axis=1, keepdims=True)
    expected = softmax / softmax.sum(axis=2, keepdims=True)
    np.testing.assert_allclose(transformer_extractor.double_normalize(scores, "release"), expected, rtol=1e-5)


def test_permuted_tokens_give_permuted_results():
    layers = transformer_extractor.Transformer(2, slots=5, ffn_width=12)
    tokens = np.random.default_rng(0).normal(size=(2, 9, 8)).astype(np.float32)
    order = np.random.default_rng(1).permutation(9)
    apply = compiled(functools.partial(layers.apply, train=False))
    variables = draw(jax.eval_shape(functools.partial(layers.init, train=False), jax.random.key(0), tokens))
    found = apply(variables, tokens)
    np.testing.assert_allclose(apply(variables, tokens[:, order]), found[:, order], rtol=1e-4, atol=1e-5)
    assert not np.allclose(found, tokens)


def test_release_tokens_are_pairs_of_channels():
    x = np.arange(2 * 16 * 8 * 256, dtype=np.float32).reshape(2, 16, 8, 256)
    tokens = release_layout.reinterpret(jnp.asarray(x))
    assert tokens.shape == (2, 8, 16, 256)
    for a, b, d in [(0, 0, 0), (3, 7, 200), (7, 15, 255), (5, 1, 127)]:
        position = d % 128
        assert tokens[1, a, b, d] == x[1, position // 8, position % 8, 32 * a + 2 * b + d // 128]


# ---- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "size", "part"),
    [
        ({"layout": "token"}, (64, 32), "did you mean 'tokens'"),
        ({"attention": "extern"}, (64, 32), "did you mean 'external'"),
        ({"stage_head": "max"}, (64, 32), "gap"),
        ({"stages": (2, 1)}, (64, 32), "increasing"),
        ({"cls_token": True, "attention": "none"}, (64, 32), "cls_token"),
        ({"cls_token": True, "stage_head": "grid"}, (64, 32), "stage_head"),
        ({"layout": "release", "tfe_width": 16}, (64, 32), "tfe_width 16"),
        ({}, (60, 32), "60 x 32"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_mistakes_are_explained(changes, size, part):
    with pytest.raises(errors.UserError, match=part):
        variables_of(mfv.MFV(**{**TINY, **changes}), size=size)
