"""The pieces of AMFOR: fusion of depths, pooling, teacher and student, reconstruction of features, generation."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reid_jax import errors
from reid_jax.models.amfor import amfor, depth_fusion, feature_decoder, generative_distillation, part_decoder

WIDTH, TOKENS = 64, 6
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def random_params(module, *arrays, seed: int = 0, **options):
    """Parameters of a module, all drawn: initial biases and gates would hide what they do."""
    shapes = jax.eval_shape(lambda key: module.init(key, *arrays, **options), jax.random.key(0))["params"]
    rng = np.random.default_rng(seed)
    return {"params": jax.tree.map(lambda x: (0.2 * rng.normal(size=x.shape)).astype(x.dtype), shapes)}


# ---- fusion of depths


@pytest.fixture(scope="module")
def fusion():
    """A module behind block 2, the tokens at depths 0 to 2, texts, and its parameters."""
    module = depth_fusion.LayerFusion(2, WIDTH, heads=2)
    depths = [draw(3, 1 + TOKENS, WIDTH, seed=depth) for depth in range(3)]
    text = draw(5, WIDTH, seed=9)
    return module, depths, text, random_params(module, depths, text)


def test_weights_of_depths_add_up_to_one(fusion):
    """Property 3: per channel; the gate lies in (0, 1); there is a query for every depth."""
    module, depths, text, params = fusion
    classes = np.stack([tokens[:, 0] for tokens in depths], axis=1)
    weights = compiled(functools.partial(module.apply, method="weights"))(params, classes, text)
    assert weights.shape == (3, 3, WIDTH)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-5)
    assert 0 < float(module.apply(params, method="share")) < 1
    assert params["params"]["queries"].shape == (2 + 1, WIDTH)
    held = module.clone(alpha=0.25)
    assert float(held.apply(params, method="share")) == 0.25


def test_one_hot_weights_and_a_shut_gate_change_nothing(fusion):
    """Property 3: w one-hot at i = k gives x_k for any gate; the gate at 0 gives it to the bit for any w."""
    _, depths, _, _ = fusion
    one_hot = np.zeros((3, 3, WIDTH), np.float32)
    one_hot[:, 2] = 1.0
    for alpha in (0.0, 0.12, 1.0):
        np.testing.assert_allclose(depth_fusion.mix(depths, one_hot, alpha), depths[2], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(depth_fusion.mix(depths, draw(3, 3, WIDTH), 0.0), depths[2])
    expected = 0.3 * (0.5 * depths[0] + 0.5 * depths[1]) + 0.7 * depths[2]
    half = np.stack([np.full((3, WIDTH), share, np.float32) for share in (0.5, 0.5, 0.0)], axis=1)
    np.testing.assert_allclose(depth_fusion.mix(depths, half, 0.3), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("value", "acts"), [("query", False), ("text", True)])
def test_text_acts_through_values_alone(fusion, value, acts):
    """Property 4: with keys that are all equal the softmax is uniform whatever the text says."""
    module, _, text, params = fusion
    ask = compiled(functools.partial(module.clone(text_value=value).apply, method="text_queries"))
    one, other = ask(params, text), ask(params, 3.0 * text[::-1] + 1.0)
    assert one.shape == (3, WIDTH)
    assert bool(np.abs(one - other).max() > 1e-3) is acts
    np.testing.assert_array_equal(module.apply(params, None, method="text_queries"), params["params"]["queries"])


def test_modules_see_depths_before_fusion_unless_told_otherwise():
    depths = [draw(2, 3, WIDTH, seed=depth) for depth in range(3)]
    seen = {}
    for reuse in (False, True):
        amff = depth_fusion.AMFF((1, 2), WIDTH, learned_rows=4, heads=2, reuse_fused=reuse)

        def run(module):
            kept = []
            outputs = [module(kept, jnp.asarray(tokens)) for tokens in depths]
            return outputs, kept

        apply = lambda params, amff=amff, run=run: amff.apply(params, method=run)
        shapes = jax.eval_shape(lambda key, amff=amff, run=run: amff.init(key, method=run), jax.random.key(0))
        assert shapes["params"]["text_bank"].shape == (4, WIDTH)
        rng = np.random.default_rng(1)
        seen[reuse] = compiled(apply)(jax.tree.map(lambda x, rng=rng: 0.2 * draw(*x.shape), shapes))
    (outputs, kept), (again, fused) = seen[False], seen[True]
    np.testing.assert_array_equal(outputs[0], depths[0])
    np.testing.assert_array_equal(kept, depths)
    np.testing.assert_array_equal(fused[1], again[1])
    np.testing.assert_array_equal(outputs[1], again[1])
    assert np.abs(outputs[2] - again[2]).max() > 1e-4


# ---- pooling and labels


def test_weighted_average():
    """Property 5: a one-hot mask is that token, a constant one the mean, an empty one zero."""
    tokens = draw(2, TOKENS, WIDTH)
    weights = np.zeros((2, TOKENS, 3), np.float32)
    weights[:, 4, 0] = 0.7
    weights[:, :, 1] = 0.2
    found = compiled(part_decoder.weighted_average)(tokens, weights)
    np.testing.assert_allclose(found[:, 0], tokens[:, 4], rtol=1e-5)
    np.testing.assert_allclose(found[:, 1], tokens.mean(axis=1), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(found[:, 2], 0.0)
    masks = np.full((2, TOKENS, 9), 1 / 9, np.float32)
    pooled = compiled(part_decoder.pool)(tokens, masks)
    assert pooled.shape == (2, 9, WIDTH)
    np.testing.assert_allclose(pooled[:, 0], pooled[:, 3], rtol=1e-4, atol=1e-6)


def test_masks_are_shares_of_a_token():
    module = part_decoder.MaskGenerator()
    tokens = jnp.asarray(draw(2, TOKENS, WIDTH), jnp.bfloat16)
    variables = {
        **random_params(module, tokens, train=False),
        "batch_stats": {"norm": {"mean": np.zeros(WIDTH, np.float32), "var": np.ones(WIDTH, np.float32)}},
    }
    logits, masks = compiled(functools.partial(module.apply, train=False))(variables, tokens)
    assert masks.shape == logits.shape == (2, TOKENS, 9)
    assert masks.dtype == logits.dtype == jnp.float32
    np.testing.assert_allclose(masks.sum(axis=-1), 1.0, rtol=1e-5)


def test_masks_begin_with_where_parts_usually_are():
    """Logits of a place are added to the token's, in every image alike."""
    module = part_decoder.MaskGenerator(positions=True)
    tokens = np.random.default_rng(0).normal(size=(2, 6, 16)).astype(np.float32)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), tokens, train=False))
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    usual = np.arange(6 * 9, dtype=np.float32).reshape(6, 9) % 5
    variables["params"]["positions"] = usual
    logits, _ = module.apply(variables, tokens, train=False)
    np.testing.assert_allclose(logits, np.broadcast_to(usual, (2, 6, 9)))


def test_each_part_has_a_visibility_head_of_its_own():
    """Statistics and weights: a part's logits do not depend on how its features differ from the others'."""
    parts = np.random.default_rng(0).normal(size=(4, 8, 16)).astype(np.float32)
    module = part_decoder.VisibilityHead(apart=True)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), parts, train=False))
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
    assert shapes["params"]["kernel"].shape == (8, 16)
    apply = lambda parts: module.apply(variables, parts, train=True, mutable=["batch_stats"])[0]
    logits, moved = apply(parts), apply(parts + np.arange(8, dtype=np.float32)[:, None])
    np.testing.assert_allclose(logits, moved, atol=1e-3)
    np.testing.assert_allclose(logits.mean(axis=0), 17 * np.ones(8), atol=1e-3)  # 16 shifts and the bias


def test_strips_stand_in_for_labels():
    """Bands of pixels; where a box was erased there is background, and a part below it is not visible."""
    boxes = np.array([[0, 0, 0, 0], [0, 0, 20, 64]], np.int32)  # none; the upper 20 rows of 128 x 64
    whole, erased = np.asarray(compiled(functools.partial(part_decoder.strip_map, (128, 64)))(boxes))
    assert (whole[:19] == 1).all()  # 0.15 of 128 rows
    np.testing.assert_array_equal(whole[40, ::8], [2, 2, 4, 4, 4, 4, 3, 3])
    np.testing.assert_array_equal(whole[80, ::8], [5, 5, 5, 5, 6, 6, 6, 6])
    np.testing.assert_array_equal(whole[127, ::8], [7, 7, 7, 7, 8, 8, 8, 8])
    assert not erased[:20].any()
    np.testing.assert_array_equal(erased[20:], whole[20:])
    visible = part_decoder.visible_parts(np.stack((whole, erased)), 20.0)
    np.testing.assert_array_equal(visible, [[1] * 8, [0, *[1] * 7]])


# ---- teacher and student


@pytest.fixture(scope="module")
def decoder():
    """The part decoder compiled once, a memory, and parameters."""
    module = part_decoder.PartDecoder(heads=2, mlp_ratio=1.0)
    memory = draw(2, 1 + TOKENS, WIDTH)
    params = random_params(module, memory, np.ones((2, 9, TOKENS), bool))
    return compiled(module.apply), params, memory


def test_the_teacher_sees_what_its_mask_opens(decoder):
    """Property 7: an open mask gives the student; under a real one the two differ."""
    run, params, memory = decoder
    mask = np.random.default_rng(2).random((2, 9, TOKENS)) < 0.5
    student, teacher = run(params, memory, np.ones_like(mask))
    assert student.shape == teacher.shape == (2, 8, WIDTH)
    np.testing.assert_array_equal(teacher, student)
    same, masked = run(params, memory, mask)
    np.testing.assert_array_equal(same, student)
    assert np.abs(masked - student).max() > 1e-2


def test_a_masked_token_has_no_influence(decoder):
    """Property 7: on the parts it is closed to; on the others it has."""
    run, params, memory = decoder
    mask = np.ones((2, 9, TOKENS), bool)
    mask[:, 3, 4] = False  # token 4 closed to part 3, slot 2 behind the background's
    changed = memory.copy()
    changed[:, 1 + 4] += 5.0 * draw(2, WIDTH, seed=7)
    (_, before), (_, after) = run(params, memory, mask), run(params, changed, mask)
    np.testing.assert_array_equal(before[:, 2], after[:, 2])
    assert (np.abs(before - after).max(axis=-1) > 1e-3).sum() == 2 * 7


def test_a_part_without_tokens_attends_to_all_alike(decoder):
    """Property 7."""
    run, params, memory = decoder
    mask = np.ones((2, 9, TOKENS), bool)
    mask[:, 5] = False
    _, teacher = run(params, memory, mask)
    even = jax.tree.map(np.copy, params)
    for leaf in even["params"]["cross"]["query"].values():
        leaf[...] = 0.0  # all products with keys are zero
    student, _ = run(even, memory, mask)
    np.testing.assert_allclose(teacher[:, 4], student[:, 4], rtol=1e-5, atol=1e-6)


def test_masks_are_drawn_by_their_probability():
    masks = np.zeros((400, 3, 9), np.float32)
    masks[:, 0, 1], masks[:, 1, 1], masks[:, 2, 1] = 1.0, 0.3, 0.0
    drawn = compiled(part_decoder.draw_masks)(masks, jax.random.key(0))
    assert drawn.shape == (400, 9, 3)
    assert drawn[:, 1, 0].all()
    assert not drawn[:, 1, 2].any()
    np.testing.assert_allclose(drawn[:, 1, 1].mean(), 0.3, atol=0.07)
    steady = part_decoder.draw_masks(masks, None)
    assert steady[:, 1, 0].all()
    assert not steady[:, 1, 1:].any()


# ---- reconstruction of features


def test_a_feature_becomes_a_map_of_tokens():
    """Property 6: 13 tokens at D = 768, D / 64 + 1 in general."""
    for width, tokens in ((768, 13), (384, 7), (192, 4), (64, 2)):
        module = feature_decoder.FeatureDecoder((1, 1), 32, 2)
        pooled = jax.ShapeDtypeStruct((2, 9, width), jnp.float32)
        params = jax.eval_shape(functools.partial(module.init, train=False), jax.random.key(0), pooled)["params"]
        assert params["join"]["kernel"].shape == (tokens, 1)
        without = jax.eval_shape(
            functools.partial(module.clone(map_tokens=False).init, train=False), jax.random.key(0), pooled
        )["params"]
        assert (without["join"]["kernel"].shape, "patches" in without) == ((1, 1), False)
    assert [feature_decoder.volume_shape(width) for width in (768, 384, 192)] == [(32, 24), (24, 16), (24, 8)]
    rows, columns = zip(*(feature_decoder.volume_shape(64 * n) for n in range(1, 13)), strict=True)
    assert [r * c for r, c in zip(rows, columns, strict=True)] == [64 * n for n in range(1, 13)]
    assert all(r >= c and r % 8 == 0 and c % 8 == 0 for r, c in zip(rows, columns, strict=True))
    with pytest.raises(errors.UserError, match="multiple of 64"):
        feature_decoder.volume_shape(100)


def test_reconstruction_with_gains_of_zero_is_the_identity():
    """Property 6."""
    module = feature_decoder.FeatureDecoder((1, 1), 32, 2)
    pooled = draw(3, 9, WIDTH)
    params = random_params(module, pooled, train=False)
    run = compiled(functools.partial(module.apply, train=False))
    assert np.abs(run(params, pooled) - pooled).max() > 1e-2
    gain = params["params"].pop("gain")
    assert gain.shape == (9,)
    shut = {"params": {**params["params"], "gain": np.zeros(9, np.float32)}}
    np.testing.assert_array_equal(run(shut, pooled), pooled)
    # Without the residual path there are no gains, and the figure's decoder is left.
    bare = compiled(functools.partial(module.clone(residual=False).apply, train=False))(params, pooled)
    opened = {"params": {**params["params"], "gain": np.ones(9, np.float32)}}
    np.testing.assert_allclose(run(opened, pooled), pooled + bare, rtol=1e-4, atol=1e-5)


# ---- generation


@pytest.mark.parametrize("slices", [8, 5, 1])
def test_convolution_of_a_volume(slices):
    """The band is the three-dimensional convolution, at the borders, too."""
    volume, kernel, bias = draw(2, 4, 3, slices, 2), draw(3, 3, 3, 2, 3, seed=1), draw(3, seed=2)
    found = generative_distillation.VolumeConv(3).apply({"params": {"kernel": kernel, "bias": bias}}, volume)
    padded = np.pad(volume, ((0, 0), (1, 1), (1, 1), (1, 1), (0, 0)))
    expected = np.broadcast_to(bias, found.shape).copy()
    for tap in range(3):
        for row in range(3):
            for column in range(3):
                seen = padded[:, row : row + 4, column : column + 3, tap : tap + slices]
                expected += seen @ kernel[tap, row, column]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ste", [True, False])
def test_masked_numbers_do_not_count_and_the_mask_learns(ste):
    """Property 9: a share rho of each part is hidden and changes nothing; the mask has a gradient iff `ste`."""
    module = generative_distillation.Generator(ratio=0.3, straight_through=ste, hidden=4, heads=2)
    parts, target = draw(2, 8, WIDTH), draw(2, 8, WIDTH, seed=1)
    params = random_params(module, parts)

    @compiled
    def learn(params, parts):
        def loss(params, parts):
            generated = module.apply(params, parts)
            return jnp.mean(jnp.square(generated - target)), generated

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, parts)

    (_, generated), (gradient, to_parts) = learn(params, parts)
    hidden = np.asarray(to_parts) == 0
    np.testing.assert_allclose(hidden.mean(axis=-1), 0.3, atol=1.01 / WIDTH)
    np.testing.assert_array_equal(hidden[0], hidden[1])
    changed = np.where(hidden, parts + 9.0, parts)
    np.testing.assert_array_equal(learn(params, changed)[0][1], generated)
    assert bool(np.any(gradient["params"]["places"])) is ste


def test_the_step_keeps_what_lies_above():
    scores = jnp.array([[-1.0, 0.0, 0.5, 2.0]])
    np.testing.assert_array_equal(generative_distillation.keep_above(scores, 0.0), [[0, 0, 1, 1]])
    kept = lambda ste: lambda x: jnp.sum(generative_distillation.keep_above(x, 0.0, straight_through=ste))
    soft = 1 / (1 + np.exp(-np.asarray(scores)))
    np.testing.assert_allclose(compiled(jax.grad(kept(True)))(scores), soft * (1 - soft), rtol=1e-5)
    assert not np.any(compiled(jax.grad(kept(False)))(scores))
    # A threshold that follows from the scores is a constant all the same.
    moving = lambda x: jnp.sum(generative_distillation.keep_above(x, jnp.mean(x)))
    soft = 1 / (1 + np.exp(np.mean(scores) - np.asarray(scores)))
    np.testing.assert_allclose(compiled(jax.grad(moving))(scores), soft * (1 - soft), rtol=1e-5)


def test_random_masks_hide_other_places_every_time():
    module = generative_distillation.Generator(mask="random", ratio=0.65, hidden=2)
    parts = draw(4, 8, WIDTH)
    params = random_params(module, parts)
    assert set(params["params"]) == {"conv1", "conv2"}
    run = compiled(lambda key: jax.grad(lambda x: jnp.sum(module.apply(params, x, key) ** 2))(parts) == 0)
    one, other = np.asarray(run(jax.random.key(0))), np.asarray(run(jax.random.key(1)))
    np.testing.assert_allclose(one.mean(), 0.65, atol=0.03)
    assert (one != other).any()
    assert (one[0] != one[1]).any()


def test_levels_have_generators_of_their_own():
    levels = ("part", "group", "body")
    module = generative_distillation.AMGD(levels, hidden=2)
    parts = jax.ShapeDtypeStruct((2, 8, WIDTH), jnp.float32)
    found, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), parts)
    assert found.shape == (2, 8 + 5 + 1, WIDTH)
    assert {name: tree["places"].shape for name, tree in variables["params"].items()} == {
        "part": (8, WIDTH),
        "group": (5, WIDTH),
        "body": (1, WIDTH),
    }
    for field, value in (("mask", "adaptiv"), ("threshold", "quantiles"), ("granularities", ("parts",))):
        with pytest.raises(errors.UserError, match="did you mean"):
            jax.eval_shape(module.clone(**{field: value}).init, jax.random.key(0), parts)


# ---- initial values


def test_defaults_of_the_fusion_are_the_models():
    fields = lambda owner: {name: field.default for name, field in owner.__dataclass_fields__.items()}
    model = {
        name.removeprefix("amff_"): value for name, value in fields(amfor.AMFOR).items() if name.startswith("amff_")
    }
    shared = ("text_value", "residual", "normalize", "beta", "gate_init", "alpha")
    for owner in (depth_fusion.AMFF, depth_fusion.LayerFusion):
        assert {name: fields(owner)[name] for name in shared} == {name: model[name] for name in shared}
    assert depth_fusion.AMFF.reuse_fused is model["reuse_fused"] is False


def test_new_components_begin_small():
    """Section 4.3 and 5: gates let 12 % through, HPR changes a tenth, queries and heads are small."""
    models = {
        "fusion": (depth_fusion.LayerFusion(1, 64, 2), ([np.zeros((1, 2, 64), np.float32)] * 2, np.ones((3, 64))), {}),
        "hpr": (feature_decoder.FeatureDecoder((1, 1), 32, 2), (np.zeros((1, 9, 64), np.float32),), {"train": False}),
        "decoder": (part_decoder.PartDecoder(2), (np.zeros((1, 3, 64), np.float32),), {}),
    }
    params = {
        name: compiled(lambda key, m=module, a=arrays, o=options: m.init(key, *a, **o)["params"])(jax.random.key(0))
        for name, (module, arrays, options) in models.items()
    }
    np.testing.assert_allclose(1 / (1 + np.exp(-params["fusion"]["gate"])), 0.1192, atol=1e-4)
    np.testing.assert_allclose(params["fusion"]["queries"].std(), 0.02, rtol=0.3)
    np.testing.assert_allclose(params["hpr"]["gain"], 0.1, rtol=1e-6)
    np.testing.assert_allclose(params["hpr"]["stage_b"]["leave"]["kernel"].std(), 0.02, rtol=0.1)
    np.testing.assert_allclose(params["decoder"]["queries"].std(), 64**-0.5, rtol=0.2)


def test_initial_values_that_follow_the_width_reach_every_layer():
    """A stage 32 wide multiplies its output by 0.02 * 32^(1/2) = 0.11 or, by Glorot's rule, by 0.8."""
    module = feature_decoder.FeatureDecoder((1, 1), 32, 2, kernels="xavier")
    pooled = np.zeros((1, 9, 64), np.float32)
    params = compiled(functools.partial(module.init, train=False))(jax.random.key(0), pooled)["params"]
    for stage in ("stage_a", "stage_b"):
        for layer in (params[stage]["enter"], params[stage]["leave"], params[stage]["block_0"]["mlp"]["fc1"]):
            wanted = (2 / sum(layer["kernel"].shape)) ** 0.5
            np.testing.assert_allclose(layer["kernel"].std(), wanted, rtol=0.1)


def test_named_choices_of_fused_blocks():
    """Last is the last of the published six, the tenth of twelve; all are those before b1."""
    assert amfor.fusion_layers("last", 12) == (10,)
    assert amfor.fusion_layers("all", 12) == tuple(range(1, 12))
    assert amfor.fusion_layers((1, 2, 4, 6, 8, 10), 12) == (1, 2, 4, 6, 8, 10)
