"""AMFOR's pixel extension: which patches are hidden, the decoder, and that it learns to draw them."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from reid_jax import errors
from reid_jax.losses import masked_patches
from reid_jax.models.amfor import pixel_decoder

QUICK = {"xla_backend_optimization_level": 0}
quick = functools.partial(jax.jit, compiler_options=QUICK)
ROWS, COLUMNS, PATCH = 8, 4, 4
SIZE = (ROWS * PATCH, COLUMNS * PATCH)
GRID = (9, 5)  # of the encoder: patches that overlap
DECODER = pixel_decoder.PixelDecoder(SIZE, PATCH, width=16, depth=1, heads=2, ratio=0.5)


@functools.cache
def scene():
    """Tokens, and a batch of which the upper left 10 x 8 pixels are damaged; a person stands in the middle."""
    rng = np.random.default_rng(0)
    clean = rng.normal(size=(4, *SIZE, 3)).astype(np.float32)
    image = clean.copy()
    image[:, :10, :8] = 9.0
    parts = np.zeros((4, *SIZE), np.uint8)
    parts[:, 4:8, 4:12] = 1
    parts[:, 8:20, 4:12] = 4
    parts[:, 20:, 4:8], parts[:, 20:, 8:12] = 5, 6
    local = rng.normal(size=(4, GRID[0] * GRID[1], 12)).astype(np.float32)
    return local, {"image": image, "image_clean": clean, "parts": parts}


@functools.cache
def variables():
    local, batch = scene()
    plain = {"image": batch["image"]}
    return quick(lambda key: DECODER.init(key, local, plain, GRID, train=False))(jax.random.key(0))


@functools.cache
def forward(train: bool):
    apply = functools.partial(DECODER.apply, train=train)
    return quick(lambda params, local, batch, key: apply(params, local, batch, GRID, rngs={"dropout": key}))


def test_a_patch_is_damaged_when_half_of_it_is():
    _, batch = scene()
    damaged = pixel_decoder.damaged_tokens(batch["image"], batch["image_clean"], PATCH).reshape(4, ROWS, COLUMNS)
    expected = np.zeros((ROWS, COLUMNS), bool)
    expected[:3, :2] = True  # of the third row of patches the upper half: 2 of 4 pixels
    np.testing.assert_array_equal(damaged, np.broadcast_to(expected, (4, ROWS, COLUMNS)))
    less = batch["image"].copy()
    less[:, 9:10] = batch["image_clean"][:, 9:10]
    assert pixel_decoder.damaged_tokens(less, batch["image_clean"], PATCH).sum() == 4 * 4


def test_patches_know_their_body_part():
    _, batch = scene()
    groups = pixel_decoder.part_tokens(batch["parts"], PATCH)[0].reshape(ROWS, COLUMNS)
    expected = np.full((ROWS, COLUMNS), -1)
    expected[1, 1:3], expected[2:5, 1:3], expected[5:, 1], expected[5:, 2] = 0, 3, 4, 5
    np.testing.assert_array_equal(groups, expected)


@pytest.mark.parametrize("ratio", [0.25, 0.5])
def test_extra_masks_have_their_share_in_blocks_and_parts(ratio):
    rows, columns, count = 16, 8, 200
    draw = quick(lambda key, parts: pixel_decoder.extra_tokens(key, count, rows, columns, ratio, parts))
    blocks = quick(lambda key: pixel_decoder.extra_tokens(key, count, rows, columns, ratio))(jax.random.key(0))
    wanted = round(ratio * rows * columns)
    assert (blocks.sum(axis=1) == wanted).all()
    # Blocks: most hidden tokens have a hidden neighbor on either side of both axes; scattered ones would not.
    whole = np.asarray(blocks).reshape(count, rows, columns)
    neighbors = whole[:, 1:-1, 1:-1] & whole[:, :-2, 1:-1] & whole[:, 2:, 1:-1]
    assert neighbors.sum() > 0.4 * whole[:, 1:-1, 1:-1].sum()
    assert len(np.unique(whole, axis=0)) > 0.95 * count
    # Parts: of each, at most 30 % come from the part masks; every number of parts is drawn.
    groups = np.full((count, rows * columns), -1, np.int32)
    for group in range(6):
        groups[:, 20 * group : 20 * group + 20] = group
    picked = np.asarray(quick(pixel_decoder.part_ranks)(jax.random.key(1), groups)) < 1
    shares = picked[:, :120].reshape(count, 6, 20).sum(axis=-1)
    assert set(np.unique(shares)) == {0, 6}
    assert not picked[:, 120:].any()
    assert set((shares > 0).sum(axis=1)) == set(range(7))
    hidden = draw(jax.random.key(1), groups)
    assert (hidden.sum(axis=1) == wanted).all()


def test_the_decoder_adds_nothing_at_test_time():
    local, batch = scene()
    assert DECODER.apply(variables(), local, {"image": batch["image"]}, GRID, train=False) == {}
    names = {"/".join(key.key for key in path) for path, _ in jax.tree_util.tree_leaves_with_path(variables())}
    assert {"params/embed/kernel", "params/mask_token", "params/pixels/bias"} < names
    without = DECODER.clone(ratio=0.0)
    shapes = jax.eval_shape(lambda: without.init(jax.random.key(0), local, {}, GRID, train=False))
    assert "mask_token" not in shapes["params"]


def test_what_counts_and_what_is_hidden():
    local, batch = scene()
    key = jax.random.key(0)
    seen = forward(False)(variables(), local, batch, key)
    assert seen["pixels/predicted"].shape == (4, ROWS * COLUMNS, PATCH * PATCH * 3)
    assert seen["pixels/predicted"].dtype == jnp.float32
    damaged = pixel_decoder.damaged_tokens(batch["image"], batch["image_clean"], PATCH)
    np.testing.assert_array_equal(seen["pixels/mask"], damaged)
    trained = forward(True)(variables(), local, batch, key)
    mask = np.asarray(trained["pixels/mask"])
    assert (mask.sum(axis=1) >= 16).all()
    assert (mask & damaged == damaged).all()
    assert np.abs(trained["pixels/predicted"] - seen["pixels/predicted"]).max() > 1e-3
    for ratio in (-0.1, 0.6):
        with pytest.raises(errors.UserError, match=r"in \[0, 0.5\], got"):
            DECODER.clone(ratio=ratio).apply(variables(), local, batch, GRID, train=True)


def test_colors_are_copied_from_visible_pixels_alone():
    """Before training the nearest ones count most; what is hidden is not read; attention gets a gradient."""
    decoder = DECODER.clone(ratio=0.0, copies=True)
    local, batch = scene()
    clean = np.zeros_like(batch["image_clean"])
    clean[:, 16:] = 1.0  # two colors, upper and lower half
    hidden = np.zeros(clean.shape[:3], bool)
    hidden[:, 4:14, :8] = True  # of patches 1, 2 and half of 3, in the left half
    noisy = [np.where(hidden[..., None], noise, clean) for noise in (7.0, -3.0)]
    shapes = jax.eval_shape(lambda: decoder.init(jax.random.key(0), local, {}, GRID, train=False))
    params = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.1), shapes)["params"]
    params["pixels"] = jax.tree.map(jnp.zeros_like, params["pixels"])
    params["copy"]["query"] = jax.tree.map(jnp.zeros_like, params["copy"]["query"])

    @quick
    def run(params, image):
        def total(params):
            outputs = decoder.apply({"params": params}, local, {"image": image, "image_clean": clean}, GRID, train=True)
            return outputs["pixels/predicted"][:, 4].sum(), outputs["pixels/predicted"]

        gradient, drawn = jax.grad(total, has_aux=True)(params)
        return gradient["copy"]["query"]["bias"], drawn

    (gradient, drawn), (_, other) = (run(params, image) for image in noisy)
    np.testing.assert_allclose(drawn, other, atol=1e-6)
    assert np.abs(gradient).max() > 0
    left = drawn.reshape(4, ROWS, COLUMNS, -1)[0, :, 0]
    np.testing.assert_allclose(left, np.broadcast_to(left[:, :1], left.shape), atol=1e-6)
    assert (np.diff(left[:, 0]) > 0).all()
    np.testing.assert_array_less([left[1, 0], 0.9], [0.15, left[-1, 0]])
    colors, shares = pixel_decoder.visible_colors(noisy[0], hidden, PATCH)
    np.testing.assert_allclose(shares.reshape(4, ROWS, COLUMNS)[0, :, 0], [1, 0, 0, 0.5, 1, 1, 1, 1])
    np.testing.assert_allclose(colors.reshape(4, ROWS, COLUMNS, 3)[0, :, 0, 0], [0, 0, 0, 0, 1, 1, 1, 1])


def test_positions_differ_by_row_and_column():
    code = pixel_decoder.sincos_positions(3, 2, 8).reshape(3, 2, 8)
    np.testing.assert_allclose(code[2, 1, 0], np.sin(2), rtol=1e-6)
    np.testing.assert_allclose(code[2, 1, 6:], np.cos([1, 1 / 100]), rtol=1e-6)
    assert len(np.unique(code.reshape(6, 8), axis=0)) == 6


def test_it_learns_to_draw_what_is_hidden():
    """Property 15: hidden patches better than the mean color of what is visible, on held-out pictures.

    A picture has two colors, and the tokens tell them: what an encoder that sees the rest of a person can know.
    """
    decoder = DECODER.clone(ratio=0.0)
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(3, 12)).astype(np.float32)

    def draw(count):
        colors = rng.uniform(-1, 1, size=(count, 2, 3)).astype(np.float32)  # of the upper and the lower half
        clean = np.tile(np.repeat(colors, SIZE[0] // 2, axis=1)[:, :, None], (1, 1, SIZE[1], 1))
        image = clean.copy()
        image[:, 8:16] = 5.0
        local = np.repeat(colors, (25, 20), axis=1) @ basis  # the first five of nine rows of tokens are the upper half
        return local, {"image": image, "image_clean": clean}

    def loss(params, local, batch):
        outputs = decoder.apply(params, local, batch, GRID, train=True)
        return masked_patches.masked_patches(outputs["pixels/predicted"], batch["image_clean"], outputs["pixels/mask"])

    transform = optax.adam(1e-2)

    @quick
    def step(params, state, local, batch):
        value, gradient = jax.value_and_grad(loss)(params, local, batch)
        updates, state = transform.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    params = {"params": {name: leaf for name, leaf in variables()["params"].items() if name != "mask_token"}}
    state = transform.init(params)
    for _ in range(150):
        params, state, _ = step(params, state, *draw(16))
    local, batch = draw(16)
    held_out = step(params, state, local, batch)[2]
    visible = np.delete(batch["image_clean"], slice(8, 16), axis=1).mean(axis=(1, 2), keepdims=True)
    fill = np.mean((batch["image_clean"][:, 8:16] - visible) ** 2)
    assert held_out < 0.63 * fill  # 2 dB
