"""From the augmented picture to AMFOR's labels of tokens: erased places are background, hidden parts invisible."""

import numpy as np
import pytest

from reid_jax.data import image_io, synthped, transforms
from reid_jax.models.amfor import part_decoder

GRID, SIZE = (11, 5), (128, 64)


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
    return np.asarray(part_decoder.token_labels(element["parts"][None], GRID))[0].reshape(GRID)


def test_erased_tokens_are_background_and_hidden_parts_invisible(person):
    """Property 14."""
    before = labels(person)
    visible = np.asarray(part_decoder.visibility(before.reshape(1, -1)))[0]
    erase = transforms.Erase(probability=1.0, area=(0.1, 0.3))
    rng, hidden = np.random.default_rng(0), 0
    # Where a token samples the picture: its corners lie on the picture's.
    rows, columns = (np.linspace(0, size - 1, count) for size, count in zip(SIZE, GRID, strict=True))
    for _ in range(40):
        erased = erase(person, rng)
        top, left, bottom, right = erased["erase_box"]
        after = labels(erased)
        inside = ((rows >= top) & (rows <= bottom - 1))[:, None] & ((columns >= left) & (columns <= right - 1))[None]
        outside = ((rows <= top - 1) | (rows >= bottom))[:, None] | ((columns <= left - 1) | (columns >= right))[None]
        assert (after[inside] == 0).all()
        np.testing.assert_array_equal(after[outside], before[outside])
        now = np.asarray(part_decoder.visibility(after.reshape(1, -1)))[0]
        gone = [part for part in range(1, 9) if visible[part - 1] and not (erased["parts"] == part).any()]
        assert not any(now[part - 1] for part in gone)
        hidden += len(gone)
    assert hidden > 5


def test_a_mirrored_person_keeps_left_and_right(person):
    flip = transforms.Flip(probability=1.0)
    once = flip.mirror(person)
    swap = np.array([0, 1, 3, 2, 4, 6, 5, 8, 7])
    np.testing.assert_array_equal(labels(once), swap[labels(person)[:, ::-1]])
    twice = flip.mirror(once)
    for name, value in person.items():
        np.testing.assert_array_equal(twice[name], value)
    # The reference mirrors maps alone: left and right change places on the person.
    reference = transforms.Flip(probability=1.0, flip_swap_lr=False).mirror(person)
    np.testing.assert_array_equal(labels(reference), labels(person)[:, ::-1])
    assert (labels(reference) != labels(once)).any()
