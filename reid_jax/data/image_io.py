"""Decoding, encoding and resizing of images on the host.

Pillow is the reference, because the published recipes were trained on images decoded and resized by Pillow (or by
torchvision, which calls it). `decode` is bit-identical to Pillow and twice as fast on JPEG. `resize` is bit-identical
too, except for bilinear upsampling, which is rounded once instead of twice and differs by at most one gray level.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from reid_jax import errors

# The input pipeline has threads of its own; a second pool inside every call would compete with them.
cv2.setNumThreads(1)

_JPEG_START, _PNG_START = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"


def decode(data: bytes, name: str = "an image") -> np.ndarray:
    """Decodes an image file.

    EXIF rotation is not applied, as in `PIL.Image.open`.

    Args:
        data: the bytes of a JPEG, a PNG, or any other format that Pillow reads.
        name: the image's name in error messages, normally its file name.

    Returns:
        uint8 [H, W, 3], RGB. Gray images are repeated over the channels; transparency is dropped.

    Raises:
        UserError: the bytes are not an image, are truncated, or hold more than 8 bits per channel.
    """
    if data[:3] == _JPEG_START:
        try:
            _, _, colors, _ = simplejpeg.decode_jpeg_header(data)
            # CMYK goes through Pillow, whose conversion to RGB is the reference.
            if colors in ("YCbCr", "RGB", "Gray", "GRAY"):
                decoded: np.ndarray = simplejpeg.decode_jpeg(data, "RGB")
                return decoded
        except ValueError:
            pass  # Pillow tolerates more (stray bytes between markers); `_decode_with_pillow` reports the rest.
    return _decode_with_pillow(data, name)


def decode_map(data: bytes | np.ndarray, name: str = "a map") -> np.ndarray:
    """Decodes a label map, a PNG with one channel.

    Args:
        data: the bytes of the PNG, or an array, which is returned without a last axis of size one.
        name: the map's name in error messages.

    Returns:
        uint8 [H, W].

    Raises:
        UserError: the bytes are not an image with one 8-bit channel.
    """
    if isinstance(data, np.ndarray):
        return data[..., 0] if data.ndim == 3 else data
    picture = _open_with_pillow(data, name)
    if picture.mode not in ("L", "P"):
        raise errors.UserError(f"{name} should be a label map with one 8-bit channel, its mode is {picture.mode!r}.")
    return np.array(picture)


def _open_with_pillow(data: bytes, name: str) -> Image.Image:
    if not data:
        raise errors.UserError(f"{name} is empty (0 bytes); replace the file or leave it out.")
    try:
        picture = Image.open(io.BytesIO(data))
        picture.load()
    except Exception:  # Pillow's plug-ins raise many types, struct.error and SyntaxError among them
        has_signature = data.startswith((_JPEG_START, _PNG_START))
        problem = "is cut off or damaged" if has_signature else "is not an image that can be read"
        raise errors.UserError(f"{name} {problem}; replace the file or leave it out.") from None
    return picture


def _decode_with_pillow(data: bytes, name: str) -> np.ndarray:
    picture = _open_with_pillow(data, name)
    if picture.mode[0] in "IF":  # 16 and 32 bits: Pillow's conversion would clip, not scale
        raise errors.UserError(f"{name} has more than 8 bits per channel; save it as an 8-bit image.")
    return np.array(picture.convert("RGB"))


def encode_jpeg(image: np.ndarray, quality: int = 95) -> bytes:
    """Encodes an RGB image, uint8 [H, W, 3], as JPEG without chroma subsampling: small crops are mostly color."""
    encoded: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality, "RGB", "444")
    return encoded


def encode_png(image: np.ndarray) -> bytes:
    """Encodes an RGB image, uint8 [H, W, 3], or a map, uint8 [H, W], as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "PNG")
    return buffer.getvalue()


def _pillow(filter_: Image.Resampling) -> Callable[[np.ndarray, int, int], np.ndarray]:
    def resize_with_pillow(image: np.ndarray, height: int, width: int) -> np.ndarray:
        return np.array(Image.fromarray(image).resize((width, height), filter_))

    return resize_with_pillow


_bilinear_with_antialias = _pillow(Image.Resampling.BILINEAR)


def _bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    if height >= image.shape[0] and width >= image.shape[1]:
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR_EXACT)
    return _bilinear_with_antialias(image, height, width)


def _area(image: np.ndarray, height: int, width: int) -> np.ndarray:
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def _nearest(image: np.ndarray, height: int, width: int) -> np.ndarray:
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


INTERPOLATIONS: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {
    "bilinear": _bilinear,
    "bicubic": _pillow(Image.Resampling.BICUBIC),
    "area": _area,
    "nearest": _nearest,
}


def resize(image: np.ndarray, height: int, width: int, interpolation: str = "bilinear") -> np.ndarray:
    """Resizes an image or a map; returns the same array where it has the target size already.

    Methods, with microseconds on one core for 128x64 to 256x128 (Market-1501) | for 300x120 to 256x128:

        bilinear    64 |  360    as in Pillow: triangle filter, widened (antialiased) for downsampling. Upsampling uses
                                 OpenCV's exactly rounded kernel, within one gray level of Pillow (which takes 266);
                                 downsampling calls Pillow.
        bicubic    380 |  560    Pillow. OpenCV is ten times faster but uses another kernel (a = -0.75, no
                                 antialiasing): up to 8 gray levels off for upsampling, 20 for downsampling.
        area        36 |   58    mean over the footprint of each target pixel, for downsampling; upsampling repeats
                                 pixels.
        nearest     50 |   50    bit-identical to Pillow; for label maps.

    Args:
        image: uint8 [H, W, 3] or [H, W].
        height: target height in pixels.
        width: target width in pixels.
        interpolation: a key of `INTERPOLATIONS`.

    Returns:
        uint8 [height, width, 3] or [height, width].

    Raises:
        UserError: unknown interpolation.
    """
    if interpolation not in INTERPOLATIONS:
        raise errors.unknown("interpolation", interpolation, INTERPOLATIONS)
    if image.shape[:2] == (height, width):
        return image
    return INTERPOLATIONS[interpolation](image, height, width)
