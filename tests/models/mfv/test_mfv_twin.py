"""MFV against numpy written from the method: every output, the test feature, and the parts that it is made of."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reid_jax.models.mfv import mfv, transformer_extractor
from tests.helpers import numpy_networks as twin

# Widths and depths differ wherever two of them could be confused.
NETWORK = {
    "num_classes": 5,
    "width": 4,
    "depths": (1, 1, 1, 1),
    "level_depth": 1,
    "tfe_width": 12,
    "tfe_depths": (2, 1, 1),
    "slots": 6,
    "ffn_width": 10,
}
IMAGES = np.random.default_rng(1).normal(size=(2, 64, 32, 3)).astype(np.float32)


@functools.cache
def network():
    """Variables, outputs and test feature of a narrow MFV with the fields that are its defaults."""
    model = mfv.MFV(**NETWORK)
    batch = {"image": IMAGES}
    shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), batch)
    variables = twin.random_variables(shapes)

    def outputs(variables, batch):
        found = model.apply(variables, batch, train=False)
        return found, model.describe(found).features

    return variables, *twin.compiled(outputs)(variables, batch)


def external_attention(x, p):
    """Guo et al.: softmax over the tokens, then each token's row divided by its sum over the slots."""
    scores = twin.softmax(x @ p["memory_key"]["kernel"].astype(np.float64), axis=1)
    return (scores / (1e-9 + scores.sum(-1, keepdims=True))) @ p["memory_value"]["kernel"].astype(np.float64)


def feed_forward(x, p):
    return twin.dense(twin.gelu(twin.dense(x, p["fc0"])), p["fc1"])


def layers(tokens, p, depth):
    """`x + EA(LN(x))`, then `x + FFN(LN(x))`, as often as the stage is deep."""
    for index in range(depth):
        normalized = twin.layer_norm(tokens, p[f"norm{index}_attention"], 1e-5)
        tokens = tokens + external_attention(normalized, p[f"attention{index}"])
        tokens = tokens + feed_forward(twin.layer_norm(tokens, p[f"norm{index}_ffn"], 1e-5), p[f"ffn{index}"])
    return tokens


def tfe(x, p, s, depth):
    """1×1, 3×3, 1×1 with normalization and ReLU; tokens are the positions in row-major order."""
    assert [p["stem"][f"conv{index}"]["kernel"].shape[0] for index in (1, 2, 3)] == [1, 3, 1]
    for index in (1, 2, 3):
        x = twin.conv(x, p["stem"][f"conv{index}"])
        x = twin.relu(twin.batch_norm(x, p["stem"][f"bn{index}"], s["stem"][f"bn{index}"]))
    tokens = x.reshape(len(x), -1, x.shape[-1])
    return layers(tokens, p["transformer"], depth).reshape(x.shape)


def expected(p, s):
    """All outputs and the test feature."""
    x = twin.resnet_stem(IMAGES, p["backbone"], s["backbone"], with_relu=False)
    maps = {}
    for number, stride in ((1, 1), (2, 2), (3, 2), (4, 2)):
        x = maps[number] = twin.resnet_stage(x, p["backbone"], s["backbone"], number, stride)
    out, descriptors, carried = {"map/stage4": maps[4]}, {"b": maps[4].mean((1, 2))}, None
    for k, pool in ((1, 4), (2, 2), (3, 1)):
        level = twin.bottleneck(maps[k], p[f"level{k}"]["block0"], s[f"level{k}"]["block0"])
        level = twin.max_pool(level, pool)
        joined = level if carried is None else np.concatenate((level, carried), -1)
        carried = tfe(joined, p["sdfa"][f"tfe{k}"], s["sdfa"][f"tfe{k}"], NETWORK["tfe_depths"][k - 1])
        out[f"map/t{k}"] = carried
        descriptors[f"t{k}"] = carried.mean((1, 2))
    for head, descriptor in descriptors.items():
        neck = twin.batch_norm(descriptor, p[f"bottleneck_{head}"], s[f"bottleneck_{head}"])
        out |= {f"feature/{head}": descriptor, f"triplet/{head}": descriptor, f"neck/{head}": neck}
        out[f"logits/{head}"] = neck @ p[f"classifier_{head}"]["kernel"]
    feature = np.concatenate([twin.unit(out["neck/b"]), twin.unit(out["neck/t3"])], -1)
    return out, twin.unit(feature)


def test_every_output_is_that_of_the_method():
    variables, outputs, feature = network()
    wanted, wanted_feature = expected(variables["params"], variables["batch_stats"])
    assert set(outputs) == set(wanted)
    for name, value in wanted.items():
        twin.close(outputs[name], value, name)
    twin.close(feature, wanted_feature, "test feature")


def test_necks_have_no_shift_and_classifiers_no_bias():
    params = network()[0]["params"]
    for head in ("b", "t1", "t2", "t3"):
        assert set(params[f"bottleneck_{head}"]) == {"scale"}
        assert set(params[f"classifier_{head}"]) == {"kernel"}
    memory = params["sdfa"]["tfe1"]["transformer"]["attention0"]
    assert {name: set(layer) for name, layer in memory.items()} == {
        "memory_key": {"kernel"},
        "memory_value": {"kernel"},
    }


def test_defaults_are_the_published_sizes():
    model = mfv.MFV(num_classes=2)
    assert (model.width, model.depths, model.last_stride, model.stem_relu) == (64, (3, 4, 6, 3), 2, False)
    assert (model.level_depth, model.stages, model.attention) == (3, (1, 2, 3), "external")
    assert (model.tfe_width, model.tfe_depths, model.slots) == (256, (3, 3, 6), 128)
    assert (model.heads, model.head_width, model.ffn_width, model.dropout) == (16, 64, 2048, 0.1)
    assert (model.cls_token, model.pos_embed, model.ea_shared_memory) == (False, False, False)
    assert model.reading() == mfv.READINGS["tokens"]
    assert mfv.READINGS == {
        "tokens": {
            "ea_norm": "tokens",
            "prenorm": True,
            "stem_expansion": 1,
            "shared_stage_classifier": False,
            "stage_head": "gap",
            "stage_triplet_on": "descriptor",
            "test_fusion": "per_part",
        },
        "release": {
            "ea_norm": "release",
            "prenorm": False,
            "stem_expansion": 4,
            "shared_stage_classifier": True,
            "stage_head": "grid",
            "stage_triplet_on": "map",
            "test_fusion": "concat",
        },
    }


def test_self_attention_is_scaled_by_the_root_of_a_heads_width():
    module = transformer_extractor.SelfAttention(heads=2, head_width=4)
    x = np.random.default_rng(2).normal(size=(2, 3, 1, 5)).astype(np.float32)
    variables = twin.random_variables(jax.eval_shape(module.init, jax.random.key(0), x), seed=3)
    p = variables["params"]
    query, key, value = (
        np.einsum("btc,chd->bhtd", x[:, :, 0], p[name]["kernel"]) for name in ("query", "key", "value")
    )
    weights = twin.softmax(np.einsum("bhtd,bhsd->bhts", query, key) / np.sqrt(4.0), axis=-1)
    mixed = np.einsum("bhts,bhsd->bthd", weights, value)
    wanted = np.einsum("bthd,hdc->btc", mixed, p["out"]["kernel"]) + p["out"]["bias"]
    twin.close(twin.compiled(module.apply)(variables, x)[:, :, 0], wanted)


def test_a_class_token_stands_first_and_positions_are_added():
    make = functools.partial(transformer_extractor.Transformer, depth=1, slots=3, ffn_width=4)
    module = transformer_extractor.TFE(4, "tokens", 1, "external", True, True, make)
    x = np.random.default_rng(4).normal(size=(2, 3, 2, 4)).astype(np.float32)
    shapes = jax.eval_shape(functools.partial(module.init, train=False), jax.random.key(0), x)
    variables = twin.random_variables(shapes, seed=5)
    p, s = variables["params"], variables["batch_stats"]
    found, token = twin.compiled(module.apply, train=False)(variables, x)
    stem = tfe(x, p, s, 0)
    tokens = (stem + p["pos_embed"]).reshape(2, 6, 4)
    tokens = layers(np.concatenate((np.tile(p["cls_token"], (2, 1, 1)), tokens), 1), p["transformer"], 1)
    twin.close(token, tokens[:, 0])
    twin.close(found, tokens[:, 1:].reshape(2, 3, 2, 4))


def test_the_grid_head_keeps_even_rows_and_columns_and_every_fourth_channel():
    stage = jnp.asarray(np.random.default_rng(6).normal(size=(2, 4, 2, 8)), jnp.float32)
    wanted = [[stage[b, y, x, c] for c in (0, 4) for y in (0, 2) for x in (0,)] for b in range(2)]
    np.testing.assert_array_equal(mfv.stage_descriptor(stage, "grid"), np.asarray(wanted))


def test_initial_values_are_those_of_the_recipe():
    """Levels, stems, memories and FFN: uniform in ±1 / sqrt(fan in); classifiers: normal of deviation 0.001."""
    level, ffn = mfv.LevelTransform(4, 1), transformer_extractor.FeedForward(8, 0.1)

    def draw(key):
        block = level.init(key, np.zeros((1, 4, 4, 16), np.float32), train=False)["params"]["block0"]
        return block["conv2"]["kernel"], ffn.init(key, np.zeros((1, 50), np.float32), train=False)["params"]

    kernel, p = twin.compiled(draw)(jax.random.key(0))
    bound = 1 / np.sqrt(3 * 3 * 4)
    assert 0.9 * bound < np.abs(kernel).max() <= bound
    for values, fan_in in ((p["fc0"]["kernel"], 50), (p["fc0"]["bias"], 50), (p["fc1"]["kernel"], 8)):
        assert 0.6 / np.sqrt(fan_in) < np.abs(values).max() <= 1 / np.sqrt(fan_in)


def test_dropout_acts_in_training_alone():
    ffn = transformer_extractor.FeedForward(32, 0.5)
    x = np.ones((2, 4), np.float32)

    def run(key):
        variables = ffn.init(key, x, train=False)
        return [ffn.apply(variables, x, train=train, rngs={"dropout": key}) for train in (False, False, True)]

    plain, again, dropped = twin.compiled(run)(jax.random.key(0))
    np.testing.assert_array_equal(plain, again)
    assert not np.allclose(plain, dropped)


def test_the_class_token_is_the_descriptor_of_its_stage():
    model = mfv.MFV(**{**NETWORK, "stages": (3,), "cls_token": True})
    batch = {"image": IMAGES}
    shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), batch)
    variables = twin.random_variables(shapes)
    kept = lambda module, _: isinstance(module, transformer_extractor.TFE)

    run = twin.compiled(model.apply, train=False, capture_intermediates=kept, mutable=["intermediates"])
    outputs, seen = run(variables, batch)
    _, token = seen["intermediates"]["sdfa"]["tfe3"]["__call__"][0]
    np.testing.assert_array_equal(outputs["feature/t3"], token)
    assert np.abs(outputs["feature/t3"] - outputs["map/t3"].mean((1, 2))).max() > 0.1


@pytest.mark.parametrize(("layout", "reads"), [("tokens", (2, 16)), ("release", (2, 4, 2, 16))])
def test_the_triplet_loss_of_a_stage_reads_its_descriptor_or_the_release_its_map(layout, reads):
    model = mfv.MFV(**{**NETWORK, "tfe_width": 16, "stages": (3,), "layout": layout})
    shapes = jax.eval_shape(
        lambda key: model.init_with_output(key, {"image": IMAGES}, train=False)[0], jax.random.key(0)
    )
    assert shapes["triplet/t3"].shape == reads


def test_later_stages_teach_the_earlier_ones():
    """T(k-1) is an input of stage k, and no constant."""

    class Sum:
        width = 2

        def __call__(self, merged, train):
            return jnp.repeat(merged.sum(-1, keepdims=True), 2, -1), None

    levels = {k: np.ones((1, 1, 1, k + 1), np.float32) for k in (1, 2, 3)}

    def slopes(chain):
        make = lambda transformer, name: Sum()
        stages = mfv.SDFA((1, 2, 3), (1, 1, 1), "tokens", make, lambda **_: None, chain=chain)
        found = jax.grad(lambda levels: stages.apply({}, levels, train=True)[3][0].sum())(levels)
        return [float(found[k].max()) for k in (1, 2, 3)]

    assert slopes(True) == [8.0, 4.0, 2.0]
    assert slopes(False) == [0.0, 0.0, 2.0]  # the row `mfv_chain_cut`


def test_layers_get_the_options_of_the_model(monkeypatch):
    options = {"attention": "self", "slots": 5, "ffn_width": 7, "dropout": 0.3, "heads": 3, "head_width": 11}
    model = mfv.MFV(4, **options)
    monkeypatch.setattr(mfv, "SDFA", lambda *arguments, **_: arguments)
    given = model._sdfa(model.reading())[4].keywords
    assert {name: given[name] for name in options} == options
    assert (given["ea_norm"], given["prenorm"]) == ("tokens", True)


def test_both_layers_of_a_feed_forward_part_are_followed_by_dropout():
    """Half of the output is dropped; where all of the hidden layer were, the output would be the second bias."""
    part, tokens = transformer_extractor.FeedForward(16, dropout=0.5), np.ones((1, 500, 4), np.float32)
    variables = part.init(jax.random.key(0), tokens, train=False)
    dropped = np.asarray(part.apply(variables, tokens, train=True, rngs={"dropout": jax.random.key(1)}))
    assert 0.45 < (dropped == 0).mean() < 0.55
    assert len(np.unique(dropped[0, :, 0])) > 50  # of equal tokens
