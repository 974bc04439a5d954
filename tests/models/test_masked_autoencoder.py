"""The masked autoencoder: sizes, blindness for hidden pixels, gradients, positions.

The numbers in names of tests are those of the properties that the method's description lists.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reid_jax import errors, losses, models, trees
from reid_jax.losses import masked_patches
from reid_jax.models import masked_autoencoder
from reid_jax.models.backbones import position_codes, vit
from reid_jax.ops import images as image_ops
from reid_jax.ops import masks, patch_statistics

SIZE, PATCH, TOKENS, IMAGES = (16, 8), 4, 8, 4
TINY = {"width": 8, "depth": 1, "heads": 2, "decoder_width": 8, "decoder_depth": 1, "decoder_heads": 2}
TERMS = {
    "main": {"loss": "masked_patches", "on": ("pixels/predicted", "batch/image", "pixels/mask"), "normalize": True},
}
STATISTICS = {"loss": "patch_statistics", "on": ("pixels/statistics", "batch/image", "pixels/mask")}


def tiny(**options):
    given = {**TINY, "image_size": SIZE, "patch": PATCH, "mask_ratio": 0.5, "statistics": True, **options}
    return models.build("mim", **given)


def shapes(size, image_size, patch):
    model = models.build("mim", size=size, image_size=image_size, patch=patch)
    images = {"image": jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)}
    return jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)["params"]


@pytest.mark.parametrize(
    ("size", "image_size", "patch", "encoder", "decoder"),
    [
        ("base", (256, 128), 16, 85_746_432, 26_008_320),
    ],
)
def test_1_parameters(size, image_size, patch, encoder, decoder):
    params = shapes(size, image_size, patch)
    assert params["backbone"]["pos_embed"].shape[1] == 129
    assert trees.count_parameters(params["backbone"]) == encoder
    assert trees.count_parameters(params) - encoder == decoder


def test_1_sides_that_patches_do_not_divide_are_refused():
    with pytest.raises(errors.UserError, match="divide into patches of 5"):
        tiny(patch=5).rule()
    # Overlapping patches would show hidden pixels; there is no such option.
    with pytest.raises(errors.UserError, match="stride"):
        tiny(stride=2)
    for wrong in ({"size": "huge"}, {"parts_source": "net"}):
        with pytest.raises(errors.UserError):
            tiny(**wrong).rule() if "parts_source" in wrong else tiny(**wrong).fields()


@pytest.fixture(scope="module")
def ran():
    """Mask, its pixels, and outputs and gradients of a tiny model by one program.

    The first half of the batch are images, the second the same with noise in the hidden pixels.
    """
    model = tiny()
    rng = np.random.default_rng(0)
    images = rng.normal(size=(IMAGES, *SIZE, 3)).astype(np.float32)
    rank = np.argsort(np.argsort(rng.random((IMAGES, TOKENS)), axis=1), axis=1)
    mask = np.concatenate([rank >= 4] * 2)
    pixels = np.repeat(np.repeat(mask.reshape(-1, 4, 2), PATCH, axis=1), PATCH, axis=2)[..., None]
    noisy = np.where(pixels[:IMAGES], rng.normal(size=images.shape), images)
    both = np.concatenate((images, noisy)).astype(np.float32)
    shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), {"image": both})["params"]
    params = jax.tree.map(lambda leaf: (0.3 * rng.normal(size=leaf.shape)).astype(np.float32), shapes)

    def program(params, both):
        def objective(params, both):
            outputs = model.apply({"params": params}, {"image": both, "mask": mask}, train=True)
            # Targets are constants: what is left of the images' gradient goes through the encoder.
            values = {"batch/image": jax.lax.stop_gradient(both), **outputs}
            totals = [losses.evaluate_terms(terms, values)[0] for terms in (TERMS, {"s": STATISTICS})]
            return tuple(totals), outputs

        _, pull, outputs = jax.vjp(objective, params, both, has_aux=True)
        drawing, statistics = (pull((jnp.float32(each), jnp.float32(1 - each))) for each in (1, 0))
        return {"outputs": outputs, "grads": drawing[0], "image_grads": drawing[1], "statistics": statistics[0]}

    # Nothing here gains from an optimized program.
    compiled = jax.jit(program).lower(params, both).compile({"xla_backend_optimization_level": 0})
    return mask, pixels, jax.device_get(compiled(params, both))


def test_1_shapes_of_what_a_model_draws(ran):
    *_, result = ran
    drawn = result["outputs"]
    assert drawn["pixels/predicted"].shape == (2 * IMAGES, TOKENS, PATCH * PATCH * 3)
    assert drawn["pixels/statistics"].shape == (2 * IMAGES, TOKENS, 2)
    assert drawn["feature/g"].shape == (2 * IMAGES, 8)
    model = tiny()
    images = {"image": jax.ShapeDtypeStruct((3, *SIZE, 3), jnp.float32)}
    variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)
    whole = jax.eval_shape(functools.partial(model.apply, train=False), variables, images)
    assert {name: value.shape for name, value in whole.items()} == {"tokens": (3, TOKENS, 8), "feature/g": (3, 8)}


def test_3_hidden_pixels_have_no_influence(ran):
    mask, pixels, result = ran
    np.testing.assert_array_equal(result["outputs"]["pixels/mask"], mask)
    for name in ("feature/g", "pixels/predicted", "pixels/statistics"):
        seen, noisy = np.split(result["outputs"][name], 2)
        np.testing.assert_array_equal(seen, noisy)
    gradient = result["image_grads"]
    assert not np.any(gradient[np.broadcast_to(pixels, gradient.shape)])
    assert np.any(gradient)


def test_9_a_visible_patch_without_blocks_is_drawn_in_its_own_place():
    model = tiny(depth=0, decoder_depth=0, statistics=False)
    rng = np.random.default_rng(0)
    image = np.repeat(rng.normal(size=(1, *SIZE, 3)), 2, axis=0).astype(np.float32)
    mask = np.repeat(np.arange(TOKENS)[None] % 2 == 0, 2, axis=0)  # patch 3 is visible
    image[1, PATCH : 2 * PATCH, PATCH:] += 1.0
    shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), {"image": image})["params"]
    params = jax.tree.map(lambda leaf: (0.3 * rng.normal(size=leaf.shape)).astype(np.float32), shapes)
    program = jax.jit(
        lambda params, image: model.apply({"params": params}, {"image": image, "mask": mask}, train=False)
    )
    drawn = np.asarray(program(params, image)["pixels/predicted"])
    assert list(np.flatnonzero(np.abs(drawn[0] - drawn[1]).max(axis=-1))) == [3]


def test_9_put_back_is_the_inverse_of_taking():
    mask = np.array([[True, False, True, False], [False, False, True, True]])
    visible = np.arange(8, dtype=np.float32).reshape(2, 2, 2) + 1
    full = np.asarray(masked_autoencoder.put_back(visible, mask, -np.ones((1, 1, 2), np.float32)))
    np.testing.assert_array_equal(full[~mask].reshape(2, 2, 2), visible)
    np.testing.assert_array_equal(full[mask], -1)
    image = np.random.default_rng(0).random((2, 8, 4, 3)).astype(np.float32)
    np.testing.assert_array_equal(image_ops.unpatchify(image_ops.patchify(image, 4), 4, 8, 4), image)


def test_10_every_parameter_learns_and_the_statistics_alone_from_themselves(ran):
    *_, result = ran
    drawing, statistics = trees.flatten(result["grads"]), trees.flatten(result["statistics"])
    assert {"mask_token", "backbone/cls_token"} <= set(drawing)
    for name in drawing:
        of_statistics = name.startswith("decoder_statistics")
        assert np.any(drawing[name]) == (not of_statistics), name
        assert np.any(statistics[name]) == of_statistics, name


def test_the_scale_of_hidden_patches_starts_from_the_visible_ones_near_them():
    rng = np.random.default_rng(0)
    own, mask = rng.normal(size=(3, 12, 2)).astype(np.float32), np.ones((3, 12), bool)
    mask[0, 5] = mask[1, ::2] = mask[2, 11] = False
    found = np.asarray(patch_statistics.from_visible(own, mask, 4, 3))
    np.testing.assert_allclose(found[0], np.broadcast_to(own[0, 5], (12, 2)), atol=1e-5)
    np.testing.assert_allclose(found[2], np.broadcast_to(own[2, 11], (12, 2)), atol=1e-5)  # however far
    y, x = np.divmod(np.arange(12), 3)
    weights = np.exp(-((y[:, None] - y) ** 2 + (x[:, None] - x) ** 2) / 2) * ~mask[1]
    np.testing.assert_allclose(found[1], weights @ own[1] / weights.sum(axis=1, keepdims=True), atol=1e-5)
    noisy = np.where(mask[..., None], np.nan, own)
    np.testing.assert_array_equal(patch_statistics.from_visible(noisy, mask, 4, 3), found)


def test_11_drawn_patches_get_their_scale():
    true = np.random.default_rng(0).normal(size=(2, 2, 12)).astype(np.float32)
    true[0, 0] = 0.25  # flat: zeros, finite
    statistics = np.stack((true.mean(axis=-1), np.log(true.std(axis=-1) + masked_patches.SCALE_OFFSET)), axis=-1)

    @jax.jit
    def program(true, statistics):
        normalized = masked_patches.normalize_patches(true)
        images = image_ops.unpatchify(true, 2, 2, 4)
        loss = masked_patches.patch_statistics(statistics, images, jnp.ones((2, 2), bool))
        return normalized, masked_patches.scale_patches(normalized, statistics), loss

    normalized, back, loss = jax.device_get(program(true, statistics))
    assert not np.any(normalized[0, 0])
    assert np.abs(normalized.mean(axis=-1)).max() < 1e-5
    variance = normalized.var(axis=-1).ravel()[1:]
    assert ((variance > 1 - 1e-3) & (variance <= 1 + 1e-6)).all()
    np.testing.assert_allclose(back, true, atol=1e-3)
    assert loss < 1e-10
    with pytest.raises(errors.UserError, match="got 3 patches"):
        masked_patches.patch_statistics(statistics, np.zeros((2, 2, 4, 3), np.float32), np.ones((2, 3), bool))


def test_15_codes_of_positions():
    code = position_codes.grid_code(16, 8, 16).reshape(16, 8, 16)
    for y, x, k in ((0, 0, 0), (3, 5, 2), (15, 7, 3)):
        rate = 10000 ** (-k / 4)
        expected = [np.sin(x * rate), np.cos(x * rate), np.sin(y * rate), np.cos(y * rate)]
        np.testing.assert_allclose(code[y, x, k::4], expected, atol=1e-6)
    whole = position_codes.token_code(16, 8, 16)
    assert not whole[0, 0].any()
    assert len(np.unique(whole[0].round(5), axis=0)) == 129
    assert np.abs(position_codes.grid_code(8, 16, 16).reshape(8, 16, 16).swapaxes(0, 1) - code).max() > 0.5
    moved = vit.resize_positions(np.ones((1, 129, 4), np.float32), (16, 8), (22, 11))
    np.testing.assert_allclose(moved, 1, atol=1e-6)
    kept = vit.resize_positions(whole, (16, 8), (22, 11))
    np.testing.assert_array_equal(kept[:, 0], whole[:, 0])
    with pytest.raises(errors.UserError, match="divides by 4"):
        position_codes.grid_code(2, 2, 6)


def test_15_the_encoder_starts_with_them():
    initialize = vit.ViT(image_size=SIZE, width=8, patch=PATCH, stride=PATCH, position_init="sincos")._position_init()
    code = position_codes.token_code(4, 2, 8)
    np.testing.assert_array_equal(initialize(jax.random.key(0), code.shape, jnp.float32), code)
    with pytest.raises(errors.UserError, match="position_init"):
        vit.ViT(position_init="learned")._position_init()


def test_masks_of_the_batch_are_read_from_where_the_config_says(caplog):
    rule = masks.Rule(4, 2, "parts", 0.5)
    images = np.zeros((2, *SIZE, 3), np.float32)
    parts = np.zeros((2, *SIZE), np.uint8)
    parts[:, :4, :4] = 1
    groups = tiny(mask_kind="parts")._groups({"image": images, "parts": parts}, rule)
    assert np.asarray(groups)[:, 0, 0].all()
    strips = tiny(mask_kind="parts", parts_source="strips")._groups({"image": images}, rule)
    assert strips.shape == (2, 6, 8)
    with caplog.at_level("WARNING"):
        for _ in range(2):
            assert tiny(mask_kind="parts")._groups({"image": images}, rule) is None
    assert sum("blocks are hidden" in line for line in caplog.messages) == 1
    with pytest.raises(errors.UserError, match="mask_seed"):
        tiny()._split({"image": images}, masks.Rule(4, 2), True, "")
    with pytest.raises(errors.UserError, match="mode of a pass"):
        tiny()._split({"image": images}, masks.Rule(4, 2), True, "third")
