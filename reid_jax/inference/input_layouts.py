"""The inputs that an exported function can have, and how uint8 images become them, in NumPy."""

from __future__ import annotations

import dataclasses

import numpy as np

# Statistics that trackers and most PyTorch services normalize with, outside of the model.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Layout:
    """One form of the input; channels are RGB.

    Attributes:
        dtype: "uint8" or "float32".
        planes: images are [B, 3, H, W], in place of [B, H, W, 3]; the function then returns one vector of unit length.
        normalized: values are divided by 255 and normalized with ImageNet's statistics outside of the function; else
            they are 0-255.
    """

    dtype: str
    planes: bool
    normalized: bool

    @property
    def text(self) -> str:
        """The form of the array, for people."""
        return f"{self.dtype} [B, {'3, H, W' if self.planes else 'H, W, 3'}]"

    def of_images(self, images: np.ndarray) -> np.ndarray:
        """Returns the input of the function for uint8 RGB images [B, H, W, 3]."""
        found = images.astype(self.dtype)
        if self.normalized:
            mean, std = np.asarray(IMAGENET_MEAN, np.float32), np.asarray(IMAGENET_STD, np.float32)
            found = (found / 255 - mean) / std
        return np.ascontiguousarray(found.transpose(0, 3, 1, 2)) if self.planes else found


LAYOUTS = {
    "uint8": Layout("uint8", planes=False, normalized=False),
    "float_nchw": Layout("float32", planes=True, normalized=True),
    "float_nchw_255": Layout("float32", planes=True, normalized=False),  # fast-reid's convention
}
