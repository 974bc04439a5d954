"""The vision transformer: token counts, sizes, side information, stochastic depth, positions."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reid_jax import errors, trees
from reid_jax.models.backbones import vit
from tests.helpers import numpy_layers

TINY = {"width": 16, "depth": 3, "heads": 2, "patch": 8, "stride": 8, "image_size": (32, 16)}
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def shapes(**fields):
    model = vit.ViT(**fields)
    batch = {
        "image": jax.ShapeDtypeStruct((2, *model.image_size, 3), jnp.float32),
        "camid": jax.ShapeDtypeStruct((2,), jnp.int32),
        "viewid": jax.ShapeDtypeStruct((2,), jnp.int32),
    }
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(functools.partial(model.init_with_output, train=False), key, batch)


def batch_of(**more):
    images = np.random.default_rng(0).normal(size=(4, 32, 16, 3)).astype(np.float32)
    return {"image": images, "camid": np.array([0, 1, 2, 0], np.int32), "viewid": np.array([0, 1, 0, 1]), **more}


def made(**fields):
    """A tiny model and drawn variables; the side information is large enough to be seen."""
    model = vit.ViT(**{**TINY, **fields})
    variables = compiled(functools.partial(model.init, train=False))(jax.random.key(0), batch_of())
    if "sie_embed" in variables["params"]:
        variables["params"]["sie_embed"] *= 50
    return model, variables


@pytest.mark.parametrize(
    ("size", "stride", "tokens"),
    [
        *(((256, 128), stride, tokens) for stride, tokens in ((16, 128), (14, 162), (12, 210), (11, 242))),
        *(((384, 128), stride, tokens) for stride, tokens in ((16, 192), (12, 310))),
        *(((256, 256), stride, tokens) for stride, tokens in ((16, 256), (12, 441))),
    ],
)
def test_number_of_tokens(size, stride, tokens):
    """Property 1."""
    out, variables = shapes(image_size=size, stride=stride, depth=1)
    assert out.shape == (2, 1 + tokens, 768)
    assert variables["params"]["pos_embed"].shape == (1, 1 + tokens, 768)


def test_images_of_another_size_are_refused():
    model, variables = made()
    with pytest.raises(errors.UserError, match=r"expected images of \(32, 16\).*got \(16, 32\)"):
        model.apply(variables, {"image": jnp.zeros((1, 16, 32, 3))}, train=False)
    with pytest.raises(errors.UserError, match="at least 16 pixels"):
        vit.grid_of((256, 12), 16, 16)


def test_parameter_counts():
    count = lambda **fields: trees.count_parameters(shapes(**fields)[1]["params"])
    assert count() == 85_746_432
    assert count(depth=12) - count(depth=11) == 7_087_872
    assert count(sie="camera", num_cameras=6) - count() == 6 * 768
    assert count(sie="camera_view", num_cameras=6, num_views=8) - count() == 48 * 768
    assert count(**vit.SIZES["small"]) == 12 * (12 * 384**2 + 13 * 384) + 16 * 16 * 3 * 384 + 384 * (1 + 130 + 2)
    # No bias of the projection, a narrower MLP.
    block = 768 * 768 * (3 + 1 + 2 * 3) + 768 + 3 * 768 + 768 + 4 * 768
    assert count(**vit.SIZES["small_wide"]) == 8 * block + 16 * 16 * 3 * 768 + 768 + 130 * 768 + 2 * 768


def test_attention_by_hand():
    """Softmax of scaled products, heads side by side; and the scale that one of the sizes has of its own."""
    query, key, value = np.random.default_rng(1).normal(size=(3, 2, 3, 5, 4)).astype(np.float32)
    for scale in (None, 0.25):
        logits = np.einsum("bhqd,bhkd->bhqk", query, key) * (0.5 if scale is None else scale)
        weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        wanted = np.einsum("bhqk,bhkd->bqhd", weights, value).reshape(2, 5, 12)
        np.testing.assert_allclose(vit.attend(query, key, value, scale=scale), wanted, atol=1e-5)
    with pytest.raises(errors.UserError, match="did you mean 'cudnn'"):
        vit.attend(query, key, value, kernel="cudn")
    with pytest.raises(errors.UserError, match="divides into heads"):
        shapes(heads=7)


# ---- side information (property 5) ----------------------------------------------------------------------------------


def test_the_activation_is_the_exact_gelu():
    """The approximation by tanh is 5e-4 off at most, more than weights of a fresh network show."""
    x = np.linspace(-4, 4, 33, dtype=np.float32).reshape(1, 33, 1)
    identity = {"kernel": np.ones((1, 1), np.float32), "bias": np.zeros(1, np.float32)}
    output = vit.MLP(hidden=1).apply({"params": {"fc1": identity, "fc2": identity}}, x)
    np.testing.assert_allclose(output, numpy_layers.gelu(x), atol=2e-6)


def test_cameras_matter_only_with_their_embedding():
    other = np.array([1, 1, 2, 0], np.int32)
    for sie, matters in (("none", False), ("camera", True)):
        model, variables = made(sie=sie, num_cameras=3)
        run = compiled(lambda batch, model=model, variables=variables: model.apply(variables, batch, train=False))
        before, after = run(batch_of()), run(batch_of(camid=other))
        assert (np.abs(before[0] - after[0]).max() > 1e-3) == matters, sie
        np.testing.assert_array_equal(before[1:], after[1:])


def test_no_weight_one_camera_and_an_unknown_camera_are_no_embedding():
    model, variables = made(sie="camera", num_cameras=3)
    plain = {**variables["params"]}
    del plain["sie_embed"]
    wanted = vit.ViT(**TINY).apply({"params": plain}, batch_of(), train=False)
    unweighted = vit.ViT(**TINY, sie="camera", num_cameras=3, sie_weight=0.0)
    np.testing.assert_array_equal(unweighted.apply(variables, batch_of(), train=False), wanted)
    single = vit.ViT(**TINY, sie="camera", num_cameras=1)
    np.testing.assert_array_equal(single.apply({"params": plain}, batch_of(), train=False), wanted)
    for unknown in (-1, 3, 99):
        found = model.apply(variables, batch_of(camid=np.full(4, unknown)), train=False)
        np.testing.assert_array_equal(found, wanted)


def test_every_camera_and_view_has_a_row_of_its_own():
    model, variables = made(sie="camera_view", num_cameras=3, num_views=2)
    assert variables["params"]["sie_embed"].shape == (6, 1, 16)
    variables["params"]["sie_embed"] = jnp.arange(6.0)[:, None, None] * jnp.ones((6, 1, 16))
    pairs = np.array([(cam, view) for cam in range(3) for view in range(2)])
    batch = {"image": np.zeros((6, 32, 16, 3), np.float32), "camid": pairs[:, 0], "viewid": pairs[:, 1]}
    tokens = model.apply(variables, batch, method="embed")
    rows = (tokens - tokens[:1])[:, 0, 0] / 3.0
    np.testing.assert_allclose(rows, np.arange(6), atol=1e-5)
    with pytest.raises(errors.UserError, match="reads 'viewid', which the data have not"):
        model.apply(variables, {key: batch[key] for key in ("image", "camid")}, train=False)
    with pytest.raises(errors.UserError, match="did you mean 'camera'"):
        shapes(sie="cameras")


# ---- stochastic depth (property 11) ---------------------------------------------------------------------------------


def test_rates_rise_to_the_last_block():
    model = vit.ViT(drop_path=0.1)
    rates = [model.block_fields(index)["drop_path"] for index in range(12)]
    np.testing.assert_allclose(rates, np.linspace(0, 0.1, 12))


def test_a_branch_is_skipped_for_whole_samples_or_scaled_up():
    block = vit.Block(heads=2, drop_path=0.25)
    x = jnp.asarray(np.random.default_rng(2).normal(size=(64, 3, 8)), jnp.float32)
    variables = jax.tree.map(lambda leaf: leaf + 0.1, block.init(jax.random.key(0), x, train=False))
    # Without the second branch, what is added is the first one's.
    for name in ("kernel", "bias"):
        variables["params"]["mlp"]["fc2"][name] *= 0
    still = block.apply(variables, x, train=False)
    np.testing.assert_array_equal(still, block.apply(variables, x, train=False))
    moved = block.apply(variables, x, train=True, rngs={"dropout": jax.random.key(1)})
    branch, found = np.asarray(still - x), np.asarray(moved - x)
    skipped = np.array([not sample.any() for sample in found])
    assert 4 <= skipped.sum() <= 32
    np.testing.assert_allclose(found[~skipped], branch[~skipped] / 0.75, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("field", ["dropout", "attention_dropout"])
def test_what_is_dropped_in_training_is_there_at_test_time(field):
    model, variables = made(drop_path=0.0)
    dropping = vit.ViT(**{**TINY, "drop_path": 0.0, field: 0.5})
    wanted = model.apply(variables, batch_of(), train=False)
    np.testing.assert_array_equal(dropping.apply(variables, batch_of(), train=False), wanted)
    np.testing.assert_array_equal(model.apply(variables, batch_of(), train=True), wanted)
    draws = [dropping.apply(variables, batch_of(), train=True, rngs={"dropout": jax.random.key(k)}) for k in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    for other in (wanted, draws[2]):
        assert np.abs(draws[0] - other).max() > 1e-3
    with pytest.raises(errors.UserError, match="drops no weights"):
        vit.attend(*[jnp.zeros((1, 1, 2, 4))] * 3, kernel="cudnn", drop=lambda weights: weights)


def test_without_positions_patches_have_no_order():
    """The class token of an image cut into patches and put together otherwise is the same."""
    model, variables = made(positions=False, depth=1, drop_path=0.0)
    assert "pos_embed" not in variables["params"]
    images = batch_of()["image"]
    turned = {"image": np.concatenate((images[:, 16:], images[:, :16]), axis=1)}
    first = lambda batch, model=model, variables=variables: model.apply(variables, batch, train=False)[:, 0]
    np.testing.assert_allclose(first(turned), first({"image": images}), atol=1e-5)
    with_order, others = made(depth=1, drop_path=0.0)
    found = first(turned, with_order, others) - first({"image": images}, with_order, others)
    assert np.abs(found).max() > 1e-3


# ---- positions (property 8) -----------------------------------------------------------------------------------------


def test_positions_are_resampled_as_in_pytorch(root):
    with np.load(root / "tests" / "golden" / "transreid_parts.npz") as file:
        golden = dict(file)
    compared = 0
    for name, wanted in golden.items():
        if "/out_" not in name or not name.startswith("pos"):
            continue
        rows, columns = map(int, name.rpartition("_")[2].split("x"))
        folder = name.split("/")[0]
        source = {"pos": (14, 14), "pos24": (24, 24)}[folder]
        given = golden[f"{folder}/in_{1 + math.prod(source)}"]
        found = vit.resize_positions(given, source, (rows, columns))
        np.testing.assert_allclose(found, wanted, atol=5e-6, err_msg=name)
        compared += 1
    assert compared == 10


def test_positions_of_the_same_grid_stay_and_constants_stay_constant():
    given = np.random.default_rng(3).normal(size=(1, 197, 4)).astype(np.float32)
    np.testing.assert_array_equal(vit.resize_positions(given, (14, 14), (14, 14)), given)
    constant = np.full((1, 197, 4), 0.7, np.float32)
    np.testing.assert_allclose(vit.resize_positions(constant, (14, 14), (21, 10)), 0.7, rtol=1e-6)


def test_grids_are_guessed():
    assert vit.guess_grid(196, (16, 8)) == (14, 14)
    assert vit.guess_grid(128, (22, 11)) == (16, 8)
    assert vit.guess_grid(192, (22, 11)) == (24, 8)
    assert vit.guess_grid(210, (21, 10)) == (21, 10)
    with pytest.raises(errors.UserError, match=r"got 210 patches.*position_grid"):
        vit.guess_grid(210, (16, 8))
