"""Transforms: image and maps change together, draws follow the stated distributions, inputs stay unchanged."""

import copy

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image, ImageEnhance

from reid_jax import errors
from reid_jax.data import transforms


def make_element(height=32, width=16, seed=0):
    """Returns an image whose red channel is the map, for comparison after any geometric change."""
    rng = np.random.default_rng(seed)
    parts = rng.integers(1, 9, (height, width)).astype(np.uint8)
    image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    image[..., 0] = parts
    return {"image": image, "parts": parts, "index": 7}


ALL = {
    "flip": {"probability": 0.5, "flip_swap_lr": False},
    "pad_crop": {"pad": 5},
    "erase": {"probability": 1.0},
    "jitter": {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.1},
}


@pytest.mark.parametrize("name", sorted(transforms.TRANSFORMS))
def test_transform_is_pure(name):
    options = {"height": 24, "width": 12} if name == "resize" else ALL.get(name, {})
    transform = transforms.build_transform(name, options)
    element = make_element()
    before = copy.deepcopy(element)
    for seed in range(8):
        first = transform(element, np.random.default_rng(seed))
        second = transform(element, np.random.default_rng(seed))
        np.testing.assert_array_equal(first["image"], second["image"])
        np.testing.assert_array_equal(first["parts"], second["parts"])
        assert first["image"].dtype == first["parts"].dtype == np.uint8
        assert first["index"] == 7
    np.testing.assert_array_equal(element["image"], before["image"])
    np.testing.assert_array_equal(element["parts"], before["parts"])
    assert element.keys() == before.keys()


def test_geometry_is_joint():
    config = {name: ALL[name] for name in ("flip", "pad_crop")}
    chain = transforms.build_chain(config, height=32, width=16)
    shown = set()
    for seed in range(40):
        changed = chain(make_element(), np.random.default_rng(seed))
        np.testing.assert_array_equal(changed["image"][..., 0], changed["parts"])
        shown.add(changed["parts"].tobytes())
    assert len(shown) > 20


def test_resize_takes_the_nearest_label():
    element = make_element(64, 32)
    changed = transforms.Resize(32, 16)(element)
    assert changed["image"].shape == (32, 16, 3)
    assert set(np.unique(changed["parts"])) <= set(np.unique(element["parts"]))
    enlarged = transforms.Resize(128, 64)(element)["parts"]
    np.testing.assert_array_equal(enlarged, element["parts"].repeat(2, axis=0).repeat(2, axis=1))
    assert transforms.Resize(64, 32)(element)["image"] is element["image"]


def test_flip_mirrors_and_swaps_sides():
    element = make_element()
    flip = transforms.Flip(probability=1.0)
    once = flip(element, np.random.default_rng(0))
    np.testing.assert_array_equal(once["image"], element["image"][:, ::-1])
    swapped = np.array([0, 1, 3, 2, 4, 6, 5, 8, 7], np.uint8)[element["parts"][:, ::-1]]
    np.testing.assert_array_equal(once["parts"], swapped)
    twice = flip(once, np.random.default_rng(0))
    np.testing.assert_array_equal(twice["image"], element["image"])
    np.testing.assert_array_equal(twice["parts"], element["parts"])
    plain = transforms.Flip(probability=1.0, flip_swap_lr=False)(element, np.random.default_rng(0))
    np.testing.assert_array_equal(plain["parts"], element["parts"][:, ::-1])


def test_flip_frequency():
    element, rng = make_element(), np.random.default_rng(0)
    flips = sum(transforms.Flip(0.3)(element, rng) is not element for _ in range(2000))
    assert abs(flips / 2000 - 0.3) < 0.04  # four standard deviations


@pytest.mark.parametrize("fill", [0, 114])
def test_pad_crop_equals_padding_and_cutting(fill):
    element, pad = make_element(), 3
    padded = np.full((38, 22, 3), fill, np.uint8)
    padded[pad:-pad, pad:-pad] = element["image"]
    windows = {padded[y : y + 32, x : x + 16].tobytes() for y in range(7) for x in range(7)}
    crop, rng = transforms.PadCrop(pad, fill), np.random.default_rng(0)
    shown = {crop(element, rng)["image"].tobytes() for _ in range(600)}
    assert shown == windows  # every shift, both ends included, and nothing else


def test_pad_larger_than_the_image():
    crop, rng = transforms.PadCrop(pad=40), np.random.default_rng(0)
    for _ in range(50):
        changed = crop(make_element(), rng)
        np.testing.assert_array_equal(changed["image"][..., 0], changed["parts"])


def draw_boxes(erase, height, width, count):
    rng = np.random.default_rng(1)
    boxes = np.array([erase.draw(height, width, rng) for _ in range(count)])
    return boxes, boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]


@pytest.mark.parametrize(
    ("log_aspect", "mean", "median"),
    [(False, (0.3 + 1 / 0.3) / 2, (0.3 + 1 / 0.3) / 2), (True, (1 / 0.3 - 0.3) / np.log(1 / 0.09), 1.0)],
)
def test_erase_follows_its_distribution(log_aspect, mean, median):
    # Small boxes in a large square: none is rejected, so the draws have their original distribution.
    erase = transforms.Erase(area=(0.02, 0.1), log_aspect=log_aspect)
    boxes, heights, widths = draw_boxes(erase, 1000, 1000, 4000)
    area, aspect = heights * widths / 1e6, heights / widths
    assert area.min() > 0.0195
    assert area.max() < 0.1005
    assert abs(area.mean() - 0.06) < 0.0015
    assert aspect.min() > 0.29
    assert aspect.max() < 3.4
    assert abs(aspect.mean() - mean) < 0.06
    assert abs(np.median(aspect) - median) < 0.09
    assert boxes.min() >= 0
    assert boxes.max() <= 1000
    places = boxes[:, 0] / (1000 - heights)
    assert abs(places.mean() - 0.5) < 0.02
    assert places.max() > 0.99


def test_erase_reaches_every_place_with_its_probability():
    boxes, _, _ = draw_boxes(transforms.Erase(area=(0.25, 0.25), aspect=(1.0, 1.0)), 2, 2, 100)
    assert {tuple(box[:2]) for box in boxes.tolist()} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    seldom, rng = transforms.Erase(probability=0.1), np.random.default_rng(0)
    assert np.mean([seldom(make_element(), rng)["erase_box"].any() for _ in range(400)]) == pytest.approx(0.1, abs=0.05)


def test_erase_stays_inside_and_gives_up():
    boxes, heights, widths = draw_boxes(transforms.Erase(), 256, 128, 1000)
    assert (boxes[:, 2] <= 256).all()
    assert (boxes[:, 3] <= 128).all()
    assert (boxes >= 0).all()
    assert (heights > 0).all()
    assert (heights < 256).all()
    assert (widths < 128).all()
    assert transforms.Erase(area=(1, 1), aspect=(1, 1), tries=3).draw(8, 8, np.random.default_rng(0)) == (0, 0, 0, 0)


def test_erase_zeroes_maps_and_leaves_the_image():
    element, rng = make_element(), np.random.default_rng(0)
    erased = 0
    for _ in range(400):
        changed = transforms.Erase(probability=0.5)(element, rng)
        top, left, bottom, right = changed["erase_box"]
        assert changed["erase_box"].dtype == np.int32
        assert changed["image"] is element["image"]
        expected = element["parts"].copy()
        expected[top:bottom, left:right] = 0
        np.testing.assert_array_equal(changed["parts"], expected)
        erased += bottom > top
    assert abs(erased / 400 - 0.5) < 0.1


@pytest.mark.parametrize("factor", [0.4, 1.0, 1.7])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_color_changes_equal_pillow(name, factor):
    image = make_element(64, 32)["image"]
    enhance = {
        "brightness": ImageEnhance.Brightness,
        "contrast": ImageEnhance.Contrast,
        "saturation": ImageEnhance.Color,
    }[name]
    expected = np.asarray(enhance(Image.fromarray(image)).enhance(factor)).astype(int)
    changed = getattr(transforms, f"scale_{name}")(image, factor).astype(int)
    assert np.abs(changed - expected).max() <= 2


def test_hue_turns_around_the_circle():
    red = np.full((2, 2, 3), (200, 0, 0), np.uint8)
    np.testing.assert_allclose(transforms.turn_hue(red, 1 / 3)[0, 0], (0, 200, 0), atol=6)
    np.testing.assert_allclose(transforms.turn_hue(red, -1 / 3)[0, 0], (0, 0, 200), atol=6)
    gray = np.full((2, 2, 3), 90, np.uint8)
    np.testing.assert_array_equal(transforms.turn_hue(gray, 0.4), gray)


def test_jitter_stays_within_its_bounds():
    element = {"image": np.full((4, 4, 3), 100, np.uint8)}
    rng = np.random.default_rng(0)
    values = [int(transforms.Jitter(brightness=0.2)(element, rng)["image"][0, 0, 0]) for _ in range(500)]
    assert 79 <= min(values) < 83
    assert 117 < max(values) <= 120
    unchanged = [transforms.Jitter(brightness=0.2, probability=0.0)(element, rng) is element for _ in range(20)]
    assert all(unchanged)
    np.testing.assert_array_equal(transforms.Jitter()(element, rng)["image"], element["image"])


def test_chain_order():
    chain = transforms.build_chain({"erase": {}, "jitter": True, "flip": {}, "pad_crop": None}, 8, 4)
    assert [type(one).__name__ for one in chain.transforms] == ["Resize", "Jitter", "Flip", "Erase"]
    assert chain.starts_with_resize
    chain = transforms.build_chain({"flip": {}, "jitter": {}, "order": ("flip", "resize", "jitter")}, 8, 4)
    assert [type(one).__name__ for one in chain.transforms] == ["Flip", "Resize", "Jitter"]
    assert not chain.starts_with_resize
    assert len(transforms.build_chain(None, 8, 4).transforms) == 1


def test_chain_takes_a_config_dict():
    config = ConfigDict({"flip": {"probability": 0.25}, "erase": {"area": [0.1, 0.2]}})
    chain = transforms.build_chain(config, 8, 4, "bicubic")
    assert chain.transforms[0] == transforms.Resize(8, 4, "bicubic")
    assert chain.transforms[1:] == (transforms.Flip(0.25), transforms.Erase(area=(0.1, 0.2)))


def test_geometry_can_be_shared():
    config = {name: ALL[name] for name in ("flip", "pad_crop")}
    plain = transforms.build_chain(config, 32, 16)
    jittered = transforms.build_chain({**config, "jitter": ALL["jitter"]}, 32, 16)
    for seed in range(10):
        first = plain(make_element(), np.random.default_rng(seed), np.random.default_rng(99 + seed))
        second = jittered(make_element(), np.random.default_rng(seed + 1), np.random.default_rng(99 + seed))
        np.testing.assert_array_equal(first["parts"], second["parts"])
    # Erasing hides, it does not move: views have boxes of their own.
    erasing = transforms.build_chain({"erase": ALL["erase"]}, 32, 16)
    boxes = [erasing(make_element(), np.random.default_rng(s), np.random.default_rng(9))["erase_box"] for s in (0, 1)]
    assert (boxes[0] != boxes[1]).any()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"flp": {}}, "did you mean 'flip'"),
        ({"flip": {"probabilty": 0.5}}, "did you mean 'probability'"),
        ({"flip": {"probability": 1.5}}, "probability in"),
        ({"flip": {"probability": "often"}}, "flip"),
        ({"erase": {"area": (0.4, 0.02)}}, "area"),
        ({"erase": {"aspect": (0, 1)}}, "aspect"),
        ({"jitter": {"hue": 0.7}}, "hue"),
        ({"pad_crop": {"pad": -1}}, "pixels"),
        ({"pad_crop": 10}, "options of the transform 'pad_crop'"),
        ({"resize": {}}, "data.height"),
        ({"flip": {}, "order": ("flip", "erase")}, "order"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_mistakes_are_named(config, words):
    with pytest.raises(errors.UserError, match=words):
        transforms.build_chain(config, 8, 4)
