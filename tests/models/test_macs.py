"""Counting multiply-accumulates from shapes."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from reid_jax.models import macs
from reid_jax.nn import conv


class Toy(nn.Module):
    """One layer of each sort; the second convolution runs twice."""

    @nn.compact
    def __call__(self, batch, *, train):
        del train
        x = conv.Conv(8, 3, 2, use_bias=True)(batch["image"])  # [1, 4, 2, 8]
        depthwise = conv.Conv(8, 3, groups=8)
        x = depthwise(depthwise(x))
        heads = nn.DenseGeneral((2, 5), use_bias=False)(x)  # [1, 4, 2, 2, 5]
        joined = nn.DenseGeneral(6, axis=(-2, -1))(heads)
        return nn.Dense(7, name="classifier")(joined.mean((1, 2)))


def test_layers_count_by_use_and_the_classifier_does_not():
    layers = {
        "convolution": 4 * 2 * 8 * (3 * 3 * 3 + 1),
        "depthwise": 2 * 4 * 2 * 8 * 9,
        "split": 4 * 2 * 10 * 8,
        "join": 4 * 2 * 6 * (10 + 1),
    }
    assert macs.measure(Toy(), 8, 4).macs == sum(layers.values())
    assert macs.measure(Toy(), 8, 4, ignore=()).macs == sum(layers.values()) + 7 * (6 + 1)
    assert macs.measure(Toy(), 8, 4, ignore=("Dense", "classifier")).macs == layers["convolution"] + layers["depthwise"]


def test_parameters_and_further_fields():
    class Biased(nn.Module):
        @nn.compact
        def __call__(self, batch, *, train):
            return nn.Dense(2)(jnp.concatenate((batch["image"].mean((1, 2)), batch["extra"]), -1))

    extra = jax.ShapeDtypeStruct((1, 4), jnp.float32)
    assert macs.measure(Biased(), 8, 4, extra=extra).parameters == 7 * 2 + 2
    assert macs.measure(Biased(), 8, 4, extra=extra).macs == 7 * 2 + 2
