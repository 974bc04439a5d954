"""Masks of masked pretraining: exact counts, parts before blocks before chance, boxes by the published rule, no batch.

The numbers in names of tests are those of the properties that the method's description lists.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reid_jax import errors
from reid_jax.ops import masks
from reid_jax.runtime import mesh as mesh_lib

ROWS, COLUMNS = 16, 8
IMAGES = 256
BLOCK = masks.Rule(ROWS, COLUMNS, "block", 0.5)
PARTS = masks.Rule(ROWS, COLUMNS, "parts", 0.5)

# Scores with ties; a person with an arm and a leg only; a label map; key points.
TIES = np.round(np.random.default_rng(0).random((3, 10)), 1).astype(np.float32)
TWO_PARTS = np.zeros((6, 8), bool)
TWO_PARTS[2, :4] = TWO_PARTS[5, 4:] = True
MAP = np.zeros((1, 16, 8), np.uint8)
MAP[0, :4, :4] = 1
MAP[0, 4:8, :1], MAP[0, 4:6, 1:2] = 2, 2  # 6 of 16 pixels of a patch of 4
MAP[0, 8:12, 4:6], MAP[0, 12:, 4:5] = 5, 7  # leg and foot are one group
MAP[0, 4:5, 4:7] = 4  # 3 of 16: below .2
POINTS = np.full((1, 17, 2), -1.0, np.float32)
POINTS[0, 5], POINTS[0, 7], POINTS[0, 9] = (1, 1), (9, 5), (9, 130)  # shoulder, elbow, a wrist outside
POINTS[0, 6], POINTS[0, 11] = (1, 9), (np.nan, 2)


def seeds(count=IMAGES, start=0):
    return np.stack([np.arange(start, start + count), np.full(count, 7)], axis=1).astype(np.uint32)


def person():
    """Groups of body parts of images: half of them show a person in bands, the others nobody."""
    bands = masks.groups_of_strips(ROWS, COLUMNS)
    return np.stack([bands if image % 2 else np.zeros_like(bands) for image in range(IMAGES)])


@functools.cache
def drawn():
    """Masks of every kind and what they were made from, by one program."""

    def program(first, groups):
        keys = masks.keys_of(first, 0)
        random = masks.draw(keys, masks.Rule(ROWS, COLUMNS, "random", 0.5))
        blocks = masks.levels(keys, BLOCK, None)
        parts = masks.levels(keys, PARTS, groups)
        chance = jax.vmap(lambda key: masks.chance(key, PARTS))(keys)
        covered, proposals = jax.vmap(lambda key: masks.propose_blocks(masks._keys(key)[1], BLOCK))(keys)
        other = jax.vmap(lambda key: masks.chance(key, PARTS))(masks.keys_of(first, 1))
        parallel = masks.Rule(ROWS, COLUMNS, "block", 0.75, block_rule="parallel")
        two = jax.vmap(lambda key: masks.used_parts(key, jnp.int32(2), jnp.asarray(TWO_PARTS)))(keys[:4])
        ties = masks.split(jnp.asarray(TIES, jnp.float32), 4)
        return {
            "first_come": masks.levels(keys[:16], parallel, None),
            "chance": (chance, other),
            "two": two,
            "ties": ties,
            "maps": masks.groups_of_maps(jnp.asarray(MAP), 4),
            "keypoints": masks.groups_of_keypoints(jnp.asarray(POINTS), 4, 4, 3),
            "random": random,
            "block": masks.split(blocks + chance, BLOCK.visible),
            "parts": masks.split(parts + chance, PARTS.visible),
            "levels": {"block": blocks, "parts": parts},
            "covered": covered,
            "proposals": proposals,
        }

    lowered = jax.jit(program).lower(seeds(), person())
    compiled = lowered.compile({"xla_backend_optimization_level": 0})  # runs once
    return jax.device_get(compiled(seeds(), person()))


def test_4_every_image_hides_the_same_number():
    for kind in ("random", "block", "parts"):
        split = drawn()[kind]
        np.testing.assert_array_equal(split.mask.sum(axis=1), 64)
        for visible, mask in zip(split.visible, split.mask, strict=True):
            np.testing.assert_array_equal(visible, np.flatnonzero(~mask))
    for tokens in (128, 192, 10):
        for ratio in (0.1, 0.25, 0.5, 0.6, 0.75, 0.9):
            rule = masks.Rule(tokens // 2, 2, "random", ratio)
            assert rule.visible == int(round(1e6 * tokens * (1 - ratio)) // 1_000_000)
    assert masks.Rule(5, 2, "random", 0.9).visible == 1
    split = drawn()["ties"]
    np.testing.assert_array_equal(split.mask.sum(axis=1), 6)
    np.testing.assert_array_equal(split.visible, np.sort(np.argsort(TIES, axis=1, kind="stable")[:, :4], axis=1))


def test_5_parts_come_before_blocks_and_blocks_before_chance():
    level, mask = drawn()["levels"]["parts"], drawn()["parts"].mask
    assert (level[1::2] >= 95).any()
    for row, hidden in zip(level, mask, strict=True):
        # Nothing visible has a higher level than something hidden.
        assert row[hidden].min() >= row[~hidden].max()
    bands = masks.groups_of_strips(ROWS, COLUMNS)
    for row in level[1::2]:
        for group in bands:
            assert (row[group] >= 95).sum() <= int(0.3 * group.sum())
    # Nobody in the image: blocks of the same key.
    np.testing.assert_array_equal(mask[::2], drawn()["block"].mask[::2])


def test_5_the_number_of_parts_is_uniform_and_6_decays_as_in_the_released_code():
    @jax.jit
    def program(key):
        many = jax.random.split(key, (2_000, 256))
        return [
            jax.vmap(lambda keys, each=each: masks.part_numbers(keys, reference=each))(many) for each in (True, False)
        ]

    both = jax.device_get(program(jax.random.key(1)))
    counts = np.bincount(both[1].ravel()[:10_000], minlength=7)
    assert np.abs(counts - 10_000 / 7).max() < 3 * np.sqrt(10_000 * 6 / 49)
    with_parts = [np.mean(np.sum(numbers > 0, axis=1)) for numbers in both]
    assert abs(with_parts[0] - 2.45) < 0.15
    assert abs(with_parts[1] - 256 * 6 / 7) < 0.5


def test_parts_that_are_not_there_do_not_count():
    for place in drawn()["two"]:
        assert set(place[[2, 5]]) == {0, 1}
        assert (place[[0, 1, 3, 4]] == -1).all()


def test_7_blocks_are_the_published_boxes():
    covered, proposals = drawn()["covered"], drawn()["proposals"]
    area = proposals.height * proposals.width
    accepted = proposals.accepted
    gain = area - 2 * proposals.covered_inside
    assert accepted.any(axis=1).all()
    assert ((gain > 0) & (gain <= proposals.remaining))[accepted].all()
    assert ((proposals.height < ROWS) & (proposals.width < COLUMNS))[accepted].all()
    aspect = (proposals.height / np.maximum(proposals.width, 1))[accepted]
    # Rounded sides: 2 x 6 stands for anything from 1.5 x 6.5 to 2.5 x 5.5.
    low = (np.maximum(proposals.height - 0.5, 0) / (proposals.width + 0.5))[accepted]
    high = ((proposals.height + 0.5) / np.maximum(proposals.width - 0.5, 0.1))[accepted]
    assert (low <= 1 / 0.3).all()
    assert (high >= 0.3).all()
    assert aspect.min() < 0.6 < 2 < aspect.max()
    for image in range(8):
        union = np.zeros((ROWS, COLUMNS), bool)
        for top, left, height, width, taken, inside, remaining in zip(
            *(field[image] for field in proposals), strict=True
        ):
            assert remaining == 64 - union.sum()
            box = np.s_[top : top + height, left : left + width]
            if taken:
                assert union[box].sum() == inside
                union[box] = True
        np.testing.assert_array_equal(union, covered[image])


def test_7_blocks_hang_together():
    def equal_neighbors(mask):
        grid = mask.reshape(-1, ROWS, COLUMNS)
        return (grid[:, 1:] & grid[:, :-1]).sum() + (grid[:, :, 1:] & grid[:, :, :-1]).sum()

    random, block = (equal_neighbors(drawn()[kind].mask) for kind in ("random", "block"))
    assert block > 1.5 * random


def test_8_masks_belong_to_images_not_to_batches_or_devices():
    first, second = drawn()["chance"]
    assert (first != second).all(axis=1).mean() > 0.9
    rule = masks.Rule(4, 2)
    draw = jax.jit(lambda seeds: masks.draw(masks.keys_of(seeds, 0), rule).mask)
    whole = np.asarray(draw(seeds(16)))
    sharded = draw(mesh_lib.to_global({"seeds": seeds(16)}, mesh_lib.create_mesh())["seeds"])
    np.testing.assert_array_equal(np.asarray(sharded), whole)
    again = draw(np.concatenate([seeds(8, start=4), seeds(8, start=40)]))
    np.testing.assert_array_equal(np.asarray(again)[:8], whole[4:12])
    assert (whole[0] != whole[1:]).any()


def test_first_come_boxes_hide_as_many():
    covered = (drawn()["first_come"] == masks.BLOCK_LEVEL).sum(axis=1)
    assert (covered <= 96).all()  # chance hides the rest
    assert np.median(covered) == 96


def test_groups_of_body_parts():
    assert [list(np.flatnonzero(group)) for group in drawn()["maps"][0]] == [[0], [2], [], [], [5, 7], []]
    bands = masks.groups_of_strips(ROWS, COLUMNS)
    assert (bands.sum(axis=0) == 1).all()  # every token in one band
    assert [list(np.flatnonzero(group)) for group in drawn()["keypoints"][0]] == [
        [],
        [0, 1, 2, 3, 4, 5],
        [],
        [],
        [],
        [],
    ]


def test_given_masks_hide_as_many():
    rule = masks.Rule(4, 2, "random", 0.5)
    given = np.array([[True] * 4 + [False] * 4] * 2)
    np.testing.assert_array_equal(masks.check_given(given, rule), given)
    given[1, 0] = False
    for wrong in (given, given[:, :7]):
        with pytest.raises(errors.UserError, match="that hide 4"):
            masks.check_given(wrong, rule)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "grid"}, "kind of mask"),
        ({"ratio": 1.0}, "model.mask_ratio"),
        ({"ratio": 0.99}, "model.mask_ratio"),
        ({"part_share": (0.5, 0.2)}, "part_share"),
        ({"block_rule": "all"}, "rule of blocks"),
    ],
)
def test_impossible_masks_are_refused(change, message):
    with pytest.raises(errors.UserError, match=message):
        masks.Rule(**{"rows": 4, "columns": 2, **change})
