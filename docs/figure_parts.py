"""Parts of the architecture figures: boxes on a grid, arrows between them, and their SVG."""

from __future__ import annotations

import dataclasses
import html

COLUMN, ROW = 186, 74  # pixels from one grid line to the next
MARGIN = 18
GAP = 34  # between boxes of neighboring columns
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"

# What a box is: its fill, its border and its entry in the legend.
KINDS = {
    "input": ("#eef1f5", "#7b8794", "input"),
    "backbone": ("#dce9fb", "#3b73c4", "pretrained"),
    "module": ("#d8f1ec", "#14867a", "new layers"),
    "train": ("#f3e6f8", "#9a57b3", "training only"),
    "loss": ("#fdecc8", "#c08417", "loss"),
    "output": ("#e3f4db", "#4a9632", "used at test time"),
    "note": ("#ffffff", "#b8c0c9", ""),
}


@dataclasses.dataclass(frozen=True)
class Box:
    """A rectangle in pixels with lines of text, the first one bold."""

    x: float
    y: float
    w: float
    h: float
    lines: tuple[str, ...]
    kind: str

    def side(self, name: str, at: float = 0.5) -> tuple[float, float]:
        """The point on a side ("l", "r", "t", "b"), `at` of the way along it."""
        return {
            "l": (self.x, self.y + self.h * at),
            "r": (self.x + self.w, self.y + self.h * at),
            "t": (self.x + self.w * at, self.y),
            "b": (self.x + self.w * at, self.y + self.h),
        }[name]


class Figure:
    """Boxes and arrows on a grid."""

    def __init__(self, title: str, *, legend: bool = True) -> None:
        self.title = title
        self.legend = legend
        self.boxes: dict[str, Box] = {}
        self.paths: list[str] = []
        self.labels: list[str] = []

    def box(self, name: str, column: float, row: float, text: str, kind: str, w: float = 1, h: float = 1) -> None:
        """Adds a box `w` columns wide and `h` rows high; "|" separates the lines of its text."""
        lines = tuple(text.split("|"))
        box = Box(MARGIN + column * COLUMN, MARGIN + row * ROW, w * COLUMN - GAP, h * ROW - 20, lines, kind)
        needed = max(len(line) * (7.6 if index == 0 else 6.4) for index, line in enumerate(lines))
        if needed > box.w:
            raise ValueError(f"expected text that fits, got {text!r}, {needed:.0f} px in {box.w:.0f}; widen {name}.")
        self.boxes[name] = box

    def arrow(
        self,
        start: str,
        end: str,
        sides: str = "rl",
        *,
        label: str = "",
        bend: float = 0.5,
        at: tuple[float, float] = (0.5, 0.5),
        dashed: bool = False,
    ) -> None:
        """Draws an arrow from one box to another.

        Args:
            start: name of the first box.
            end: name of the second.
            sides: side it leaves and side it enters, such as "rl" or "bt".
            label: text beside its last part.
            bend: where an arrow with two corners turns, as a part of the way.
            at: where on the two sides it begins and ends.
            dashed: for what carries no gradient.
        """
        x1, y1 = self.boxes[start].side(sides[0], at[0])
        x2, y2 = self.boxes[end].side(sides[1], at[1])
        horizontal = [side in "lr" for side in sides]
        if all(horizontal):
            turn = x1 + (x2 - x1) * bend
            points = [(x1, y1), (turn, y1), (turn, y2), (x2, y2)]
        elif not any(horizontal):
            turn = y1 + (y2 - y1) * bend
            points = [(x1, y1), (x1, turn), (x2, turn), (x2, y2)]
        else:
            points = [(x1, y1), (x2, y1) if horizontal[0] else (x1, y2), (x2, y2)]
        style = ' stroke-dasharray="5 4"' if dashed else ""
        self.paths.append(f'<path d="{_rounded(points)}" class="arrow"{style} marker-end="url(#tip)"/>')
        if label:
            (xa, ya), (xb, yb) = points[-2:]
            if abs(xa - xb) < 1 and abs(ya - yb) > 1:
                place, anchor = (xa + 6, (ya + yb) / 2 + 4), "start"
            elif abs(xa - xb) < 1:
                place, anchor = (xa, ya - 6), "middle"
            else:
                place, anchor = ((xa + xb) / 2 - 3, ya - 6), "middle"
            self.labels.append(
                f'<text x="{place[0]:.0f}" y="{place[1]:.0f}" class="label" text-anchor="{anchor}">'
                f"{html.escape(label)}</text>"
            )

    def text(self, column: float, row: float, text: str, anchor: str = "start") -> None:
        """Writes small text at a place of the grid."""
        x, y = MARGIN + column * COLUMN, MARGIN + row * ROW
        self.labels.append(
            f'<text x="{x:.0f}" y="{y:.0f}" class="label" text-anchor="{anchor}">{html.escape(text)}</text>'
        )

    def svg(self) -> str:
        """The whole file."""
        width = max(box.x + box.w for box in self.boxes.values()) + MARGIN
        bottom = max(box.y + box.h for box in self.boxes.values())
        used = {box.kind for box in self.boxes.values()} if self.legend else set()
        kinds = [kind for kind in KINDS if KINDS[kind][2] and kind in used]
        height = bottom + MARGIN + (24 if kinds else 0)
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
            f'width="{width:.0f}" height="{height:.0f}" role="img" aria-label="{html.escape(self.title)}">',
            f"<title>{html.escape(self.title)}</title>",
            '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
            'orient="auto"><path d="M0 0 L10 5 L0 10 z" fill="#51606f"/></marker></defs>',
            f"<style>text {{ font-family: {FONT}; fill: #1d2733; }} .bold {{ font-size: 13px; font-weight: 600; }} "
            ".small { font-size: 11px; fill: #45525f; } .label { font-size: 11px; fill: #45525f; stroke: #fff; "
            "stroke-width: 3px; paint-order: stroke; } .arrow { fill: none; stroke: #51606f; stroke-width: 1.5; }"
            "</style>",
            f'<rect x="0.5" y="0.5" width="{width - 1:.0f}" height="{height - 1:.0f}" rx="10" fill="#fff" '
            'stroke="#dfe4ea"/>',
            *self.paths,
            *(_draw(box) for box in self.boxes.values()),
            *self.labels,
        ]
        x = float(MARGIN)
        for kind in kinds:
            fill, border, name = KINDS[kind]
            y = height - 22
            dash = ' stroke-dasharray="4 3"' if kind == "train" else ""
            parts.append(
                f'<rect x="{x:.0f}" y="{y:.0f}" width="14" height="12" rx="3" fill="{fill}" stroke="{border}"{dash}/>'
                f'<text x="{x + 20:.0f}" y="{y + 10:.0f}" class="small">{name}</text>'
            )
            x += 42 + 6.2 * len(name)
        return "\n".join([*parts, "</svg>"]) + "\n"


def _rounded(points: list[tuple[float, float]], radius: float = 7) -> str:
    """Path data of a polyline with rounded corners."""
    points = [point for index, point in enumerate(points) if not index or point != points[index - 1]]
    data = [f"M{points[0][0]:.1f} {points[0][1]:.1f}"]
    for before, corner, after in zip(points, points[1:], points[2:]):
        ends = []
        for other in (before, after):
            length = max(abs(other[0] - corner[0]) + abs(other[1] - corner[1]), 1e-6)
            step = min(radius, length / 2) / length
            ends.append((corner[0] + (other[0] - corner[0]) * step, corner[1] + (other[1] - corner[1]) * step))
        (xa, ya), (xb, yb) = ends
        data.append(f"L{xa:.1f} {ya:.1f} Q{corner[0]:.1f} {corner[1]:.1f} {xb:.1f} {yb:.1f}")
    data.append(f"L{points[-1][0]:.1f} {points[-1][1]:.1f}")
    return " ".join(data)


def _draw(box: Box) -> str:
    fill, border, _ = KINDS[box.kind]
    dash = ' stroke-dasharray="5 4"' if box.kind == "train" else ""
    lines = [
        f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.w:.1f}" height="{box.h:.1f}" rx="8" fill="{fill}" '
        f'stroke="{border}" stroke-width="1.4"{dash}/>'
    ]
    middle = box.x + box.w / 2
    top = box.y + box.h / 2 - (len(box.lines) - 1) * 7.5 + 4.5
    for index, line in enumerate(box.lines):
        style = "bold" if index == 0 else "small"
        lines.append(
            f'<text x="{middle:.1f}" y="{top + 15 * index:.1f}" class="{style}" text-anchor="middle">'
            f"{html.escape(line)}</text>"
        )
    return "".join(lines)


# ---- the figures ----------------------------------------------------------------------------------------------------
