"""Weather: snow, fog, brightness, spatter and rain; `noise` explains the signatures, and `frost` is a module."""

from __future__ import annotations

import cv2
import numpy as np

from reid_jax.data.corruptions import filters
from reid_jax.data.corruptions.filters import Draws, gray_level, to_bytes, to_unit

# mean, std, enlargement, threshold, radius and sigma of the motion blur, weight of the image
SNOW = (
    (0.1, 0.3, 3.0, 0.5, 10, 4, 0.8),
    (0.2, 0.3, 2.0, 0.5, 12, 4, 0.7),
    (0.55, 0.3, 4.0, 0.9, 12, 8, 0.7),
    (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
    (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
)
FOG = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))  # amount of fog, decay of the noise per level
BRIGHTNESS = (0.1, 0.2, 0.3, 0.4, 0.5)
# mean, std, sigma, threshold, strength (water) or sigma of the splashes (mud), whether it is mud
SPATTER = (
    (0.65, 0.3, 4.0, 0.69, 0.6, False),
    (0.65, 0.3, 3.0, 0.68, 0.6, False),
    (0.65, 0.3, 2.0, 0.68, 0.5, False),
    (0.65, 0.3, 1.0, 0.65, 1.5, True),
    (0.67, 0.4, 1.0, 0.65, 1.5, True),
)
WATER = np.array([175, 238, 238], np.float32) / 255
MUD = np.array([63, 42, 20], np.float32) / 255
# pixels per drop, length of a drop, blur, darkening
RAIN = ((770, 10, 3, 0.1), (600, 30, 4, 0.15), (600, 30, 5, 0.2), (500, 60, 6, 0.25), (500, 60, 7, 0.3))
RAIN_GRAY = 200
RAIN_LOW, RAIN_ENLARGED = 60, 65  # images of up to 60 rows, the length of the longest drop, are enlarged to 65


def sample_snow(severity: int, shape: tuple[int, int], rng: np.random.Generator) -> Draws:
    """Draws the flakes from N(mean, std), `[H, W]`, and their direction from U(-135, -45) degrees."""
    mean, std, *_ = SNOW[severity - 1]
    return rng.normal(mean, std, shape), rng.uniform(-135, -45)


def snow(severity: int, image: np.ndarray, draws: Draws) -> np.ndarray:
    """Returns the image whitened, with motion-blurred flakes added as drawn and rotated by 180 degrees."""
    _, _, factor, threshold, radius, sigma, share = SNOW[severity - 1]
    height, width = image.shape[:2]
    layer = filters.zoom(draws[0].astype(np.float32)[..., None], factor, crop=False)[..., 0]
    layer = np.where(layer < threshold, 0, np.minimum(layer, 1)).astype(np.float32)
    layer = np.rint(filters.motion_blur(layer, radius, sigma, float(draws[1])) * 255) / 255
    layer = layer[:height, :width, None]
    values = to_unit(image)
    white = cv2.cvtColor(values, cv2.COLOR_RGB2GRAY)[..., None] * 1.5 + 0.5
    values = share * values + (1 - share) * np.maximum(values, white)
    return to_bytes(values + layer + layer[::-1, ::-1])


def sample_fog(severity: int, shape: tuple[int, int], rng: np.random.Generator) -> Draws:
    """Draws the noise of `plasma`: three float32 `[n, n]` from U(-w, w) for n = 1, 2, 4, ..., with w decaying."""
    decay = FOG[severity - 1][1]
    size = _plasma_size(shape)
    draws, count, wide = [], 1, 100.0
    while count < size:
        draws += [rng.uniform(-wide, wide, (count, count)).astype(np.float32) for _ in range(3)]
        count, wide = 2 * count, wide / decay
    return tuple(draws)


def _plasma_size(shape: tuple[int, int]) -> int:
    return 1 << (max(*shape, 2) - 1).bit_length()


def fog(severity: int, image: np.ndarray, draws: Draws) -> np.ndarray:
    """Returns the image with a cloud added, scaled back to the brightest value of the image."""
    amount, decay = FOG[severity - 1]
    height, width = image.shape[:2]
    cloud = plasma(_plasma_size((height, width)), decay, draws)[:height, :width, None]
    values = to_unit(image)
    brightest = values.max()
    return to_bytes((values + np.float32(amount) * cloud) * (brightest / (brightest + np.float32(amount))))


def plasma(size: int, decay: float, draws: Draws) -> np.ndarray:
    """Returns diamond-square noise on a torus, scaled to [0, 1]: float32 `[size, size]`, `size` a power of two.

    Each level doubles the grid: centers of squares are the mean of their corners, and centers of edges the mean of
    their four neighbors, plus noise whose range shrinks by the factor `decay` per level.
    """
    grid = np.zeros((1, 1))
    wide, used = 100.0, 0
    while len(grid) < size:
        corners = grid
        right, down = np.roll(corners, -1, 1), np.roll(corners, -1, 0)
        noise = [wide * square.astype(np.float64) for square in draws[used : used + 3]]
        centers = (corners + right + down + np.roll(right, -1, 0)) / 4 + noise[0]
        horizontal = (corners + right + centers + np.roll(centers, 1, 0)) / 4 + noise[1]
        vertical = (corners + down + centers + np.roll(centers, 1, 1)) / 4 + noise[2]
        grid = np.empty((2 * len(corners), 2 * len(corners)))
        grid[::2, ::2], grid[1::2, 1::2], grid[::2, 1::2], grid[1::2, ::2] = corners, centers, horizontal, vertical
        wide, used = wide / decay, used + 3
    grid -= grid.min()
    scaled: np.ndarray = (grid / max(grid.max(), 1e-30)).astype(np.float32)
    return scaled


def brightness(severity: int, image: np.ndarray, draws: Draws) -> np.ndarray:
    """Returns the image with an increased value in HSV; channels grow by one factor, which keeps hue and saturation."""
    values = image.astype(np.float64) / 255
    largest = values.max(axis=2, keepdims=True)
    wanted = np.minimum(largest + BRIGHTNESS[severity - 1], 1)
    ratio = np.divide(wanted, largest, out=np.zeros_like(wanted), where=largest > 0)
    return to_bytes(np.where(largest > 0, values * ratio, wanted))


def sample_spatter(severity: int, shape: tuple[int, int], rng: np.random.Generator) -> Draws:
    """Draws the liquid from N(mean, std), `[H, W]`."""
    mean, std, *_ = SPATTER[severity - 1]
    return (rng.normal(mean, std, shape),)


def spatter(severity: int, image: np.ndarray, draws: Draws) -> np.ndarray:
    """Returns the image with drops of water (severities 1 to 3) or splashes of mud (4 and 5)."""
    _, _, sigma, threshold, strength, is_mud = SPATTER[severity - 1]
    liquid = filters.gaussian_filter(draws[0].astype(np.float64), sigma)
    values = to_unit(image)
    if is_mud:
        mask = filters.gaussian_filter((liquid > threshold).astype(np.float32), strength)
        mask[mask < 0.8] = 0
        return to_bytes(values * (1 - mask[..., None]) + mask[..., None] * MUD)
    liquid[liquid < threshold] = 0
    mask = water_drops(gray_level(liquid * 255))
    return to_bytes(values + (np.float32(strength) * mask)[..., None] * WATER)


def water_drops(liquid: np.ndarray) -> np.ndarray:
    """Returns rims and highlights of drops, float32 `[H, W]` with maximum 1 or all 0, from liquid, uint8 `[H, W]`.

    The distance from the edges of drops is equalized and embossed with light from the upper left.
    """
    edges = cv2.Canny(liquid, 50, 150)
    distance = np.minimum(cv2.distanceTransform(255 - edges, cv2.DIST_L2, 5), 20)
    relief = cv2.equalizeHist(cv2.blur(distance, (3, 3)).astype(np.uint8))
    relief = cv2.filter2D(relief, cv2.CV_8U, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]))
    mask = liquid.astype(np.float32) * cv2.blur(relief, (3, 3)).astype(np.float32)
    return mask / max(float(mask.max()), 1e-30)


def sample_rain(severity: int, shape: tuple[int, int], rng: np.random.Generator) -> Draws:
    """Draws the slant, trunc(U(-10, 10)), and the upper ends (x, y) of the drops, int64 `[n, 2]`."""
    area, length, *_ = RAIN[severity - 1]
    height, width = rain_size(shape)
    slant = int(rng.uniform(-10, 10))
    low, high = (slant, width) if slant < 0 else (0, max(width - slant, 0))
    count = height * width // area
    x = rng.integers(low, high + 1, count)
    y = rng.integers(0, height - length + 1, count)
    return slant, np.stack([x, y], axis=1)


def rain_size(shape: tuple[int, int]) -> tuple[int, int]:
    """Returns the size of an image with rain: images of few rows are enlarged to 65 rows, in proportion."""
    height, width = shape
    if height > RAIN_LOW:
        return height, width
    return RAIN_ENLARGED, max(1, width * RAIN_ENLARGED // height)


def rain(severity: int, image: np.ndarray, draws: Draws) -> np.ndarray:
    """Returns the image with gray lines for drops, a box blur, and less brightness."""
    _, length, blur, darken = RAIN[severity - 1]
    slant, drops = draws
    height, width = rain_size(image.shape[:2])
    if (height, width) == image.shape[:2]:
        wet = image.copy()
    else:
        wet = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    slant = int(slant)
    for x, y in drops.tolist():
        cv2.line(wet, (x, y), (x + slant, y + length), (RAIN_GRAY,) * 3, 1)
    blurred = cv2.blur(wet, (blur, blur)).astype(np.float32)
    return gray_level(blurred - np.float32(255 * darken))
