"""AMFOR: part features that stay comparable when body parts are hidden.

    image ─ blocks 1 ... 11 with AMFF ─ F ─┬─ b1 (block 12) ─┬─ class token F_g ───────────────────── head g
                       text ┘              │                 └─ tokens ─┬─ mask generator ─ M
                                           │                            └─ means under M ─ HPR ────── heads f, b
                                           └─ part decoder ─┬─ student F^s ────────────────────────── head s, visibility
                                                            └─ teacher F^t, attends under M ───────── head s as t
                                              F^s ─ AMGD ─ generated, compared with F^t

Training only: mask generator, weighted means and the teacher (`part_decoder`), HPR (`feature_decoder`) and AMGD
(`generative_distillation`). AMFF is in `depth_fusion`. The embedding of an image has nine slots, F_g and the student's
eight parts, each taken after its neck, and the predicted visibility of each part.

The trainer provides label maps of body parts in the batch ("parts", moved, flipped and erased with the image by
`reid_jax.data.transforms`); `_targets` derives the labels of tokens and the visibility targets from them. A teacher
that is an average of weights, or that sees the image before erasing, is a pass of its own whose "feature/t" the
distillation term reads (configs/amfor.py, `ts_ema` and `ts_clean`). With `pixel` a small decoder also draws hidden
patches (`pixel_decoder`), where the batch holds the undamaged image as well as the damaged one.

References:
    "Adaptive Multi-Granularity Fusion and Occlusion Reconstruction for Person Re-Identification", IEEE TMM 2025. There
    is no official code; figures and a training log are public. What neither shows is our choice and marked as such.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from reid_jax import errors
from reid_jax.models import transreid
from reid_jax.models.amfor import (
    depth_fusion,
    feature_decoder,
    generative_distillation,
    part_decoder,
    part_examination,
    pixel_decoder,
)
from reid_jax.models.backbones import clip_text, vit
from reid_jax.nn import heads
from reid_jax.ops import batch_parts, descriptors, distances, taps

# Names of the TransReID family; `adapt_weights` comes first.
TORCH_RULES: tuple[tuple[str, str], ...] = (
    (r"^base\.", "backbone."),
    (r"^b1\.0\.", "b1.block."),
    (r"^b1\.1\.", "b1.norm."),
)
TORCH_IGNORED: tuple[tuple[str, str], ...] = transreid.TORCH_IGNORED
TORCH_EXPORT_RULES: tuple[tuple[str, str], ...] = (
    (r"^backbone\.", "base."),
    (r"^b1\.block\.", "b1.0."),
    (r"^b1\.norm\.", "b1.1."),
)
options_of_weights = transreid.options_of_weights
PART_LOADERS = {"text_weights": clip_text.load_weights}

TEXT_SOURCES = ("clip", "learned", "none")
PARSING_SOURCES = ("files", "synthetic", "strips")
DISTILLATIONS = ("none", "cos", "amgd")
EVAL_SLOTS = ("all", "global", "parts")
LAYERS = ("all", "last")
MODES = ("", "plain", "prompts")
# Where a batch holds the features of all training images, computed beforehand.
IMAGE_FEATURES = "extra/image_features"


class AMFOR(nn.Module):
    """The network, every part of which can be switched off.

    Attributes:
        num_classes: training identities N.
        dtype: compute dtype; parameters, statistics, masks and heads are float32.
        size, width, depth, heads, mlp_ratio: see `transreid.TransReID`.
        image_size, patch, stride, drop_path, position_init, kernels, attention_kernel: see `vit.ViT`.
        sie, sie_weight, num_cameras: see `vit.ViT`; sie is "none" for data sets whose camera numbers only distinguish
            query from gallery.
        position_grid: rows and columns of a loaded position embedding; (16, 8) for HAP, None guesses.
        attention_heads: attention heads in AMFF, the part decoder and AMGD.
        amff: whether AMFF fuses the depths of the encoder.
        amff_layers: blocks, counted from 1, after which AMFF fuses; or "all", or "last" for the last of the published
            ones.
        amff_text_value, amff_residual, amff_normalize, amff_beta, amff_gate_init, amff_alpha: see
            `depth_fusion.LayerFusion`.
        amff_reuse_fused: see `depth_fusion.AMFF`.
        text_source: text features that the queries of AMFF attend to first. "learned": a trainable bank of `text_rows`
            vectors. "clip": features of all training identities' prompts, learned in an earlier phase and constant
            afterwards (see `clip_text`); they are in the collection `constants` ("constants/prompts/bank"), are saved
            and used at test time. "none".
        text_rows: see `text_source`.
        text_sizes: fields of `clip_text.TextEncoder` that are not CLIP's.
        parsing: whether there are the mask generator, weighted means, and heads f and b.
        parsing_source: label maps that came with the images ("files", or "synthetic" ones), or "strips", bands that
            stand in for them.
        masks_positions: see `part_decoder.MaskGenerator`.
        masks_apart: whether the masks learn from the parsing loss alone, and not from the losses of pooled parts.
        visible_pixels: the least pixels of a visible part, in an image of 128 x 64; see `part_decoder.visible_parts`.
        ts: whether there is the part decoder with teacher and student.
        ts_vis_apart: see `part_decoder.VisibilityHead`.
        ts_vis_teacher: whether the teacher's visibility is predicted as well, "visibility/t".
        hpr: whether HPR reconstructs the pooled features.
        hpr_depths, hpr_width, hpr_heads, hpr_map_tokens, hpr_residual, hpr_gain_init: see
            `feature_decoder.FeatureDecoder`.
        pixel: whether hidden patches are drawn, an extension that is not in the published run; see
            `pixel_decoder.PixelDecoder`.
        pixel_patch: side of the drawn patches, which do not overlap; None takes the encoder's.
        pixel_ratio, pixel_width, pixel_depth, pixel_heads, pixel_copies: its `ratio`, `width`, `depth`, `heads`,
            `copies`.
        amgd: distillation into the student: "none"; "cos", a term without parameters; "amgd".
        amgd_granularities, amgd_mask, amgd_hidden: see `generative_distillation.AMGD`.
        amgd_ratio, amgd_lambda_mode, amgd_lambda, amgd_ste: its `ratio`, `threshold`, `constant`, `straight_through`.
        eval_slots: "all" slots, "global" alone or "parts" alone.
        eval_use_visibility: whether slots that are hidden in either image are left out.
        eval_soft_visibility: whether slots count by the predicted probability to be visible, in place of 0 or 1.
    """

    num_classes: int
    dtype: Any = jnp.float32
    size: str = "base"
    width: int | None = None
    depth: int | None = None
    heads: int | None = None
    mlp_ratio: float | None = None
    image_size: tuple[int, int] = (256, 128)
    patch: int = 16
    stride: int = 11
    drop_path: float = 0.1
    position_init: str = "normal"
    kernels: str = "normal"
    attention_kernel: str = "xla"
    sie: str = "camera"
    sie_weight: float = 3.0
    num_cameras: int = 0
    position_grid: tuple[int, int] | None = None
    attention_heads: int = 8
    amff: bool = True
    amff_layers: tuple[int, ...] | str = (1, 2, 4, 6, 8, 10)
    amff_text_value: str = "text"
    amff_residual: bool = True
    amff_normalize: str = "softmax"
    amff_beta: float = 2.0
    amff_gate_init: float = -2.0
    amff_alpha: float | None = None
    amff_reuse_fused: bool = False
    text_source: str = "learned"
    text_rows: int = 32
    text_sizes: Mapping[str, Any] | None = None
    parsing: bool = True
    parsing_source: str = "files"
    masks_positions: bool = False
    masks_apart: bool = False
    visible_pixels: float = 20.0
    ts: bool = True
    ts_vis_apart: bool = False
    ts_vis_teacher: bool = False
    hpr: bool = True
    hpr_depths: tuple[int, int] = (8, 8)
    hpr_width: int = 512
    hpr_heads: int = 16
    hpr_map_tokens: bool = True
    hpr_residual: bool = True
    hpr_gain_init: float = 0.1
    pixel: bool = False
    pixel_patch: int | None = None
    pixel_ratio: float = 0.0
    pixel_width: int = 512
    pixel_depth: int = 2
    pixel_heads: int = 16
    pixel_copies: bool = False
    amgd: str = "amgd"
    amgd_granularities: tuple[str, ...] = ("part",)
    amgd_mask: str = "adaptive"
    amgd_ratio: float = 0.5
    amgd_lambda_mode: str = "quantile"
    amgd_lambda: float = 0.0
    amgd_ste: bool = True
    amgd_hidden: int = 16
    eval_slots: str = "all"
    eval_use_visibility: bool = True
    eval_soft_visibility: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self)

    @nn.compact
    def __call__(self, batch: Mapping[str, jax.Array], *, train: bool, mode: str = "") -> dict[str, jax.Array]:
        """Encodes images.

        Args:
            batch: "image" [B, H, W, 3] normalized; "camid" [B] with a camera embedding; in training "parts" [B, H, W]
                labels 0 ... 8 of pixels, or for strips "erase_box" [B, 4]; for drawn patches "image_clean"; in mode
                "prompts" "label" [B].
            train: batch statistics, stochastic depth, drawn masks; and everything that training alone needs.
            mode: "" runs the network; "plain" leaves out AMFF; "prompts" compares the feature of "plain" with the text
                of each image's identity, which is how the text prompts are trained (`text_source="clip"`). Where the
                batch holds "extra/image_features" [M, D], such features of all training images, and "index" [B], it
                takes them from there and the encoder does not run.

        Returns:
            Heads h of g (global), s (student) and in training t (teacher), b (pooled parts) and f (foreground):
            "feature/h" [B, D] or for parts [B, 8, D], "neck/h" [B, D] or [B, 8 D], "logits/h" [B, N]. "tokens"
            [B, P, D] and "visibility/s" [B, 8] logits. In training "parsing/logits" and "parsing/masks" [B, P, 9],
            "parsing/labels" [B, P], "visibility/target" [B, 8], "generated" [B, G, D] (AMGD) and "diversity"
            [B, K, 8, D], the sets of parts that should differ. With "image_clean" also the outputs of
            `pixel_decoder`. In mode "prompts" also "prompt/image" and "prompt/text" [B, D], or these alone.

        Raises:
            UserError: an unknown mode, or a model without prompts in mode "prompts".
        """
        training = train or self.is_initializing()
        prompts = self._prompts(name="prompts") if self.amff and self.text_source == "clip" else None
        _check_mode(mode, has_prompts=prompts is not None)
        if prompts is not None and mode == "prompts" and IMAGE_FEATURES in batch:
            return prompts.pairs(batch["label"], batch[IMAGE_FEATURES][batch["index"]])
        text = None if prompts is None else prompts.bank()
        fuse = self.amff and (mode == "" or self.is_initializing())
        memory, tokens = self._encode(batch, text, train, fuse)  # [B, 1 + P, D], before and after b1
        grid = vit.grid_of(self.image_size, self.patch, self.stride)
        tokens = taps.tap("tokens", tokens, grid=grid, leading=1)
        feature, patches = tokens[:, 0], tokens[:, 1:]
        outputs = {"tokens": patches.astype(jnp.float32), **self._head("g", feature, train)}
        if prompts is not None and (mode == "prompts" or self.is_initializing()):
            outputs |= prompts.pairs(batch["label"], outputs["feature/g"])
        if self.pixel:
            outputs |= self._draw(patches, batch, train)
        masks, diverse = None, []
        if self.parsing and training:
            logits, masks = self._masks(name="mask_generator")(patches, train=train)
            outputs |= {"parsing/logits": logits, "parsing/masks": masks}
            outputs |= self._targets(batch) if train else {}
            pooled, steady = self._pool(patches, masks, train)
            outputs |= self._head("f", pooled[:, 0], train) | self._head("b", pooled[:, 1:], train)
            diverse.append(steady[:, 1:])
        if self.ts:
            outputs |= self._teacher_student(memory, masks, train)
            diverse += [outputs["feature/t"]] if training else []
        if self.amgd == "amgd" and training:
            key = self.make_rng("dropout") if train else None
            outputs["generated"] = self._generator()(outputs["feature/s"], key)
        if diverse:
            outputs["diversity"] = jnp.stack(diverse, axis=1)
        return outputs

    @property
    def reconstructs(self) -> bool:
        """Whether a run ends with pictures of the drawn patches, see `reid_jax.runs.drawn_patches`."""
        return self.pixel

    # The attention whose queries are the background and the parts of the descriptor.
    slot_attention = "attention/part_decoder/cross"

    def part_masks(self, variables: Mapping[str, Any], tokens: jax.Array) -> jax.Array:
        """Returns what the mask generator makes of the output "tokens" [B, P, D]: [B, P, 9], background first.

        The network itself uses masks in training alone.

        Raises:
            UserError: a model without masks.
        """
        if not self.parsing:
            raise errors.UserError("expected a model with part masks, this one has model.parsing=False; use another.")
        own = {kind: variables[kind]["mask_generator"] for kind in ("params", "batch_stats")}
        _, masks = self._masks(parent=None).apply(own, tokens, train=False)
        return jnp.asarray(masks)

    def examine_parts(self, variables: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns what is known of body parts at test time, see `part_examination.examine`."""
        return part_examination.examine(self, variables, batch)

    def part_targets(self, parts: jax.Array) -> dict[str, jax.Array]:
        """Returns labels of tokens and visibility of parts, the targets of training, from label maps [B, H, W]."""
        grid = vit.grid_of(self.image_size, self.patch, self.stride)
        return {
            "parsing/labels": part_decoder.token_labels(parts, grid, self.patch, self.stride),
            "visibility/target": part_decoder.visible_parts(parts, self.visible_pixels),
        }

    # ---- parts of the forward pass ----------------------------------------------------------------------------------

    def encoder(self) -> dict[str, Any]:
        """Returns the fields of the `vit.ViT`."""
        if self.size not in vit.SIZES:
            raise errors.unknown("ViT size", self.size, vit.SIZES)
        given = {name: getattr(self, name) for name in ("width", "depth", "heads", "mlp_ratio")}
        shared = ("image_size", "patch", "stride", "drop_path", "position_init", "kernels", "attention_kernel", "dtype")
        sides = ("sie", "sie_weight", "num_cameras")
        return {
            **vit.SIZES[self.size],
            **{name: value for name, value in given.items() if value is not None},
            **{name: getattr(self, name) for name in (*shared, *sides)},
        }

    def _encode(
        self, batch: Mapping[str, jax.Array], text: jax.Array | None, train: bool, fuse: bool
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the shared memory F and b1's normalized tokens, both [B, 1 + P, D].

        Args:
            batch: see `__call__`.
            text: bank of text features [N, D], None without one.
            train: see `__call__`.
            fuse: whether AMFF fuses the depths of the encoder.
        """
        fields = self.encoder()
        last = fields["depth"] - 1
        backbone = vit.ViT(**fields, stop=last, name="backbone")
        if fuse:
            fusion = self._fusion(fields)
            depths: list[jax.Array] = []
            memory = backbone(batch, train=train, after=lambda _, tokens: fusion(depths, tokens, text))
        else:
            memory = backbone(batch, train=train)
        return memory, transreid.Branch(backbone.block_fields(last), name="b1")(memory, train=train)

    def _fusion(self, fields: Mapping[str, Any]) -> depth_fusion.AMFF:
        options = ("text_value", "residual", "normalize", "beta", "gate_init", "alpha", "reuse_fused")
        return depth_fusion.AMFF(
            layers=fusion_layers(self.amff_layers, fields["depth"]),
            width=fields["width"],
            learned_rows=self.text_rows if self.text_source == "learned" else 0,
            heads=self.attention_heads,
            dtype=self.dtype,
            name="amff",
            **{name: getattr(self, f"amff_{name}") for name in options},
        )

    def _prompts(self, **place: Any) -> clip_text.PromptLearner:
        return clip_text.PromptLearner(
            self.num_classes, self.encoder()["width"], sizes=self.text_sizes, dtype=self.dtype, **place
        )

    def fill_text_bank(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the variables with the bank of text features made from the prompts: where stage 2 starts."""
        return clip_text.fill_bank(self._prompts(parent=None), variables, "prompts")

    def _targets(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns the labels of tokens and the visibility of parts, from the part maps of the batch or from strips."""
        if self.parsing_source == "strips":
            boxes = batch.get("erase_box", jnp.zeros((batch["image"].shape[0], 4), jnp.int32))
            parts = part_decoder.strip_map(self.image_size, boxes)
        elif "parts" in batch:
            parts = batch["parts"]
        else:
            raise errors.UserError(
                f"model.parsing_source={self.parsing_source!r} reads label maps, the batch has none; set "
                "data.maps=('parts',), or for images without labels use the variant `strips`."
            )
        return self.part_targets(parts)

    def _masks(self, **place: Any) -> part_decoder.MaskGenerator:
        return part_decoder.MaskGenerator(self.masks_positions, **place)

    def _pool(self, patches: jax.Array, masks: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """Returns foreground and parts [B, 1 + 8, D], reconstructed by HPR, and a copy whose masks get no gradient."""
        steady = part_decoder.pool(patches, jax.lax.stop_gradient(masks))
        pooled = steady if self.masks_apart else part_decoder.pool(patches, masks)
        if not self.hpr:
            return pooled, steady
        decoder = self.reconstruction(name="hpr")
        if self.masks_apart:
            pooled = decoder(pooled, train=train)
            return pooled, pooled
        pooled, steady = batch_parts.separate(decoder(batch_parts.join((pooled, steady)), train=train), 2)
        return pooled, steady

    def reconstruction(self, **place: Any) -> feature_decoder.FeatureDecoder:
        """Returns HPR's decoder, whose variables are "hpr"."""
        options = ("depths", "width", "heads", "map_tokens", "residual", "gain_init")
        fields = {name: getattr(self, f"hpr_{name}") for name in options}
        return feature_decoder.FeatureDecoder(**fields, dtype=self.dtype, kernels=self.kernels, **place)

    def _teacher_student(self, memory: jax.Array, masks: jax.Array | None, train: bool) -> dict[str, jax.Array]:
        """Returns the student's parts; under masks also the teacher's, after the same head."""
        allowed = None
        if masks is not None:
            allowed = part_decoder.draw_masks(masks, self.make_rng("dropout") if train else None)
        decoder = part_decoder.PartDecoder(self.attention_heads, dtype=self.dtype, name="part_decoder")
        student, teacher = decoder(memory, allowed)
        see = part_decoder.VisibilityHead(self.ts_vis_apart, name="visibility")
        head = heads.BNNeck(self.num_classes, name="head_s")
        outputs = _head_outputs("s", head, student, train) | {"visibility/s": see(student, train=train)}
        if masks is not None:
            outputs |= _head_outputs("t", head, teacher, train)
            if self.ts_vis_teacher:
                outputs["visibility/t"] = see(teacher, train=train)
        return outputs

    def _draw(self, patches: jax.Array, batch: Mapping[str, jax.Array], train: bool) -> dict[str, jax.Array]:
        """Draws hidden patches of the picture from the encoder's patch tokens [B, P, D]."""
        fields = {name: getattr(self, f"pixel_{name}") for name in ("width", "depth", "heads", "ratio", "copies")}
        side = self.pixel_patch or self.patch
        decoder = pixel_decoder.PixelDecoder(self.image_size, side, **fields, dtype=self.dtype, name="pixel_decoder")
        return decoder(patches, batch, vit.grid_of(self.image_size, self.patch, self.stride), train=train)

    def _generator(self) -> generative_distillation.AMGD:
        options = (self.amgd_granularities, self.amgd_mask, self.amgd_ratio, self.amgd_lambda_mode, self.amgd_lambda)
        sizes = (self.amgd_ste, self.amgd_hidden, self.attention_heads)
        return generative_distillation.AMGD(*options, *sizes, name="amgd")

    def _head(self, name: str, feature: jax.Array, train: bool) -> dict[str, jax.Array]:
        return _head_outputs(name, heads.BNNeck(self.num_classes, name=f"head_{name}"), feature, train)

    # ---- test time --------------------------------------------------------------------------------------------------

    def describe(self, outputs: Mapping[str, jax.Array]) -> descriptors.Descriptor:
        """Returns the slots [B, S, D], each of unit length, and which can be seen; without parts one vector [B, D]."""
        slots = distances.normalize_rows(outputs["neck/g"])
        if self.eval_slots == "global" or not self.ts:
            return descriptors.Descriptor(slots)
        parts = outputs["neck/s"].reshape(slots.shape[0], part_decoder.NUM_PARTS, -1)
        features = jnp.concatenate((slots[:, None], distances.normalize_rows(parts)), axis=1)
        seen = (outputs["visibility/s"] > 0).astype(jnp.float32)
        if self.eval_soft_visibility:
            seen = nn.sigmoid(outputs["visibility/s"])
        visible = jnp.concatenate((jnp.ones_like(seen[:, :1]), seen), axis=1)
        first = 1 if self.eval_slots == "parts" else 0
        return descriptors.Descriptor(features[:, first:], visible[:, first:] if self.eval_use_visibility else None)


def _head_outputs(name: str, head: heads.BNNeck, feature: jax.Array, train: bool) -> dict[str, jax.Array]:
    """Returns the outputs of a head for a feature [B, D], or for the concatenated parts [B, 8, D]."""
    feature = feature.astype(jnp.float32)
    neck, logits = head(feature.reshape(feature.shape[0], -1), train=train)
    return heads.head_outputs(name, feature, neck, logits)


def fusion_layers(layers: tuple[int, ...] | str, depth: int) -> tuple[int, ...]:
    """Returns the blocks after which AMFF fuses; b1 replaces the last of the `depth` blocks.

    >>> fusion_layers("last", 12), fusion_layers("all", 4)
    ((10,), (1, 2, 3))

    Raises:
        UserError: an unknown name, or blocks that do not exist.
    """
    if isinstance(layers, str):
        if layers not in LAYERS:
            raise errors.unknown("choice of layers (amff_layers)", layers, LAYERS)
        return tuple(range(1, depth)) if layers == "all" else (depth - 2,)
    if not layers or list(layers) != sorted(set(layers)) or not 1 <= layers[0] <= layers[-1] < depth:
        raise errors.UserError(
            f"expected amff_layers to rise from 1 to at most {depth - 1} (the blocks before the last), got {layers}."
        )
    return tuple(layers)


def _check_mode(mode: str, *, has_prompts: bool) -> None:
    if mode not in MODES:
        raise errors.unknown("mode of AMFOR (mode of a pass)", mode, MODES)
    if mode == "prompts" and not has_prompts:
        raise errors.UserError(
            "the mode 'prompts' of a pass trains text prompts, which this model does not have; set "
            "model.text_source='clip' and model.amff=True, or take the mode out of the pass."
        )


def _check(model: AMFOR) -> None:
    """Refuses options that do not exist or contradict each other."""
    for kind, value, known in (
        ("text source (text_source)", model.text_source, TEXT_SOURCES),
        ("source of part labels (parsing_source)", model.parsing_source, PARSING_SOURCES),
        ("distillation (amgd)", model.amgd, DISTILLATIONS),
        ("test slots (eval_slots)", model.eval_slots, EVAL_SLOTS),
    ):
        if value not in known:
            raise errors.unknown(kind, value, known)
    for name, on, needs, there in (
        ("ts", model.ts, "parsing", model.parsing),
        ("hpr", model.hpr, "parsing", model.parsing),
        (f"amgd={model.amgd!r}", model.amgd != "none", "ts", model.ts),
        ("eval_slots='parts'", model.eval_slots == "parts", "ts", model.ts),
    ):
        if on and not there:
            raise errors.UserError(f"model.{name} needs model.{needs}, which is off; switch both on or both off.")
    fields = model.encoder()
    if model.amff:
        fusion_layers(model.amff_layers, fields["depth"])
    if model.amgd == "amgd" or (model.hpr and model.hpr_map_tokens):
        feature_decoder.volume_shape(fields["width"])
    if fields["width"] % model.attention_heads:
        raise errors.UserError(
            f"expected a width that divides into attention_heads, got {fields['width']} and {model.attention_heads}."
        )


# ---- published weights ----------------------------------------------------------------------------------------------


def adapt_weights(model: AMFOR, flat: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Returns an encoder's file (ImageNet, MAE, HAP) fitted to the model; b1 begins as a copy of the last block."""
    named, bare = transreid.fit_weights(model, flat, model.encoder()["depth"], ("b1",))
    return named, ("^(?!backbone/|b1/)", "sie_embed$") if bare else ()
