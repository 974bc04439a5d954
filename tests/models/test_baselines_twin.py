"""BoT against numpy; what BoT and TransReID compare at test time; their defaults."""

import functools

import jax
import numpy as np
import pytest
from flax import linen as nn

from reid_jax.models import bot, transreid
from reid_jax.models.backbones import vit
from tests.helpers import numpy_networks as twin

IMAGES = np.random.default_rng(1).normal(size=(2, 64, 32, 3)).astype(np.float32)


def test_bot_is_a_resnet_of_last_stride_one_without_stem_relu_and_a_neck():
    model = bot.BoT(num_classes=5, width=4, depths=(1, 1, 1, 1))
    batch = {"image": IMAGES}
    shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), batch)
    variables = twin.random_variables(shapes)
    found = twin.compiled(model.apply, train=False)(variables, batch)
    p, s = variables["params"], variables["batch_stats"]
    x = twin.resnet_stem(IMAGES, p["backbone"], s["backbone"], with_relu=False)
    for number, stride in ((1, 1), (2, 2), (3, 2), (4, 1)):
        x = twin.resnet_stage(x, p["backbone"], s["backbone"], number, stride)
    head, stats = p["head_b"], s["head_b"]
    assert (set(head["bottleneck"]), set(head["classifier"])) == ({"scale"}, {"kernel"})
    feature = x.mean((1, 2))
    neck = twin.batch_norm(feature, head["bottleneck"], stats["bottleneck"])
    wanted = {"map/stage4": x, "feature/b": feature, "neck/b": neck, "logits/b": twin.dense(neck, head["classifier"])}
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        twin.close(found[name], value, name)
    twin.close(model.describe(found).features, twin.unit(neck))
    before = bot.BoT(num_classes=5, test_feature="feature")
    twin.close(before.describe(found).features, twin.unit(feature))


@pytest.mark.parametrize("kind", ["feature", "neck"])
@pytest.mark.parametrize("jpm", [False, True])
def test_transreid_compares_global_and_a_quarter_of_each_local_feature(kind, jpm):
    rng = np.random.default_rng(2)
    outputs = {f"{which}/{name}": rng.normal(size=(2, 3)) for which in ("feature", "neck") for name in "g1234"}
    model = transreid.TransReID(num_classes=2, jpm=jpm, test_feature=kind)
    locals_ = [outputs[f"{kind}/{name}"] / 4 for name in "1234"] if jpm else []
    wanted = twin.unit(np.concatenate([outputs[f"{kind}/g"], *locals_], -1))
    twin.close(model.describe(outputs).features, wanted)


def test_defaults_are_the_published_ones():
    model = transreid.TransReID(num_classes=2)
    assert (model.size, model.image_size, model.patch, model.stride) == ("base", (256, 128), 16, 16)
    assert (model.drop_path, model.dropout, model.attention_dropout) == (0.1, 0.0, 0.0)
    assert (model.sie, model.sie_weight, model.positions) == ("none", 3.0, True)
    assert (model.jpm, model.shift, model.shuffle_groups, model.parts, model.rearrange) == (False, 5, 2, 4, True)
    assert model.test_feature == "feature"
    assert vit.layer_norm("norm", float).epsilon == 1e-6
    base = bot.BoT(num_classes=2)
    assert (base.size, base.width, base.last_stride, base.stem_relu) == ("resnet50", 64, 1, False)
    assert (base.pooling, base.test_feature) == ("average", "neck")


def test_jigsaw_shifts_then_shuffles():
    """Shift 5 moves four tokens to the end; two runs interleave; parts are runs of the result."""
    tokens = np.arange(12.0)[None, :, None] * np.ones((1, 1, 2))
    shifted = [4, 5, 6, 7, 8, 9, 10, 11, 0, 1, 2, 3]
    shuffled = [shifted[half * 6 + place] for place in range(6) for half in range(2)]
    parts = transreid.jigsaw(jax.numpy.asarray(tokens), parts=4, shift=5, groups=2)
    assert [part[0, :, 0].tolist() for part in parts] == [shuffled[first : first + 3] for first in (0, 3, 6, 9)]
    plain = transreid.jigsaw(jax.numpy.asarray(tokens), parts=4, shift=5, groups=2, rearrangement=False)
    assert [part[0, :, 0].tolist() for part in plain] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]


class Heads(transreid.TransReID):
    """TransReID's heads alone."""

    @nn.compact
    def __call__(self, tokens, local):
        return self._outputs(tokens, [local], False)


def test_transreids_metric_losses_read_the_class_token_and_the_locals_before_their_necks():
    tokens, local = (np.random.default_rng(3).normal(size=size).astype(np.float32) for size in ((2, 4, 3), (2, 3)))
    module = Heads(num_classes=5)
    variables = twin.random_variables(jax.eval_shape(module.init, jax.random.key(0), tokens, local))
    found = twin.compiled(module.apply)(variables, tokens, local)
    twin.close(found["tokens"], tokens[:, 1:])
    for name, feature in (("g", tokens[:, 0]), ("1", local)):
        p, s = variables["params"][f"head_{name}"], variables["batch_stats"][f"head_{name}"]
        neck = twin.batch_norm(feature.astype(np.float64), p["bottleneck"], s["bottleneck"])
        twin.close(found[f"feature/{name}"], feature)
        twin.close(found[f"neck/{name}"], neck)
        twin.close(found[f"logits/{name}"], twin.dense(neck, p["classifier"]))
