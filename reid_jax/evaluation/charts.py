"""Small charts as inline SVG, so that a page needs nothing but a browser. Colors and fonts are in `page_style.css`."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from reid_jax.evaluation.verification import Histogram

_WIDTH, _HEIGHT = 440, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 16, 16, 36
_COLORS = 8  # classes s0 to s7


def _x(share: float) -> float:
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _y(share: float) -> float:
    return _TOP + (1 - share) * (_HEIGHT - _TOP - _BOTTOM)


def _text(x: float, y: float, text: str, anchor: str = "middle", css: str = "label") -> str:
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'


def _frame(content: Iterable[str], title: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(title)}">'
        f"{''.join(content)}</svg>"
    )


def _rule(share: float, label: str = "") -> str:
    y = _y(share)
    line = f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return line + (_text(_LEFT - 6, y + 4, label, "end") if label else "")


def _below(text: str) -> str:
    return _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 4, text)


def _points(pairs: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in pairs)


def cmc_curve(cmc: np.ndarray) -> str:
    """Returns the chart of the share of queries with a correct image within the first k, k on a logarithmic axis.

    Args:
        cmc: [max_rank] fractions.
    """
    scale = math.log(max(len(cmc), 2))
    points = [(_x(math.log(rank) / scale), _y(float(value))) for rank, value in enumerate(cmc, 1)]
    floor = _y(0)
    corners = [(points[0][0], floor), *points, (points[-1][0], floor)]
    parts = [_rule(percent / 100, str(percent)) for percent in (0, 25, 50, 75, 100)]
    parts.append(f'<polygon class="area" points="{_points(corners)}"/>')
    parts.append(f'<polyline class="line" points="{_points(points)}"/>')
    marked = [rank for rank in (1, 2, 5, 10, 20, 50) if rank <= len(cmc)]
    for rank in marked:
        x, y = points[rank - 1]
        anchor = "start" if rank == 1 else "end" if rank == len(cmc) else "middle"
        # Below the curve, which rises: above it a number would lie on the next part.
        lower = y + 17 < floor - 2
        parts.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3.2"/>')
        parts.append(_text(x, y + 17 if lower else y - 8, f"{100 * cmc[rank - 1]:.1f}", anchor, "value"))
        parts.append(_text(x, _HEIGHT - 19, str(rank), anchor))
    parts.append(_below("rank"))
    words = ", ".join(f"{100 * cmc[rank - 1]:.1f} % at {rank}" for rank in marked)
    return _frame(parts, f"CMC, queries with a correct image within the first ranks: {words}")


def ap_histogram(ap: np.ndarray, bins: int = 20) -> str:
    """Returns the histogram of average precision over the queries.

    Args:
        ap: [Q] fractions, NaN for queries that are not scored.
        bins: number of bars.
    """
    scored = ap[~np.isnan(ap)]
    counts, edges = np.histogram(scored, bins=bins, range=(0, 1))
    highest = max(int(counts.max()), 1)
    parts = [
        _rule(share, f"{round(share * highest)}" if share != 0.5 or highest % 2 == 0 else "") for share in (0, 0.5, 1)
    ]
    for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
        x, width, y = _x(low), _x(high) - _x(low) - 2, _y(count / highest)
        title = f"<title>AP {100 * low:.0f} to {100 * high:.0f} %: {count} queries</title>"
        parts.append(
            f'<rect class="bar" x="{x + 1:.1f}" y="{y:.1f}" width="{width:.1f}" height="{_y(0) - y:.1f}">{title}</rect>'
        )
    parts += [_text(_x(percent / 100), _HEIGHT - 19, str(percent)) for percent in (0, 25, 50, 75, 100)]
    parts.append(_below("AP of a query (%)"))
    low = int((scored < 0.5).sum())
    return _frame(parts, f"Number of queries by average precision: {low} of {len(scored)} below 50 %")


def distance_histogram(histogram: Histogram, eer: float, threshold: float) -> str:
    """Returns the chart of the distances of same-person pairs and of other pairs, each as a share of its kind.

    Args:
        histogram: numbers of pairs.
        eer: equal error rate, a fraction.
        threshold: the distance at which it is reached, marked by a line.
    """
    edges = histogram.edges
    ticks = _ticks(float(edges[0]), float(edges[-1]), 5)
    left, right = min(float(edges[0]), ticks[0]), max(float(edges[-1]), ticks[-1])

    def place(value: float) -> float:
        return _x((value - left) / (right - left))

    shares = {
        name: side / max(int(side.sum()), 1)
        for name, side in (("different", histogram.different), ("same", histogram.same))
    }
    up = _ticks(0.0, 100 * max(float(side.max()) for side in shares.values()) or 1.0, 3)
    highest = up[-1] / 100
    parts = [_rule(value / up[-1], f"{value:g}") for value in up]
    for name, side in shares.items():
        corners = [(place(float(edges[0])), _y(0))]
        for value, low, high in zip(side, edges[:-1], edges[1:], strict=True):
            corners += [(place(float(low)), _y(value / highest)), (place(float(high)), _y(value / highest))]
        corners.append((place(float(edges[-1])), _y(0)))
        parts.append(f'<polygon class="{name}" points="{_points(corners)}"/>')
    if math.isfinite(threshold):
        x = place(min(max(threshold, left), right))
        parts.append(f'<line class="threshold" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 10}" y2="{_y(0):.1f}"/>')
        anchor, shift = ("start", 5) if x < _WIDTH / 2 else ("end", -5)
        parts.append(_text(x + shift, _TOP - 3, f"EER {100 * eer:.1f} % at {threshold:.3f}", anchor, "value"))
    parts += [_text(place(value), _HEIGHT - 19, f"{value:g}") for value in ticks]
    parts.append(_below("distance (vertical: % of the pairs of a kind)"))
    return _frame(
        parts,
        f"Distances of pairs of one person and of two persons; equal error rate {100 * eer:.1f} % at {threshold:.3f}",
    )


def _ticks(low: float, high: float, wanted: int) -> list[float]:
    """Returns round values that cover a range, at most about `wanted` + 1 of them."""
    span = high - low if high > low else max(abs(low), 1.0)
    rough = span / wanted
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return [round(number * step, 12) for number in range(first, last + 1)]


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]], title: str, below: str, *, zero: bool = True
) -> str:
    """Returns a chart of several curves with its legend.

    Args:
        series: x and y values by name; at least one value, all finite.
        title: what is shown, for readers who hear it.
        below: name of the horizontal axis.
        zero: whether the vertical axis starts at 0.
    """
    xs = [x for values, _ in series.values() for x in values]
    ys = [y for _, values in series.values() for y in values]
    across = _ticks(min(0.0, *xs), max(xs), 5)
    up = _ticks(min(0.0, *ys) if zero else min(ys), max(ys), 4)

    def place(x: float, y: float) -> tuple[float, float]:
        return _x((x - across[0]) / (across[-1] - across[0])), _y((y - up[0]) / (up[-1] - up[0]))

    parts = [_rule((value - up[0]) / (up[-1] - up[0]), f"{value:g}") for value in up]
    parts += [_text(place(value, up[0])[0], _HEIGHT - 19, f"{value:g}") for value in across]
    parts.append(_below(below))
    legend = []
    for number, (name, (horizontal, vertical)) in enumerate(series.items()):
        css, shown = f"s{number % _COLORS}", html.escape(name)
        points = [place(x, y) for x, y in zip(horizontal, vertical, strict=True)]
        dashed = ' stroke-dasharray="5 3"' if number >= _COLORS else ""
        parts.append(
            f'<polyline class="curve {css}" points="{_points(points)}"{dashed}><title>{shown}</title></polyline>'
            if len(points) > 1
            else f'<circle class="curve {css}" cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="3"/>'
        )
        line = "key dashed" if number >= _COLORS else "key"
        legend.append(f'<li><span class="{line} {css}"></span><span>{shown} {vertical[-1]:.4g}</span></li>')
    return f'{_frame(parts, title)}<ul class="legend">{"".join(legend)}</ul>'
