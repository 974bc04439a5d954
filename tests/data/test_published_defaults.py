"""Defaults of transforms and samplers are the numbers of the recipes that name none."""

import inspect

from reid_jax.data import samplers, transforms


def test_transforms():
    assert transforms.Flip().probability == 0.5
    assert (transforms.PadCrop().pad, transforms.PadCrop().fill) == (10, 0)
    erase = transforms.Erase()
    assert (erase.probability, erase.area, erase.aspect) == (0.5, (0.02, 0.4), (0.3, 1 / 0.3))
    assert (erase.log_aspect, erase.tries) == (False, 100)
    order = (
        "corrupt",
        "resized_crop",
        "resize",
        "jitter",
        "flip",
        "pad_crop",
        "occlude",
        "soft_erase",
        "self_patch",
        "augmix",
        "erase",
        "mask_seed",
    )
    assert tuple(transforms.TRANSFORMS) == order


def test_samplers():
    for name in ("identity_groups", "identity_epoch", "image_epoch"):
        parameters = inspect.signature(samplers.SAMPLERS[name]).parameters
        assert (parameters["identities"].default, parameters["images"].default) == (16, 4)
    assert inspect.signature(samplers.Shuffle).parameters["batch_size"].default == 64
