"""Maps of single images: activation, attention, rollout, slots, part masks, reconstruction.

Each function returns float32 maps on the model's grid and takes images of any size. Drawing is in `drawing`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from reid_jax import errors
from reid_jax.config import phases
from reid_jax.explain.explainer import TOKENS, Explainer
from reid_jax.losses import masked_patches
from reid_jax.ops import images as image_ops
from reid_jax.ops import taps

Images = np.ndarray | Sequence[np.ndarray]


def available(model: Explainer) -> tuple[str, ...]:
    """Returns the names of the pictures that a model has; those of pairs of images, every model has."""
    network, names = model.model, ["activation"]
    if _global_attentions(model):
        names += ["attention", "heads", "rollout"]
    if getattr(network, "slot_attention", "") in model.attentions:
        names.append("slots")
    if hasattr(network, "part_masks") and getattr(network, "parsing", True) and TOKENS in model.outputs:
        names.append("parts")
    if getattr(network, "reconstructs", False):
        names.append("reconstruction")
    return tuple(names)


def check(model: Explainer, name: str) -> None:
    """Raises a `UserError` unless a model has a picture; the message names those it has."""
    if name not in available(model):
        raise errors.unknown(f"picture of {type(model.model).__name__}", name, available(model))


def activation(model: Explainer, images: Images, layer: str = "") -> np.ndarray:
    """Returns activation maps as torchreid draws them: squares summed over channels, at unit length over positions.

    Args:
        model: the model.
        images: uint8 RGB images.
        layer: a map inside of the model; "" is the last one.

    Returns:
        [N, h, w], not negative; the squares of a map sum to 1.

    Raises:
        UserError: no such layer.
    """
    name = layer or model.last()
    place = model.layer(name)

    def pick(found: dict[str, taps.Tapped], outputs: Mapping[str, jax.Array]) -> jax.Array:
        del outputs
        value = found[name].value.astype(jnp.float32)
        if value.ndim == 3:
            value = value[:, place.leading :].reshape(value.shape[0], *place.grid, value.shape[-1])
        energy = jnp.sum(jnp.square(value), axis=-1)
        return energy / jnp.maximum(jnp.sqrt(jnp.sum(jnp.square(energy), axis=(1, 2), keepdims=True)), 1e-12)

    return np.asarray(model.read(f"activation {name}", model.resized(images), pick))


def _global_attentions(model: Explainer) -> list[str]:
    """Returns the attention weights in which the class token meets the whole grid, in the order of the blocks."""
    grids = {1 + layer.grid[0] * layer.grid[1] for layer in model.layers.values() if layer.leading == 1}
    return [name for name, (_, queries, keys) in model.attentions.items() if queries == keys and keys in grids]


def _token_grid(model: Explainer) -> tuple[int, int]:
    return next(layer.grid for layer in reversed(model.layers.values()) if layer.leading == 1)


def attention(model: Explainer, images: Images) -> np.ndarray:
    """Returns the attention of the class token in the last block.

    Says where the block looks, not what decides; heads differ.

    Returns:
        [N, heads, h, w] in [0, 1]; a map sums to 1 less what the class token pays itself.

    Raises:
        UserError: a model without a class token.
    """
    check(model, "attention")
    name, grid = _global_attentions(model)[-1], _token_grid(model)
    weights = model.read("attention", model.resized(images), lambda found, _: found[name].value[:, :, 0, 1:])
    return np.asarray(weights.reshape(*weights.shape[:2], *grid))


def rollout(model: Explainer, images: Images) -> np.ndarray:
    """Returns the attention of the class token through all blocks: the product of the blocks' attention.

    Heads are averaged, half of each block is the identity (its residual path), and rows sum to 1. What stands between
    blocks besides (fusion of depths) is left out.

    Returns:
        [N, h, w] in [0, 1]; a map sums to 1 less the class token's own share.

    Raises:
        UserError: a model without a class token.

    References:
        Abnar and Zuidema, "Quantifying attention flow in transformers", ACL 2020.
    """
    check(model, "rollout")
    names, grid = _global_attentions(model), _token_grid(model)

    def pick(found: dict[str, taps.Tapped], outputs: Mapping[str, jax.Array]) -> jax.Array:
        del outputs
        return roll([found[name].value for name in names])

    flow = model.read("rollout", model.resized(images), pick)
    return np.asarray(flow.reshape(flow.shape[0], *grid))


def roll(weights: Sequence[jax.Array]) -> jax.Array:
    """Returns the first token's row of the rollout of attention weights [N, heads, T, T], less itself: [N, T - 1]."""
    row = None
    for block in reversed(weights):
        mixed = block.astype(jnp.float32).mean(axis=1)
        mixed = (mixed + jnp.eye(mixed.shape[-1])[None]) / 2
        mixed = mixed / mixed.sum(axis=-1, keepdims=True)
        row = mixed[:, :1] if row is None else row @ mixed
    if row is None:
        raise ValueError("no attention weights")
    return row[:, 0, 1:]


def slots(model: Explainer, images: Images) -> np.ndarray:
    """Returns where each part of a descriptor of slots looks: the attention of its query, averaged over heads.

    Returns:
        [N, parts, h, w] in [0, 1]; a map sums to 1.

    Raises:
        UserError: a model without such slots.
    """
    check(model, "slots")
    grid = _token_grid(model)
    name = model.model.slot_attention
    weights = model.read("slots", model.resized(images), lambda found, _: found[name].value.mean(axis=1))
    # The first query is that of the background, which is no slot.
    return np.asarray(weights[:, 1:].reshape(weights.shape[0], -1, *grid))


def parts(model: Explainer, images: Images) -> np.ndarray:
    """Returns the masks of a model with `part_masks`: of the background, then of each part.

    Returns:
        [N, 1 + parts, h, w] in [0, 1]; at each position they sum to 1.

    Raises:
        UserError: a model without masks.
    """
    check(model, "parts")
    tokens = model.read("tokens", model.resized(images), lambda _, outputs: outputs[TOKENS])
    masks = np.asarray(jax.jit(model.model.part_masks)(model.variables, tokens))
    return masks.transpose(0, 2, 1).reshape(masks.shape[0], masks.shape[2], *_token_grid(model))


def reconstruction(
    model: Explainer, images: Images, box: tuple[float, float, float, float] = (0.45, 0.2, 0.75, 0.8)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns how a model with a pixel decoder completes images of which a box is hidden.

    Args:
        model: the model.
        images: uint8 RGB images.
        box: top, left, bottom, right as shares of height and width.

    Returns:
        The hidden, the completed and the original images, float32 [N, height, width, 3] in [0, 1].

    Raises:
        UserError: a model that draws nothing.
    """
    check(model, "reconstruction")
    clean = model.resized(images)
    top, left, bottom, right = (round(share * size) for share, size in zip(box, 2 * model.size))
    seen = clean.copy()
    seen[:, top:bottom, left:right] = model.blank
    terms = [term for _, phase in phases.resolve(model.settings) for term in phase.losses.values()]
    contrast = any(term and term["loss"] == "masked_patches" and term.get("normalize", False) for term in terms)

    @jax.jit
    def draw(variables: Any, images: jax.Array, clean: jax.Array) -> jax.Array:
        nobody = jnp.zeros(images.shape[0], jnp.int32)
        batch = {"image": images, "image_clean": clean, "camid": nobody - 1, "label": nobody}
        batch = model.preprocess(batch)
        outputs = model.model.apply(variables, batch, train=False)
        patches, true = outputs["pixels/predicted"], batch["image_clean"]
        side = masked_patches.side_of(patches, true)
        if contrast:  # the loss compared local contrast alone: brightness and scale are the original's
            patches = masked_patches.denormalize_patches(patches, image_ops.patchify(true, side))
        mask = image_ops.patchify(true[..., :1] * 0, side) + outputs["pixels/mask"][..., None]
        drawn, hidden = (image_ops.unpatchify(array, side, *true.shape[1:3]) for array in (patches, mask))
        return jnp.where(hidden > 0, drawn, true)

    preprocess = model.settings.preprocess
    mean, std = (np.asarray(each, np.float32) for each in (preprocess.mean, preprocess.std))
    completed = np.clip(np.asarray(draw(model.variables, seen, clean)) * std + mean, 0, 1)
    return seen.astype(np.float32) / 255, completed.astype(np.float32), clean.astype(np.float32) / 255
