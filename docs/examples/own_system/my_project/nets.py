"""The model: two convolutions, an average, a classifier."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from reid_jax.ops.descriptors import Descriptor


class Tiny(nn.Module):
    """A network of a few thousand parameters.

    Attributes:
        num_classes: training identities; the trainer fills it in.
        features: channels of the embedding.
        dtype: of activations; the trainer fills it in.
    """

    num_classes: int
    features: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, batch: Mapping[str, jax.Array], *, train: bool) -> dict[str, jax.Array]:
        """Returns "feature/b" [B, D] and "logits/b" [B, N] of the batch's "image" [B, H, W, 3], normalized."""
        x = batch["image"].astype(self.dtype)
        for index, width in enumerate((16, self.features)):
            x = nn.relu(nn.Conv(width, (3, 3), strides=2, dtype=self.dtype, name=f"conv{index}")(x))
        feature = jnp.mean(x, axis=(1, 2)).astype(jnp.float32)
        normalized = nn.BatchNorm(use_running_average=not train, name="neck")(feature)
        logits = nn.Dense(self.num_classes, use_bias=False, name="classifier")(normalized)
        return {"feature/b": feature, "logits/b": logits}

    def describe(self, outputs: Mapping[str, jax.Array]) -> Descriptor:
        """Returns what is compared at test time."""
        return Descriptor(outputs["feature/b"])
