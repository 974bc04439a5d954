"""Transforms of masked pretraining: crops inside their ranges, maps that move along, seeds that belong to places.

The numbers in names of tests are those of the properties that the method's description lists.
"""

import numpy as np
import pytest

from reid_jax import errors
from reid_jax.data import pipeline, pretraining_transforms, records, transforms

AUGMENT = {"resized_crop": {"area": (0.6, 1.0)}, "flip": {}, "mask_seed": {}}


def test_crops_keep_their_ranges_and_maps_move_along():
    rng = np.random.default_rng(0)
    image = np.arange(100 * 50, dtype=np.uint8).reshape(100, 50, 1).repeat(3, axis=2)
    crop = pretraining_transforms.ResizedCrop(area=(0.3, 0.9))
    sizes = []
    for _ in range(200):
        top, left, bottom, right = crop.draw(100, 50, rng)
        assert 0 <= top < bottom <= 100
        assert 0 <= left < right <= 50
        sizes.append((bottom - top, right - left))
    height, width = np.array(sizes).T
    area, aspect = height * width / 5000, width / height
    assert (area.min() > 0.28) & (area.max() < 0.92)
    assert (aspect.min() > 0.36) & (aspect.max() < 0.69)
    assert np.ptp(area) > 0.5
    element = crop({"image": image, "parts": image[..., 0], "index": 3}, rng)
    np.testing.assert_array_equal(element["image"][..., 0], element["parts"])
    assert element["index"] == 3
    # Nothing fits: the largest centered box of the nearest aspect.
    assert crop.draw(20, 60, rng) == (0, 23, 20, 36)
    with pytest.raises(errors.UserError, match="area"):
        pretraining_transforms.ResizedCrop(area=(0.0, 1.0))


def test_crops_come_before_the_resize():
    chain = transforms.build_chain(AUGMENT, 16, 8)
    kinds = [type(each).__name__ for each in chain.transforms]
    assert kinds == ["ResizedCrop", "Resize", "Flip", "MaskSeed"]
    assert not chain.starts_with_resize
    ordered = transforms.build_chain({**AUGMENT, "order": ("resized_crop", "mask_seed", "flip")}, 16, 8)
    assert [type(each).__name__ for each in ordered.transforms] == ["ResizedCrop", "Resize", "MaskSeed", "Flip"]


def test_8_seeds_of_masks_belong_to_places_in_the_run():
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 8, 3), np.uint8)
    source = [{"image": image} for image in images]
    split = records.Split("drawn/train", source, np.arange(8), np.zeros(8), tuple(map(str, range(8))))

    def batches(count, **options):
        settings = {"sampler": {"name": "pool", "batch_size": 4}, "augment": AUGMENT, "height": 16, "width": 8}
        with pipeline.train_batches(split, np.zeros(8, int), threads=0, **settings, **options) as stream:
            return [next(stream)["mask_seed"] for _ in range(count)]

    whole = batches(3)
    assert whole[0].shape == (4, 2)
    assert whole[0].dtype == np.uint32
    assert len(np.unique(np.concatenate(whole), axis=0)) == 12
    np.testing.assert_array_equal(batches(2, start_step=1), whole[1:])
    shares = [batches(3, process_index=index, process_count=2) for index in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(shares, axis=1), whole)
    assert (batches(1, seed=1)[0] != whole[0]).any()
