"""BoT: sizes, the place of the neck, and what the flags change."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reid_jax import errors, models
from reid_jax.models import bot
from reid_jax.weights import convert

TINY = {"num_classes": 5, "width": 8, "depths": (1, 1, 1, 1)}


def init(model: bot.BoT, key: jax.Array, batch: dict) -> tuple[dict, dict]:
    """Outputs and variables."""
    return model.init_with_output(key, batch, train=False)


def shapes_of(model: bot.BoT) -> tuple[dict, dict]:
    """Shapes of the outputs and of the variables, without computing or compiling anything."""
    images = {"image": jax.ShapeDtypeStruct((2, 256, 128, 3), jnp.float32)}
    return jax.eval_shape(functools.partial(init, model), jax.random.key(0), images)


@pytest.mark.parametrize(
    ("options", "expected", "size"),
    [
        ({}, 23_508_032 + 2048 * 752, (16, 8)),
        ({"last_stride": 2, "stem_relu": True}, 23_508_032 + 2048 * 752, (8, 4)),
        ({"pooling": "gem"}, 23_508_032 + 2048 * 752 + 1, (16, 8)),
        ({"size": "resnet18"}, 11_176_512 + 512 * 752, (16, 8)),
        ({"size": "resnet101"}, 42_500_160 + 2048 * 752, (16, 8)),
    ],
    ids=["default", "last_stride", "gem", "resnet18", "resnet101"],
)
def test_parameters_and_maps(options, expected, size):
    outputs, variables = shapes_of(models.build("bot", num_classes=751, **options))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])) == expected
    assert outputs["map/stage4"].shape[1:3] == size
    assert outputs["logits/b"].shape == (2, 751)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_the_test_feature_is_the_neck_at_unit_length(dtype):
    model = bot.BoT(**TINY, dtype=dtype)
    batch = {"image": np.random.default_rng(0).normal(size=(3, 64, 32, 3)).astype(np.float32)}
    # One compilation: the outputs of a fresh model. Compiling is what costs here, hence without optimization.
    start = jax.jit(functools.partial(init, model), compiler_options={"xla_backend_optimization_level": 0})
    outputs, _ = start(jax.random.key(0), batch)
    assert {value.dtype for value in outputs.values()} == {jnp.dtype("float32")}
    # A fresh neck has running mean 0 and variance 1.
    np.testing.assert_allclose(outputs["neck/b"], outputs["feature/b"] / np.sqrt(1 + 1e-5), rtol=1e-5)
    np.testing.assert_allclose(outputs["feature/b"], np.mean(outputs["map/stage4"], axis=(1, 2)), rtol=1e-4)
    neck = np.asarray(outputs["neck/b"])
    features = model.describe(outputs).features
    np.testing.assert_allclose(features, neck / np.linalg.norm(neck, axis=1, keepdims=True), rtol=1e-5)


def test_unknown_options_are_explained():
    with pytest.raises(errors.UserError, match="did you mean 'last_stride'"):
        models.build("bot", num_classes=5, laststride=1)
    with pytest.raises(errors.UserError, match="did you mean 'resnet50'"):
        shapes_of(models.build("bot", num_classes=5, size="resnet5"))


def test_the_published_names_fill_every_parameter():
    _, variables = shapes_of(bot.BoT(751))
    to_theirs = ((r"^backbone\.", "base."), (r"^head_b\.", ""))
    random = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), variables)
    published = convert.to_torch(random, to_theirs) | {"bottleneck.bias": np.zeros(2048, np.float32)}
    assert "base.layer4.2.bn3.running_var" in published
    ignored = (*convert.IGNORED, *bot.TORCH_IGNORED)
    _, report = convert.load_into(variables, published, bot.TORCH_RULES, ignore=ignored)
    assert len(report.named("loaded")) == len(jax.tree.leaves(variables))
    assert [entry.source for entry in report.entries if entry.fate != "loaded"] == ["bottleneck.bias"]
