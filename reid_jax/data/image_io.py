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
from PIL import BmpImagePlugin, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

from reid_jax import errors

# The input pipeline has threads of its own; a second pool inside every call would compete with them.
cv2.setNumThreads(1)

# Larger images are refused before a pixel is decoded: 33.6 million are a frame of an 8K camera, and 100 MB as RGB.
MAX_PIXELS = 2**25
_MAX_SIDE = 2**16 - 1  # the largest of a JPEG; millions of rows of a few pixels would take seconds
# A progressive JPEG passes over all its pixels once per scan. Ten scans are usual; a damaged or hostile file can have
# thousands, so that pixels times scans are limited, too.
_MAX_SCANNED_PIXELS = 32 * MAX_PIXELS

_JPEG_START, _PNG_START = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

# The formats that are read, by their first bytes. Each file goes to the reader of its content, and no other reader of
# Pillow is ever asked: some of them start programs (PostScript) or are hardly maintained.
FORMATS: dict[str, tuple[Callable[[bytes], bool], Callable[[io.BytesIO], Image.Image]]] = {
    "JPEG": (lambda data: data.startswith(_JPEG_START), JpegImagePlugin.JpegImageFile),
    "PNG": (lambda data: data.startswith(_PNG_START), PngImagePlugin.PngImageFile),
    "BMP": (lambda data: data.startswith(b"BM"), BmpImagePlugin.BmpImageFile),
    "TIFF": (lambda data: data.startswith(_TIFF_STARTS), TiffImagePlugin.TiffImageFile),
    "WebP": (lambda data: data[:4] == b"RIFF" and data[8:12] == b"WEBP", WebPImagePlugin.WebPImageFile),
}


def decode(data: bytes, name: str = "an image") -> np.ndarray:
    """Decodes an image file.

    EXIF rotation is not applied, as in `PIL.Image.open` (`orientation` returns it). Of a file with several frames or
    pages, the first is decoded.

    Args:
        data: the bytes of a file in one of `FORMATS`.
        name: the image's name in error messages, normally its file name.

    Returns:
        uint8 [H, W, 3], RGB. Gray images are repeated over the channels; transparency is dropped.

    Raises:
        UserError: the bytes are not an image of these formats, are truncated, hold more than 8 bits per channel, or
            more than `MAX_PIXELS` pixels.
    """
    if data.startswith(_JPEG_START):
        try:
            height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
            _check_size(width, height, data, name)
            # CMYK goes through Pillow, whose conversion to RGB is the reference.
            if colors in ("YCbCr", "RGB", "Gray", "GRAY"):
                decoded: np.ndarray = simplejpeg.decode_jpeg(data, "RGB")
                return decoded
        except ValueError:
            pass  # Pillow tolerates more (stray bytes between markers); `_with_pillow` reports the rest.
    return _with_pillow(data, name, _to_rgb)


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

    def to_labels(picture: Image.Image) -> np.ndarray:
        if picture.mode not in ("L", "P"):
            raise errors.UserError(
                f"{name} should be a label map with one 8-bit channel, its mode is {picture.mode!r}."
            )
        return np.array(picture)

    return _with_pillow(data, name, to_labels)


def orientation(data: bytes) -> int:
    """Returns the orientation that the EXIF data of a file request, 1 (upright) where there is none; see `decode`."""
    if b"Exif" not in data[: 2**16]:
        return 1
    for matches, reader in FORMATS.values():
        if matches(data):
            try:
                return int(reader(io.BytesIO(data)).getexif().get(0x0112, 1))
            except Exception:  # damaged EXIF data request nothing
                return 1
    return 1


def _with_pillow(data: bytes, name: str, convert: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    """Opens a file with the reader of its content and converts the picture.

    Raises:
        UserError: any exception of the reader; Pillow's raise many types, struct.error and SyntaxError among them.
    """
    if not data:
        raise errors.UserError(f"{name} is empty (0 bytes); replace the file or leave it out.")
    reader = next((reader for matches, reader in FORMATS.values() if matches(data)), None)
    if reader is None:
        raise errors.UserError(
            f"{name} is not an image that can be read ({', '.join(FORMATS)}); replace the file or leave it out."
        )
    try:
        picture = reader(io.BytesIO(data))
        _check_size(*picture.size, data, name)
        _check_depth(picture, data, name)
        picture.load()
        return convert(picture)
    except errors.UserError:
        raise
    except MemoryError:
        raise errors.UserError(f"{name} needs more memory than there is; scale it down or leave it out.") from None
    except Exception:
        raise errors.UserError(f"{name} is cut off or damaged; replace the file or leave it out.") from None


def _check_size(width: int, height: int, data: bytes, name: str) -> None:
    pixels = width * height
    if pixels > MAX_PIXELS or max(width, height) > _MAX_SIDE:
        raise errors.UserError(
            f"{name} is too large: {width} x {height} are {pixels / 1e6:.1f} million pixels, at most "
            f"{MAX_PIXELS / 1e6:.1f} million and {_MAX_SIDE} per side are decoded; scale it down or leave it out."
        )
    # A marker inside compressed data is escaped, so that this counts scans, and perhaps one of a thumbnail.
    if data.startswith(_JPEG_START) and pixels * data.count(b"\xff\xda") > _MAX_SCANNED_PIXELS:
        raise errors.UserError(
            f"{name} is too large: {pixels / 1e6:.1f} million pixels in {data.count(bytes((255, 218)))} scans take "
            "too long to decode; save it as a baseline JPEG or leave it out."
        )


def _check_depth(picture: Image.Image, data: bytes, name: str) -> None:
    """Refuses 16 and 32 bits per channel, which Pillow clips or cuts, and tiles larger than an image may be."""
    deep = picture.mode[0] in "IF" or (data.startswith(_PNG_START) and data[24:25] == b"\x10")
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        deep = deep or max(np.ravel(picture.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, 8))) > 8
        _check_size(picture.tag_v2.get(_TILE_WIDTH, 1), picture.tag_v2.get(_TILE_HEIGHT, 1), data, name)
    if deep:
        raise errors.UserError(f"{name} has more than 8 bits per channel; save it as an 8-bit image.")


_TILE_WIDTH, _TILE_HEIGHT = 322, 323  # tags of TIFF


def _to_rgb(picture: Image.Image) -> np.ndarray:
    if picture.mode in ("P", "PA") and "transparency" in picture.info:
        picture = picture.convert("RGBA")  # the same colors, without a warning
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
