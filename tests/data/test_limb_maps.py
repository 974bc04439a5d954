"""Maps of limbs from key points: boxes, unseen ends, files, and the masks that read them."""

import json

import numpy as np
import pytest

from reid_jax import errors
from reid_jax.data import image_io, limb_maps, pool, pool_preparation
from reid_jax.ops import masks


def person(height, width, rng):
    """Key points [17, 3] inside of an image."""
    return np.column_stack((rng.uniform(0, width, 17), rng.uniform(0, height, 17), np.ones(17)))


def test_the_tokens_are_those_of_the_published_rule():
    assert limb_maps.LIMBS == masks.LIMBS
    rng, height, width, patch = np.random.default_rng(0), 32, 16, 4
    people = np.stack([person(height, width, rng) for _ in range(6)])
    people[0, 5] = np.nan  # a shoulder
    people[1, 13, 0] = width + 3  # a knee outside
    people[2, 11, 2] = 0  # an unseen hip
    maps = np.stack([limb_maps.limb_map(points, height, width) for points in people])
    seen = np.where(people[..., 2:] > 0, people[..., :2], np.nan).astype(np.float32)
    expected = masks.groups_of_keypoints(seen, patch, height // patch, width // patch)
    np.testing.assert_array_equal(masks.groups_of_limbs(maps, patch), expected)
    assert np.asarray(expected).any(axis=(0, 2)).all()


def test_files_of_key_points_become_maps_of_a_pool(tmp_path):
    rng = np.random.default_rng(1)
    (tmp_path / "street").mkdir()
    (tmp_path / "points").mkdir()
    points = person(64, 32, rng)
    for number, kept in enumerate((points.tolist(), points.ravel().tolist(), points[:5].tolist(), "none")):
        image = rng.integers(0, 256, (64, 32, 3), np.uint8)
        (tmp_path / "street" / f"{number}.png").write_bytes(image_io.encode_png(image))
        (tmp_path / "points" / f"{number}.json").write_text(json.dumps({"keypoints": kept}))
    with pytest.raises(errors.UserError, match="option 'keypoints'"):
        pool_preparation.prepare(tmp_path, tmp_path / "street", {"keypoints": str(tmp_path / "nowhere")})
    report = pool_preparation.prepare(tmp_path, tmp_path / "street", {"keypoints": str(tmp_path / "points")})
    assert "2 (cannot be read)" in report
    records = list(pool.open_pool(tmp_path).split("train").source)
    for record in records:
        found = image_io.decode_map(record["limbs"], "limbs")
        np.testing.assert_array_equal(found, limb_maps.limb_map(points, 64, 32))
    for wrong in ("2", "3"):
        with pytest.raises(errors.UserError, match="17 key points"):
            limb_maps.read(tmp_path / "points" / f"{wrong}.json")
