"""Masks of masked image pretraining: which tokens of an upright grid the encoder does not see.

One rule for all kinds: every token has an integer *level* and a random fraction; the K tokens with the smallest sum
stay visible. Level 0 is an ordinary token, 2 a token in a block, 100 - j a token of the j-th drawn body part. So parts
are hidden first, then blocks, then chance, and every image hides exactly N - K of its N tokens.

Every draw is a pure function of one key for each image. Functions of a single image take one key and are mapped over
the batch by `draw`.

References:
    He et al., "Masked autoencoders are scalable vision learners", CVPR 2022 (random masks).
    Bao et al., "BEiT: BERT pre-training of image transformers", ICLR 2022 (blocks).
    Yuan et al., "HAP: structure-aware masked image modeling for human-centric perception", NeurIPS 2023 (body parts).
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from reid_jax import errors

KINDS = ("random", "block", "parts")
BLOCK_RULES = ("sequential", "parallel")
# Groups of body parts that are hidden together, by label of `parts`: head, arms, torso, each leg with its foot.
PART_GROUPS = ((1,), (2,), (3,), (4,), (5, 7), (6, 8))
# The same groups as limbs between COCO's 17 key points.
LIMBS = (
    ((0, 1), (0, 2), (1, 2), (1, 3), (2, 4)),
    ((5, 7), (7, 9)),
    ((6, 8), (8, 10)),
    ((6, 11), (5, 12)),
    ((11, 13), (13, 15)),
    ((12, 14), (14, 16)),
)
BLOCK_LEVEL, PART_LEVEL = 2, 100
# HAP's blocks: least area on its grid of 128 tokens, height / width, tries in a row that may fail.
BLOCK_TOKENS, OF_TOKENS, BLOCK_ASPECT, TRIES = 12, 128, (0.3, 1 / 0.3), 10
PROPOSALS = 40  # drawn for each image; the published loop draws until it ends
FIRST_COME = 8  # boxes of the rule "parallel"


@dataclasses.dataclass(frozen=True)
class Rule:
    """How tokens are hidden.

    Attributes:
        rows: rows of the grid of tokens.
        columns: columns of the grid.
        kind: "random", "block" or "parts".
        ratio: share of hidden tokens, in (0, 1).
        part_share: range of the share of a drawn part's tokens that is hidden, in [0, 1].
        block_rule: "sequential", the published loop, or "parallel", a few boxes of which the first come counts.
        parts_reference: the number of parts as the released code of HAP draws it: what one image drew bounds the next
            image of the batch, so that after a few images no part is drawn (section "Six things" of its study).

    Raises:
        UserError: an unknown name, or a number out of range.
    """

    rows: int
    columns: int
    kind: str = "random"
    ratio: float = 0.75
    part_share: tuple[float, float] = (0.0, 0.3)
    block_rule: str = "sequential"
    parts_reference: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise errors.unknown("kind of mask", self.kind, KINDS)
        if self.block_rule not in BLOCK_RULES:
            raise errors.unknown("rule of blocks", self.block_rule, BLOCK_RULES)
        low, high = self.part_share
        if not 0.0 <= low <= high <= 1.0:
            raise errors.UserError(
                f"expected a range of shares (low, high) in [0, 1], got {self.part_share}; change model.part_share."
            )
        if not 0.0 < self.ratio < 1.0 or not 0 < self.visible < self.tokens:
            raise errors.UserError(
                f"expected a share of hidden tokens in (0, 1) that leaves one of {self.tokens} tokens visible and one "
                f"hidden, got {self.ratio}; change model.mask_ratio."
            )

    @property
    def tokens(self) -> int:
        """Number of tokens N of an image."""
        return self.rows * self.columns

    @property
    def visible(self) -> int:
        """Number of visible tokens K; MAE truncates, and .9 of 10 is 9 whatever its rounding."""
        return int(self.tokens * (1.0 - self.ratio) + 1e-6)


class Split(NamedTuple):
    """Visible and hidden tokens of a batch.

    Attributes:
        visible: int32 [B, K], places of the visible tokens, ascending.
        mask: bool [B, N], True where a token is hidden.
    """

    visible: jax.Array
    mask: jax.Array


def split(scores: jax.Array, visible: int) -> Split:
    """Returns the tokens with the smallest scores as visible; of equal ones the first.

    Args:
        scores: [B, N] float.
        visible: K.
    """
    order = jnp.argsort(scores, axis=-1)
    rank = jnp.argsort(order, axis=-1)
    return Split(jnp.sort(order[:, :visible], axis=-1), rank >= visible)


def check_given(mask: np.ndarray, rule: Rule) -> np.ndarray:
    """Returns masks that replace the draw, after checking that each hides as many tokens as the rule.

    Args:
        mask: bool [B, N].
        rule: the rule of the model that is to read them.

    Raises:
        UserError: another number of tokens, or of hidden ones.
    """
    hidden = rule.tokens - rule.visible
    counts = np.asarray(mask, bool).sum(axis=-1)
    if mask.shape[-1] != rule.tokens or (counts != hidden).any():
        raise errors.UserError(
            f"expected masks of {rule.tokens} tokens that hide {hidden}, got {mask.shape[-1]} tokens of which "
            f"{counts.min()} to {counts.max()} are hidden; hide as many in each image, or set model.mask_ratio."
        )
    return np.asarray(mask, bool)


def keys_of(seeds: jax.Array, draw_number: int) -> jax.Array:
    """Returns a random key for each image.

    Args:
        seeds: uint32 [B, 2], a hash of the run's seed and of the image's place in the run.
        draw_number: which of several masks of the same image.
    """
    keys = jax.random.wrap_key_data(seeds, impl="threefry2x32")
    return jax.vmap(lambda key: jax.random.fold_in(key, draw_number))(keys)


def draw(keys: jax.Array, rule: Rule, groups: jax.Array | None = None) -> Split:
    """Draws the hidden tokens of a batch.

    Args:
        keys: [B] random keys, see `keys_of`.
        rule: how.
        groups: bool [B, 6, N], tokens of the groups of body parts (`groups_of_maps`, `groups_of_keypoints`); the kind
            "parts" without them draws blocks.
    """
    return split(jax.vmap(lambda key: chance(key, rule))(keys) + levels(keys, rule, groups), rule.visible)


def _keys(key: jax.Array) -> jax.Array:
    """Returns the keys of chance, blocks and parts of an image: the same for all kinds."""
    return jax.random.split(key, 3)


def chance(key: jax.Array, rule: Rule) -> jax.Array:
    """Returns the random fractions [N] in [0, 1) of an image, which break ties between levels."""
    return jax.random.uniform(_keys(key)[0], (rule.tokens,))


def levels(keys: jax.Array, rule: Rule, groups: jax.Array | None) -> jax.Array:
    """Returns the levels [B, N] float32 of the tokens of a batch; arguments as in `draw`."""
    if rule.kind == "random":
        return jnp.zeros((len(keys), rule.tokens), jnp.float32)
    covered = jax.vmap(lambda key: _covered(_keys(key)[1], rule))(keys)
    blocks = jnp.where(covered, float(BLOCK_LEVEL), 0.0)
    if rule.kind == "block" or groups is None:
        return blocks
    part_keys = jax.vmap(lambda key: _keys(key)[2])(keys)
    numbers = part_numbers(part_keys, reference=rule.parts_reference)

    def image(key: jax.Array, number: jax.Array, groups: jax.Array, blocks: jax.Array) -> jax.Array:
        return part_levels(key, number, groups, blocks, rule.part_share)

    return jax.vmap(image)(part_keys, numbers, groups, blocks)


# ---- blocks ---------------------------------------------------------------------------------------------------------


class Proposals(NamedTuple):
    """The boxes proposed for an image, each [PROPOSALS]: place, size, whether accepted, and what was left before."""

    top: jax.Array
    left: jax.Array
    height: jax.Array
    width: jax.Array
    accepted: jax.Array
    covered_inside: jax.Array
    remaining: jax.Array


def least_area(tokens: int) -> int:
    """Returns the area from which boxes start: 12 of 128 tokens, in proportion on other grids."""
    return max(1, round(BLOCK_TOKENS * tokens / OF_TOKENS))


def propose_blocks(key: jax.Array, rule: Rule) -> tuple[jax.Array, Proposals]:
    """Grows boxes until the hidden tokens are covered or ten proposals in a row fail.

    Args:
        key: random key of an image's blocks.
        rule: the grid and the number of hidden tokens M.

    Returns:
        The covered tokens, bool [rows, columns], and the proposals. The number of covered tokens may miss M either way.
    """
    rows, columns, hidden = rule.rows, rule.columns, rule.tokens - rule.visible
    least, (low, high) = least_area(rule.tokens), np.log(BLOCK_ASPECT)
    y, x = jnp.arange(rows)[:, None], jnp.arange(columns)[None, :]

    def propose(carry: tuple[jax.Array, jax.Array], draws: jax.Array) -> tuple[tuple[jax.Array, jax.Array], Proposals]:
        covered, failed = carry
        remaining = hidden - jnp.sum(covered)
        area = least + draws[0] * (remaining - least)
        aspect = jnp.exp(low + draws[1] * (high - low))
        height = jnp.round(jnp.sqrt(jnp.maximum(area, 0.0) * aspect)).astype(jnp.int32)
        width = jnp.round(jnp.sqrt(jnp.maximum(area, 0.0) / aspect)).astype(jnp.int32)
        top = jnp.floor(draws[2] * (rows - height + 1)).astype(jnp.int32)
        left = jnp.floor(draws[3] * (columns - width + 1)).astype(jnp.int32)
        box = (y >= top) & (y < top + height) & (x >= left) & (x < left + width)
        inside = jnp.sum(box & covered)
        # HAP marks covered tokens by 2, and its rule subtracts the sum of the marks.
        gain = height * width - 2 * inside
        fits = (height < rows) & (width < columns) & (gain > 0) & (gain <= remaining)
        accepted = fits & (remaining > 0) & (failed < TRIES)
        failed = jnp.where(accepted, 0, failed + 1)
        record = Proposals(top, left, height, width, accepted, inside, remaining)
        # Ten failures in a row end the search: the count stays there.
        failed = jnp.where(carry[1] >= TRIES, TRIES, failed)
        return (covered | (box & accepted), failed), record

    draws = jax.random.uniform(key, (PROPOSALS, 4))
    start = (jnp.zeros((rows, columns), bool), jnp.zeros((), jnp.int32))
    (covered, _), proposals = jax.lax.scan(propose, start, draws)
    return covered, proposals


def _covered(key: jax.Array, rule: Rule) -> jax.Array:
    """Returns the tokens [N] of an image's blocks."""
    if rule.block_rule == "sequential":
        return propose_blocks(key, rule)[0].reshape(-1)
    hidden = rule.tokens - rule.visible
    ranks = block_ranks(key, 1, rule.rows, rule.columns, hidden)[0]
    return (jnp.argsort(jnp.argsort(ranks)) < hidden) & (ranks < FIRST_COME)


def block_ranks(key: jax.Array, count: int, rows: int, columns: int, most: int) -> jax.Array:
    """Returns the first of a few random blocks that covers a token.

    Args:
        key: random key of the draw.
        count: images B.
        rows: number of rows of tokens.
        columns: number of columns of tokens.
        most: tokens of the largest block.

    Returns:
        [B, rows columns] float32: number of the first block that covers the token, plus its position in it as a
        fraction; `FIRST_COME` where there is none.
    """
    draws = jax.random.uniform(key, (4, count, FIRST_COME, 1, 1))
    least = min(BLOCK_TOKENS, most)
    area = least + draws[0] * (most - least)
    low, high = np.log((0.3, 3.3))
    aspect = jnp.exp(low + draws[1] * (high - low))
    height = jnp.clip(jnp.round(jnp.sqrt(area * aspect)), 1, rows)
    width = jnp.clip(jnp.round(jnp.sqrt(area / aspect)), 1, columns)
    top = jnp.floor(draws[2] * (rows - height + 1))
    left = jnp.floor(draws[3] * (columns - width + 1))
    y = jnp.arange(rows, dtype=jnp.float32).reshape(1, 1, rows, 1)
    x = jnp.arange(columns, dtype=jnp.float32).reshape(1, 1, 1, columns)
    inside = (y >= top) & (y < top + height) & (x >= left) & (x < left + width)  # [B, FIRST_COME, rows, columns]
    number = jnp.arange(FIRST_COME, dtype=jnp.float32).reshape(1, FIRST_COME, 1, 1)
    place = (y * columns + x) / (rows * columns)
    ranks = jnp.min(jnp.where(inside, number + place, float(FIRST_COME)), axis=1)
    return ranks.reshape(count, rows * columns)


# ---- body parts -----------------------------------------------------------------------------------------------------


def part_numbers(keys: jax.Array, *, reference: bool = False) -> jax.Array:
    """Returns how many parts each image of a batch hides, int32 [B], uniform in 0 to 6.

    Args:
        keys: [B] random keys of the parts.
        reference: image by image, where the number of one image is the upper bound of the next.
    """
    parts = len(PART_GROUPS)
    chances = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 0)))(keys)
    if not reference:
        return jnp.floor(chances * (parts + 1)).astype(jnp.int32)

    def image(most: jax.Array, chance: jax.Array) -> tuple[jax.Array, jax.Array]:
        number = jnp.floor(chance * (most + 1)).astype(jnp.int32)
        return number, number

    return jax.lax.scan(image, jnp.int32(parts), chances)[1]


def used_parts(key: jax.Array, number: jax.Array, groups: jax.Array) -> jax.Array:
    """Returns for each of the six parts of an image its place among the drawn ones, int32 [6]; -1 where not drawn.

    Args:
        key: random key of the image's parts.
        number: how many, int32 []; empty parts do not count.
        groups: bool [6, N].
    """
    parts = len(PART_GROUPS)
    order = jax.random.permutation(jax.random.fold_in(key, 1), parts)
    there = jnp.any(groups, axis=1)[order]
    place = jnp.cumsum(there) - 1
    drawn = jnp.where(there & (place < number), place, -1).astype(jnp.int32)
    return jnp.zeros(parts, jnp.int32).at[order].set(drawn)


def part_levels(
    key: jax.Array, number: jax.Array, groups: jax.Array, blocks: jax.Array, share: tuple[float, float]
) -> jax.Array:
    """Returns the levels [N] of an image with parts on top of blocks; a part drawn later replaces an earlier level.

    Args:
        key, number, groups: see `used_parts`.
        blocks: [N], the levels without parts.
        share: range of the share of a part's tokens.
    """
    place = used_parts(key, number, groups)
    parts, tokens = groups.shape
    shares = jax.random.uniform(jax.random.fold_in(key, 2), (parts,), minval=share[0], maxval=share[1])
    chances = jax.random.uniform(jax.random.fold_in(key, 3), (parts, tokens))
    rank = jnp.argsort(jnp.argsort(jnp.where(groups, chances, 2.0), axis=1), axis=1)
    size = jnp.sum(groups, axis=1)
    chosen = groups & (rank < jnp.floor(shares * size)[:, None]) & (place >= 0)[:, None]
    # The lowest level is that of the part drawn last.
    own = jnp.where(chosen, (PART_LEVEL - place)[:, None].astype(jnp.float32), jnp.inf)
    lowest = jnp.min(own, axis=0)
    return jnp.where(jnp.isfinite(lowest), lowest, blocks)


def groups_of_maps(parts: jax.Array, patch: int, cover: float = 0.2) -> jax.Array:
    """Returns the tokens of each group of body parts: those of which a share of the pixels belongs to it.

    Args:
        parts: uint8 or int [B, H, W], labels of pixels: 0 background, 1 to 8 body parts.
        patch: side of a patch.
        cover: least share of a token's pixels. A token may belong to several groups, as limbs overlap.

    Returns:
        bool [B, 6, N].
    """
    b, h, w = parts.shape
    pixels = parts.astype(jnp.int32).reshape(b, h // patch, patch, w // patch, patch)
    found = []
    for group in PART_GROUPS:
        member = jnp.any(jnp.stack([pixels == label for label in group]), axis=0)
        found.append(jnp.mean(member.astype(jnp.float32), axis=(2, 4)).reshape(b, -1) >= cover)
    return jnp.stack(found, axis=1)


def groups_of_limbs(limbs: jax.Array, patch: int) -> jax.Array:
    """Returns the tokens of each group of body parts from a map with a bit for each group: any pixel counts.

    Args:
        limbs: uint8 [B, H, W], see `reid_jax.data.limb_maps`; boxes between the ends of limbs, as HAP hides them.
        patch: side of a patch.

    Returns:
        bool [B, 6, N].
    """
    b, h, w = limbs.shape
    found = []
    for group in range(len(PART_GROUPS)):
        member = (limbs.astype(jnp.int32) >> group) % 2 == 1
        found.append(jnp.any(member.reshape(b, h // patch, patch, w // patch, patch), axis=(2, 4)).reshape(b, -1))
    return jnp.stack(found, axis=1)


def groups_of_strips(rows: int, columns: int) -> np.ndarray:
    """Returns the groups of a person who fills the image, bool [6, N], from bands of its height.

    Head to .15 of the height, arms (the outer quarters) and torso to .5, legs with feet below, split in the middle.
    """
    y, x = np.mgrid[:rows, :columns].reshape(2, -1)
    y, x = (y + 0.5) / rows, (x + 0.5) / columns
    body, legs = (y >= 0.15) & (y < 0.5), y >= 0.5
    outer_left, outer_right = x < 0.25, x >= 0.75
    torso = body & ~outer_left & ~outer_right
    return np.stack([y < 0.15, body & outer_left, body & outer_right, torso, legs & (x < 0.5), legs & (x >= 0.5)])


def groups_of_keypoints(keypoints: jax.Array, patch: int, rows: int, columns: int) -> jax.Array:
    """Returns the tokens of each group of body parts from key points, as HAP does.

    A limb is the upright rectangle between the tokens of its ends, and nothing where an end lies outside the image.

    Args:
        keypoints: float [B, 17, 2], x and y in pixels, in COCO's order; outside the image (or NaN) for unseen ones.
        patch: side of a patch.
        rows: rows of tokens.
        columns: columns of tokens.

    Returns:
        bool [B, 6, rows columns].
    """
    cell = jnp.floor(jnp.nan_to_num(keypoints, nan=-1.0) / patch)
    inside = jnp.all((cell >= 0) & (cell < jnp.asarray(((columns, rows),), jnp.float32)[None]), axis=-1)  # [B, 17]
    y, x = jnp.asarray(np.mgrid[:rows, :columns].reshape(2, 1, -1))
    groups = []
    for limbs in LIMBS:
        member = jnp.zeros((len(keypoints), rows * columns), bool)
        for first, second in limbs:
            ends = cell[:, (first, second)]  # [B, 2, (x, y)]
            low, high = jnp.min(ends, axis=1)[:, :, None], jnp.max(ends, axis=1)[:, :, None]
            box = (x >= low[:, 0]) & (x <= high[:, 0]) & (y >= low[:, 1]) & (y <= high[:, 1])
            member = member | (box & (inside[:, first] & inside[:, second])[:, None])
        groups.append(member)
    return jnp.stack(groups, axis=1)
