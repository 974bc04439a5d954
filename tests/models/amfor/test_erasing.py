"""From the augmented picture to AMFOR's labels of tokens: erased places are background, hidden parts invisible."""

import numpy as np
import pytest

from reid_jax.data import image_io, synthped, transforms
from reid_jax.models.amfor import part_decoder
from reid_jax.models.backbones import vit

SIZE, PATCH, STRIDE = (128, 64), 16, 12
GRID = vit.grid_of(SIZE, PATCH, STRIDE)  # (10, 5), overlapping


@pytest.fixture(scope="module")
def person():
    """A drawn person with part masks, resized."""
    element = synthped.SynthPed("tiny").elements("train")[0]
    parts = element["parts"]
    if isinstance(parts, bytes):
        parts = image_io.decode_map(parts)
    image = element["image"]
    image = image_io.decode(image) if isinstance(image, bytes) else image
    return transforms.Resize(*SIZE)({"image": image, "parts": parts})


def labels(element) -> np.ndarray:
    return np.asarray(part_decoder.token_labels(element["parts"][None], GRID, PATCH, STRIDE))[0].reshape(GRID)


def counted(parts: np.ndarray) -> np.ndarray:
    """The labels token by token: which label has the most pixels of the patch."""
    cut = lambda row, column: parts[row * STRIDE :][:PATCH, column * STRIDE :][:, :PATCH]
    return np.array(
        [[np.bincount(cut(r, c).ravel(), minlength=9).argmax() for c in range(GRID[1])] for r in range(GRID[0])]
    )


def test_erased_tokens_are_background_and_hidden_parts_invisible(person):
    """Property 14: labels by the pixels of a patch, visibility by those of a part, 20 or more."""
    erase = transforms.Erase(probability=1.0, area=(0.1, 0.3))
    rng, hidden, shown = np.random.default_rng(0), 0, 0
    pictures = [person, *(erase(person, rng) for _ in range(40))]
    visible = np.asarray(part_decoder.visible_parts(np.stack([picture["parts"] for picture in pictures]), 20.0))
    for picture, seen in zip(pictures, visible, strict=True):
        np.testing.assert_array_equal(labels(picture), counted(picture["parts"]))
        pixels = np.bincount(picture["parts"].ravel(), minlength=9)[1:]
        np.testing.assert_array_equal(seen, pixels >= 20)
        hidden += int((seen == 0).sum())
        shown += int((seen == 1).sum())
    assert hidden > 5
    assert shown > 5


def test_a_part_needs_the_same_share_of_pixels_at_every_size():
    parts = np.zeros((2, 256, 128), np.uint8)
    parts[0, :8, :10], parts[1, :79, 0] = 3, 3  # 80 and 79 pixels: four times as many as at 128 x 64
    np.testing.assert_array_equal(part_decoder.visible_parts(parts, 20.0)[:, 2], [1, 0])


def test_a_mirrored_person_keeps_left_and_right(person):
    flip = transforms.Flip(probability=1.0)
    once = flip.mirror(person)
    swap = np.array([0, 1, 3, 2, 4, 6, 5, 8, 7])
    np.testing.assert_array_equal(once["parts"], swap[person["parts"][:, ::-1]])
    twice = flip.mirror(once)
    for name, value in person.items():
        np.testing.assert_array_equal(twice[name], value)
    # The reference mirrors maps alone: left and right change places on the person.
    reference = transforms.Flip(probability=1.0, flip_swap_lr=False).mirror(person)
    np.testing.assert_array_equal(reference["parts"], person["parts"][:, ::-1])
    assert (labels(reference) != labels(once)).any()
