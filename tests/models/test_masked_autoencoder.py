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
from reid_jax.ops import masks

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
        ("demo_wide", (128, 64), 8, 2_731_584, 261_120),
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
    """Outputs and gradients of a tiny model, by one program: (mask, its pixels, results)."""
    model = tiny()
    rng = np.random.default_rng(0)
    images = rng.normal(size=(IMAGES, *SIZE, 3)).astype(np.float32)
    mask = masks.split(jnp.asarray(rng.random((IMAGES, TOKENS)), jnp.float32), 4).mask
    pixels = np.repeat(np.repeat(np.asarray(mask).reshape(-1, 4, 2), PATCH, axis=1), PATCH, axis=2)[..., None]
    batch = {"image": images, "mask_seed": rng.integers(0, 2**32, (IMAGES, 2), np.uint32)}
    noisy = np.where(pixels, rng.normal(size=images.shape), images).astype(np.float32)

    def objective(params, batch):
        values = {f"batch/{name}": value for name, value in batch.items()}
        values |= model.apply({"params": params}, batch, train=True, mode="second")
        totals = [losses.evaluate_terms(terms, values)[0] for terms in (TERMS | {"s": STATISTICS}, TERMS)]
        return tuple(totals), values

    def encoder(params, image, mask):
        outputs = model.apply({"params": params}, {"image": image, "mask": mask}, train=True)
        return jnp.sum(outputs["feature/g"][:, 0]), outputs

    def program(params, batch, noisy, mask):
        totals, pull, values = jax.vjp(lambda params: objective(params, batch), params, has_aux=True)
        (grads,), (without,) = (pull((jnp.float32(each), jnp.float32(1 - each))) for each in (1, 0))
        both = jnp.concatenate((batch["image"], noisy))
        image_grads, seen = jax.grad(encoder, argnums=1, has_aux=True)(params, both, jnp.concatenate((mask, mask)))
        whole = model.apply({"params": params}, {"image": batch["image"][:1]}, train=False)
        return {
            "totals": totals,
            "grads": grads,
            "without": without,
            "values": values,
            "image_grads": image_grads,
            "seen": seen,
            "whole": whole,
        }

    # Values that compare with each other: nothing gains from an optimized program.
    quick = {"xla_backend_optimization_level": 0}
    init = jax.jit(lambda key: model.init(key, {"image": images}, train=False)["params"])
    params = init.lower(jax.random.key(0)).compile(quick)(jax.random.key(0))
    compiled = jax.jit(program).lower(params, batch, noisy, mask).compile(quick)
    return np.asarray(mask), pixels, {"params": params, **jax.device_get(compiled(params, batch, noisy, mask))}


def test_1_shapes_of_what_a_model_draws(ran):
    *_, result = ran
    drawn = result["seen"]
    assert drawn["pixels/predicted"].shape == (2 * IMAGES, TOKENS, PATCH * PATCH * 3)
    assert drawn["pixels/statistics"].shape == (2 * IMAGES, TOKENS, 2)
    assert drawn["feature/g"].shape == (2 * IMAGES, 8)
    assert result["whole"]["tokens"].shape == (1, TOKENS, 8)


def test_3_hidden_pixels_have_no_influence(ran):
    mask, pixels, result = ran
    np.testing.assert_array_equal(result["seen"]["pixels/mask"][:IMAGES], mask)
    for name in ("feature/g", "pixels/predicted"):
        seen, noisy = np.split(result["seen"][name], 2)
        np.testing.assert_array_equal(seen, noisy)
    gradient = result["image_grads"][:IMAGES]
    assert not np.any(gradient[np.broadcast_to(pixels, gradient.shape)])
    assert np.any(gradient)


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
    grads, without = trees.flatten(result["grads"]), trees.flatten(result["without"])
    for name, gradient in grads.items():
        # A bias of keys moves all logits of a query alike; nothing else may be without gradient.
        assert np.any(gradient), name
        if "decoder_statistics" not in name:
            np.testing.assert_array_equal(gradient, without[name], err_msg=name)
        else:
            assert not np.any(without[name])
    assert {"mask_token", "backbone/cls_token"} <= set(grads)


def test_11_drawn_patches_get_their_scale():
    true = np.random.default_rng(0).normal(size=(2, 3, 12)).astype(np.float32)
    true[0, 0] = 0.25  # flat: zeros, finite
    normalized = np.asarray(masked_patches.normalize_patches(jnp.asarray(true)))
    assert not np.any(normalized[0, 0])
    assert np.abs(normalized.mean(axis=-1)).max() < 1e-5
    variance = normalized.var(axis=-1).ravel()[1:]
    assert ((variance > 1 - 1e-3) & (variance <= 1 + 1e-6)).all()
    statistics = np.stack((true.mean(axis=-1), np.log(true.std(axis=-1) + masked_patches.SCALE_OFFSET)), axis=-1)
    back = masked_patches.scale_patches(jnp.asarray(normalized), jnp.asarray(statistics))
    np.testing.assert_allclose(back, true, atol=1e-3)
    images = np.asarray(image_ops.unpatchify(jnp.asarray(true[:, :2]), 2, 2, 4))
    mask = np.ones((2, 2), bool)
    assert masked_patches.patch_statistics(jnp.asarray(statistics[:, :2]), images, mask) < 1e-10
    with pytest.raises(errors.UserError, match="got 3 patches"):
        masked_patches.patch_statistics(jnp.asarray(statistics), images, np.ones((2, 3), bool))


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


def test_15_the_encoder_starts_with_them(ran):
    *_, result = ran
    np.testing.assert_allclose(result["params"]["backbone"]["pos_embed"], position_codes.token_code(4, 2, 8), atol=1e-7)
    with pytest.raises(errors.UserError, match="position_init"):
        vit.ViT(position_init="learned").init(jax.random.key(0), {"image": jnp.zeros((1, 256, 128, 3))}, train=False)


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
