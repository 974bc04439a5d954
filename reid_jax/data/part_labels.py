"""Body-part confidences as the builders store them (`parts_confidence`, see `datasets/README.md`), read back."""

from __future__ import annotations

import numpy as np

from reid_jax import errors
from reid_jax.data import image_io

# Label map value of each is 1 + its place; 0 is background.
PARTS = ("head", "left_arm", "right_arm", "torso", "left_leg", "right_leg", "left_foot", "right_foot")


def decode_confidence(data: bytes, name: str = "a confidence map") -> np.ndarray:
    """Decodes the stack of confidence maps of one image.

    Args:
        data: PNG, eight maps one below the other.
        name: what to call it in an error.

    Returns:
        float32 [8, h, w] in [0, 1], in steps of 1/255, in the order of `PARTS`.

    Raises:
        UserError: the bytes are no such stack.
    """
    stack = image_io.decode_map(data, name)
    if len(stack) % len(PARTS):
        raise errors.UserError(f"{name} should be {len(PARTS)} maps one below the other, it has {len(stack)} rows.")
    return stack.reshape(len(PARTS), -1, stack.shape[1]).astype(np.float32) / 255
