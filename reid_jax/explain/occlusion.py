"""Occlusion sensitivity: how far a similarity falls where the image is hidden. Slow, and free of assumptions.

Reference: Zeiler and Fergus, "Visualizing and understanding convolutional networks", ECCV 2014, section 4.2.
"""

from __future__ import annotations

import numpy as np

from reid_jax import progress
from reid_jax.explain import explainer as explainer_lib
from reid_jax.explain.explainer import Embedded, Explainer

# Of a window and of its steps, as shares of the image's height: 32 and 16 pixels of 256.
WINDOW, STEP = 1 / 8, 1 / 16


def falls(
    model: Explainer,
    image: np.ndarray,
    partner: Embedded,
    *,
    window: float = WINDOW,
    step: float = STEP,
    camera: int = -1,
) -> np.ndarray:
    """Returns how far the similarity of an image to others falls where it is hidden.

    A square of the mean color moves over the image. The value of a cell (a step) is the mean over the squares that
    cover it.

    Args:
        model: the model.
        image: uint8 [height, width, 3] of the model's size.
        partner: features of the K other images.
        window: side of the square, as a share of the height.
        step: its steps, likewise.
        camera: of the image, see `Explainer.embed`.

    Returns:
        float32 [K, h, w] in [-2, 2]; negative where hiding makes the images more similar.
    """
    height, width = image.shape[:2]
    stride = max(1, round(step * height))
    side = max(stride, round(window * height))
    rows, columns = (max(1, -(-size // stride)) for size in (height, width))
    # Squares reach over the border, so that its cells are covered as often as the others.
    reach = range(1 - -(-side // stride), max(rows, columns))
    boxes = [
        (top, left)
        for top in reach
        for left in reach
        if -side < top * stride < height and -side < left * stride < width
    ]
    count = len(partner.features)
    whole = model.embed(image[None], [camera])
    before = explainer_lib.similarities(whole.take([0] * count), partner)
    totals, covered = np.zeros((count, rows, columns)), np.zeros((rows, columns))
    with progress.bar("occlusion", len(boxes), "hidden regions") as advance:
        for first in range(0, len(boxes), explainer_lib.BATCH):
            some = boxes[first : first + explainer_lib.BATCH]
            hidden = np.stack([_hide(image, top * stride, left * stride, side, model.blank) for top, left in some])
            embedded = model.embed(hidden, [camera] * len(some))
            for number, (top, left) in enumerate(some):
                fall = before - explainer_lib.similarities(embedded.take([number] * count), partner)
                cells = tuple(slice(max(0, start), start + -(-side // stride)) for start in (top, left))
                totals[(slice(None), *cells)] += fall[:, None, None]
                covered[cells] += 1
            advance(len(some))
    found: np.ndarray = (totals / np.maximum(covered, 1)).astype(np.float32)
    return found


def _hide(image: np.ndarray, top: int, left: int, side: int, color: np.ndarray) -> np.ndarray:
    """Returns the image with a square of a color, clipped at its border."""
    hidden = image.copy()
    hidden[max(0, top) : max(0, top + side), max(0, left) : max(0, left + side)] = color
    return hidden
