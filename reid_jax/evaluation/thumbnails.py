"""Small pictures for a page, each stored once, within a budget for all of them."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

LoadImage = Callable[[str, int], np.ndarray]

BUDGET = 48 * 2**20  # bytes of all pictures; as text in a page they take a third more
# Largest width and height in pixels, for up to so many pictures.
_SIZES = ((4_000, (96, 192)), (24_000, (64, 128)), (60_000, (48, 96)))
_SMALLEST = (32, 64)
_QUALITY, _METHOD = 75, 2  # method 4, the library's default, takes twice the time for 5 % less


class Thumbnails:
    """Encodes pictures on demand, and none beyond the budget.

    Args:
        load: maps ("query" | "gallery", row) to uint8 [H, W, 3].
        expected: number of pictures that will be asked for; more of them are smaller.
        budget: bytes of all pictures.
        progress: called after each encoded picture.
    """

    def __init__(
        self,
        load: LoadImage,
        expected: int,
        *,
        budget: int = BUDGET,
        progress: Callable[[], object] = lambda: None,
    ) -> None:
        self._load, self._budget, self._progress = load, budget, progress
        self.size = next((size for count, size in _SIZES if expected <= count), _SMALLEST)
        self.texts: list[str] = []
        self._numbers: dict[tuple[str, int], int] = {}
        self._bytes = 0

    @property
    def full(self) -> bool:
        """Whether the budget is used up, so that further pictures are left out."""
        return self._bytes >= self._budget

    def number(self, side: str, row: int) -> int:
        """Returns the position of a picture in `texts` (base64 of a WebP file), -1 where it is left out."""
        key = side, row
        if key not in self._numbers:
            if self.full:
                return -1
            data = encode(self._load(side, row), self.size)
            self._bytes += len(data)
            self._numbers[key] = len(self.texts)
            self.texts.append(base64.b64encode(data).decode("ascii"))
            self._progress()
        return self._numbers[key]

    def add(self, image: np.ndarray) -> int:
        """Returns the position of a further picture, uint8 [H, W, 3], at its own size; -1 beyond the budget."""
        if self.full:
            return -1
        data = encode(image, image.shape[1::-1])
        self._bytes += len(data)
        self.texts.append(base64.b64encode(data).decode("ascii"))
        return len(self.texts) - 1


def encode(image: np.ndarray, size: Sequence[int]) -> bytes:
    """Returns an image as a WebP file, reduced where it is larger than `size` (width, height)."""
    picture = Image.fromarray(np.ascontiguousarray(image))
    # The browser enlarges small images; large ones are reduced here, with a good filter.
    picture.thumbnail((size[0], size[1]), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="WEBP", quality=_QUALITY, method=_METHOD)
    return buffer.getvalue()
