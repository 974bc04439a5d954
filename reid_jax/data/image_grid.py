"""Contact sheets: one row per identity, one group of columns per camera, to look at a data set before trusting it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from reid_jax import errors
from reid_jax.data import image_io, records

PAPER = 255
MARGIN = 3  # pixels around each image
LABEL = 16  # height of a line of text

# Colors of part labels 1…8: head, left and right arm, torso, left and right leg, left and right foot.
PART_ColorS = np.array(
    [
        (0, 0, 0),
        (228, 70, 70),
        (70, 190, 90),
        (60, 90, 220),
        (236, 214, 70),
        (208, 80, 208),
        (70, 200, 210),
        (240, 150, 50),
        (140, 70, 220),
    ],
    np.uint8,
)


def overlay_parts(image: np.ndarray, parts: np.ndarray, strength: float = 0.6) -> np.ndarray:
    """Tints the labeled pixels of an image.

    Args:
        image: uint8 [H, W, 3].
        parts: uint8 [H, W], 0 background.
        strength: share of the label's color.
    """
    tint = PART_ColorS[np.minimum(parts, len(PART_ColorS) - 1)]
    mixed = (image * (1 - strength) + tint * strength).astype(np.uint8)
    return np.where((parts > 0)[..., None], mixed, image)


def draw(
    split: records.Split,
    *,
    identities: int = 12,
    first: int = 0,
    images_per_camera: int = 2,
    height: int = 192,
    parts: bool = False,
) -> np.ndarray:
    """Draws a sheet of one split.

    Args:
        split: what to show.
        identities: number of rows; identities in the order of their numbers, junk and distractors first where present.
        first: how many identities to skip.
        images_per_camera: the most images shown of an identity in one camera; missing ones stay white.
        height: of one image on the sheet, in pixels; the width follows from the first image.
        parts: tint the images with their part masks.

    Returns:
        uint8 [H, W, 3] RGB.

    Raises:
        UserError: nothing to show, or part masks asked of a data set that has none.
    """
    pids = [int(pid) for pid in np.unique(split.pids)[first : first + identities]]
    if not pids:
        raise errors.UserError(
            f"{split.name} has {len(np.unique(split.pids))} identities, none is left after skipping {first}."
        )
    camids = [int(camid) for camid in np.unique(split.camids)]
    pictures = {}
    for pid in pids:
        for camid in camids:
            chosen = np.flatnonzero((split.pids == pid) & (split.camids == camid))[:images_per_camera]
            pictures[pid, camid] = [_picture(split.source[int(index)], height, parts, split.name) for index in chosen]
    width = max(picture.shape[1] for row in pictures.values() for picture in row)
    cell_height, cell_width = height + 2 * MARGIN, width + 2 * MARGIN
    sheet = np.full(
        (LABEL + len(pids) * (cell_height + LABEL), len(camids) * images_per_camera * cell_width, 3), PAPER, np.uint8
    )
    for column, camid in enumerate(camids):
        _write(sheet, f"camera {camid}", column * images_per_camera * cell_width + MARGIN, LABEL - 4)
    for row, pid in enumerate(pids):
        top = LABEL + row * (cell_height + LABEL)
        _write(sheet, f"identity {pid}", MARGIN, top + LABEL - 4)
        for column, camid in enumerate(camids):
            for place, picture in enumerate(pictures[pid, camid]):
                left = (column * images_per_camera + place) * cell_width + MARGIN
                y = top + LABEL + MARGIN
                sheet[y : y + height, left : left + picture.shape[1]] = picture
    return sheet


def _picture(element: dict[str, Any], height: int, parts: bool, name: str) -> np.ndarray:
    image = element["image"]
    if isinstance(image, bytes):
        image = image_io.decode(image, element["filename"])
    if parts:
        if "parts" not in element:
            raise errors.UserError(f"{name} has no part masks to show; leave out --parts, or use synthped.")
        image = overlay_parts(image, image_io.decode_map(element["parts"], element["filename"]))
    width = max(1, round(height * image.shape[1] / image.shape[0]))
    resized: np.ndarray = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    return resized


def _write(sheet: np.ndarray, text: str, x: int, y: int) -> None:
    cv2.putText(sheet, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (60, 60, 60), 1, cv2.LINE_AA)


def as_split(name: str, elements: Sequence[Any]) -> records.Split:
    """Wraps a sequence with `pids`, `camids` and `filenames` (such as `synthped.Elements`) as a split."""
    return records.Split(name, elements, elements.pids, elements.camids, elements.filenames)  # type: ignore[attr-defined]
