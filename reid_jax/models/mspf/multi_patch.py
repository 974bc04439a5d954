"""MPF, MSPF's multi-patch module: an OSNet per level reads the image cut into patches; the levels' features are added.

    level 2:   top | bottom half        ─ OSNet ─ max ─ p_2 ─┐
    level 4:   2 × 2 quadrants          ─ OSNet ─ max ─ p_4 ─+─ f_P
    level 8:   4 rows × 2 columns       ─ OSNet ─ max ─ p_8 ─┘

The cuts are those of DMPHN (Zhang et al., "Deep Stacked Hierarchical Multi-Patch Network for Image Deblurring", CVPR
2019), which the paper builds on. Patches are folded into the batch: a call per level, in which gates act per patch
and batch statistics are those of all its patches.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from reid_jax import errors
from reid_jax.models.backbones import osnet
from reid_jax.ops import taps

# Rows and columns of the cut, by number of patches.
QUADRANTS: dict[int, tuple[int, int]] = {1: (1, 1), 2: (2, 1), 4: (2, 2), 8: (4, 2)}
LAYOUTS = ("quadrants", "stripes")
FUSIONS = ("vector", "map")


def grid(patches: int, layout: str = "quadrants") -> tuple[int, int]:
    """Returns the rows and columns into which a number of patches is arranged.

    Args:
        patches: 1, 2, 4 or 8.
        layout: "quadrants", see `QUADRANTS`, or "stripes", as many rows as patches.

    Raises:
        UserError: another number or layout.
    """
    if layout not in LAYOUTS:
        raise errors.unknown("patch layout", layout, LAYOUTS)
    if patches not in QUADRANTS:
        raise errors.UserError(f"an image is cut into {', '.join(map(str, QUADRANTS))} patches, got {patches}.")
    return QUADRANTS[patches] if layout == "quadrants" else (patches, 1)


def split(images: jax.Array, rows: int, columns: int) -> jax.Array:
    """Cuts [B, H, W, C] into patches [B rows columns, H / rows, W / columns, C], row by row within an image.

    Raises:
        UserError: H or W does not divide.
    """
    height, width = images.shape[1:3]
    if height % rows or width % columns:
        raise errors.UserError(
            f"expected an image that divides into {rows} x {columns} patches, got {height} x {width}; change "
            "data.height, data.width or model.mpf_patches."
        )
    return rearrange(images, "b (r h) (c w) d -> (b r c) h w d", r=rows, c=columns)


def reassemble(patches: jax.Array, rows: int, columns: int) -> jax.Array:
    """Puts patches [B rows columns, h, w, C] back in place: [B, rows h, columns w, C]; the inverse of `split`."""
    return rearrange(patches, "(b r c) h w d -> b (r h) (c w) d", r=rows, c=columns)


class PatchFusion(nn.Module):
    """Global feature of the patches of all levels.

    Attributes:
        size: size of the OSNets, a row of `osnet.SIZES`.
        kind: kind of the OSNets, a row of `osnet.KINDS`.
        patches: patches of each level.
        layout: see `grid`.
        fusion: "vector" adds the levels' maxima, "map" takes the maximum of the levels' added maps. The paper's wording
            ("after global max pooling, the output of the finer level is added to the coarser's") read as the former.
        share_levels: all levels share an OSNet. The paper's figure has one per level.
        dtype: compute dtype.
        depths: see `osnet.Trunk`.
    """

    size: str = "x1_0"
    kind: str = "plain"
    patches: tuple[int, ...] = (2, 4)
    layout: str = "quadrants"
    fusion: str = "vector"
    share_levels: bool = False
    dtype: Any = jnp.float32
    depths: tuple[int, int, int] = osnet.DEPTHS

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> dict[str, jax.Array]:
        """Maps normalized images [B, H, W, 3] to "feature" [B, C] and each level's "map/level<n>" [B, h, w, C].

        Raises:
            UserError: an unknown layout, fusion or number of patches, or an image that does not divide.
        """
        if self.fusion not in FUSIONS:
            raise errors.unknown("fusion of patches (mpf_fuse)", self.fusion, FUSIONS)
        shared = osnet.Trunk(self.size, self.kind, self.dtype, self.depths, name="level") if self.share_levels else None
        maps = {}
        for count in self.patches:
            rows, columns = grid(count, self.layout)
            trunk = shared or osnet.Trunk(self.size, self.kind, self.dtype, self.depths, name=f"level{count}")
            found = trunk(split(images, rows, columns), train=train)
            whole = reassemble(found.astype(jnp.float32), rows, columns)
            maps[f"map/level{count}"] = taps.tap(f"level{count}", whole, cut=True)
        return {"feature": fuse(list(maps.values()), self.fusion), **maps}


def fuse(maps: list[jax.Array], fusion: str) -> jax.Array:
    """Returns f_P [B, C] from the levels' reassembled maps [B, h, w, C], see `PatchFusion`."""
    if fusion == "map":
        return sum(maps[1:], maps[0]).max((1, 2))
    maxima = [level_map.max((1, 2)) for level_map in maps]
    return sum(maxima[1:], maxima[0])
