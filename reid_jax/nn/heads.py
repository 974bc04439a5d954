"""Heads between an embedding and the identity losses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from reid_jax.nn import initializers, norm


class BNNeck(nn.Module):
    """Batch normalization without shift, then an identity classifier without bias.

    Metric losses read the descriptor before the neck, the identity loss the logits after it; at test time the neck's
    output is compared. Everything here is float32.

    Attributes:
        num_classes: training identities N.
        kernel_init: initial classifier.

    References:
        Luo et al., "Bag of tricks and a strong baseline for deep person re-identification", CVPRW 2019, section 3.6.
    """

    num_classes: int
    kernel_init: nn.initializers.Initializer = initializers.classifier

    @nn.compact
    def __call__(self, feature: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """Maps a descriptor [B, D] to (neck [B, D], logits [B, N])."""
        neck = norm.BatchNorm(use_bias=False, name="bottleneck")(feature.astype(jnp.float32), train=train)
        classifier = nn.Dense(self.num_classes, use_bias=False, kernel_init=self.kernel_init, name="classifier")
        return neck, classifier(neck)


def head_outputs(name: str, feature: jax.Array, neck: jax.Array, logits: jax.Array) -> dict[str, jax.Array]:
    """Returns the three named outputs of a head: "feature/<name>", "neck/<name>" and "logits/<name>"."""
    return {f"feature/{name}": feature, f"neck/{name}": neck, f"logits/{name}": logits}
