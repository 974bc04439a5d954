"""TransReID: a vision transformer with a camera embedding and a jigsaw patch module; without both, the ViT baseline.

References:
    He et al., "TransReID: transformer-based object re-identification", ICCV 2021.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn

from reid_jax import errors
from reid_jax.models.backbones import vit
from reid_jax.nn import heads
from reid_jax.ops import descriptors, distances, taps

# The authors' parameter names, see `reid_jax.weights.convert`; `adapt_weights` comes first.
TORCH_RULES: tuple[tuple[str, str], ...] = (
    (r"^base\.", "backbone."),
    (r"^b1\.0\.", "jpm_global.block."),
    (r"^b1\.1\.", "jpm_global.norm."),
    (r"^b2\.0\.", "jpm_local.block."),
    (r"^b2\.1\.", "jpm_local.norm."),
    (r"^(bottleneck|classifier)\.", r"head_g.\1."),
    (r"^(bottleneck|classifier)_(\d)\.", r"head_\2.\1."),
)
TORCH_IGNORED: tuple[tuple[str, str], ...] = (
    (r"^(base\.)?(fc|head|head_dist|pre_logits)\.", "classifier of the classes the backbone was trained on"),
    (r"^bottleneck(_\d)?\.bias$", "shift of the neck, frozen at zero"),
    (r"^normalize\.(mean|std)$", "normalization of the images, a setting here (preprocess)"),
    (r"^(base\.)?(decoder_|mask_token$)", "pixel decoder of masked pretraining"),
)
# From our names back to the authors'.
TORCH_EXPORT_RULES: tuple[tuple[str, str], ...] = (
    (r"^backbone\.", "base."),
    (r"^jpm_global\.block\.", "b1.0."),
    (r"^jpm_global\.norm\.", "b1.1."),
    (r"^jpm_local\.block\.", "b2.0."),
    (r"^jpm_local\.norm\.", "b2.1."),
    (r"^head_g\.", ""),
    (r"^head\.(\d)\.(bottleneck|classifier)\.", r"\2_\1."),
)

TEST_FEATURES = ("feature", "neck")


def rotate(tokens: jax.Array, shift: int) -> jax.Array:
    """Moves the first shift - 1 of the tokens [B, N, D] to the end (section 3.2, "shift")."""
    return jnp.roll(tokens, 1 - shift, axis=1)


def shuffle(tokens: jax.Array, groups: int) -> jax.Array:
    """Interleaves `groups` equal runs of the tokens [B, N, D] (section 3.2, "patch shuffle").

    Where N does not divide, the last but one token is appended once, as in the authors' code.

    Returns:
        [B, N, D], or one token more.

    Raises:
        UserError: one token more does not divide either.
    """
    if tokens.shape[1] % groups:
        tokens = jnp.concatenate((tokens, tokens[:, -2:-1]), axis=1)
    if tokens.shape[1] % groups:
        raise errors.UserError(
            f"expected a number of patches that {groups} shuffled groups divide, got {tokens.shape[1] - 1}; change "
            "model.shuffle_groups or the image's size."
        )
    return rearrange(tokens, "b (group n) d -> b (n group) d", group=groups)


def jigsaw(patches: jax.Array, *, parts: int, shift: int, groups: int, rearrangement: bool = True) -> list[jax.Array]:
    """Splits patch tokens [B, N, D] into `parts` sequences [B, N // parts, D], each from all over the image.

    Where N does not divide, the remainder is dropped.
    """
    length = patches.shape[1] // parts
    if rearrangement:
        patches = shuffle(rotate(patches, shift), groups)
    return [patches[:, part * length : (part + 1) * length] for part in range(parts)]


class Branch(nn.Module):
    """The last block of the transformer and its final normalization.

    Attributes:
        block: fields of the `vit.Block`.
    """

    block: Mapping[str, Any]

    @nn.compact
    def __call__(self, tokens: jax.Array, *, train: bool) -> jax.Array:
        """Maps [B, N, D] to [B, N, D]."""
        tokens = vit.Block(**self.block, name="block")(tokens, train=train)
        tokens = taps.tap(f"{self.name}/block", tokens, leading=1)
        normalized: jax.Array = vit.layer_norm("norm", self.block["dtype"])(tokens)
        return normalized


class TransReID(nn.Module):
    """Vision transformer, BNNeck heads, and optionally a jigsaw patch module (JPM) with four local features.

    Attributes:
        num_classes: training identities N.
        dtype: compute dtype; parameters, statistics and heads are float32.
        size: a row of `vit.SIZES`; the fields after it replace its entries.
        width, depth, heads, mlp_ratio: see `vit.ViT`.
        image_size, patch, stride, drop_path, dropout, attention_dropout, attention_kernel, positions: likewise.
        sie, sie_weight, num_cameras, num_views: likewise.
        jpm: local features in addition to the global one.
        shift: see `rotate`; 5 for persons, 8 for vehicles.
        shuffle_groups: see `shuffle`.
        parts: local features; the authors have 4.
        rearrange: shifts and shuffles the patches; otherwise a part is a horizontal stripe.
        test_feature: what is compared at test time, "feature" (before the neck, as all published results) or "neck".
        position_grid: rows and columns of a loaded position embedding; None guesses (`vit.guess_grid`).
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
    stride: int = 16
    drop_path: float = 0.1
    dropout: float = 0.0
    attention_dropout: float = 0.0
    attention_kernel: str = "xla"
    positions: bool = True
    sie: str = "none"
    sie_weight: float = 3.0
    num_cameras: int = 0
    num_views: int = 0
    jpm: bool = False
    shift: int = 5
    shuffle_groups: int = 2
    parts: int = 4
    rearrange: bool = True
    test_feature: str = "feature"
    position_grid: tuple[int, int] | None = None

    def encoder(self) -> dict[str, Any]:
        """Returns the fields of the `vit.ViT`."""
        if self.size not in vit.SIZES:
            raise errors.unknown("ViT size", self.size, vit.SIZES)
        given = {name: getattr(self, name) for name in ("width", "depth", "heads", "mlp_ratio")}
        shared = (
            *("image_size", "patch", "stride", "drop_path", "dropout", "attention_dropout", "attention_kernel"),
            *("positions", "sie", "sie_weight", "num_cameras", "num_views", "dtype"),
        )
        return {
            **vit.SIZES[self.size],
            **{name: value for name, value in given.items() if value is not None},
            **{name: getattr(self, name) for name in shared},
        }

    @nn.compact
    def __call__(self, batch: Mapping[str, jax.Array], *, train: bool) -> dict[str, jax.Array]:
        """Encodes images.

        Args:
            batch: "image" [B, H, W, 3] normalized, "camid" [B] with a camera embedding.
            train: batch statistics and stochastic depth.

        Returns:
            "tokens" [B, P, D] patch tokens of the last normalization; "feature/g" and "neck/g" [B, D], "logits/g"
            [B, N]; with JPM the same for "1" to "4".
        """
        fields = self.encoder()
        if not self.jpm:
            tokens = vit.ViT(**fields, name="backbone")(batch, train=train)
            return self._outputs(tokens, [], train)
        last = fields["depth"] - 1
        backbone = vit.ViT(**fields, stop=last, name="backbone")
        memory = backbone(batch, train=train)  # [B, 1 + P, D]
        block = backbone.block_fields(last)
        tokens = Branch(block, name="jpm_global")(memory, train=train)
        pieces = jigsaw(
            memory[:, 1:],
            parts=self.parts,
            shift=self.shift,
            groups=self.shuffle_groups,
            rearrangement=self.rearrange,
        )
        local = Branch(block, name="jpm_local")
        locals_ = [local(jnp.concatenate((memory[:, :1], piece), axis=1), train=train)[:, 0] for piece in pieces]
        return self._outputs(tokens, locals_, train)

    def _outputs(self, tokens: jax.Array, locals_: list[jax.Array], train: bool) -> dict[str, jax.Array]:
        """Returns the named outputs of the global and the local features, each with its own head."""
        grid = vit.grid_of(self.image_size, self.patch, self.stride)
        tokens = taps.tap("tokens", tokens, grid=grid, leading=1)
        outputs = {"tokens": tokens[:, 1:].astype(jnp.float32)}
        for name, feature in (("g", tokens[:, 0]), *((str(i + 1), local) for i, local in enumerate(locals_))):
            feature = feature.astype(jnp.float32)
            neck, logits = heads.BNNeck(self.num_classes, name=f"head_{name}")(feature, train=train)
            outputs |= heads.head_outputs(name, feature, neck, logits)
        return outputs

    def joined(self, outputs: Mapping[str, jax.Array], kind: str) -> jax.Array:
        """Returns the global "feature" or "neck" and a quarter of each local one side by side, [B, D] or [B, 5 D]."""
        if not self.jpm:
            return outputs[f"{kind}/g"]
        locals_ = [outputs[f"{kind}/{part + 1}"] / self.parts for part in range(self.parts)]
        return jnp.concatenate((outputs[f"{kind}/g"], *locals_), axis=-1)

    def describe(self, outputs: Mapping[str, jax.Array]) -> descriptors.Descriptor:
        """Returns the test feature at unit length: the global one and, with JPM, a quarter of each local one."""
        if self.test_feature not in TEST_FEATURES:
            raise errors.unknown("test feature", self.test_feature, TEST_FEATURES)
        return descriptors.Descriptor(distances.normalize_rows(self.joined(outputs, self.test_feature)))


# ---- published weights ----------------------------------------------------------------------------------------------


def adapt_weights(model: TransReID, flat: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Returns the arrays of a published file as this model's authors would have saved it; see `fit_weights`."""
    named, bare = fit_weights(model, flat, model.encoder()["depth"], ("b1", "b2") if model.jpm else ())
    return named, ("^head_", "sie_embed$") if bare else ()


def fit_weights(
    model: Any, flat: Mapping[str, np.ndarray], depth: int, branches: tuple[str, ...]
) -> tuple[dict[str, np.ndarray], bool]:
    """Returns the arrays of a published file as the TransReID family saves its networks.

    An ImageNet ViT or DeiT becomes "base.": its last block and normalization initialize every branch, the second token
    of a distilled DeiT is dropped. Positions are resampled for the model's grid. A neck's shift, zero in all
    published files, moves into the running mean where it is not.

    Args:
        model: gives the grid: `image_size`, `patch`, `stride`, `position_grid`.
        flat: arrays by PyTorch name; our own names ("params/...") pass untouched.
        depth: blocks of the published network.
        branches: the authors' names of the branches that replace the last block; () keeps it.

    Returns:
        Arrays by the authors' names, and whether the file holds a backbone alone.
    """
    if any(name.startswith("params/") for name in flat):
        return dict(flat), False
    bare = "cls_token" in flat
    named = {f"base.{name}": value for name, value in flat.items()} if bare else dict(flat)
    if branches:
        named = _branches(named, depth - 1, branches)
    if named.pop("base.dist_token", None) is not None:
        named["base.pos_embed"] = np.delete(named["base.pos_embed"], 1, axis=1)
    if not getattr(model, "positions", True):
        named.pop("base.pos_embed", None)
    if "base.pos_embed" in named:
        positions = named["base.pos_embed"]
        target = vit.grid_of(model.image_size, model.patch, model.stride)
        source = model.position_grid or vit.guess_grid(positions.shape[1] - 1, target)
        named["base.pos_embed"] = vit.resize_positions(positions, source, target)
    return _without_shift(named), bare


def _branches(named: dict[str, np.ndarray], last: int, branches: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Moves the last block and normalization to the branches, unless the file has branches of its own."""
    ends = {f"base.blocks.{last}.": "0.", "base.norm.": "1."}
    kept = {}
    own = f"{branches[0]}.1.weight" in named
    for name, value in named.items():
        place = next((name.replace(end, at, 1) for end, at in ends.items() if name.startswith(end)), None)
        if place is None:
            kept[name] = value
        elif not own:
            kept |= {f"{branch}.{place}": value for branch in branches}
    return kept


def _without_shift(named: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Folds necks' shifts that are not zero into their running means: (x - m) g + b = (x - (m - b / g)) g."""
    for name in [name for name in named if name.startswith("bottleneck") and name.endswith(".bias")]:
        shift, neck = named[name], name.removesuffix("bias")
        if np.any(shift):
            gain = named[f"{neck}weight"] / np.sqrt(named[f"{neck}running_var"] + 1e-5)
            named[f"{neck}running_mean"] = (named[f"{neck}running_mean"] - shift / gain).astype(shift.dtype)
    return named


def options_of_weights(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns the model options that follow from a weights file: the number of cameras, or no camera embedding."""
    embeddings = [value for name, value in flat.items() if name.endswith("sie_embed")]
    return {"num_cameras": len(embeddings[0])} if embeddings else {"sie": "none"}
