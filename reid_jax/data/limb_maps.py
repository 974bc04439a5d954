"""Maps of limbs between key points of a person, from which masks of body parts are drawn.

A map has a bit for each of six groups of limbs, as boxes of limbs overlap: bit 0 head, 1 and 2 arms, 3 torso, 4 and 5
legs. It goes through crops and flips like any other map; `ops.masks.groups_of_limbs` reads it.
"""

from __future__ import annotations

import pathlib

import numpy as np

from reid_jax import errors, file_io
from reid_jax.data import image_io

NAME = "limbs"
POINTS = 17
# Limbs between COCO's key points, by group; those of `ops.masks.LIMBS`.
LIMBS = (
    ((0, 1), (0, 2), (1, 2), (1, 3), (2, 4)),
    ((5, 7), (7, 9)),
    ((6, 8), (8, 10)),
    ((6, 11), (5, 12)),
    ((11, 13), (13, 15)),
    ((12, 14), (14, 16)),
)


def limb_map(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns the upright boxes between the ends of limbs, uint8 [height, width]; a limb with an unseen end has none.

    Args:
        points: [17, 2 or 3], x and y in pixels in COCO's order, and a visibility or confidence, 0 for unseen points.
            Points outside the image, or NaN, are unseen as well.
        height: of the image.
        width: of the image.
    """
    points = np.asarray(points, np.float64)
    place = np.floor(np.nan_to_num(points[:, :2], nan=-1.0)).astype(np.int64)
    seen = ((place >= 0) & (place < (width, height))).all(axis=1)
    if points.shape[1] == 3:
        seen &= points[:, 2] > 0
    found = np.zeros((height, width), np.uint8)
    for group, limbs in enumerate(LIMBS):
        for first, second in limbs:
            if seen[first] and seen[second]:
                (left, top), (right, bottom) = np.minimum(*place[[first, second]]), np.maximum(*place[[first, second]])
                found[top : bottom + 1, left : right + 1] |= np.uint8(1 << group)
    return found


def read(path: str | pathlib.Path) -> np.ndarray:
    """Returns key points [17, 2 or 3] from a JSON file `{"keypoints": [...]}`, 17 lists or COCO's flat one.

    Raises:
        UserError: no such file, or something else in it.
    """
    expected = f"{POINTS} key points (JSON, keypoints: x, y and visibility of each)"
    found = file_io.read_json(path, expected, "leave keypoints out").get("keypoints")
    try:
        points = np.array(found, np.float64).reshape(POINTS, -1)
    except (TypeError, ValueError):
        points = np.zeros((0, 0))
    if points.shape[1] not in (2, 3) or np.isinf(points).any():
        raise errors.UserError(f"expected {expected} in {file_io.shown(path)}; mend the file, or leave keypoints out.")
    return points


def encoded(path: str | pathlib.Path, image: np.ndarray) -> bytes:
    """Returns the map of an image [H, W, 3] from a file of key points, as PNG."""
    return image_io.encode_png(limb_map(read(path), *image.shape[:2]))
