"""Transforms of a user's own project, named by path: order, options, and validation of their results."""

import sys

import numpy as np
import pytest
from ml_collections import ConfigDict

from reid_jax import errors
from reid_jax.data import pipeline, records, transforms

MODULE = """
import dataclasses
import numpy as np


@dataclasses.dataclass(frozen=True)
class Darken:
    geometric = True
    strength: int = 2

    def __call__(self, element, rng):
        element["image"] //= self.strength  # in place: the arrays are the transform's own
        return element


def add_noise(element, rng, *, amount=3, channels):
    noise = rng.integers(0, amount, (*element["image"].shape[:2], channels))
    return {**element, "image": (element["image"] // 2 + noise).astype(np.uint8)}


def halve(element, rng):
    return {**element, "image": element["image"] / 2}


def crop(element, rng):
    return {**element, "image": element["image"][4:]}


def crop_image_alone(element, rng):
    return {**element, "parts": element["parts"][1:]}


def forget(element, rng):
    element["image"] += 1


def swap(element, rng):
    return {**element, "image": element["donor"]}


swap.needs_donor = True


class NotCallable:
    pass
"""


@pytest.fixture
def blur(tmp_path, monkeypatch):
    (tmp_path / "own_transforms.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "own_transforms"
    sys.modules.pop("own_transforms", None)


def _split(count=8):
    rng = np.random.default_rng(0)
    images = [{"image": rng.integers(0, 256, (32, 16, 3)).astype(np.uint8)} for _ in range(count)]
    pids = np.arange(count, dtype=np.int32) // 2
    return records.Split("drawn/train", images, pids, pids, tuple(f"{index}.png" for index in range(count)))


def _names(chain):
    return [getattr(one, "name", type(one).__name__) for one in chain.transforms]


def _build(augment, height=32, width=16):
    return transforms.build_chain(augment, height, width)


def test_canonical_place_is_before_erase(blur):
    # As in a config: the keys of a ConfigDict are sorted, so that their order has no meaning.
    augment = ConfigDict({"erase": {}, "a": {"name": f"{blur}:Darken", "strength": 4}, "flip": {}, "augmix": {}})
    assert _names(_build(augment)) == ["Resize", "Flip", "AugMix", f"{blur}:Darken", "Erase"]
    augment.order = ("a", "flip", "augmix", "erase")
    assert _names(_build(augment)) == ["Resize", f"{blur}:Darken", "Flip", "AugMix", "Erase"]
    # The key may be the path itself in a plain dictionary, and a label may stand for a transform of the package.
    chain = _build({f"{blur}:Darken": True, "jitter": {}, "again": {"name": "jitter", "hue": 0.1}})
    assert _names(chain) == ["Resize", "Jitter", "Jitter", f"{blur}:Darken"]
    assert [one.hue for one in chain.transforms[1:3]] == [0.1, 0.0]


def test_classes_and_functions_get_their_options_and_declare_themselves(blur):
    chain = _build(
        {
            "a": {"name": f"{blur}:Darken", "strength": 4},
            "b": {"name": f"{blur}:add_noise", "channels": 3, "amount": 1},
            "c": {"name": f"{blur}:swap"},
        }
    )
    assert [one.geometric for one in chain.transforms] == [True, True, False, False]
    assert chain.needs_donor
    element = {"image": np.full((32, 16, 3), 80, np.uint8), "parts": np.zeros((32, 16), np.uint8), "index": 3}
    dark, noisy, _ = chain.transforms[1:]
    changed = noisy(dark(element, np.random.default_rng(0)), np.random.default_rng(0))
    assert (changed["image"] == 10).all()
    assert changed["index"] == 3
    assert (element["image"] == 80).all(), "the transform wrote to the cached image"


def test_the_donor_is_taken_out(blur):
    donor = np.full((32, 16, 3), 9, np.uint8)
    element = {"image": np.zeros((32, 16, 3), np.uint8), "donor": donor}
    changed = _build({"c": {"name": f"{blur}:swap"}}).transforms[1](element, np.random.default_rng(0))
    assert set(changed) == {"image"}
    assert (changed["image"] == 9).all()


def test_worker_processes_find_it(blur):
    split = _split()
    settings = {
        "sampler": {"identities": 2, "images": 2},
        "augment": {"flip": {}, "dark": {"name": f"{blur}:Darken", "strength": 3}, "erase": {}},
        "height": 32,
        "width": 16,
        "num_steps": 3,
        "threads": 0,
    }
    runs = []
    for workers in (0, 1):
        with pipeline.train_batches(split, split.pids, workers=workers, **settings) as batches:
            runs.append(list(batches))
    assert max(batch["image"].max() for batch in runs[0]) == 255 // 3
    for here, there in zip(*runs, strict=True):
        for name in here:
            np.testing.assert_array_equal(here[name], there[name])


def test_sizes_are_free_before_the_resize(blur):
    augment = {"c": {"name": f"{blur}:crop"}, "order": ("c", "resize")}
    element = {"image": np.zeros((40, 16, 3), np.uint8)}
    assert _build(augment)(element, np.random.default_rng(0))["image"].shape == (32, 16, 3)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("halve", r"expected uint8 of shape \[32, 16, 3\] under 'image' from the transform .*halve', got float64"),
        ("crop", r"got uint8 of shape \[28, 16, 3\]; convert it"),
        ("crop_image_alone", r"expected uint8 of shape \[32, 16\] under 'parts' .* got uint8 of shape \[31, 16\]"),
        ("forget", "expected a dictionary with an array under 'image' .* got NoneType; return the element"),
    ],
)
def test_results_are_checked(blur, name, sentence):
    element = {"image": np.zeros((32, 16, 3), np.uint8), "parts": np.zeros((32, 16), np.uint8)}
    with pytest.raises(errors.UserError, match=sentence):
        _build({"own": {"name": f"{blur}:{name}"}})(element, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("augment", "sentence"),
    [
        ({"own": {"strength": 2}}, "unknown transform 'own'; .*package.module:Name"),
        ({"own": {"name": "flipp"}}, "unknown transform 'flipp'; did you mean 'flip'"),
        ({"own": {"name": "own_transforms:Darkn"}}, "'Darkn'; did you mean 'Darken'"),
        ({"own": {"name": "own_transforms:Darken", "strenght": 2}}, "'strenght'; did you mean 'strength'"),
        ({"own": {"name": "own_transforms:add_noise"}}, "needs the option 'channels'"),
        ({"own": {"name": "own_transforms:NotCallable"}}, r"cannot be called; give it a __call__\(element, rng\)"),
        ({"own": {"name": "own_transforms:MODULE"}}, "'MODULE'"),
        ({"own": {"name": "sys:path"}}, "expected a class or a function as transform 'sys:path', got list"),
        ({"own": {"name": "resize"}}, "take `resize` out"),
        ({"own": {"name": "own_transforms:Darken"}, "order": ("resize",)}, "each transform in use once: resize, own"),
    ],
    ids=str,
)
def test_mistakes_are_one_sentence(blur, augment, sentence):
    with pytest.raises(errors.UserError, match=sentence):
        _build(augment)
