"""Images of users: which arrays are taken, what becomes of them, and the sentences about the others."""

import numpy as np
import pytest

from reid_jax import errors
from reid_jax.inference import crops

IMAGE = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)


def same(got, expected):
    assert len(got) == len(expected)
    for one, other in zip(got, expected):
        assert one.dtype == np.uint8
        np.testing.assert_array_equal(one, other)


def test_a_list_an_array_and_one_image_mean_the_same():
    for given in ([IMAGE], (IMAGE,), IMAGE, IMAGE[None]):
        same(crops.as_images(given), [IMAGE])
    same(crops.as_images([IMAGE, IMAGE[:2]]), [IMAGE, IMAGE[:2]])
    assert crops.as_images([]) == crops.as_images(np.zeros((0, 6, 4, 3), np.uint8)) == []


def test_gray_transparency_and_the_order_of_opencv():
    gray = IMAGE[:, :, 0]
    repeated = np.stack([gray] * 3, axis=2)
    same(crops.as_images([gray, gray[:, :, None]]), [repeated, repeated])
    transparent = np.concatenate([IMAGE, IMAGE[:, :, :1]], axis=2)
    same(crops.as_images([transparent]), [IMAGE])
    reversed_ = IMAGE[:, :, ::-1]
    same(crops.as_images([reversed_], channels="bgr"), [IMAGE])
    same(crops.as_images([np.concatenate([reversed_, IMAGE[:, :, :1]], axis=2)], channels="bgr"), [IMAGE])


def test_boxes_are_enlarged_to_whole_pixels_and_clipped():
    boxes = [(0, 0, 4, 6), (0.6, 1.2, 2.1, 3.0), (-5, -5, 2, 100)]
    same(crops.as_images(IMAGE, boxes), [IMAGE, IMAGE[1:3, 0:3], IMAGE[:, :2]])
    assert crops.as_images(IMAGE, []) == crops.as_images(IMAGE, np.zeros((0, 4))) == []


@pytest.mark.parametrize(
    ("images", "boxes", "sentence"),
    [
        (
            [IMAGE, IMAGE / 255],
            None,
            r"image 2 of 2 as uint8 from 0 .* float64; .* np\.rint\(\(255 \* image\)\)",
        ),
        ([IMAGE.astype(np.float32)], None, r"got float32; .* np\.rint\(image\)"),
        ([IMAGE.astype(np.int64)], None, "got int64"),
        (["photo.jpg"], None, "image 1 of 1 as an array of numbers, got <U9; open files by"),
        ([IMAGE, IMAGE[:0]], None, r"image 2 of 2 with at least one pixel, got shape \(0, 4, 3\)"),
        (
            [np.zeros((3, 8, 5), np.uint8)],
            None,
            r"image 1 of 1 of shape \[H, W, 3\], .* \(3, 8, 5\); put the channels",
        ),
        (np.zeros((5, 6, 7), np.uint8), None, r"got an array of shape \(5, 6, 7\)"),
        (np.zeros(3, np.uint8), None, r"got an array of shape \(3,\)"),
        ([IMAGE, IMAGE], [(0, 0, 1, 1)], "expected one image with boxes, got 2"),
        (IMAGE, [(0, 0, 1)], r"expected boxes as finite numbers \[N, 4\]"),
        (IMAGE, [(0, 0, np.nan, 1)], r"expected boxes as finite numbers \[N, 4\]"),
        (
            IMAGE,
            [(0, 0, 1, 1), (3, 2, 1, 4)],
            r"box 2 of 2, \[3\.0, 2\.0, 1\.0, 4\.0\] .* in the image of 4 x 6",
        ),
        (IMAGE, [(9, 0, 12, 5)], "has no pixel"),
    ],
)
def test_anything_else_is_one_sentence(images, boxes, sentence):
    with pytest.raises(errors.UserError, match=sentence) as caught:
        crops.as_images(images, boxes)
    assert "\n" not in str(caught.value)


def test_an_unknown_order_of_channels():
    with pytest.raises(errors.UserError, match="did you mean 'bgr'"):
        crops.as_images([IMAGE], channels="bgrr")
