"""Decoding of the body-part confidences that builders store (`parts_confidence`, see `datasets/README.md`)."""

from __future__ import annotations

import numpy as np

from reid_jax import errors
from reid_jax.data import image_io

# In the label map a part has the value 1 + its index here; 0 is background.
PARTS = ("head", "left_arm", "right_arm", "torso", "left_leg", "right_leg", "left_foot", "right_foot")


def decode_confidence(data: bytes, name: str = "a confidence map") -> np.ndarray:
    """Decodes the stack of confidence maps of one image.

    Args:
        data: PNG, eight maps one below the other.
        name: the stack's name in error messages.

    Returns:
        float32 [8, h, w] in [0, 1], in steps of 1/255, in the order of `PARTS`.

    Raises:
        UserError: the bytes are not such a stack.
    """
    stack = image_io.decode_map(data, name)
    if len(stack) % len(PARTS):
        raise errors.UserError(f"{name} should be {len(PARTS)} maps one below the other, it has {len(stack)} rows.")
    return stack.reshape(len(PARTS), -1, stack.shape[1]).astype(np.float32) / 255
