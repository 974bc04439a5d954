"""Draws the README's picture from the page of ranked lists of a run on SynthPed.

    python docs/picture.py runs/mfv-demo/ranked_lists.html        # writes docs/images/ranked_lists.png

A row is a query and the first ten gallery images, framed green where they show the same person. Only runs on drawn
people belong here: the picture is published with the repository.
"""

from __future__ import annotations

import base64
import io
import json
import pathlib
import re
import sys
from collections.abc import Sequence

from PIL import Image, ImageDraw

OUTPUT = pathlib.Path(__file__).resolve().parent / "images" / "ranked_lists.png"
# Average precisions whose nearest queries are shown, from easy to hard.
WANTED = (1.0, 0.75, 0.45, 0.2)
TOP = 10
SIZE = (72, 144)
GAP, FRAME, MARGIN = 8, 4, 14
COLORS = {"query": (37, 99, 168), "right": (31, 146, 84), "wrong": (207, 59, 54)}

DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)

Pictures = list[tuple[str, Image.Image]]


def cards(page: str) -> list[tuple[float, str, Pictures]]:
    """Average precision, identity and pictures (query first) of every scored query on the page."""
    data = json.loads(DATA.findall(page)[0])

    def picture(number: int) -> Image.Image:
        return Image.open(io.BytesIO(base64.b64decode(data["pictures"][number]))).convert("RGB")

    found = []
    for query in data["queries"]:
        shown = [data["gallery"][place]["picture"] for place in query["gallery"]]
        kinds = [("wrong", "right")[int(right)] for right in query["right"]]
        if query["ap"] is not None and min(query["picture"], *shown) >= 0:
            answers = [(kind, picture(number)) for kind, number in zip(kinds, shown, strict=True)]
            found.append((query["ap"], query["identity"], [("query", picture(query["picture"])), *answers]))
    return found


def chosen(found: Sequence[tuple[float, str, Pictures]]) -> list[Pictures]:
    """For each wanted precision the nearest query, every identity at most once."""
    rows, used = [], set()
    for wanted in WANTED:
        left = [card for card in found if card[1] not in used]
        _, identity, pictures = min(left, key=lambda card: abs(card[0] - wanted))
        used.add(identity)
        rows.append(pictures[: TOP + 1])
    return rows


def draw(rows: Sequence[Pictures]) -> Image.Image:
    """The rows under each other; a gap sets the queries apart."""
    step_x, step_y = SIZE[0] + GAP, SIZE[1] + GAP
    width = 2 * MARGIN + (TOP + 1) * step_x + 2 * GAP
    canvas = Image.new("RGB", (width, 2 * MARGIN + len(rows) * step_y - GAP), (255, 255, 255))
    pen = ImageDraw.Draw(canvas)
    for row, pictures in enumerate(rows):
        for column, (kind, picture) in enumerate(pictures):
            x, y = MARGIN + column * step_x + (3 * GAP if column else 0), MARGIN + row * step_y
            pen.rounded_rectangle((x, y, x + SIZE[0] - 1, y + SIZE[1] - 1), 5, fill=COLORS[kind])
            inner = (SIZE[0] - 2 * FRAME, SIZE[1] - 2 * FRAME)
            canvas.paste(picture.resize(inner, Image.Resampling.LANCZOS), (x + FRAME, y + FRAME))
    return canvas


def main(arguments: Sequence[str]) -> None:
    """Draws the picture from the page that is named."""
    page = pathlib.Path(arguments[0]).read_text()
    draw(chosen(cards(page))).quantize(256, dither=Image.Dither.NONE).save(OUTPUT, optimize=True)
    print(f"written: {OUTPUT} ({OUTPUT.stat().st_size / 1e3:.0f} kB)")


if __name__ == "__main__":
    main(sys.argv[1:])
