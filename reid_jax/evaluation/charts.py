"""Small charts as inline SVG, so that a page of ranked lists needs nothing but a browser."""

from __future__ import annotations

import numpy as np

_WIDTH, _HEIGHT = 440, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 16, 14, 34


def _x(share: float) -> float:
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _y(share: float) -> float:
    return _TOP + (1 - share) * (_HEIGHT - _TOP - _BOTTOM)


def _text(x: float, y: float, text: str, anchor: str = "middle", css: str = "label") -> str:
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _frame(content: str, title: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{title}"><title>{title}</title>'
        f"{content}</svg>"
    )


def cmc_curve(cmc: np.ndarray) -> str:
    """Returns the chart of the share of queries with a correct image within the first k, k on a logarithmic axis.

    Args:
        cmc: [max_rank] fractions.
    """
    ranks = np.arange(1, len(cmc) + 1)
    scale = np.log(max(len(cmc), 2))
    parts = []
    for percent in (0, 25, 50, 75, 100):
        y = _y(percent / 100)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(_LEFT - 6, y + 4, f"{percent}", "end"))
    points = [(_x(np.log(rank) / scale), _y(float(value))) for rank, value in zip(ranks, cmc, strict=True)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    floor = _y(0)
    parts.append(
        f'<polygon class="area" points="{points[0][0]:.1f},{floor:.1f} {line} {points[-1][0]:.1f},{floor:.1f}"/>'
    )
    parts.append(f'<polyline class="line" points="{line}"/>')
    for rank in (1, 2, 5, 10, 20, 50):
        if rank > len(cmc):
            continue
        x, y = points[rank - 1]
        anchor = "start" if rank == 1 else "end" if rank == len(cmc) else "middle"
        parts.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3.2"/>')
        above = y > _TOP + 18
        parts.append(_text(x, y - 8 if above else y + 17, f"{100 * cmc[rank - 1]:.1f}", anchor, "value"))
        parts.append(_text(x, _HEIGHT - 18, str(rank), anchor))
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 3, "rank"))
    return _frame("".join(parts), "CMC: share of queries (%) with a correct image within the first k")


def ap_histogram(ap: np.ndarray, bins: int = 20) -> str:
    """Returns the histogram of average precision over the queries.

    Args:
        ap: [Q] fractions, NaN for queries that are not scored.
        bins: number of bars.
    """
    counts, edges = np.histogram(ap[~np.isnan(ap)], bins=bins, range=(0, 1))
    highest = max(int(counts.max()), 1)
    parts = []
    for share in (0.0, 0.5, 1.0):
        y = _y(share)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        if share != 0.5 or highest % 2 == 0:
            parts.append(_text(_LEFT - 6, y + 4, f"{round(share * highest)}", "end"))
    for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
        x, width, y = _x(low), _x(high) - _x(low) - 2, _y(count / highest)
        title = f"<title>AP {100 * low:.0f} to {100 * high:.0f} %: {count} queries</title>"
        parts.append(
            f'<rect class="bar" x="{x + 1:.1f}" y="{y:.1f}" width="{width:.1f}" height="{_y(0) - y:.1f}">{title}</rect>'
        )
    for percent in (0, 25, 50, 75, 100):
        parts.append(_text(_x(percent / 100), _HEIGHT - 18, str(percent)))
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 3, "AP of a query (%)"))
    return _frame("".join(parts), "Number of queries by average precision")
