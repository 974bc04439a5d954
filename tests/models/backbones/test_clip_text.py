"""CLIP's text transformer against PyTorch, its files both ways, prompts, stage 1 and the bank of text features."""

from __future__ import annotations

import functools
import importlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy

from reid_jax import config, errors, losses, trees
from reid_jax.config import files
from reid_jax.models.backbones import clip_text
from reid_jax.runs import settings as settings_lib
from reid_jax.train import optimizer
from reid_jax.weights import convert

QUICK = {"xla_backend_optimization_level": 0}
quick = functools.partial(jax.jit, compiler_options=QUICK)
SIZES = {"width": 16, "depth": 2, "heads": 2, "context": 9, "vocabulary": 30, "features": 12}
TEMPLATE = (28, 4, 1, 1, 9, 29)  # two learned vectors, which 1 stands for
CLASSES, FEATURES = 5, 10


@pytest.fixture(scope="module")
def golden(root):
    with np.load(root / "tests" / "golden" / "clip_text.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def weights(golden):
    return {name.removeprefix("weights/"): value for name, value in golden.items() if name.startswith("weights/")}


@pytest.fixture(scope="module")
def learner():
    return clip_text.PromptLearner(CLASSES, FEATURES, TEMPLATE, placeholder=1, sizes=SIZES)


@pytest.fixture(scope="module")
def variables(learner, weights):
    """Of a model whose learner stands at "prompts": random, with PyTorch's text transformer."""
    made = quick(learner.init)(jax.random.key(0), jnp.zeros(1, jnp.int32), jnp.zeros((1, FEATURES)))
    model = {collection: {"prompts": tree} for collection, tree in made.items()}
    model["params"]["backbone"] = {"kernel": np.ones((2, 2), np.float32)}
    return convert.load_into(model, weights, clip_text.TORCH_RULES, into="prompts/text")[0]


# ---- the transformer


def test_features_are_those_of_pytorch(golden, weights):
    encoder = clip_text.TextEncoder(**SIZES)
    shapes = jax.eval_shape(functools.partial(encoder.init, method="encode"), jax.random.key(0), golden["ids"])
    params, report = convert.load_into(shapes, weights, clip_text.TORCH_RULES)
    assert not report.named("missing", "extra", "misfit", "reshaped")
    encode = quick(functools.partial(encoder.apply, method="encode"))
    features = encode(params, golden["ids"])
    assert features.dtype == jnp.float32
    np.testing.assert_allclose(features, golden["features"], rtol=2e-5, atol=2e-5)
    # What stands behind the end token changes nothing: a text need not be padded.
    short = encode(params, golden["ids"][:1, :4])
    np.testing.assert_allclose(short, golden["features"][:1], rtol=2e-5, atol=2e-5)


def test_files_both_ways(golden, weights, variables, tmp_path):
    back = convert.to_torch({"params": variables["params"]["prompts"]["text"]}, clip_text.TORCH_EXPORT_RULES)
    assert back.keys() == weights.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(back[name], value, err_msg=name)
    # A whole checkpoint in half precision, with the parts that stay behind.
    whole = {name: value.astype(np.float16) for name, value in weights.items()}
    whole |= {"visual.conv1.weight": np.zeros((4, 3, 2, 2), np.float16), "logit_scale": np.float16([4.6])}
    whole |= {name: np.int32([7]) for name in ("input_resolution", "context_length", "vocab_size")}
    safetensors.numpy.save_file(whole, tmp_path / "clip.safetensors")
    loaded, report = clip_text.load_weights(variables, tmp_path / "clip.safetensors")
    assert len(report.named("ignored")) == 5
    assert loaded["params"]["prompts"]["text"]["text_projection"].dtype == np.float32
    np.testing.assert_array_equal(
        loaded["params"]["prompts"]["text"]["resblocks_1"]["attn"]["in_proj"]["kernel"],
        weights["transformer.resblocks.1.attn.in_proj_weight"].astype(np.float16).T.astype(np.float32),
    )
    del whole["ln_final.bias"]
    safetensors.numpy.save_file(whole, tmp_path / "cut.safetensors")
    with pytest.raises(errors.UserError, match=r"cut\.safetensors.*1 missing .*prompts/text/ln_final/bias"):
        clip_text.load_weights(variables, tmp_path / "cut.safetensors")


def test_the_default_is_the_transformer_of_clip():
    shapes = jax.eval_shape(
        functools.partial(clip_text.TextEncoder().init, method="encode"), jax.random.key(0), np.zeros((1, 77), np.int32)
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 63_428_096
    names = set(convert.to_torch(jax.tree.map(lambda x: np.zeros(x.shape, bool), shapes), clip_text.TORCH_EXPORT_RULES))
    assert {"transformer.resblocks.11.attn.in_proj_bias", "transformer.resblocks.0.ln_2.weight"} < names
    assert {"token_embedding.weight", "positional_embedding", "ln_final.weight", "text_projection"} < names


# ---- prompts


def test_the_published_prompt_needs_no_tokenizer():
    ids = clip_text.template_ids()
    assert (ids[0], ids[-1], len(ids)) == (clip_text.START, clip_text.END, 12)
    assert ids.count(clip_text.PLACEHOLDER) == 4


def test_other_prompts_need_one(tmp_path, monkeypatch):
    other = "A photo of a X man."
    with pytest.raises(errors.UserError, match=r"needs CLIP's tokenizer.json, there is no file"):
        clip_text.template_ids(other)
    file = tmp_path / "tokenizer.json"
    file.write_text("{}")

    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(errors.UserError, match="pip install tokenizers"):
        clip_text.template_ids(other, file)

    def library(size=clip_text.VOCABULARY, ids=(320, clip_text.PLACEHOLDER, 786)):
        encode = lambda text, add_special_tokens: types.SimpleNamespace(ids=list(ids))
        read = types.SimpleNamespace(get_vocab_size=lambda: size, encode=encode)
        stand_in = types.SimpleNamespace(Tokenizer=types.SimpleNamespace(from_file=lambda path: read))
        monkeypatch.setattr(importlib, "import_module", lambda name: stand_in)

    library()
    assert clip_text.template_ids(other, file) == (clip_text.START, 320, clip_text.PLACEHOLDER, 786, clip_text.END)
    library(size=30522)
    with pytest.raises(errors.UserError, match="vocabulary of 49408 tokens"):
        clip_text.template_ids(other, file)
    library(ids=(320, 786))
    with pytest.raises(errors.UserError, match="no X to learn"):
        clip_text.template_ids(other, file)


def test_vectors_take_the_places_of_the_template(learner, variables):
    own = {name: tree["prompts"] for name, tree in variables.items()}
    table = own["params"]["text"]["token_embedding"]["embedding"]
    # With the table's own vectors in place, the prompt is the plain text.
    plain = jnp.asarray(table)[jnp.array([[7, 8]])]
    found = quick(functools.partial(learner.apply, method="text_of"))(own, plain)
    encoder = clip_text.TextEncoder(**SIZES)
    ids = jnp.array([[28, 4, 7, 8, 9, 29]])
    feature = quick(functools.partial(encoder.apply, method="encode"))({"params": own["params"]["text"]}, ids)
    projection = own["params"]["text_proj"]
    np.testing.assert_allclose(found, feature @ projection["kernel"] + projection["bias"][None], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lacking", ["weights", "text_weights"])
def test_prompts_without_pretrained_encoders_are_refused(lacking):
    made = config.defaults()
    settings = config.to_dict(made)
    settings["model"] = {"name": "bot", "text_source": "clip"}
    settings["init"] |= {"weights": "vit.pth", "text_weights": "clip.pth"}
    settings_lib.of(settings)
    settings["init"][lacking] = ""
    with pytest.raises(errors.UserError, match=r"init.weights and init.text_weights, or set model.text_source"):
        settings_lib.of(settings)


# ---- stage 1 (properties of section 12, group 16)


def test_stage_one_trains_prompts_and_projection_alone(learner, variables, root):
    """Property 16, with the terms and the frozen parameters of the published recipe."""
    stage = config.to_dict(files.load_config(f"{root}/configs/amfor.py:market1501,clip"))["phases"]["prompts"]
    settings = {
        "name": "adam",
        "learning_rate": 0.02,
        "weight_decays": ((".*", 1e-4),),
        "frozen": stage["optimizer"]["frozen"],
    }
    params = variables["params"]
    transform, groups = optimizer.build(settings, {"name": "constant"}, params, 30, 10)
    assert sorted(groups.trainable) == ["prompts/text_proj/bias", "prompts/text_proj/kernel", "prompts/vectors"]
    labels = jnp.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4])
    images = jax.random.normal(jax.random.key(1), (CLASSES, FEATURES))[labels]
    images = images + 0.1 * jax.random.normal(jax.random.key(2), images.shape)

    def loss(params, images):
        own = {"params": params["prompts"], "constants": variables["constants"]["prompts"]}
        outputs = learner.apply(own, labels, images)
        return losses.evaluate_terms(stage["losses"], {**outputs, "batch/label": labels})[0]

    @quick
    def step(params, state):
        value, (gradient, to_images) = jax.value_and_grad(loss, argnums=(0, 1))(params, images)
        updates, state = transform.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value, gradient, to_images

    state, values, now = transform.init(params), [], params
    for _ in range(30):
        now, state, value, gradient, to_images = step(now, state)
        values.append(float(value))
    before, after = trees.flatten(params), trees.flatten(now)
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved == set(groups.trainable)
    assert values[-1] < 0.6 * values[0]
    # Nothing is computed for what is frozen: the image encoder and the text transformer get no gradient at all.
    assert not np.any(to_images)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient["prompts"]["text"]))
    assert np.any(gradient["prompts"]["vectors"])


def test_the_bank_has_a_row_per_identity_and_stays(learner, variables):
    """Property 16."""
    own = lambda all_: {name: tree["prompts"] for name, tree in all_.items()}
    assert not np.any(learner.apply(own(variables), method="bank"))
    filled = clip_text.fill_bank(learner, variables)
    bank = filled["constants"]["prompts"]["bank"]
    assert bank.shape == (CLASSES, FEATURES)
    np.testing.assert_array_equal(learner.apply(own(filled), method="bank"), bank)  # what the encoder reads
    np.testing.assert_allclose(np.mean(bank, axis=1), 0, atol=1e-6)
    np.testing.assert_allclose(np.var(bank, axis=1), 1, atol=1e-3)
    text_of = quick(functools.partial(learner.apply, method="text_of"))
    text = text_of(own(variables), variables["params"]["prompts"]["vectors"])
    expected = (text - text.mean(1, keepdims=True)) / np.sqrt(text.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(bank, expected, rtol=1e-4, atol=1e-5)
    # The rest of the variables is as it was, and the shapes alone can be asked for.
    rest = lambda all_: {name: leaf for name, leaf in trees.flatten(all_).items() if not name.endswith("/bank")}
    assert all(rest(filled)[name] is leaf for name, leaf in rest(variables).items())
    abstract = jax.eval_shape(functools.partial(clip_text.fill_bank, learner), variables)
    assert jax.tree.structure(abstract) == jax.tree.structure(variables)
    # Stage 2: a forward pass in training mode, the labels or another prompt move nothing.
    labels, images = jnp.array([0, 3]), jnp.ones((2, FEATURES))
    _, updated = quick(functools.partial(learner.apply, mutable=["batch_stats"]))(own(filled), labels, images)
    assert not updated
    gradient = jax.grad(lambda kept: jnp.sum(learner.apply({**own(filled), "constants": kept}, method="bank")))
    assert not np.any(gradient(own(filled)["constants"])["bank"])
