"""AMFOR against a numpy twin written from the paper's description: every output of a training step and of a test."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reid_jax.models.amfor import amfor, depth_fusion, part_decoder, pixel_decoder
from tests.helpers import numpy_layers as layers

HEADS, PATCH, SIZE, BATCH, CLASSES, DEPTH = 2, 8, (32, 16), 4, 5, 4
LAYERS = (1, 3)
MODEL = amfor.AMFOR(
    CLASSES,
    width=64,
    depth=DEPTH,
    heads=HEADS,
    patch=PATCH,
    stride=PATCH,
    image_size=SIZE,
    num_cameras=2,
    drop_path=0.0,
    attention_heads=HEADS,
    amff_layers=LAYERS,
    text_rows=3,
    hpr_depths=(1, 1),
    hpr_width=32,
    hpr_heads=HEADS,
    amgd_hidden=2,
    ts_vis_teacher=True,
)
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(BATCH, *SIZE, 3)).astype(np.float32)
    parts = rng.integers(0, 9, (BATCH, *SIZE)).astype(np.uint8)
    # In the first image, parts 3 and 5 are all but hidden: by the size of the image, 1.25 pixels make a part visible.
    parts[0][np.isin(parts[0], (3, 5))] = 0
    parts[0, 4, 4:6], parts[0, 9, 9] = 3, 5
    return {"image": image, "camid": np.array([0, 1, 1, 0], np.int32), "parts": parts}


def drawn(shapes, seed: int = 0):
    """Random variables: no gain is 1, no bias 0, no gate shut, and running variances are positive."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[-1].key == "var":
            return rng.uniform(0.5, 2.0, leaf.shape).astype(np.float32)
        return (0.25 * rng.normal(size=leaf.shape) + 0.6 * (path[-1].key == "scale")).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture(scope="module")
def variables():
    shapes = jax.eval_shape(lambda key: MODEL.init(key, batch(), train=False), jax.random.key(0))
    made = drawn(shapes)
    # Masks near 0 and 1: which tokens the teacher may attend to is then no matter of chance.
    made["params"]["mask_generator"]["classifier"]["kernel"] *= 5000.0
    return made


@pytest.fixture(scope="module")
def trained(variables):
    """Outputs of a training step."""
    apply = functools.partial(MODEL.apply, train=True, mutable=["batch_stats"])
    outputs = compiled(lambda v, b, key: apply(v, b, rngs={"dropout": key})[0])(variables, batch(), jax.random.key(0))
    return {name: np.asarray(value) for name, value in outputs.items()}


def close(found, wanted, **tolerance):
    np.testing.assert_allclose(found, wanted, **{"rtol": 2e-3, "atol": 2e-3, **tolerance})


# ---- the twin


def fuse(depths, p, text):
    """AMFF after block k: queries ask the text, then the class tokens of all depths; weights per depth and channel."""
    queries = np.asarray(p["queries"], np.float64)
    queries = queries + layers.multi_head(queries, text, text, p["ask_text"], HEADS)
    classes = np.stack([tokens[:, 0] for tokens in depths], axis=1)
    own = np.broadcast_to(queries, (BATCH, *queries.shape))
    scores = layers.layer_norm(own + layers.multi_head(own, classes, own, p["ask_image"], HEADS), p["norm"], 1e-5)
    scores[:, -1] += 2.0  # beta, for the token's own depth
    weights = layers.softmax(scores, axis=1)
    share = 1 / (1 + np.exp(-float(p["gate"])))
    mixed = sum(weights[:, i, None] * tokens for i, tokens in enumerate(depths))
    return share * mixed + (1 - share) * depths[-1]


def encode(params):
    """The shared memory F, and the tokens of b1."""
    p, data = params["backbone"], batch()
    patches = layers.patch_tokens(data["image"].astype(np.float64), p["patch_embed"]["proj"], PATCH, PATCH)
    tokens = np.concatenate((np.broadcast_to(p["cls_token"], (BATCH, 1, 64)), patches), axis=1)
    tokens = tokens + p["pos_embed"] + 3.0 * np.asarray(p["sie_embed"])[data["camid"]]
    depths, text = [tokens], np.asarray(params["amff"]["text_bank"], np.float64)
    for number in range(1, DEPTH):
        depths.append(layers.vit_block(tokens, p[f"blocks_{number - 1}"], HEADS))
        tokens = fuse(depths, params["amff"][f"layer_{number}"], text) if number in LAYERS else depths[-1]
    b1 = layers.vit_block(tokens, params["b1"]["block"], HEADS)
    return tokens, layers.layer_norm(b1, params["b1"]["norm"], 1e-6)


def pool(patches, masks):
    """Weighted means of tokens: the foreground (all parts together), then the eight parts."""
    weights = np.concatenate((masks[..., 1:].sum(-1, keepdims=True), masks[..., 1:]), axis=-1)
    return np.einsum("bnp,bnd->bpd", weights, patches) / np.maximum(weights.sum(axis=1), 1e-6)[..., None]


def stage(tokens, p):
    tokens = layers.vit_block(layers.dense(tokens, p["enter"]), p["block_0"], HEADS)
    return layers.dense(layers.layer_norm(tokens, p["norm"], 1e-6), p["leave"])


def reconstruct(pooled, p):
    """HPR: the foreground feature and the patches of its map, joined to one; then all nine slots with positions."""
    maps = layers.enlarge(pooled[:, 0].reshape(-1, 8, 8))[..., None]
    tokens = np.concatenate((pooled[:, :1], layers.patch_tokens(maps, p["patches"], 16, 16)), axis=1)
    decoded = stage(tokens, p["stage_a"])
    joined = np.einsum("bnd,n->bd", decoded, p["join"]["kernel"][:, 0]) + p["join"]["bias"]
    slots = np.concatenate((joined[:, None], pooled[:, 1:]), axis=1) + layers.sincos(9, 64)
    return pooled + np.asarray(p["gain"])[:, None] * stage(slots, p["stage_b"])


def decode(memory, p, allowed=None):
    """The part decoder: queries and class token attend to each other, then the queries to the tokens."""
    memory = layers.layer_norm(memory, p["norm_memory"], 1e-6)
    queries = np.concatenate((memory[:, :1], np.broadcast_to(p["queries"], (len(memory), 9, 64))), axis=1)
    queries = queries + layers.multi_head(queries, queries, queries, p["self"], HEADS)
    queries = layers.layer_norm(queries, p["norm_self"], 1e-5)[:, 1:]
    gathered = layers.multi_head(queries, memory[:, 1:], memory[:, 1:], p["cross"], HEADS, allowed)
    hidden = np.maximum(layers.dense(layers.layer_norm(gathered, p["norm_ffn"], 1e-5), p["fc1"]), 0)
    return (gathered + layers.dense(hidden, p["fc2"]))[:, 1:]


def head(feature, p):
    neck = layers.batch_norm(feature.reshape(BATCH, -1), p["bottleneck"])
    return neck, layers.dense(neck, p["classifier"])


def generate(parts, p):
    """AMGD: of each part the half with the lower scores is hidden; two convolutions of the volume fill it in."""
    places = np.asarray(p["places"], np.float64)
    scores = layers.multi_head(places, places, places, p["attention"], HEADS)
    kept = np.zeros_like(scores)
    for part, row in enumerate(scores):
        kept[part, np.argsort(row)[len(row) // 2 :]] = 1
    volume = (parts * kept).reshape(BATCH, 8, 8, 8, 1)
    volume = np.maximum(layers.convolve_volume(volume, p["conv1"]), 0)
    return layers.convolve_volume(volume, p["conv2"]).reshape(BATCH, 8, 64)


# ---- a training step


def test_the_encoder_fuses_its_depths(variables, trained):
    _, tokens = encode(variables["params"])
    close(trained["tokens"], tokens[:, 1:])
    close(trained["feature/g"], tokens[:, 0])


def test_parts_are_means_under_masks_reconstructed(variables, trained):
    """Mask generator, pooled foreground and parts, HPR, and what each head reads."""
    params, patches = variables["params"], trained["tokens"].astype(np.float64)
    p = params["mask_generator"]
    logits = layers.dense(layers.batch_norm(patches, p["norm"]), p["classifier"])
    close(trained["parsing/logits"], logits, atol=5.0)  # of the order of 10,000
    close(trained["parsing/masks"], layers.softmax(trained["parsing/logits"].astype(np.float64)))
    rebuilt = reconstruct(pool(patches, trained["parsing/masks"].astype(np.float64)), params["hpr"])
    close(trained["feature/f"], rebuilt[:, 0])
    close(trained["feature/b"], rebuilt[:, 1:])
    # The sets of parts that should differ: reconstructed ones and the teacher's.
    sets = sorted(trained["diversity"].swapaxes(0, 1), key=lambda parts: float(np.abs(parts - rebuilt[:, 1:]).max()))
    close(sets[0], rebuilt[:, 1:])
    np.testing.assert_array_equal(sets[1], trained["feature/t"])


def test_teacher_and_student_read_the_shared_memory(variables, trained):
    memory, _ = encode(variables["params"])
    p = variables["params"]["part_decoder"]
    close(trained["feature/s"], decode(memory, p))
    open_ = np.swapaxes(trained["parsing/masks"] > 0.5, 1, 2)
    assert np.all(np.abs(trained["parsing/masks"] - 0.5) > 0.49), "the draw is a matter of chance here"
    assert not open_.any(axis=-1).all(), "some part should have no token"
    close(trained["feature/t"], decode(memory, p, open_))


def test_heads_of_a_training_step(variables, trained):
    """Every head by its batch's statistics; student and teacher share theirs, visibility is asked of each part."""
    params = variables["params"]
    for name, owner in (("g", "g"), ("s", "s"), ("t", "s"), ("b", "b"), ("f", "f")):
        neck, logits = head(trained[f"feature/{name}"].astype(np.float64), params[f"head_{owner}"])
        close(trained[f"neck/{name}"], neck)
        close(trained[f"logits/{name}"], logits, atol=1e-2)
    for name in ("s", "t"):
        normal = layers.batch_norm(trained[f"feature/{name}"].astype(np.float64), params["visibility"]["norm"])
        close(trained[f"visibility/{name}"], layers.dense(normal, params["visibility"]["classifier"])[..., 0])


def test_the_student_generates(variables, trained):
    generated = generate(trained["feature/s"].astype(np.float64), variables["params"]["amgd"]["part"])
    close(trained["generated"], generated)


def test_targets_come_from_the_pixels_of_the_maps(trained):
    labels = np.empty((BATCH, 4, 2), int)
    for image, row, column in np.ndindex(*labels.shape):
        patch = batch()["parts"][image, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        labels[image, row, column] = np.bincount(patch.ravel(), minlength=9).argmax()
    np.testing.assert_array_equal(trained["parsing/labels"], labels.reshape(BATCH, -1))
    pixels = np.stack([(batch()["parts"] == part).sum(axis=(1, 2)) for part in range(1, 9)], axis=1)
    np.testing.assert_array_equal(trained["visibility/target"], pixels >= 20 * 32 * 16 / (128 * 64))
    np.testing.assert_array_equal(trained["visibility/target"][0], [1, 1, 1, 1, 0, 1, 1, 1])


# ---- test time


def test_slots_at_test_time_come_after_the_necks(variables):
    """Running statistics; nine slots of unit length, each after its neck; seen where the logit is positive."""
    params, statistics = variables["params"], variables["batch_stats"]
    outputs = compiled(functools.partial(MODEL.apply, train=False))(variables, batch())
    memory, tokens = encode(params)
    student = decode(memory, params["part_decoder"])
    neck = lambda x, name: layers.batch_norm(
        x.reshape(BATCH, -1), params[f"head_{name}"]["bottleneck"], statistics[f"head_{name}"]["bottleneck"]
    )
    slots = np.concatenate((neck(tokens[:, 0], "g")[:, None], neck(student, "s").reshape(BATCH, 8, 64)), axis=1)
    normal = layers.batch_norm(student, params["visibility"]["norm"], statistics["visibility"]["norm"])
    logits = layers.dense(normal, params["visibility"]["classifier"])[..., 0]
    described = MODEL.describe(outputs)
    close(described.features, slots / np.linalg.norm(slots, axis=-1, keepdims=True))
    np.testing.assert_array_equal(described.visibility, np.concatenate((np.ones((BATCH, 1)), logits > 0), axis=1))
    assert 0.05 < (logits > 0).mean() < 0.95


def test_the_global_slot_is_always_seen_and_parts_can_stand_alone():
    rng = np.random.default_rng(7)
    outputs = {
        "neck/g": rng.normal(size=(1, 64)).astype(np.float32),
        "neck/s": rng.normal(size=(1, 8 * 64)).astype(np.float32),
        "visibility/s": np.full((1, 8), -1.0, np.float32),
    }
    everything = MODEL.describe(outputs)
    np.testing.assert_array_equal(everything.visibility, [[1.0] + [0.0] * 8])
    parts = MODEL.clone(eval_slots="parts").describe(outputs)
    close(parts.features, np.asarray(everything.features)[:, 1:])
    np.testing.assert_array_equal(parts.visibility, np.zeros((1, 8)))
    alone = MODEL.clone(eval_slots="global").describe(outputs)
    close(alone.features, np.asarray(everything.features)[:, 0])
    assert MODEL.clone(eval_use_visibility=False).describe(outputs).visibility is None


# ---- gradients that must not flow


def test_the_part_decoder_teaches_no_class_token(variables):
    """The class token speaks in the queries, and has no gradient; nor have the masks."""
    module, p = part_decoder.PartDecoder(HEADS), {"params": variables["params"]["part_decoder"]}
    rng = np.random.default_rng(3)
    memory, allowed = rng.normal(size=(2, 4, 64)).astype(np.float32), rng.random((2, 9, 3)) < 0.5
    run = lambda memory: module.apply(p, memory, allowed)

    @compiled
    def check(memory):
        return run(memory), jax.grad(lambda x: sum(jnp.sum(out**2) for out in run(x)))(memory)

    (student, _), gradient = check(memory)
    np.testing.assert_array_equal(gradient[:, 0], 0)
    assert np.abs(gradient[:, 1:]).min(axis=-1).max() > 0
    other = memory.copy()
    other[:, 0] = rng.normal(size=(2, 64))
    assert np.abs(check(other)[0][0] - student).max() > 1e-3


def test_fusion_without_text_and_with_the_figures_choices(variables):
    """The switches of AMFF: no text, values from the queries, no residual paths, raw weights, a fixed share."""
    p = variables["params"]["amff"]["layer_1"]
    rng = np.random.default_rng(4)
    depths = [rng.normal(size=(2, 3, 64)).astype(np.float32) for _ in range(2)]
    text = rng.normal(size=(3, 64)).astype(np.float32)
    queries = np.asarray(p["queries"], np.float64)
    classes = np.stack([tokens[:, 0] for tokens in depths], axis=1)
    figure = depth_fusion.LayerFusion(1, 64, HEADS, "query", residual=False, normalize="none", alpha=0.7)
    keys = np.broadcast_to(text.mean(axis=0), queries.shape)
    asked = layers.multi_head(queries, keys, queries, p["ask_text"], HEADS)
    own = np.broadcast_to(asked, (2, *asked.shape))
    weights = layers.layer_norm(layers.multi_head(own, classes, own, p["ask_image"], HEADS), p["norm"], 1e-5)
    mixed = sum(weights[:, i, None] * tokens for i, tokens in enumerate(depths))
    found, silent = compiled(
        lambda p: (figure.apply(p, depths, text), figure.clone(residual=True).apply(p, None, method="text_queries"))
    )({"params": p})
    close(found, 0.7 * mixed + 0.3 * depths[-1])
    np.testing.assert_array_equal(silent, p["queries"])


# ---- drawn patches


def test_the_pixel_decoder_hides_masked_tokens_and_draws_the_others():
    """Only extra tokens become the mask token; positions are rows and columns of the drawn patches."""
    decoder = pixel_decoder.PixelDecoder((16, 8), 4, width=8, depth=1, heads=2, ratio=0.5)
    rng = np.random.default_rng(5)
    image, local = rng.normal(size=(3, 16, 8, 3)).astype(np.float32), rng.normal(size=(3, 8, 6)).astype(np.float32)
    damaged = image.copy()
    damaged[0, :4, :4] = 7.0
    shapes = jax.eval_shape(lambda key: decoder.init(key, local, {}, (4, 2), train=False), jax.random.key(0))
    made = drawn(shapes, seed=6)
    run = compiled(lambda v, b, key: decoder.apply(v, local, b, (4, 2), train=True, rngs={"dropout": key}))
    found = run(made, {"image": image, "image_clean": image}, jax.random.key(1))
    hidden = np.array(found["pixels/mask"])
    np.testing.assert_array_equal(hidden.sum(axis=1), 4)
    p = made["params"]
    x = np.where(hidden[..., None], p["mask_token"], layers.dense(local.astype(np.float64), p["embed"]))
    row, column = layers.sincos(4, 4), layers.sincos(2, 4)
    x = x + np.array([np.concatenate((row[n // 2], column[n % 2])) for n in range(8)])
    x = layers.layer_norm(layers.vit_block(x, p["blocks_0"], 2), p["norm"], 1e-6)
    close(found["pixels/predicted"], layers.dense(x, p["pixels"]))
    # Damaged patches are in the loss as well, but what the encoder made of them is not hidden from the decoder.
    again = run(made, {"image": damaged, "image_clean": image}, jax.random.key(1))
    np.testing.assert_array_equal(again["pixels/predicted"], found["pixels/predicted"])
    hidden[0, 0] = True
    np.testing.assert_array_equal(again["pixels/mask"], hidden)


class _Reached(Exception):
    """Ends a forward pass at what a test looks at."""


def test_b1_is_the_last_block_with_its_stochastic_depth(monkeypatch):
    seen = []

    def branch(block, name):
        seen.append((name, block["drop_path"]))
        raise _Reached

    monkeypatch.setattr(amfor.transreid, "Branch", branch)
    with pytest.raises(_Reached):
        jax.eval_shape(functools.partial(MODEL.clone(drop_path=0.1).init, train=False), jax.random.key(0), batch())
    assert seen == [("b1", 0.1)]


def test_masks_of_the_teacher_are_drawn_in_training_alone(monkeypatch, variables):
    keys = []

    def draw(masks, key):
        keys.append(key is not None)
        raise _Reached

    monkeypatch.setattr(part_decoder, "draw_masks", draw)
    with pytest.raises(_Reached):
        jax.eval_shape(functools.partial(MODEL.init, train=False), jax.random.key(0), batch())
    step = lambda variables, batch, key: MODEL.apply(
        variables, batch, train=True, rngs={"dropout": key}, mutable=["batch_stats"]
    )
    with pytest.raises(_Reached):
        jax.eval_shape(step, variables, batch(), jax.random.key(0))
    assert keys == [False, True]
