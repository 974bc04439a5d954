"""OSFA and MSPF: OSNet with attention for a global feature and aggregated stage maps for a local one.

    image ─ conv1, conv2 ─ x1 ─ conv3 ─ x2 ─ attention ─ conv4 ─ conv5 ─ max ─ fc ─ f_G ─┐
     │                     │            ├─ conv4 (same weights) ─ x3 ─┐                 + concat ─ f_g ─ head g
     │                     └──────────── smooth aggregation ──────────┴── f_L ───────── │ ─────────────── head l
     └─ patches ─ OSNet per level ─ max ─ sum over levels ────────────── f_P ───────────┘

Papers: Li et al., "Person re-identification based on multi-scale feature learning", Knowledge-Based Systems, 2021
(OSFA); "MSPF", Journal of Intelligent & Fuzzy Systems, doi 10.3233/JIFS-237113: OSFA with the attention modules in
reverse order and an additional multi-patch module. OSFA is `MSPF` without patches and with its own attention.

OSFA's model was never published; its topology is reconstructed from training logs, whose parameter and operation counts
it reproduces. That its global path has the attention, and where MSPF's modules are, are interpretations of the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from reid_jax import errors
from reid_jax.models.backbones import osnet
from reid_jax.models.mspf import channel_spatial, multi_patch
from reid_jax.nn import conv, norm
from reid_jax.ops import descriptors, distances, taps
from reid_jax.weights import convert

STRIPES = 4  # of each map in the local feature
SAM_MAPS = ((2, 3, 4), (2, 3))
ATTENTION_PLACES = ((3,), (2, 3))
BRANCHES = (("g", "l"), ("l",))

_linear = nn.initializers.normal(0.01)


class OSFA(nn.Module):
    """Trunk with a global and a local feature. Its parameters have the published names, next to those of OSNet.

    Attributes:
        size: a row of `osnet.SIZES`.
        kind: a row of `osnet.KINDS`.
        attention: order of the modules, a key of `channel_spatial.ORDERS`.
        attention_kind: "cbam" or "osfa".
        attention_at: stages after which the global path has an attention module.
        sam_maps: stages whose maps the local feature aggregates.
        dtype: compute dtype.
        depths: see `osnet.Trunk`.
    """

    size: str = "x1_0"
    kind: str = "plain"
    attention: str = "channel_spatial"
    attention_kind: str = "cbam"
    attention_at: tuple[int, ...] = (3,)
    sam_maps: tuple[int, ...] = (2, 3, 4)
    dtype: Any = jnp.float32
    depths: tuple[int, int, int] = osnet.DEPTHS

    def setup(self) -> None:
        if tuple(self.attention_at) not in ATTENTION_PLACES:
            raise errors.UserError(f"attention_at is (3,) or (2, 3), got {self.attention_at}.")
        if tuple(self.sam_maps) not in SAM_MAPS:
            raise errors.UserError(f"sam_maps is (2, 3, 4) or (2, 3), got {self.sam_maps}.")
        self.trunk = osnet.Trunk(self.size, self.kind, self.dtype, self.depths)
        nn.share_scope(self, self.trunk)
        features = osnet.SIZES[self.size][3] if self.size in osnet.SIZES else 0
        self.attentions = {
            stage: channel_spatial.MapAttention(
                self.attention, self.attention_kind, dtype=self.dtype, name=f"attention{stage}"
            )
            for stage in self.attention_at
        }
        # conv4's map has the common number of channels already.
        self.align = {
            stage: conv.Conv(features, dtype=self.dtype, name=f"align{stage}") for stage in self.sam_maps if stage < 4
        }
        self.fc = nn.Dense(features, kernel_init=_linear)

    def local(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Maps normalized images [B, H, W, 3] to f_L [B, maps * 4 * C], float32, without the global path."""
        maps = {2: self.trunk.stage(self.trunk.stem(images, train=train), 2, train=train)}
        maps[3] = self.trunk.stage(maps[2], 3, train=train)
        if 4 in self.sam_maps:
            maps[4] = self.trunk.stage(maps[3], 4, train=train)
        return self._aggregate(maps)

    def __call__(self, images: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """Maps normalized images [B, H, W, 3] to (f_G [B, C], f_L [B, maps * 4 * C]), float32."""
        trunk, attended = self.trunk, self.attention != "none"
        x1 = trunk.stage(trunk.stem(images, train=train), 2, train=train)

        # The global path first: a stage that runs twice updates its statistics by the attended map, then the plain one.
        twice = attended and 2 in self.attention_at
        g2 = trunk.stage(self._attend(x1, 2, train), 3, train=train)
        x2 = trunk.stage(x1, 3, train=train) if twice else g2
        g3 = trunk.stage(self._attend(g2, 3, train), 4, train=train)
        maximum = taps.tap("conv5", trunk.stage(g3, 5, train=train).astype(jnp.float32), cut=True).max((1, 2))
        f_global = self.fc(maximum)

        maps = {2: x1, 3: x2}
        if 4 in self.sam_maps:
            maps[4] = trunk.stage(x2, 4, train=train) if attended else g3
        return f_global, self._aggregate(maps)

    def _attend(self, x: jax.Array, stage: int, train: bool) -> jax.Array:
        """Returns the map [B, H, W, C] after a stage, attended where the options say so."""
        if self.attention == "none" or stage not in self.attention_at:
            return x
        return self.attentions[stage](x, train=train)

    def _aggregate(self, maps: Mapping[int, jax.Array]) -> jax.Array:
        """Aggregates maps of several stages: each reduced to C channels, then pooled in stripes; [B, maps 4 C]."""
        aligned = [self.align[stage](maps[stage]) if stage in self.align else maps[stage] for stage in self.sam_maps]
        aligned = [taps.tap(f"align{stage}", x, cut=True) for stage, x in zip(self.sam_maps, aligned, strict=True)]
        return jnp.concatenate([stripe_means(stage_map) for stage_map in aligned], axis=-1)


def stripe_means(x: jax.Array) -> jax.Array:
    """Returns the concatenated means of the four horizontal stripes of [B, H, W, C], from the top: [B, 4 C] float32.

    Raises:
        UserError: H is not a multiple of 4.
    """
    batch, height, width, channels = x.shape
    if height % STRIPES:
        raise errors.UserError(
            f"expected a map whose rows divide into {STRIPES} stripes, got {height} rows; choose data.height as a "
            "multiple of 64."
        )
    striped = x.astype(jnp.float32).reshape(batch, STRIPES, height // STRIPES, width, channels)
    return striped.mean((2, 3)).reshape(batch, STRIPES * channels)


class MSPF(nn.Module):
    """OSFA, patches and the two heads.

    Attributes:
        num_classes: training identities N.
        dtype: compute dtype; parameters, statistics and heads are float32.
        size: a row of `osnet.SIZES`.
        kind: a row of `osnet.KINDS`.
        attention: see `OSFA`.
        attention_kind: see `OSFA`.
        attention_at: see `OSFA`.
        sam_maps: see `OSFA`.
        mpf_patches: patches of each level; () leaves the module out.
        mpf_fuse: see `multi_patch.PatchFusion`.
        mpf_share_levels: see `multi_patch.PatchFusion`.
        patch_layout: see `multi_patch.grid`.
        branches: ("g", "l"), or ("l",) for the local branch alone, without global path and patches.
        depths: see `osnet.Trunk`.
    """

    num_classes: int
    dtype: Any = jnp.float32
    size: str = "x1_0"
    kind: str = "plain"
    attention: str = "channel_spatial"
    attention_kind: str = "cbam"
    attention_at: tuple[int, ...] = (3,)
    sam_maps: tuple[int, ...] = (2, 3, 4)
    mpf_patches: tuple[int, ...] = (2, 4)
    mpf_fuse: str = "vector"
    mpf_share_levels: bool = False
    patch_layout: str = "quadrants"
    branches: tuple[str, ...] = ("g", "l")
    depths: tuple[int, int, int] = osnet.DEPTHS

    @nn.compact
    def __call__(self, batch: Mapping[str, jax.Array], *, train: bool) -> dict[str, jax.Array]:
        """Maps `batch["image"]` [B, H, W, 3] (normalized) to named float32 outputs.

        Returns:
            For the heads h of g (global) and l (local) "feature/h" [B, D_h], "neck/h" [B, D_h] and "logits/h" [B, N];
            "feature/osfa" (f_G) and, with patches, "feature/patches" (f_P), both [B, C], and "map/level<n>". At x1_0
            and the defaults C = 512, D_g = 1024, D_l = 6144.

        Raises:
            UserError: unknown `branches`.
        """
        if tuple(self.branches) not in BRANCHES:
            raise errors.UserError(f'branches is ("g", "l") or ("l",), got {self.branches}.')
        osfa = OSFA(
            self.size,
            self.kind,
            self.attention,
            self.attention_kind,
            self.attention_at,
            self.sam_maps,
            dtype=self.dtype,
            depths=self.depths,
            name="osfa",
        )
        if tuple(self.branches) == ("l",):
            return self._head("l", osfa.local(batch["image"], train=train), train)
        f_global, f_local = osfa(batch["image"], train=train)
        outputs = {"feature/osfa": f_global}
        if self.mpf_patches:
            patches = self._patches()(batch["image"], train=train)
            outputs["feature/patches"] = patches.pop("feature")
            outputs |= patches
            f_global = jnp.concatenate((f_global, outputs["feature/patches"]), axis=-1)
        return outputs | self._head("g", f_global, train) | self._head("l", f_local, train)

    def _patches(self) -> multi_patch.PatchFusion:
        return multi_patch.PatchFusion(
            self.size,
            self.kind,
            tuple(self.mpf_patches),
            self.patch_layout,
            self.mpf_fuse,
            self.mpf_share_levels,
            dtype=self.dtype,
            depths=self.depths,
            name="mpf",
        )

    def _head(self, name: str, feature: jax.Array, train: bool) -> dict[str, jax.Array]:
        """Applies normalization and classifier, both with shift; metric losses read the feature before them."""
        neck = norm.BatchNorm(name=f"neck_{name}")(feature, train=train)
        logits = nn.Dense(self.num_classes, kernel_init=_linear, name=f"classifier_{name}")(neck)
        return {f"feature/{name}": feature, f"neck/{name}": neck, f"logits/{name}": logits}

    def describe(self, outputs: Mapping[str, jax.Array]) -> descriptors.Descriptor:
        """Returns the test feature [B, D_g + D_l]: unit necks; Euclidean distance then ranks by cos g + cos l."""
        halves = [distances.normalize_rows(outputs[f"neck/{name}"]) for name in self.branches]
        return descriptors.Descriptor(jnp.concatenate(halves, axis=-1))


def backbone_parts(variables: convert.Variables, names: Sequence[str]) -> tuple[convert.Part, ...]:
    """Returns the submodules that a file of an OSNet (torchreid's) fills: OSFA's trunk and every level of patches.

    Args:
        variables: variables of an `MSPF`.
        names: names of the file's arrays.
    """
    if "conv1.conv.weight" not in names:
        return ()
    head = ((r"^(fc|classifier)\.", "the head of the OSNet that the file holds"),)
    levels = variables["params"].get("mpf", {})
    # The local branch alone has no conv5, and conv4 only where it aggregates that map.
    own = {name[:5] for name in variables["params"]["osfa"]}
    unused = tuple((rf"^{stage}\.", "of the global path") for stage in ("conv4", "conv5") if stage not in own)
    return (
        # Attention, alignment and the hidden layer of f_G are OSFA's own.
        convert.Part("osfa", (*head, *unused), allow_missing=(r"^osfa/(attention\d|align\d|fc)/",)),
        *(convert.Part(f"mpf/{level}", head) for level in levels),
    )
