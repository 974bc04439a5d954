"""What a trained AMFOR knows of the body parts in an image: tokens, visibility, features with and without HPR.

At test time the network itself uses neither the mask generator nor HPR; here both run on the tokens that it returns, so
that one can look at what training has made of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from reid_jax.models.amfor import part_decoder

if TYPE_CHECKING:
    from reid_jax.models.amfor.amfor import AMFOR


def examine(model: AMFOR, variables: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Runs the network in test mode, then its mask generator and HPR.

    Args:
        model: the model.
        variables: its variables.
        batch: "image" [B, H, W, 3] normalized, and "camid" [B] with a camera embedding.

    Returns:
        "features" [B, S, D] and "predicted" [B, S], slots of the descriptor and the probability that they can be seen,
        without parts at test time [B, 1, D] and ones; where the model has them "labels" [B, N] of tokens, "area"
        [B, 8] of the parts under the masks, in tokens, "visibility" [B, 8] logits, "pooled" [B, 8, D] means of tokens
        under the masks, "rebuilt" [B, 8, D] the same after HPR, and for every module of AMFF "fusion/layer_<k>"
        [k + 1], the share of each depth in the tokens that it passes on.
    """
    outputs, kept = model.apply(variables, batch, train=False, mutable=["intermediates"])
    described = model.clone(eval_use_visibility=True, eval_soft_visibility=True).describe(outputs)
    features = described.features if described.features.ndim == 3 else described.features[:, None]
    seen = jnp.ones(features.shape[:2]) if described.visibility is None else described.visibility
    found = {"features": features, "predicted": seen}
    if model.ts:
        found["visibility"] = outputs["visibility/s"]
    if model.parsing:
        masks = model.part_masks(variables, outputs["tokens"])
        pooled = part_decoder.pool(outputs["tokens"], masks)
        found |= {"labels": jnp.argmax(masks, axis=-1), "area": masks[..., 1:].sum(axis=1), "pooled": pooled[:, 1:]}
    if model.hpr:
        own = {"params": variables["params"]["hpr"]}
        found["rebuilt"] = jnp.asarray(model.reconstruction(parent=None).apply(own, pooled, train=False))[:, 1:]
    fused = kept.get("intermediates", {}).get("amff", {})
    return found | {f"fusion/{name}": module["shares"][0] for name, module in fused.items()}
