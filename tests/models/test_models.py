"""The table of models: fields mean the same everywhere, and a model of one's own works like ours."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import sys

import jax
import numpy as np
import pytest

from reid_jax import build, errors, models, trees
from reid_jax.weights import convert, zoo

# Types that a size field may have as its default, by the end of its name.
SIZE_FIELDS = {
    "size": (str,),
    "width": (int, type(None)),
    "depth": (int, type(None)),
    "depths": (tuple, type(None)),
    "heads": (int, type(None)),
    "pooling": (str,),
    "test_feature": (str,),
}
# The same under other names.
SYNONYMS = (
    "variant",
    "blocks",
    "features",
    "pool",
    "channels",
    "layers",
    "num_heads",
    "num_layers",
    "eval_feature",
    "dim",
)


@pytest.mark.parametrize("name", models.MODELS)
def test_size_fields_mean_the_same_in_every_model(name):
    for field in dataclasses.fields(models.MODELS[name]):
        assert field.name not in SYNONYMS
        kind = field.name if field.name in SIZE_FIELDS else field.name.rpartition("_")[2]
        if kind in SIZE_FIELDS and field.name != "image_size":
            assert isinstance(field.default, SIZE_FIELDS[kind]), field.name


# ---- names by path --------------------------------------------------------------------------------------------------

OWN = """
from flax import linen as nn
from reid_jax.ops.descriptors import Descriptor

TORCH_RULES = ((r"^embedding\\.", "embed."),)
TORCH_IGNORED = ((r"^counter$", "a counter"),)
PART_LOADERS = {"text_weights": lambda variables, path: (variables, path)}


def options_of_weights(flat):
    return {"width": flat["embedding.weight"].shape[0]}


def adapt_weights(model, flat):
    return {name: value / model.scale for name, value in flat.items()}, ("^head",)


class Own(nn.Module):
    num_classes: int
    width: int = 4
    scale: float = 2.0

    @nn.compact
    def __call__(self, batch, *, train):
        x = batch["image"].mean(axis=(1, 2))
        feature = nn.Dense(self.width, name="embed")(x)
        return {"feature/b": feature, "logits/b": nn.Dense(self.num_classes, name="head")(feature)}

    def describe(self, outputs):
        return Descriptor(outputs["feature/b"])


def wide(num_classes, **options):
    return Own(num_classes, **{"width": 16, **options})


class Mute(nn.Module):
    @nn.compact
    def __call__(self, batch, *, train):
        return {}


def number(num_classes=1):
    return 3


value = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The name of a module of one's own with models."""
    (tmp_path / "own_nets.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield "own_nets"
    monkeypatch.delitem(sys.modules, "own_nets", raising=False)


def initial(model):
    images = {"image": np.ones((2, 8, 4, 3), np.float32)}
    return jax.jit(functools.partial(model.init, train=False))(jax.random.key(0), images), images


def test_a_model_by_path_is_built_and_described(own):
    model = models.build(f"{own}:Own", num_classes=5)
    variables, images = initial(model)
    outputs = model.apply(variables, images, train=False)
    assert model.describe(outputs).features.shape == (2, 4)
    assert models.fields(f"{own}:Own") == ["num_classes", "width", "scale"]
    assert models.build(f"{own}:wide", num_classes=5, scale=1.0).width == 16
    with pytest.raises(errors.UserError, match=r"option of model 'own_nets:Own': 'widht'; did you mean 'width'"):
        models.build(f"{own}:Own", num_classes=5, widht=3)
    with pytest.raises(errors.UserError, match="needs the option 'num_classes'"):
        models.build(f"{own}:Own")


def test_the_trainer_fills_in_what_a_model_by_path_has(own):
    settings = zoo.settings(f"{own}:Own", {"width": 7})
    model = build.build_model(settings, num_classes=5, num_cameras=2)
    assert (model.num_classes, model.width) == (5, 7)


def test_weights_of_a_model_by_path_follow_its_own_tables(own, tmp_path):
    rng = np.random.default_rng(0)
    published = {
        "embedding.weight": rng.normal(size=(6, 3)).astype(np.float32),
        "embedding.bias": rng.normal(size=6).astype(np.float32),
        "counter": np.float32(1),
    }
    np.savez(tmp_path / "own.npz", **published)
    name = f"{own}:Own"
    options = models.options_of_weights(name, tmp_path / "own.npz")
    assert options == {"width": 6}
    model = models.build(name, num_classes=5, **options)
    variables, report = models.load_weights(name, initial(model)[0], tmp_path / "own.npz", model=model)
    np.testing.assert_allclose(variables["params"]["embed"]["kernel"], published["embedding.weight"].T / 2)
    assert len(report.named("loaded")) == 2
    assert list(models.part_loaders(name)) == ["text_weights"]
    # Files of this package come back, too.
    convert.save(tmp_path / "ours.npz", variables)
    plain = models.build(name, num_classes=5, width=6, scale=1.0)
    back, _ = models.load_weights(name, initial(plain)[0], tmp_path / "ours.npz", model=plain)
    assert trees.flatten(back).keys() == trees.flatten(variables).keys()
    np.testing.assert_array_equal(back["params"]["embed"]["kernel"], variables["params"]["embed"]["kernel"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_nets:Onw", "did you mean 'Own'"),
        ("absent_nets:Own", "expected the module 'absent_nets'"),
        ("own_nets:Mute", r"a method describe\(outputs\), got Mute"),
        ("own_nets:number", r"a method describe\(outputs\), got int"),
        ("own_nets:value", "a function that returns one, got int"),
        ("bott", "did you mean 'bot'"),
    ],
)
def test_names_that_lead_to_no_model_are_refused(own, name, message):
    with pytest.raises(errors.UserError, match=message):
        models.build(name)


def test_a_mode_needs_a_model_that_runs_in_modes():
    bot, amfor = models.build("bot", num_classes=2), models.build("amfor", num_classes=2)
    for model, mode in ((bot, ""), (amfor, ""), (amfor, "prompts")):
        models.check_mode(model, mode)
    with pytest.raises(errors.UserError, match="needs a model that runs in modes, BoT does not"):
        models.check_mode(bot, "prompts")
