"""Maps as pictures: colors, overlays, scales, text."""

from __future__ import annotations

import io

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from reid_jax import errors, explain

PAPER, INK, FAINT = (255, 255, 255), (30, 30, 30), (110, 110, 110)
LINE = 15  # pixels from one line of text to the next
_FONT_SIZE = 12
_STRENGTH = 0.6  # of a map on an image
_TABLES = {"viridis": cv2.COLORMAP_VIRIDIS, "magma": cv2.COLORMAP_MAGMA, "jet": cv2.COLORMAP_JET}


def colorize(values: np.ndarray, low: float, high: float, colors: str = "viridis") -> np.ndarray:
    """Returns colors of values, uint8 [..., 3] RGB.

    Args:
        values: [h, w]; values outside of the scale take the color of its ends.
        low: value of the first color.
        high: value of the last color.
        colors: "viridis" or "magma", whose steps look even; "jet", as in other tools.

    Raises:
        UserError: an unknown table of colors.
    """
    if colors not in _TABLES:
        raise errors.unknown("table of colors", colors, explain.COLORS)
    span = high - low
    share = (np.asarray(values, np.float64) - low) / span if span > 0 else np.zeros(np.shape(values))
    levels = np.clip(np.rint(255 * share), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(cv2.applyColorMap(levels, _TABLES[colors])[..., ::-1])


def overlay(image: np.ndarray, values: np.ndarray, low: float, high: float, colors: str = "viridis") -> np.ndarray:
    """Returns a map on a gray version of its image, uint8 [H, W, 3].

    Args:
        image: uint8 [H, W, 3].
        values: [h, w] on the model's grid, interpolated bilinearly.
        low: see `colorize`.
        high: see `colorize`.
        colors: see `colorize`.
    """
    height, width = image.shape[:2]
    smooth = cv2.resize(np.asarray(values, np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    gray = image.astype(np.float32).mean(axis=-1, keepdims=True)
    mixed = (1 - _STRENGTH) * gray + _STRENGTH * colorize(smooth, low, high, colors)
    mixed_levels: np.ndarray = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
    return mixed_levels


def enlarge(image: np.ndarray, height: int) -> np.ndarray:
    """Returns an image of another height with the same shape, uint8 [height, W, 3]."""
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def number(value: float) -> str:
    """Returns a value for a scale, short.

    >>> number(0.123456), number(-2.0), number(0.0000123), number(0.0)
    ('0.12', '-2', '1e-05', '0')
    """
    return f"{value:.2g}" if value == 0 or abs(value) >= 1e-3 else f"{value:.0e}"


def scale(height: int, low: float, high: float, colors: str = "viridis") -> np.ndarray:
    """Returns a bar of the colors with the values at its ends, and at zero where that lies between, [height, 64, 3]."""
    page = Image.new("RGB", (64, height), PAPER)
    ramp = np.linspace(high, low, height)[:, None]
    page.paste(Image.fromarray(np.repeat(colorize(ramp, low, high, colors), 12, axis=1)), (2, 0))
    draw = ImageDraw.Draw(page)
    marks = {0: high, height - 1: low}
    if low < 0 < high:
        zero = round((height - 1) * high / (high - low))
        if 2 * LINE < zero < height - 2 * LINE:
            marks[zero] = 0.0
    for place, value in marks.items():
        draw.line([(14, place), (17, place)], INK)
        write(draw, (20, min(max(place - LINE // 2, 0), height - LINE)), number(value), 44, INK)
    return np.asarray(page)


def write(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    text: str,
    width: int,
    color: tuple[int, int, int] = INK,
    *,
    large: bool = False,
) -> None:
    """Writes a line of text, shortened to a width in pixels."""
    font = font_of(_FONT_SIZE + 3 if large else _FONT_SIZE)
    draw.text(place, fitted(text, width, font), fill=color, font=font)


def font_of(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Returns Pillow's own font."""
    return ImageFont.load_default(size)


def fitted(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Returns a text of printable letters on one line, with an ellipsis where it is wider than `width` pixels."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text[:300])
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."


def png(picture: np.ndarray) -> bytes:
    """Returns a picture uint8 [H, W, 3] as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
