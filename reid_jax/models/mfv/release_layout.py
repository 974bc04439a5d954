"""Tensor layout of MFV's released code between its layers, for any batch size.

The code keeps NCHW maps and reshapes where a transpose is meant. Repaired so that it runs, it computes the following;
H and W are those of the grid (16 x 8 at 256 x 128), C is the token width (256). Weights trained with it need it.
`TORCH_RULES`, `TORCH_EXPORT_RULES` and `TORCH_IGNORED` map the code's parameter names.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

_LAYER = r"HAT\.TFE_S(\d)\.transformer\.layers\.(\d+)"

# Renames of the code's parameter names, see `reid_jax.weights.convert`.
TORCH_RULES: tuple[tuple[str, str], ...] = (
    (r"^base\.", "backbone."),
    (r"^non_linear(\d)\.(\d+)\.", r"level\1.block\2."),
    (rf"^{_LAYER}\.0\.fn\.fn\.mk\.", r"sdfa.tfe\1.transformer.attention\2.memory_key."),
    (rf"^{_LAYER}\.0\.fn\.fn\.mv\.", r"sdfa.tfe\1.transformer.attention\2.memory_value."),
    (rf"^{_LAYER}\.1\.fn\.fn\.net\.0\.", r"sdfa.tfe\1.transformer.ffn\2.fc0."),
    (rf"^{_LAYER}\.1\.fn\.fn\.net\.3\.", r"sdfa.tfe\1.transformer.ffn\2.fc1."),
    (r"^HAT\.TFE_S(\d)\.(conv|bn)(\d)\.", r"sdfa.tfe\1.stem.\2\3."),
)

# The reverse renames, for `convert.to_torch`.
TORCH_EXPORT_RULES: tuple[tuple[str, str], ...] = (
    (r"^backbone\.", "base."),
    (r"^level(\d)\.block(\d+)\.", r"non_linear\1.\2."),
    (r"^sdfa\.tfe(\d)\.stem\.", r"HAT.TFE_S\1."),
    (r"^sdfa\.tfe(\d)\.transformer\.attention(\d+)\.memory_key\.", r"HAT.TFE_S\1.transformer.layers.\2.0.fn.fn.mk."),
    (r"^sdfa\.tfe(\d)\.transformer\.attention(\d+)\.memory_value\.", r"HAT.TFE_S\1.transformer.layers.\2.0.fn.fn.mv."),
    (r"^sdfa\.tfe(\d)\.transformer\.ffn(\d+)\.fc0\.", r"HAT.TFE_S\1.transformer.layers.\2.1.fn.fn.net.0."),
    (r"^sdfa\.tfe(\d)\.transformer\.ffn(\d+)\.fc1\.", r"HAT.TFE_S\1.transformer.layers.\2.1.fn.fn.net.3."),
)

# Entries of such a file that have no counterpart here: (pattern, reason).
TORCH_IGNORED: tuple[tuple[str, str], ...] = (
    (r"^bottleneck_\w+\.bias$", "shift of a neck, frozen at zero"),
    (r"^classifier_t[23]\.", "declared and never used: stages share classifier_t1"),
    (rf"^{_LAYER}\.[01]\.fn\.norm\.", "layer normalization that is declared and never applied"),
)


def reinterpret(x: jax.Array) -> jax.Array:
    """Reads the NCHW memory of a map [B, H, W, C] as [B, W, H, C], the released code's tokens.

    Token (a, b) is then a pair of channels and its C values are positions of the map.
    """
    batch, height, width, channels = x.shape
    return x.transpose(0, 3, 1, 2).reshape(batch, width, height, channels)


def restore(tokens: jax.Array) -> jax.Array:
    """Transposes tokens [B, W, H, C] to a map [B, H, W, C], as the released code does; no inverse of `reinterpret`."""
    return tokens.swapaxes(1, 2)


def join(level: jax.Array, carried: jax.Array | None, channels: int) -> jax.Array:
    """Returns the input of a stage: every s-th channel of its level, half of it replaced by half of the previous stage.

    Args:
        level: [B, H, W, s C] level of the backbone.
        carried: [B, H, W, C] map of the previous stage, or None at the first stage.
        channels: C.

    Returns:
        [B, H, W, C].
    """
    level = level[..., :: level.shape[-1] // channels]
    if carried is None:
        return level
    batch, height, width, _ = level.shape
    halves = [reinterpret(x)[:, ::2] for x in (level, carried)]  # [B, W / 2, H, C]
    merged = jnp.concatenate(halves, axis=1).reshape(batch, channels, height, width)
    return merged.transpose(0, 2, 3, 1)
