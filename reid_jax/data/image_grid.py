"""Contact sheets for inspecting a data set: a row per identity, a group of columns per camera."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from reid_jax import errors
from reid_jax.data import camera_labels, image_io, records

BACKGROUND = 255
MARGIN = 3  # pixels around each image
LABEL = 16  # height of a line of text
FONT, FONT_SIZE = cv2.FONT_HERSHEY_SIMPLEX, 0.38

# Colors of part labels 1…8: head, left and right arm, torso, left and right leg, left and right foot.
PART_COLORS = np.array(
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
    """Returns an image with its labeled pixels tinted by the color of their part.

    Args:
        image: uint8 [H, W, 3].
        parts: uint8 [H, W]; 0 is background.
        strength: weight of the label's color in [0, 1].
    """
    tint = PART_COLORS[np.minimum(parts, len(PART_COLORS) - 1)]
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
    """Draws the contact sheet of a split: a title, a header for each camera, a row for each identity.

    Args:
        split: the images to show.
        identities: number of rows; identities are in the order of their numbers, with junk and distractors first.
        first: number of identities to skip.
        images_per_camera: the maximum number of images of an identity per camera; missing images stay white.
        height: height of an image on the sheet in pixels; the width keeps its aspect ratio.
        parts: tint the images with their part masks.

    Returns:
        uint8 [H, W, 3] RGB.

    Raises:
        UserError: there is nothing to show, or part masks are requested of a data set that has none.
    """
    people = np.unique(split.pids)
    pids = [int(pid) for pid in people[first : first + identities]]
    if not pids:
        raise errors.UserError(f"{split.name} has {len(people)} identities, skipping {first} leaves none; skip fewer.")
    camids = [int(camid) for camid in np.unique(split.camids)]
    pictures = {}
    for pid in pids:
        for camid in camids:
            chosen = np.flatnonzero((split.pids == pid) & (split.camids == camid))[:images_per_camera]
            pictures[pid, camid] = [_picture(split.source[int(index)], height, parts, split.name) for index in chosen]
    width = max(picture.shape[1] for row in pictures.values() for picture in row)
    cell_height, cell_width = height + 2 * MARGIN, width + 2 * MARGIN
    group = images_per_camera * cell_width
    title = f"{split.name}: {len(pids)} of {len(people)} identities"
    labels = camera_labels.of(split.filenames, split.camids)
    headers = _headers([labels[camid] for camid in camids], group - 2 * MARGIN)
    names = [_identity(split, pid) for pid in pids]
    sheet = np.full(
        (
            2 * LABEL + len(pids) * (cell_height + LABEL),
            max(len(camids) * group, *(_width(text) + 2 * MARGIN for text in (title, *names))),
            3,
        ),
        BACKGROUND,
        np.uint8,
    )
    _write(sheet, title, MARGIN, LABEL - 4)
    for column, header in enumerate(headers):
        _write(sheet, header, column * group + MARGIN, 2 * LABEL - 4)
    for row, pid in enumerate(pids):
        top = 2 * LABEL + row * (cell_height + LABEL)
        _write(sheet, names[row], MARGIN, top + LABEL - 4)
        for column, camid in enumerate(camids):
            for place, picture in enumerate(pictures[pid, camid]):
                left = column * group + place * cell_width + MARGIN
                y = top + LABEL + MARGIN
                sheet[y : y + height, left : left + picture.shape[1]] = picture
    return sheet


def _headers(cameras: Sequence[str], width: int) -> list[str]:
    """Returns the texts above the cameras' columns, all in the longest form that fits into a width in pixels."""
    for form in ("camera {}", "cam {}", "c{}", "{}"):
        texts = [form.format(camera.replace(camera_labels.UNKNOWN, "?")) for camera in cameras]
        if max(map(_width, texts)) <= width:
            return texts
    return texts


def _identity(split: records.Split, pid: int) -> str:
    """Returns the text above an identity's row, with the name that the user's folder or table gives it."""
    name = split.people.get(pid, "")
    # OpenCV draws letters of ASCII alone.
    name = "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in name[:60])
    return "junk" if pid < 0 else f"identity {pid}{f': {name}' if name and name != str(pid) else ''}"


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
    cv2.putText(sheet, text, (x, y), FONT, FONT_SIZE, (60, 60, 60), 1, cv2.LINE_AA)


def _width(text: str) -> int:
    """Returns the width of a text in pixels."""
    return int(cv2.getTextSize(text, FONT, FONT_SIZE, 1)[0][0])


def as_split(name: str, elements: Sequence[Any]) -> records.Split:
    """Returns a sequence with `pids`, `camids` and `filenames`, such as `synthped.Elements`, as a split."""
    return records.Split(name, elements, elements.pids, elements.camids, elements.filenames)  # type: ignore[attr-defined]
