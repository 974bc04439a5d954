"""Sheets: a query, its matches, and rows of maps below them, with words and scales.

model = explainer.Explainer(extractor, variables)
data = sheets.pair_png(model, query, gallery_image)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

from reid_jax import errors, explain
from reid_jax.explain import drawing, occlusion, pictures, similarity_maps
from reid_jax.explain import explainer as explainer_lib
from reid_jax.explain.explainer import Embedded, Explainer

HEIGHT = 192  # of a picture on a sheet, in pixels
MOST_SIDE = 20_000  # pixels of a sheet
_GAP, _LEFT = 8, 150
PART_NAMES = ("head", "left arm", "right arm", "torso", "left leg", "right leg", "left foot", "right foot")


@dataclasses.dataclass(frozen=True)
class Column:
    """An image of a sheet and what stands below it.

    Attributes:
        image: uint8 [H, W, 3].
        lines: lines of text; the first one is dark.
        camera: of the image, see `Explainer.embed`.
    """

    image: np.ndarray
    lines: tuple[str, ...] = ()
    camera: int = -1


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of maps or pictures with one scale.

    Attributes:
        lines: lines of text at the left.
        cells: for each column a map [h, w] with the number of the column whose image it lies on, a picture uint8
            [H, W, 3], or None.
        captions: text below each cell, "" for none.
        signed: whether the scale holds zero in any case.
        group: rows of the same group share a scale; "" for a scale of its own.
    """

    lines: tuple[str, ...]
    cells: tuple[tuple[np.ndarray, int] | np.ndarray | None, ...]
    captions: tuple[str, ...] = ()
    signed: bool = False
    group: str = ""


def pair_png(
    model: Explainer,
    query: np.ndarray,
    gallery: np.ndarray,
    *,
    which: Sequence[str] = ("similarity",),
    colors: str = "viridis",
) -> bytes:
    """Returns a sheet of two images as the bytes of a PNG file.

    Args:
        model: the model.
        query: uint8 RGB image [H, W, 3] of any size.
        gallery: the other image.
        which: pictures, names of `explain.PICTURES`.
        colors: see `drawing.colorize`.
    """
    return drawing.png(sheet(model, Column(query, ("query",)), [Column(gallery, ("match",))], which, colors=colors))


def sheet(
    model: Explainer,
    query: Column,
    matches: Sequence[Column],
    which: Sequence[str] = ("similarity",),
    *,
    layer: str = "",
    colors: str = "viridis",
    title: str = "",
    background: Embedded | None = None,
) -> np.ndarray:
    """Draws the sheet of a query and its matches, uint8 [H, W, 3].

    Args:
        model: the model.
        query: the query.
        matches: gallery images, nearest first; may be none where no picture of a pair is asked for.
        which: names of `explain.PICTURES`, one or several rows each.
        layer: a map inside of the model, for "activation" and "similarity"; "" takes the model's own.
        colors: see `drawing.colorize`.
        title: headline.
        background: features of the whole gallery, for "contrast".

    Raises:
        UserError: a picture or a layer that the model does not have, a contrast without a gallery, one image alone for
            a picture of a pair.
    """
    check(model, which, pairs=bool(matches), layer=layer)
    if "contrast" in which and background is None:
        raise errors.UserError("a contrast compares a pair with a gallery, none was given; take 'similarity'.")
    columns = [query, *matches]
    images = model.resized([column.image for column in columns])
    embedded = model.embed(images, [column.camera for column in columns])
    found = explainer_lib.similarities(embedded.take([0] * len(matches)), embedded.take(slice(1, None)))
    shown = [query] + [
        dataclasses.replace(match, lines=(f"similarity {value:.4f}", *match.lines))
        for match, value in zip(matches, found, strict=True)
    ]
    rows = [row for name in which for row in _rows(model, name, images, columns, layer, background)]
    return compose(shown, images, rows, colors=colors, title=title)


def check(model: Explainer, which: Sequence[str], *, pairs: bool, layer: str = "") -> None:
    """Raises a `UserError` for pictures or a layer that a model does not have, and for pairs of one image."""
    known = (*pictures.available(model), *explain.PAIRS)
    for name in which:
        if name not in known:
            raise errors.unknown(f"picture of {type(model.model).__name__}", name, known)
        if name in explain.PAIRS and not pairs:
            raise errors.UserError(
                f"the picture {name!r} compares a query with other images, got the query alone; give a gallery image."
            )
    if layer:
        model.layer(layer)


def strip(images: Sequence[np.ndarray], pair: similarity_maps.Pair, *, height: int = 208) -> np.ndarray:
    """Draws a pair in one line: both images, each with its map and a scale, and the terms of the sum below.

    Args:
        images: the query and the gallery image, uint8 [H, W, 3], both of the model's size.
        pair: their maps.
        height: of an image in pixels.

    Returns:
        uint8 [height + 24, W, 3].
    """
    cells = []
    for image, found in zip(images, (pair.query, pair.gallery), strict=True):
        large = drawing.enlarge(image, height)
        low, high = min(0.0, float(found.regions.min())), max(0.0, float(found.regions.max()))
        gap = np.full((height, _GAP, 3), drawing.PAPER, np.uint8)
        cells += [large, gap, drawing.overlay(large, found.regions, low, high), drawing.scale(height, low, high), gap]
    page = Image.fromarray(np.pad(np.concatenate(cells, axis=1), ((0, 24), (0, 0), (0, 0)), constant_values=255))
    draw, half = ImageDraw.Draw(page), page.width // 2
    for left, found in zip((0, half), (pair.query, pair.gallery), strict=True):
        text = f"similarity {found.similarity:.4f} = {found.note()}{'' if found.exact else ' (approximation)'}"
        drawing.write(draw, (left, height + 4), text, half - _GAP)
    return np.asarray(page)


# ---- rows of a picture ----------------------------------------------------------------------------------------------


def _activation_rows(model: Explainer, images: np.ndarray, layer: str) -> list[Row]:
    name = layer or model.last()
    return [Row(("activation", f"layer {name}"), _on_own(pictures.activation(model, images, name)))]


def _attention_rows(model: Explainer, images: np.ndarray) -> list[Row]:
    maps = pictures.attention(model, images).mean(axis=1)
    return [Row(("attention", "class token, last", "block, mean of heads"), _on_own(maps))]


def _head_rows(model: Explainer, images: np.ndarray) -> list[Row]:
    maps = pictures.attention(model, images).swapaxes(0, 1)
    return [Row((f"attention, head {head + 1}",), _on_own(one), group="heads") for head, one in enumerate(maps)]


def _rollout_rows(model: Explainer, images: np.ndarray) -> list[Row]:
    return [Row(("rollout", "attention through", "all blocks"), _on_own(pictures.rollout(model, images)))]


def _part_rows(model: Explainer, images: np.ndarray) -> list[Row]:
    masks = pictures.parts(model, images).swapaxes(0, 1)
    labels = ("background", *_part_names(len(masks) - 1))
    return [Row((f"mask: {label}",), _on_own(mask), group="parts") for label, mask in zip(labels, masks, strict=True)]


def _reconstruction_rows(model: Explainer, images: np.ndarray) -> list[Row]:
    stages = pictures.reconstruction(model, images)[:2]
    drawn = [tuple(np.rint(255 * picture).astype(np.uint8) for picture in stage) for stage in stages]
    return [Row((label,), cells) for label, cells in zip(("hidden", "completed"), drawn, strict=True)]


def _on_own(maps: np.ndarray) -> tuple[tuple[np.ndarray, int], ...]:
    return tuple((values, place) for place, values in enumerate(maps))


def _part_names(count: int) -> tuple[str, ...]:
    return PART_NAMES if count == len(PART_NAMES) else tuple(f"part {number + 1}" for number in range(count))


def _slot_rows(model: Explainer, images: np.ndarray) -> list[Row]:
    maps = pictures.slots(model, images)
    seen = model.embed(images).visibility[:, -maps.shape[1] :]
    return [
        Row(
            (f"slot: {label}",),
            _on_own(maps[:, slot]),
            tuple("seen" if share > 0.5 else "hidden" for share in seen[:, slot]),
            group="slots",
        )
        for slot, label in enumerate(_part_names(maps.shape[1]))
    ]


def _similarity_rows(model: Explainer, columns: Sequence[Column], layer: str, background: Embedded | None) -> list[Row]:
    cameras = (columns[0].camera, [column.camera for column in columns[1:]])
    query, *gallery = (column.image for column in columns)
    found = similarity_maps.pairs(
        model, query, gallery, layers=(layer,) if layer else (), cameras=cameras, background=background
    )
    kind = "exact" if all(pair.query.exact for pair in found) else "approximation"
    notes = (f"at {layer or ', '.join(model.cut())}", kind, "= regions + the rest")
    title = "similarity by region" if background is None else "contrast to gallery"
    sides = (
        ("of the query", [(pair.query, 0) for pair in found]),
        ("of the match", [(pair.gallery, place) for place, pair in enumerate(found, start=1)]),
    )
    return [
        Row(
            (title, side, *notes),
            (None, *((one.regions, place) for one, place in cells)),
            ("", *(f"= {one.note(3 if background is None else 4)}" for one, _ in cells)),
            signed=True,
        )
        for side, cells in sides
    ]


def _occlusion_rows(model: Explainer, images: np.ndarray, columns: Sequence[Column]) -> list[Row]:
    embedded = model.embed(images, [column.camera for column in columns])
    query = occlusion.falls(model, images[0], embedded.take(slice(1, None)), camera=columns[0].camera)
    matches = [
        occlusion.falls(model, image, embedded.take([0]), camera=column.camera)[0]
        for image, column in zip(images[1:], columns[1:], strict=True)
    ]
    return [
        Row(
            ("fall of similarity", "where the query", "is hidden"),
            (None, *((values, 0) for values in query)),
            signed=True,
        ),
        Row(
            ("fall of similarity", "where the match", "is hidden"),
            (None, *((values, place + 1) for place, values in enumerate(matches))),
            signed=True,
        ),
    ]


def _rows(
    model: Explainer,
    name: str,
    images: np.ndarray,
    columns: Sequence[Column],
    layer: str,
    background: Embedded | None,
) -> list[Row]:
    """Returns the rows of a picture."""
    if name == "activation":
        return _activation_rows(model, images, layer)
    if name in ("similarity", "contrast"):
        return _similarity_rows(model, columns, layer, background if name == "contrast" else None)
    if name == "occlusion":
        return _occlusion_rows(model, images, columns)
    return _OF_IMAGES[name](model, images)


_OF_IMAGES: dict[str, Callable[[Explainer, np.ndarray], list[Row]]] = {
    "attention": _attention_rows,
    "heads": _head_rows,
    "rollout": _rollout_rows,
    "slots": _slot_rows,
    "parts": _part_rows,
    "reconstruction": _reconstruction_rows,
}


# ---- layout ---------------------------------------------------------------------------------------------------------


def compose(
    columns: Sequence[Column], images: np.ndarray, rows: Sequence[Row], *, colors: str = "viridis", title: str = ""
) -> np.ndarray:
    """Returns the page of columns and rows, uint8 [H, W, 3].

    Args:
        columns: the images with their text.
        images: uint8 [N, H, W, 3], the same at the model's size, on which maps are drawn.
        rows: rows below the images.
        colors: see `drawing.colorize`.
        title: headline.

    Raises:
        UserError: a page that would be too large for a picture.
    """
    wide = max(112, *(drawing.enlarge(column.image, HEIGHT).shape[1] for column in columns)) + _GAP
    lines = max(len(column.lines) for column in columns)
    heights = [HEIGHT + _GAP + drawing.LINE * (1 if any(row.captions) else 0) for row in rows]
    head = _GAP + (drawing.LINE + _GAP if title else 0)
    below = HEIGHT + drawing.LINE * lines + 2 * _GAP
    width = _LEFT + wide * len(columns) + 72
    height = head + below + sum(heights) + drawing.LINE + _GAP
    if max(width, height) > MOST_SIDE:
        raise errors.UserError(
            f"expected a sheet of at most {MOST_SIDE:,} pixels a side, it would have {width:,} x {height:,}; ask for "
            "fewer matches or pictures."
        )
    page = Image.new("RGB", (width, height), drawing.PAPER)
    draw = ImageDraw.Draw(page)
    if title:
        drawing.write(draw, (_GAP, _GAP), title, width - 2 * _GAP, large=True)
    for place, column in enumerate(columns):
        left = _LEFT + place * wide
        _paste(page, column.image, left, head)
        for number, text in enumerate(column.lines):
            color = drawing.FAINT if number else drawing.INK
            drawing.write(draw, (left, head + HEIGHT + 2 + number * drawing.LINE), text, wide - _GAP, color)
    top = head + below
    for row, scale, tall in zip(rows, _scales(rows), heights, strict=True):
        _draw_row(page, row, top, wide, images, scale, colors)
        top += tall
    drawing.write(draw, (_GAP, height - drawing.LINE - 2), explain.CAUTION, width - 2 * _GAP, drawing.FAINT)
    return np.asarray(page)


def _scales(rows: Sequence[Row]) -> list[tuple[float, float] | None]:
    """Returns the ends of each row's scale; None for rows of pictures."""
    ends: dict[str, list[float]] = {}
    keys = [row.group or f"row {number}" for number, row in enumerate(rows)]
    for key, row in zip(keys, rows, strict=True):
        for cell in row.cells:
            if isinstance(cell, tuple):
                ends.setdefault(key, [0.0] if row.signed else []).extend((float(cell[0].min()), float(cell[0].max())))
    return [(min(ends[key]), max(ends[key])) if key in ends else None for key in keys]


def _draw_row(
    page: Image.Image,
    row: Row,
    top: int,
    wide: int,
    images: np.ndarray,
    scale: tuple[float, float] | None,
    colors: str,
) -> None:
    draw = ImageDraw.Draw(page)
    for number, text in enumerate(row.lines):
        color = drawing.FAINT if number else drawing.INK
        drawing.write(draw, (_GAP, top + number * drawing.LINE), text, _LEFT - 2 * _GAP, color)
    for place, cell in enumerate(row.cells):
        left = _LEFT + place * wide
        if isinstance(cell, tuple) and scale is not None:
            image = drawing.enlarge(images[cell[1]], HEIGHT)
            _paste(page, drawing.overlay(image, cell[0], *scale, colors), left, top)
        elif isinstance(cell, np.ndarray):
            _paste(page, cell, left, top)
        if row.captions and row.captions[place]:
            drawing.write(draw, (left, top + HEIGHT + 1), row.captions[place], wide - _GAP, drawing.FAINT)
    if scale is not None:
        page.paste(Image.fromarray(drawing.scale(HEIGHT, *scale, colors)), (_LEFT + wide * len(row.cells), top))


def _paste(page: Image.Image, image: np.ndarray, left: int, top: int) -> None:
    page.paste(Image.fromarray(drawing.enlarge(image, HEIGHT)), (left, top))
