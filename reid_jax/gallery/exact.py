"""Exact nearest neighbors of a few queries among very many rows, equal to the evaluation's ranking to the last bit.

The evaluation's distances are products of blocks of fixed sizes (`distance_blocks`), which for one query among a
million rows computes 63 unused columns. Here a plain matrix product in numpy first finds the rows that can be among
the nearest, and only these go through the evaluation's blocks. Both products sum the same terms in another order, so
they differ by less than the bound of float32 summation (`slack`): no row that belongs to the answer is left out, and
order, ties (in the order of addition) and distances are those of the evaluation.
"""

from __future__ import annotations

import numpy as np

from reid_jax.evaluation import distance_blocks, own_metrics

_ROUNDING = 2.0**-24  # of float32, relative
_QUERIES_AT_ONCE = 16  # whose distances to all rows are in memory together
_ROWS_AT_ONCE = 4096
_FEW = 0.1  # share of rows below which they are copied out before the product


def distances(query: distance_blocks.Side, gallery: distance_blocks.Side) -> np.ndarray:
    """Returns the evaluation's distances of all pairs.

    Args:
        query: Q rows.
        gallery: G rows, prepared like the queries.

    Returns:
        [Q, G] float32.
    """
    out = np.empty((query.num_rows, gallery.num_rows), np.float32)
    # Two sizes of blocks, hence two compiled programs.
    unit = distance_blocks.GALLERY_UNIT if gallery.num_rows <= distance_blocks.GALLERY_UNIT else _ROWS_AT_ONCE
    for row in range(0, query.num_rows, distance_blocks.QUERY_UNIT):
        some = query.take(slice(row, row + distance_blocks.QUERY_UNIT))
        padded = some.pad(distance_blocks.QUERY_UNIT)
        for first in range(0, gallery.num_rows, unit):
            part = gallery.take(slice(first, first + unit))
            values = np.asarray(distance_blocks.jitted_block(part.pad(unit), padded))
            out[row : row + some.num_rows, first : first + part.num_rows] = values[: part.num_rows, : some.num_rows].T
    own_metrics.refuse_not_finite(query.measure, out)
    return out


def nearest(
    query: distance_blocks.Side, gallery: distance_blocks.Side, looked_at: np.ndarray, k: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns the k nearest of some rows for every query, nearest first, ties in the order of the rows.

    Args:
        query: Q rows.
        gallery: G rows, prepared like the queries.
        looked_at: [G] bool, the rows that can be in the answer.
        k: rows per query; fewer where fewer are looked at.

    Returns:
        For each query rows [k] of the gallery and their distances [k] float32.
    """
    rows = np.flatnonzero(looked_at)
    k = min(k, len(rows))
    if not k:
        return [(np.zeros(0, np.int64), np.zeros(0, np.float32))] * query.num_rows
    plain = query.measure is None and query.visibility is None and query.features.ndim == 2
    if not plain or len(rows) <= max(k, distance_blocks.GALLERY_UNIT):
        values = distances(query, gallery if len(rows) == gallery.num_rows else gallery.take(rows))
        return [_first(rows, line, k) for line in values]
    found = []
    for first in range(0, query.num_rows, _QUERIES_AT_ONCE):
        some = query.take(slice(first, first + _QUERIES_AT_ONCE))
        for number, candidates in enumerate(_candidates(some, gallery, rows, looked_at, k)):
            one = some.take(slice(number, number + 1))
            found.append(_first(candidates, distances(one, gallery.take(candidates))[0], k))
    return found


def _candidates(
    query: distance_blocks.Side, gallery: distance_blocks.Side, rows: np.ndarray, looked_at: np.ndarray, k: int
) -> list[np.ndarray]:
    """Returns for each query the rows, ascending, that hold its k nearest for certain."""
    few = len(rows) < _FEW * gallery.num_rows
    features, squares = (array[rows] if few else array for array in (gallery.features, gallery.squares))
    values = query.features @ features.T  # [q, G]
    values *= -2
    values += squares[None, :]
    if not few:
        values[:, ~looked_at] = np.inf
    margins = slack(query.squares, float(gallery.squares.max()), gallery.features.shape[1])
    found = []
    for line, margin in zip(values, margins, strict=True):
        limit = np.partition(line, k - 1)[k - 1] + margin
        inside = np.flatnonzero(line <= limit)
        found.append(rows[inside] if few else inside)
    return found


def slack(squares: np.ndarray, longest: float, size: int) -> np.ndarray:
    """Returns [Q] how much farther than the k-th nearest by one product a k-th nearest by another can seem.

    A sum of D products in any order differs from the true one by at most D u |x| |y| (u: relative rounding), hence two
    distances of one pair by 4 D u |x| |y| and a few roundings of the squares; each of two rows may be off by that.
    Doubled, for the terms of higher order.

    Args:
        squares: [Q] squared lengths of the queries.
        longest: the largest squared length of a row.
        size: D, numbers of a vector.
    """
    lengths = np.sqrt(squares.astype(np.float64) * longest)
    rounding = squares.astype(np.float64) + longest + 2 * lengths
    return np.asarray(2 * 2 * _ROUNDING * (4 * size * lengths + 4 * rounding))


def _first(rows: np.ndarray, values: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the k nearest of some rows by their distances, ties in the order of the rows."""
    if k < len(values):
        inside = np.flatnonzero(values <= np.partition(values, k - 1)[k - 1])
        rows, values = rows[inside], values[inside]
    order = np.argsort(values, kind="stable")[:k]
    return rows[order], values[order]
