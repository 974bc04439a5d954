"""A model of one convolution, which compiles at once: for tests of what is done with a trained model."""

from __future__ import annotations

import flax.linen as nn
import jax
import numpy as np

from reid_jax.inference import extractor as extractor_lib
from reid_jax.ops.descriptors import Descriptor
from reid_jax.runtime import mesh as mesh_lib
from reid_jax.weights import zoo

SMALL = {"data.height": 64, "data.width": 32, "dtype": "float32"}


class Stripes(nn.Module):
    """One convolution, and the mean of the map or of its halves; a half is visible as far as it is bright."""

    slots: bool = False

    @nn.compact
    def __call__(self, batch, train=False):
        maps = nn.relu(nn.Conv(8, (3, 3), (2, 2))(batch["image"]))
        if not self.slots:
            return Descriptor(nn.Dense(6)(maps.mean((1, 2)) + 0.01 * batch["camid"][:, None]))
        halves = maps.reshape(maps.shape[0], 2, -1, 8)
        return Descriptor(nn.Dense(6)(halves.mean(2)), nn.sigmoid(halves.mean((2, 3))))

    def describe(self, outputs):
        return outputs


def small(**fields):
    """Returns an extractor of `Stripes` with flip averaging, and its variables."""
    settings = zoo.settings("bot", {}, {**SMALL, "evals.flip": True})
    extractor = extractor_lib.Extractor(Stripes(**fields), settings, mesh_lib.create_mesh(), {"random": True})
    variables = jax.jit(extractor.model.init)(
        jax.random.key(0), {"image": np.zeros((1, 64, 32, 3), np.float32), "camid": np.zeros(1)}
    )
    return extractor, variables
