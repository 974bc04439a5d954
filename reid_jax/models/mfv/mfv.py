"""MFV: multi-scale fusion of a ResNet's levels by stratified aggregation with external attention.

    image ── ResNet-50 ─┬─ stage 1 ── F1 ─ TFE 1 ─ T1 ─────────────── head t1     MFE: backbone and levels F1, F2, F3
                        ├─ stage 2 ── F2 ─┴─ TFE 2 ─ T2 ───────────── head t2     TFE: stem, external attention, FFN
                        ├─ stage 3 ── F3 ────────┴─ TFE 3 ─ T3 ────── head t3     SDFA: the chain T1 -> T2 -> T3
                        └─ stage 4 ── average pool ────────────────── head b            and a loss on every head

Paper: "MFV: A Multi-scale Fusion Visual Framework with Stratified Deep Feature Aggregation and External Attention for
Person Re-Identification", Journal of Electronic Imaging, 2026. Ancestor: Zhang et al., "HAT: Hierarchical Aggregation
Transformers for Person Re-identification", ACM MM 2021.

The released code does not run, and nothing published determines the network behind the published scores. There are two
interpretations:

- `layout="tokens"` (default) does what the authors describe: a token is a position of the 16 x 8 grid, levels are
  joined by concatenation and a learned 1x1 convolution. In our judgment it is the likelier one to reach the
  published scores.
- `layout="release"` does what the code does once repaired, number for number: NCHW memory is reinterpreted instead of
  transposed, so that a token is a pair of channels, and channels are dropped by stride where levels are joined.

Each difference has a field of its own; `READINGS` has the values that a layout uses for fields left at None.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from reid_jax import errors
from reid_jax.models.backbones import resnet
from reid_jax.models.mfv import release_layout, transformer_extractor
from reid_jax.nn import initializers, norm
from reid_jax.ops import descriptors, distances, pooling, taps

READINGS: dict[str, dict[str, Any]] = {
    "tokens": {
        "ea_norm": "tokens",
        "prenorm": True,
        "stem_expansion": 1,
        "shared_stage_classifier": False,
        "stage_head": "gap",
        "stage_triplet_on": "descriptor",
        "test_fusion": "per_part",
    },
    "release": {
        "ea_norm": "release",
        "prenorm": False,
        "stem_expansion": 4,
        "shared_stage_classifier": True,
        "stage_head": "grid",
        "stage_triplet_on": "map",
        "test_fusion": "concat",
    },
}

CHOICES: dict[str, tuple[str, ...]] = {
    "layout": tuple(READINGS),
    "attention": transformer_extractor.ATTENTIONS,
    "ea_norm": transformer_extractor.NORMALIZATIONS,
    "stage_head": ("gap", "grid"),
    "stage_triplet_on": ("descriptor", "map"),
    "test_fusion": ("per_part", "concat"),
}

TORCH_RULES = release_layout.TORCH_RULES
TORCH_IGNORED = release_layout.TORCH_IGNORED


class LevelTransform(nn.Module):
    """MFE: one level of the backbone, refined by bottlenecks and pooled to the grid of stage 3.

    Attributes:
        width: channels inside the bottlenecks; four times as many go in and out.
        depth: number of bottlenecks.
        pool: side of the max pooling window; 1 for none.
        dtype: compute dtype.
    """

    width: int
    depth: int = 3
    pool: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [B, H, W, 4 width] to [B, H / pool, W / pool, 4 width]."""
        for index in range(self.depth):
            # Not pretrained, unlike the backbone: PyTorch's default initial values.
            block = resnet.Bottleneck(
                self.width, kernel_init=initializers.torch_default, dtype=self.dtype, name=f"block{index}"
            )
            x = block(x, train=train)
        return pooling.max_pool(x, self.pool) if self.pool > 1 else x


class SDFA(nn.Module):
    """SDFA: the stages k in order, the input of each TFE is its level and the result of the previous stage.

    Attributes:
        stages: levels used, an increasing subset of (1, 2, 3).
        depths: transformer layers of TFE 1, 2, 3.
        layout: how a level and the result before are joined, see `join` and `release_layout.join`.
        make_tfe: makes a TFE.
        make_transformer: makes its layers.
        make_memory: makes the attention that all layers of all stages share; None for a memory per layer.
        chain: whether a stage sees the result of the previous one; without, it sees zeros in its place, so that the
            network has the same parameters.
    """

    stages: tuple[int, ...]
    depths: tuple[int, ...]
    layout: str
    make_tfe: Callable[..., transformer_extractor.TFE]
    make_transformer: Callable[..., transformer_extractor.Transformer]
    make_memory: Callable[..., transformer_extractor.ExternalAttention] | None = None
    chain: bool = True

    @nn.compact
    def __call__(self, levels: Mapping[int, jax.Array], *, train: bool) -> dict[int, transformer_extractor.Result]:
        """Maps levels {k: [B, H, W, C_k]} to {k: (T_k [B, H, W, C], class token [B, C] or None)}."""
        memory = self.make_memory(name="transformer") if self.make_memory else None
        results: dict[int, transformer_extractor.Result] = {}
        carried = None
        for k in self.stages:
            transformer = functools.partial(self.make_transformer, depth=self.depths[k - 1], shared_attention=memory)
            stage = self.make_tfe(transformer=transformer, name=f"tfe{k}")
            if self.layout == "release":
                merged = release_layout.join(levels[k], carried, stage.width)
            else:
                merged = join(levels[k], carried)
            results[k] = stage(merged, train=train)
            carried = results[k][0] if self.chain else jnp.zeros_like(results[k][0])
        return results


class MFV(nn.Module):
    """The whole network; the defaults are the published sizes.

    Attributes:
        num_classes: training identities N.
        dtype: compute dtype; parameters, statistics, softmax and heads are float32.
        layout: "tokens" or "release".
        width: channels of the backbone's stem; 64 is ResNet-50, 16 a narrow demonstration.
        depths: residual blocks per stage.
        last_stride: step of backbone stage 4.
        stem_relu: ReLU after the backbone's first normalization; the recipe trains without it.
        level_depth: bottlenecks per level transform.
        stages: levels that SDFA uses; () leaves the backbone alone.
        chain: whether a stage sees the result of the previous one (T1 -> T2 -> T3), see `SDFA`.
        attention: "external", "self", or "none" (convolutional stems only).
        tfe_width: channels of the tokens.
        tfe_depths: transformer layers of stage 1, 2, 3.
        slots: memory size of external attention.
        ea_shared_memory: one memory for all layers of all stages.
        heads: heads of self-attention.
        head_width: channels per head of self-attention.
        ffn_width: hidden channels of the feed-forward parts.
        dropout: rate inside the feed-forward parts.
        cls_token: see `transformer_extractor.TFE`.
        pos_embed: see `transformer_extractor.TFE`.
        ea_norm: axes of external attention's normalization, see `transformer_extractor.double_normalize`.
        prenorm: layer normalization before each part of a transformer layer.
        stem_expansion: see `transformer_extractor.Stem`; the release discards 3 of 4 channels, 1 computes the kept ones
            alone.
        shared_stage_classifier: one classifier for all stages (necks stay separate).
        stage_head: descriptor of a stage: "gap" the average token, "grid" every 4th channel, 2nd row and 2nd column.
        stage_triplet_on: content of "triplet/t*": the "descriptor", or the whole "map".
        test_fusion: "per_part" gives the two parts of the test feature unit length before they are joined.
    """

    num_classes: int
    dtype: Any = jnp.float32
    layout: str = "tokens"
    width: int = 64
    depths: tuple[int, ...] = (3, 4, 6, 3)
    last_stride: int = 2
    stem_relu: bool = False
    level_depth: int = 3
    stages: tuple[int, ...] = (1, 2, 3)
    chain: bool = True
    attention: str = "external"
    tfe_width: int = 256
    tfe_depths: tuple[int, ...] = (3, 3, 6)
    slots: int = 128
    ea_shared_memory: bool = False
    heads: int = 16
    head_width: int = 64
    ffn_width: int = 2048
    dropout: float = 0.1
    cls_token: bool = False
    pos_embed: bool = False
    # None: the layout's value in READINGS.
    ea_norm: str | None = None
    prenorm: bool | None = None
    stem_expansion: int | None = None
    shared_stage_classifier: bool | None = None
    stage_head: str | None = None
    stage_triplet_on: str | None = None
    test_fusion: str | None = None

    @nn.compact
    def __call__(self, batch: Mapping[str, jax.Array], *, train: bool) -> dict[str, jax.Array]:
        """Maps `batch["image"]` [B, H, W, 3] (normalized; H and W multiples of 16) to named float32 outputs.

        Returns:
            For every head h of b, t1, t2, t3: "feature/h" [B, D] (before the neck), "neck/h" [B, D], "logits/h" [B, N]
            and "triplet/h" (what the triplet loss reads); "map/stage4" and "map/t1" to "map/t3" [B, H/16, W/16, C].

        Raises:
            UserError: an unknown setting, settings that contradict each other, or an image size that does not fit.
        """
        reading = self.reading()
        image = batch["image"]
        self._check(image.shape[1], image.shape[2], reading)

        # MFE: the backbone and its levels F1, F2, F3.
        backbone = resnet.ResNet(
            depths=self.depths,
            width=self.width,
            last_stride=self.last_stride,
            stem_relu=self.stem_relu,
            dtype=self.dtype,
            name="backbone",
        )
        maps = backbone(image.astype(self.dtype), train=train)
        levels = {}
        for k in self.stages:
            level = LevelTransform(
                self.width * 2 ** (k - 1), self.level_depth, pool=2 ** max(3 - k, 0), dtype=self.dtype, name=f"level{k}"
            )
            levels[k] = level(maps[f"stage{k}"], train=train)  # [B, H/16, W/16, width 2^(k+1)]

        # SDFA: T1, T2, T3, each from its level and the previous result, through a TFE.
        results = self._sdfa(reading)(levels, train=train)

        # Staged supervision: every stage has its own neck, identity and triplet loss.
        stage4 = taps.tap("stage4", maps["stage4"], cut=True)
        outputs = {"map/stage4": stage4.astype(jnp.float32)}
        outputs |= self._head("b", pooling.global_average(stage4), self._classifier("b"), train=train)
        shared = self._classifier("t1") if self.stages and reading["shared_stage_classifier"] else None
        for k, (stage_map, token) in results.items():
            # The test feature has that of the last stage alone.
            stage_map = taps.tap(f"t{k}", stage_map.astype(jnp.float32), cut=k == self.stages[-1])
            outputs[f"map/t{k}"] = stage_map
            descriptor = stage_descriptor(stage_map, reading["stage_head"]) if token is None else token
            outputs |= self._head(f"t{k}", descriptor, shared or self._classifier(f"t{k}"), train=train)
            if reading["stage_triplet_on"] == "map":
                outputs[f"triplet/t{k}"] = stage_map
        return outputs

    def describe(self, outputs: Mapping[str, jax.Array]) -> descriptors.Descriptor:
        """Returns the test feature [B, D] of unit length: necks of backbone and last stage (2048 + 256 values)."""
        parts = [outputs["neck/b"]]
        if self.stages:
            parts.append(outputs[f"neck/t{self.stages[-1]}"])
        if self.reading()["test_fusion"] == "per_part":
            parts = [distances.normalize_rows(part) for part in parts]
        return descriptors.Descriptor(distances.normalize_rows(jnp.concatenate(parts, axis=-1)))

    def reading(self) -> dict[str, Any]:
        """Returns the flags that are None by default, filled in from the layout's reading.

        Raises:
            UserError: a flag has a value that does not exist.
        """
        if self.layout not in READINGS:
            raise errors.unknown("layout of MFV", self.layout, READINGS)
        given = {name: getattr(self, name) for name in READINGS[self.layout]}
        reading = READINGS[self.layout] | {name: value for name, value in given.items() if value is not None}
        for name, known in CHOICES.items():
            value = reading.get(name, getattr(self, name))
            if value not in known:
                raise errors.unknown(f"{name} of MFV", value, known)
        return reading

    def _sdfa(self, reading: Mapping[str, Any]) -> SDFA:
        attention = functools.partial(
            transformer_extractor.ExternalAttention, self.slots, reading["ea_norm"], dtype=self.dtype
        )
        transformer = functools.partial(
            transformer_extractor.Transformer,
            attention=self.attention,
            slots=self.slots,
            ea_norm=reading["ea_norm"],
            prenorm=reading["prenorm"],
            ffn_width=self.ffn_width,
            dropout=self.dropout,
            heads=self.heads,
            head_width=self.head_width,
            dtype=self.dtype,
        )
        make_tfe = functools.partial(
            transformer_extractor.TFE,
            width=self.tfe_width,
            layout=self.layout,
            stem_expansion=reading["stem_expansion"],
            attention=self.attention,
            cls_token=self.cls_token,
            pos_embed=self.pos_embed,
            dtype=self.dtype,
        )
        shared = self.ea_shared_memory and self.attention == "external"
        memory = attention if shared else None
        return SDFA(self.stages, self.tfe_depths, self.layout, make_tfe, transformer, memory, self.chain, name="sdfa")

    def _classifier(self, name: str) -> nn.Dense:
        return nn.Dense(
            self.num_classes, use_bias=False, kernel_init=initializers.classifier, name=f"classifier_{name}"
        )

    def _head(self, name: str, descriptor: jax.Array, classifier: nn.Dense, *, train: bool) -> dict[str, jax.Array]:
        """Returns the named outputs of a BNNeck head; metric losses read the descriptor before the neck."""
        descriptor = descriptor.astype(jnp.float32)
        neck = norm.BatchNorm(use_bias=False, name=f"bottleneck_{name}")(descriptor, train=train)
        return {
            f"feature/{name}": descriptor,
            f"triplet/{name}": descriptor,
            f"neck/{name}": neck,
            f"logits/{name}": classifier(neck),
        }

    def _check(self, height: int, width: int, reading: Mapping[str, Any]) -> None:
        """Raises for settings that contradict each other or the image size."""
        release = self.layout == "release" and bool(self.stages)
        if height % 16 or width % 16:
            raise errors.UserError(
                f"MFV pools levels to H/16 x W/16: expected an image size in multiples of 16, got {height} x {width}."
            )
        if tuple(self.stages) != tuple(sorted({1, 2, 3} & set(self.stages))):
            raise errors.UserError(f"the stages of MFV are an increasing subset of (1, 2, 3), got {self.stages}.")
        if self.cls_token and (release or self.attention == "none" or reading["ea_norm"] == "release"):
            raise errors.UserError("cls_token needs attention over positions: set layout and ea_norm to 'tokens'.")
        if self.cls_token and reading["stage_head"] == "grid":
            raise errors.UserError("cls_token is a stage's descriptor itself; drop stage_head='grid'.")
        if release and (4 * self.width != self.tfe_width or width % 32):
            raise errors.UserError(
                "layout 'release' drops channels by stride: expected tfe_width = 4 width and an image width in "
                f"multiples of 32, got tfe_width {self.tfe_width}, width {self.width}, image {height} x {width}."
            )


def join(level: jax.Array, carried: jax.Array | None) -> jax.Array:
    """Returns G_k, the concatenation of level F_k [B, H, W, C_k] and T_(k-1) [B, H, W, C], the input of a TFE."""
    return level if carried is None else jnp.concatenate((level, carried), axis=-1)


def stage_descriptor(stage_map: jax.Array, kind: str) -> jax.Array:
    """Returns the descriptor of a stage's map [B, H, W, C]: "gap" [B, C], or "grid" [B, C/4 H/2 W/2] in NCHW order."""
    if kind == "gap":
        return pooling.global_average(stage_map)
    return stage_map[:, ::2, ::2, ::4].transpose(0, 3, 1, 2).reshape(stage_map.shape[0], -1)
