"""Masked autoencoder of person crops: a ViT encodes the visible patches, a small decoder draws the hidden ones.

The encoder is the plain `vit.ViT` under the name `backbone`. Its hook drops the hidden tokens before the first block:
hidden pixels have exactly no influence, and a step costs what the visible tokens cost. After pretraining the encoder
goes into TransReID, AMFOR or CFAT by `init.weights` (`reid_jax.runs.encoder_files`).

References:
    He et al., "Masked autoencoders are scalable vision learners", CVPR 2022 (network, loss).
    Yuan et al., "HAP: structure-aware masked image modeling for human-centric perception", NeurIPS 2023 (masks by
    blocks and body parts, two masked views of an image, alignment of their class tokens).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from reid_jax import errors
from reid_jax.models import transreid
from reid_jax.models.backbones import position_codes, vit
from reid_jax.ops import descriptors, distances, images, masks, patch_statistics

LOG = logging.getLogger(__name__)

# Encoder and decoder of published and of our small networks; the fields of the model replace single entries.
SIZES: dict[str, dict[str, int]] = {
    "base": {"width": 768, "depth": 12, "heads": 12, "decoder_width": 512, "decoder_depth": 8, "decoder_heads": 16},
    "large": {"width": 1024, "depth": 24, "heads": 16, "decoder_width": 512, "decoder_depth": 8, "decoder_heads": 16},
    "small": {"width": 384, "depth": 12, "heads": 6, "decoder_width": 256, "decoder_depth": 4, "decoder_heads": 8},
    "demo_wide": {"width": 192, "depth": 6, "heads": 3, "decoder_width": 96, "decoder_depth": 2, "decoder_heads": 3},
    "demo": {"width": 128, "depth": 4, "heads": 4, "decoder_width": 64, "decoder_depth": 1, "decoder_heads": 4},
}
PART_SOURCES = ("maps", "keypoints", "strips")
PROBES = ("mean", "cls")
# Passes with masks of their own; a pass of the config names one as its mode.
DRAWS = {"": 0, "second": 1}

# The names of timm, MAE and HAP, under "base." as `transreid.fit_weights` leaves them.
TORCH_RULES: tuple[tuple[str, str], ...] = ((r"^base\.", "backbone."),)
TORCH_IGNORED: tuple[tuple[str, str], ...] = transreid.TORCH_IGNORED
TORCH_EXPORT_RULES: tuple[tuple[str, str], ...] = ((r"^backbone\.", ""),)


def adapt_weights(model: MaskedAutoencoder, flat: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns the encoder of a published file with its positions resampled; the decoder starts anew, as HAP's does."""
    named, bare = transreid.fit_weights(model, flat, model.fields()["depth"], ())
    return named, ("^decoder_", "^mask_token$") if bare else ()


class MaskedAutoencoder(nn.Module):
    """Encoder of visible patches and decoder of hidden ones.

    Attributes:
        num_classes: training identities, which all commands give; nothing is classified.
        dtype: compute dtype; parameters, statistics, softmax and predictions are float32.
        size: a row of `SIZES`; the next six fields replace its entries.
        width, depth, heads: of the encoder.
        decoder_width, decoder_depth, decoder_heads: of the decoder.
        image_size: (height, width); both divide by the patch.
        patch: side of a patch; patches do not overlap.
        mask_kind: "random", "block" or "parts", see `ops.masks`.
        mask_ratio: share of hidden patches.
        part_share: range of the share of a drawn body part's tokens that is hidden.
        part_cover: least share of a patch's pixels that makes it one of a part's tokens (label maps).
        parts_source: where body parts come from: "maps" (the batch's "parts"), "keypoints" (its "limbs", maps of
            prepared key points, or "keypoints" themselves) or "strips" (bands of the image).
        block_rule: see `ops.masks.Rule`.
        parts_reference: likewise.
        statistics: a head that corrects mean and scale of every patch, as the visible ones near it have them, so that a
            model of normalized patches can draw pictures; it changes nothing else.
        kernels: initial values of linear layers and of the patch embedding, see `vit.KERNEL_INITS`.
        probe: what is compared at test time: "mean" of the patch tokens of the whole image, or its "cls" token.
        position_grid: rows and columns of a loaded position embedding; None guesses (`vit.guess_grid`).
    """

    num_classes: int = 0
    dtype: Any = jnp.float32
    size: str = "base"
    width: int | None = None
    depth: int | None = None
    heads: int | None = None
    decoder_width: int | None = None
    decoder_depth: int | None = None
    decoder_heads: int | None = None
    image_size: tuple[int, int] = (256, 128)
    patch: int = 16
    mask_kind: str = "random"
    mask_ratio: float = 0.75
    part_share: tuple[float, float] = (0.0, 0.3)
    part_cover: float = 0.2
    parts_source: str = "maps"
    block_rule: str = "sequential"
    parts_reference: bool = False
    statistics: bool = False
    kernels: str = "xavier"
    probe: str = "mean"
    position_grid: tuple[int, int] | None = None

    @property
    def stride(self) -> int:
        """Step between patches, for loading positions."""
        return self.patch

    @property
    def draws_masked(self) -> bool:
        """Whether a run ends with drawings of masked images and an encoder file, see `reid_jax.runs.masked_drawing`."""
        return True

    def fields(self) -> dict[str, int]:
        """Returns widths, depths and heads of encoder and decoder.

        Raises:
            UserError: an unknown size.
        """
        if self.size not in SIZES:
            raise errors.unknown("size of the masked autoencoder", self.size, SIZES)
        given = {name: getattr(self, name) for name in SIZES["base"]}
        return {**SIZES[self.size], **{name: value for name, value in given.items() if value is not None}}

    def rule(self) -> masks.Rule:
        """Returns how patches are hidden.

        Raises:
            UserError: a side that does not divide by the patch, or a mask that cannot be drawn.
        """
        if any(side % self.patch for side in self.image_size):
            raise errors.UserError(
                f"expected images that divide into patches of {self.patch} pixels a side, got {self.image_size}; "
                "change data.height, data.width or model.patch."
            )
        if self.parts_source not in PART_SOURCES:
            raise errors.unknown("source of body parts", self.parts_source, PART_SOURCES)
        return masks.Rule(
            rows=self.image_size[0] // self.patch,
            columns=self.image_size[1] // self.patch,
            kind=self.mask_kind,
            ratio=self.mask_ratio,
            part_share=(self.part_share[0], self.part_share[1]),
            block_rule=self.block_rule,
            parts_reference=self.parts_reference,
        )

    @nn.compact
    def __call__(self, batch: Mapping[str, jax.Array], *, train: bool, mode: str = "") -> dict[str, jax.Array]:
        """Encodes the visible patches and draws all of them; without a mask, encodes the whole image.

        Args:
            batch: "image" [B, H, W, 3] normalized; in training "mask_seed" uint32 [B, 2] and what the masks read
                ("parts", "limbs", "keypoints"). "mask" bool [B, N] replaces the draw; it hides N - K patches in
                each image.
            train: draws masks.
            mode: which of the masks of an image is drawn, a key of `DRAWS`.

        Returns:
            With a mask: "pixels/predicted" [B, N, patch patch 3], "pixels/mask" bool [B, N], "feature/g" [B, D] (class
            token of the visible patches), and with `statistics` "pixels/statistics" [B, N, 2] (mean and logarithm of
            the scale). Without one: "tokens" [B, N, D] and "feature/g" of the whole image. All float32.
        """
        rule, sizes = self.rule(), self.fields()
        backbone = vit.ViT(
            image_size=(self.image_size[0], self.image_size[1]),
            width=sizes["width"],
            depth=sizes["depth"],
            heads=sizes["heads"],
            patch=self.patch,
            stride=self.patch,
            drop_path=0.0,
            position_init="sincos",
            kernels=self.kernels,
            dtype=self.dtype,
            name="backbone",
        )
        hidden = self._split(batch, rule, train, mode)
        if hidden is None:
            tokens = backbone(batch, train=train)
            if self.is_initializing():
                everything = jnp.broadcast_to(jnp.arange(rule.tokens), (len(tokens), rule.tokens))
                self._draw(tokens, masks.Split(everything, jnp.zeros(everything.shape, bool)), rule, sizes)
            tokens = tokens.astype(jnp.float32)
            return {"tokens": tokens[:, 1:], "feature/g": tokens[:, 0]}
        places = jnp.concatenate((jnp.zeros_like(hidden.visible[:, :1]), 1 + hidden.visible), axis=1)

        def take(number: int, tokens: jax.Array) -> jax.Array:
            return jnp.take_along_axis(tokens, places[..., None], axis=1) if number == 0 else tokens

        tokens = backbone(batch, train=train, after=take)  # [B, 1 + K, D]
        outputs = self._draw(tokens, hidden, rule, sizes)
        if self.statistics:
            # What the visible patches say by themselves; the head learns the rest.
            own = patch_statistics.statistics_of(images.patchify(batch["image"].astype(jnp.float32), self.patch))
            near = patch_statistics.from_visible(own, hidden.mask, rule.rows, rule.columns)
            outputs["pixels/statistics"] += jax.lax.stop_gradient(near)
        return {**outputs, "pixels/mask": hidden.mask, "feature/g": tokens[:, 0].astype(jnp.float32)}

    def _split(self, batch: Mapping[str, jax.Array], rule: masks.Rule, train: bool, mode: str) -> masks.Split | None:
        """Returns visible and hidden patches; None encodes the whole image."""
        if mode not in DRAWS:
            raise errors.unknown("mode of a pass", mode, [name or "''" for name in DRAWS])
        if "mask" in batch:
            return masks.split(batch["mask"].astype(jnp.float32), rule.visible)
        if not train:
            return None
        if "mask_seed" not in batch:
            raise errors.UserError(
                "expected the seeds of the masks (mask_seed) in the batch, got none; add data.augment.mask_seed={}."
            )
        return masks.draw(masks.keys_of(batch["mask_seed"], DRAWS[mode]), rule, self._groups(batch, rule))

    def _groups(self, batch: Mapping[str, jax.Array], rule: masks.Rule) -> jax.Array | None:
        """Returns the tokens of body parts, bool [B, 6, N]; None, after a warning, where the batch has none."""
        if rule.kind != "parts":
            return None
        if self.parts_source == "strips":
            bands = jnp.asarray(masks.groups_of_strips(rule.rows, rule.columns))
            return jnp.broadcast_to(bands, (len(batch["image"]), *bands.shape))
        if self.parts_source == "keypoints" and "limbs" in batch:
            return masks.groups_of_limbs(batch["limbs"], self.patch)
        if self.parts_source == "keypoints" and "keypoints" in batch:
            return masks.groups_of_keypoints(batch["keypoints"], self.patch, rule.rows, rule.columns)
        if self.parts_source == "maps" and "parts" in batch:
            return masks.groups_of_maps(batch["parts"], self.patch, self.part_cover)
        _warn_once(self.parts_source)
        return None

    def _draw(
        self, tokens: jax.Array, hidden: masks.Split, rule: masks.Rule, sizes: Mapping[str, int]
    ) -> dict[str, jax.Array]:
        """Returns the drawn patches [B, N, P], and their statistics, from the visible tokens [B, 1 + K, D]."""
        width = sizes["decoder_width"]
        x = vit.dense(width, "decoder_embed", self.dtype, kernels=self.kernels)(tokens)
        empty = self.param("mask_token", vit.normal_002, (1, 1, width), jnp.float32).astype(x.dtype)
        x = jnp.concatenate((x[:, :1], put_back(x[:, 1:], hidden.mask, empty)), axis=1)
        x = x + jnp.asarray(position_codes.token_code(rule.rows, rule.columns, width), x.dtype)
        for index in range(sizes["decoder_depth"]):
            block = vit.Block(
                sizes["decoder_heads"], dtype=self.dtype, kernels=self.kernels, name=f"decoder_blocks_{index}"
            )
            x = block(x, train=False)
        x = vit.layer_norm("decoder_norm", self.dtype)(x)[:, 1:].astype(jnp.float32)
        drawn = {"pixels/predicted": vit.dense(self.patch**2 * 3, "decoder_pred", jnp.float32, kernels=self.kernels)(x)}
        if self.statistics:
            head = nn.Dense(2, kernel_init=nn.initializers.zeros, name="decoder_statistics")
            drawn["pixels/statistics"] = head(jax.lax.stop_gradient(x))
        return drawn

    def describe(self, outputs: Mapping[str, jax.Array]) -> descriptors.Descriptor:
        """Returns the probe of the whole image at unit length: the mean of its patch tokens, or its class token."""
        if self.probe not in PROBES:
            raise errors.unknown("probe", self.probe, PROBES)
        feature = outputs["feature/g"] if self.probe == "cls" else jnp.mean(outputs["tokens"], axis=1)
        return descriptors.Descriptor(distances.normalize_rows(feature))


def put_back(visible: jax.Array, mask: jax.Array, empty: jax.Array) -> jax.Array:
    """Returns the tokens of all places: the visible ones in theirs, an empty one in the hidden ones.

    Args:
        visible: [B, K, d], by ascending place.
        mask: bool [B, N], True where a token is hidden; each row has K visible ones.
        empty: [1, 1, d].

    Returns:
        [B, N, d].
    """
    place = jnp.maximum(jnp.cumsum(~mask, axis=1) - 1, 0)
    return jnp.where(mask[..., None], empty, jnp.take_along_axis(visible, place[..., None], axis=1))


_WARNED: set[str] = set()


def _warn_once(source: str) -> None:
    if source not in _WARNED:
        _WARNED.add(source)
        LOG.warning(
            "warning: the batch has no array for model.parts_source=%r: blocks are hidden in place of body parts.",
            source,
        )
