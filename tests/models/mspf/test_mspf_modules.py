"""OSFA's and MSPF's parts: both attentions, stripes, a stage that runs twice, patches and their reassembly."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reid_jax import errors
from reid_jax.models.backbones import osnet
from reid_jax.models.mspf import channel_spatial, mspf, multi_patch
from reid_jax.nn import attention, norm
from tests.helpers.tiny_mspf import IMAGES, RANDOM, compiled, initial, randomized, shapes

pytestmark = pytest.mark.usefixtures("native")


# ---- attention (properties 6 and 7) ---------------------------------------------------------------------------------

MAP = RANDOM.normal(size=(2, 5, 3, 16)).astype(np.float32)


def attend(order: str, kind: str, change: Any = lambda variables: variables) -> jax.Array:
    module = channel_spatial.MapAttention(order, kind)
    variables = change(module.init(jax.random.key(0), MAP, train=False))
    return module.apply(variables, MAP, train=False)


def test_osfa_attention_begins_as_half_the_map():
    def zero_gate(variables):
        variables["params"]["channel"]["fc2"] = jax.tree.map(jnp.zeros_like, variables["params"]["channel"]["fc2"])
        return variables

    np.testing.assert_allclose(attend("spatial", "osfa"), MAP, atol=1e-6)
    np.testing.assert_allclose(attend("spatial_channel", "osfa", zero_gate), 0.5 * MAP, atol=1e-6)


def test_cbam_of_zeros_is_a_quarter_and_the_order_matters():
    zero = lambda variables: {**variables, "params": jax.tree.map(jnp.zeros_like, variables["params"])}
    np.testing.assert_allclose(attend("channel_spatial", "cbam", zero), 0.25 * MAP, atol=1e-6)
    for kind in channel_spatial.KINDS:
        one, other = (attend(order, kind, randomized) for order in ("channel_spatial", "spatial_channel"))
        assert one.shape == MAP.shape
        assert jnp.abs(one - other).max() > 1e-3


def test_gates_are_constant_where_they_should_be():
    channel = attention.ChannelAttention()
    gate = channel.apply(randomized(channel.init(jax.random.key(0), MAP)), MAP) / MAP
    np.testing.assert_allclose(gate, np.broadcast_to(gate[:, :1, :1], gate.shape), rtol=1e-4)
    assert jnp.ptp(gate[:, 0, 0], axis=-1).min() > 1e-3
    spatial = attention.SpatialAttention()
    gate = spatial.apply(randomized(spatial.init(jax.random.key(0), MAP, train=False)), MAP, train=False) / MAP
    np.testing.assert_allclose(gate, np.broadcast_to(gate[..., :1], gate.shape), rtol=1e-4)
    assert jnp.ptp(gate[..., 0], axis=(1, 2)).min() > 1e-3


def test_rows_of_position_attention_add_up_to_one():
    query, key = RANDOM.normal(size=(2, 2, 7, 4)).astype(np.float32)
    weights = channel_spatial.position_weights(query, key)
    np.testing.assert_allclose(weights.sum(-1), 1.0, rtol=1e-6)
    # Row by row: position i attends to the keys like its own query.
    expected = np.exp(query[0, 3] @ key[0].T)
    np.testing.assert_allclose(weights[0, 3], expected / expected.sum(), rtol=1e-5)


def test_position_attention_commutes_with_permutations_and_keeps_a_constant_map():
    module = channel_spatial.PositionAttention()
    variables = initial(module, MAP, train=False)
    order = RANDOM.permutation(15)
    shuffle = lambda x: x.reshape(2, 15, 16)[:, order].reshape(2, 5, 3, 16)
    apply = functools.partial(module.apply, train=False)
    np.testing.assert_allclose(apply(variables, shuffle(MAP)), shuffle(apply(variables, MAP)), atol=1e-5)
    constant = np.broadcast_to(MAP[:1, :1, :1], MAP.shape)
    gamma = variables["params"]["gamma"]
    variables["batch_stats"]["bn"]["mean"] = gamma * constant[0, 0, 0]
    variables["params"]["bn"]["bias"] = jnp.zeros(16)
    np.testing.assert_allclose(apply(variables, constant), constant, atol=1e-5)


def test_unknown_attention_is_told_with_the_nearest_name():
    with pytest.raises(errors.UserError, match="channel_spatial"):
        attend("chanel_spatial", "cbam")
    with pytest.raises(errors.UserError, match="cbam"):
        attend("channel", "cbma")


# ---- OSFA (properties 8 and 14) -------------------------------------------------------------------------------------

SHORT = {"size": "x0_25", "depths": (1, 1, 1)}
NARROW = mspf.OSFA(**SHORT)


@functools.cache
def narrow_osfa() -> tuple[Any, Any]:
    """`apply` of a narrow OSFA, compiled once for all tests, and random variables."""
    return compiled(functools.partial(NARROW.apply, train=False)), initial(NARROW, IMAGES, train=False)


def changed(variables: Any, path: str, factor: float) -> Any:
    """The variables with those below a path of `params` multiplied."""

    def scale(keys: Any, leaf: jax.Array) -> jax.Array:
        return leaf * factor if "/".join(key.key for key in keys).startswith(f"params/{path}/") else leaf

    return jax.tree_util.tree_map_with_path(scale, variables)


def test_attention_reaches_the_global_feature_alone():
    apply, variables = narrow_osfa()
    f_global, f_local = apply(variables, IMAGES)
    other_global, other_local = apply(changed(variables, "attention3", 3.0), IMAGES)
    np.testing.assert_array_equal(f_local, other_local)
    assert jnp.abs(f_global - other_global).max() > 1e-3


@pytest.mark.parametrize(("stage", "place"), [(2, 0), (3, 1)])
def test_an_align_convolution_scales_its_own_slice(stage, place):
    apply, variables = narrow_osfa()
    before = apply(variables, IMAGES)[1].reshape(4, 3, -1)
    after = apply(changed(variables, f"align{stage}", 2.0), IMAGES)[1].reshape(4, 3, -1)
    factors = np.ones((1, 3, 1))
    factors[:, place] = 2.0
    np.testing.assert_allclose(after, before * factors, rtol=1e-5)


def test_stripes_are_means_from_the_top():
    rows = np.arange(8, dtype=np.float32)[None, :, None, None] * np.ones((1, 1, 3, 2), np.float32)
    np.testing.assert_allclose(mspf.stripe_means(rows), [[0.5, 0.5, 2.5, 2.5, 4.5, 4.5, 6.5, 6.5]])
    constant = mspf.stripe_means(np.broadcast_to(MAP[:, :1, :, :], (2, 8, 3, 16))).reshape(2, 4, 16)
    np.testing.assert_allclose(constant, np.broadcast_to(constant[:, :1], constant.shape), rtol=1e-6)
    with pytest.raises(errors.UserError, match="4 stripes, got 6 rows"):
        mspf.stripe_means(jnp.zeros((1, 6, 3, 2)))


@pytest.mark.parametrize(
    ("options", "runs"),
    [
        ({"attention": "none"}, {"conv3_0": 1, "conv4_0": 1}),
        ({}, {"conv3_0": 1, "conv4_0": 2}),
        ({"attention_at": (2, 3)}, {"conv3_0": 2, "conv4_0": 2}),
        ({"sam_maps": (2, 3)}, {"conv3_0": 1, "conv4_0": 1}),
    ],
)
def test_a_stage_runs_once_per_path_that_differs(options, runs):
    module = mspf.OSFA(**SHORT, **options)
    seen: list[str] = []

    def note(next_function: Any, arguments: Any, keywords: Any, context: Any) -> Any:
        if isinstance(context.module, norm.BatchNorm) and context.method_name == "__call__":
            seen.append("/".join(context.module.path))
        return next_function(*arguments, **keywords)

    variables = jax.eval_shape(functools.partial(module.init, train=False), jax.random.key(0), IMAGES)
    with osnet.nn.intercept_methods(note):
        apply = functools.partial(module.apply, train=True, mutable=["batch_stats"])
        jax.eval_shape(apply, variables, IMAGES)
    assert {block: seen.count(f"{block}/conv1/bn") for block in runs} == runs
    assert seen.count("conv5/bn") == 1


def test_statistics_of_a_stage_that_runs_twice_move_twice():
    class Twice(osnet.nn.Module):
        @osnet.nn.compact
        def __call__(self, first, second, *, train):
            layer = osnet.ConvLayer(3, name="shared")
            return layer(first, train=train), layer(second, train=train)

    first, second = RANDOM.normal(size=(2, 4, 2, 2, 3)).astype(np.float32)
    module = Twice()
    variables = module.init(jax.random.key(0), first, second, train=False)
    _, updated = module.apply(variables, first, second, train=True, mutable=["batch_stats"])
    kernel = variables["params"]["shared"]["conv"]["kernel"][0, 0]
    means = [(one @ kernel).mean((0, 1, 2)) for one in (first, second)]
    expected = 0.9 * (0.1 * means[0]) + 0.1 * means[1]
    np.testing.assert_allclose(updated["batch_stats"]["shared"]["bn"]["mean"], expected, atol=1e-6)


# ---- patches (property 9) -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", multi_patch.LAYOUTS)
@pytest.mark.parametrize("patches", [1, 2, 4, 8])
def test_reassembling_undoes_splitting(patches, layout):
    cut = multi_patch.split(jnp.asarray(IMAGES), *multi_patch.grid(patches, layout))
    assert len(cut) == 4 * patches
    np.testing.assert_array_equal(multi_patch.reassemble(cut, *multi_patch.grid(patches, layout)), IMAGES)
    # The first image's patches come first, its top left one before all others.
    np.testing.assert_array_equal(cut[0], IMAGES[0, : cut.shape[1], : cut.shape[2]])


@functools.cache
def narrow_patches(**options: Any) -> tuple[Any, Any]:
    module = multi_patch.PatchFusion(**SHORT, **options)
    return compiled(functools.partial(module.apply, train=False)), initial(module, IMAGES, train=False)


def test_the_levels_are_added_and_shuffled_patches_change_nothing():
    apply, variables = narrow_patches()
    found = apply(variables, IMAGES)
    p2, p4 = (found[f"map/level{level}"].max((1, 2)) for level in (2, 4))
    np.testing.assert_allclose(found["feature"], p2 + p4, rtol=1e-6)
    alone, _ = narrow_patches(patches=(2,))
    only = {kind: {"level2": tree["level2"]} for kind, tree in variables.items()}
    np.testing.assert_allclose(alone(only, IMAGES)["feature"], p2, rtol=1e-5, atol=1e-6)
    swapped = np.concatenate((IMAGES[:, 32:], IMAGES[:, :32]), axis=1)
    np.testing.assert_allclose(alone(only, swapped)["feature"], p2, rtol=1e-5, atol=1e-6)


def test_fusing_maps_is_at_most_fusing_maxima():
    maps = [jnp.asarray(RANDOM.normal(size=(3, 4, 2, 5)), jnp.float32) for _ in range(3)]
    by_map, by_vector = multi_patch.fuse(maps, "map"), multi_patch.fuse(maps, "vector")
    assert (by_map <= by_vector + 1e-6).all()
    assert (by_map < by_vector).any()
    np.testing.assert_allclose(multi_patch.fuse(maps[:1], "map"), maps[0].max((1, 2)))


def test_one_patch_is_a_plain_osnet_and_the_batch_is_a_loop():
    apply, variables = narrow_patches(patches=(1,))
    trunk = osnet.Trunk(**SHORT)
    run = compiled(functools.partial(trunk.apply, train=False))
    plain = {kind: tree["level1"] for kind, tree in variables.items()}
    np.testing.assert_allclose(apply(variables, IMAGES)["feature"], run(plain, IMAGES).max((1, 2)), rtol=1e-5)
    halves, _ = narrow_patches(patches=(2,))
    folded = halves({kind: {"level2": tree} for kind, tree in plain.items()}, IMAGES)["map/level2"]
    top, bottom = (run(plain, half) for half in (IMAGES[:, :32], IMAGES[:, 32:]))
    np.testing.assert_allclose(folded, np.concatenate((top, bottom), axis=1), atol=1e-5)


def test_levels_may_share_one_osnet():
    variables = shapes(mpf_share_levels=True)[1]
    assert list(variables["params"]["mpf"]) == ["level"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mpf_patches": (3,)}, "1, 2, 4, 8 patches, got 3"),
        ({"patch_layout": "quadrant"}, "did you mean 'quadrants'"),
        ({"mpf_fuse": "maps"}, "did you mean 'map'"),
        ({"sam_maps": (3, 4)}, r"sam_maps is \(2, 3, 4\) or \(2, 3\), got \(3, 4\)"),
        ({"attention_at": (4,)}, r"attention_at is \(3,\) or \(2, 3\), got \(4,\)"),
        ({"size": "x1_1"}, "did you mean 'x1_0'"),
        ({"depths": (2, 3, 2)}, r"1 or 2 blocks .*, got \(2, 3, 2\)"),
    ],
)
def test_impossible_settings_are_told(options, message):
    with pytest.raises(errors.UserError, match=message):
        shapes(image=(64, 32), **options)


def test_an_image_that_does_not_divide_is_told():
    with pytest.raises(errors.UserError, match="4 x 2 patches, got 64 x 33"):
        multi_patch.split(jnp.zeros((1, 64, 33, 3)), 4, 2)
