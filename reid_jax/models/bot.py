"""BoT: the "bag of tricks" strong baseline, a ResNet with last stride 1 and a BNNeck.

References:
    Luo et al., "Bag of Tricks and a Strong Baseline for Deep Person Re-identification", CVPR Workshops 2019.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from reid_jax import errors
from reid_jax.models.backbones import resnet
from reid_jax.nn import global_pool, heads
from reid_jax.ops import descriptors, distances, taps

# The authors' parameter names, see `reid_jax.weights.convert`.
TORCH_RULES: tuple[tuple[str, str], ...] = (
    (r"^base\.", "backbone."),
    (r"^(bottleneck|classifier)\.", r"head_b.\1."),
)
TORCH_IGNORED: tuple[tuple[str, str], ...] = ((r"^bottleneck\.bias$", "shift of the neck, frozen at zero"),)


class BoT(nn.Module):
    """Backbone, pooling, neck, classifier: metric losses read the feature before the neck, evaluation the one after it.

    Attributes:
        num_classes: training identities N.
        dtype: compute dtype; parameters, statistics and the head are float32.
        size: a row of `resnet.SIZES`.
        depths: residual blocks per stage in place of those of the size.
        width: channels of the backbone's stem; 64 is the published size, 16 a narrow demonstration.
        last_stride: step of stage 4; 1 doubles the last map in height and width (section 3.5).
        stem_relu: ReLU after the first normalization. The authors' code omits it; the paper does not mention that.
        pooling: "average", "max" or "gem".
        test_feature: what is compared at test time, "neck" (after the neck) or "feature" (before it, as in CIL).
    """

    num_classes: int
    dtype: Any = jnp.float32
    size: str = "resnet50"
    depths: tuple[int, ...] | None = None
    width: int = 64
    last_stride: int = 1
    stem_relu: bool = False
    pooling: str = "average"
    test_feature: str = "neck"

    @nn.compact
    def __call__(self, batch: Mapping[str, jax.Array], *, train: bool) -> dict[str, jax.Array]:
        """Maps `batch["image"]` [B, H, W, 3] (normalized) to named float32 outputs.

        Returns:
            "feature/b" [B, D], "neck/b" [B, D], "logits/b" [B, N] and "map/stage4" [B, H/16, W/16, D], D = 32 width for
            bottleneck blocks.
        """
        sizes = {} if self.depths is None else {"depths": self.depths}
        backbone = resnet.resnet(
            self.size,
            width=self.width,
            last_stride=self.last_stride,
            stem_relu=self.stem_relu,
            dtype=self.dtype,
            name="backbone",
            **sizes,
        )
        stage4 = backbone(batch["image"].astype(self.dtype), train=train)["stage4"]
        stage4 = taps.tap("stage4", stage4, cut=True)
        feature = global_pool.GlobalPool(self.pooling, name="pool")(stage4)
        neck, logits = heads.BNNeck(self.num_classes, name="head_b")(feature, train=train)
        return {"map/stage4": stage4.astype(jnp.float32), **heads.head_outputs("b", feature, neck, logits)}

    def describe(self, outputs: Mapping[str, jax.Array]) -> descriptors.Descriptor:
        """Returns the test feature [B, D] at unit length, before or after the neck (see `test_feature`).

        The paper compares the neck's output by cosine (section 3.6).
        """
        if self.test_feature not in ("neck", "feature"):
            raise errors.unknown("test feature", self.test_feature, ("neck", "feature"))
        return descriptors.Descriptor(distances.normalize_rows(outputs[f"{self.test_feature}/b"]))
