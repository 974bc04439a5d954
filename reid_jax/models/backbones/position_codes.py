"""Fixed codes of places on an upright grid, with which masked autoencoders start."""

from __future__ import annotations

import numpy as np

from reid_jax import errors


def grid_code(rows: int, columns: int, width: int) -> np.ndarray:
    """Returns the code of every place of a grid: the first half of the channels for its column, the second for its row.

    Each half is all sines, then all cosines, of the place times 10000^(-k / (D / 4)), k = 0 ... D / 4 - 1. Places are
    the integers of the grid as it is, not rescaled to a square one.

    Args:
        rows: rows of the grid.
        columns: columns of the grid.
        width: D, a multiple of 4.

    Returns:
        [rows columns, D] float32, row after row.

    Raises:
        UserError: a width that four parts do not divide.

    References:
        He et al., "Masked autoencoders are scalable vision learners", CVPR 2022, released code.
    """
    if width % 4:
        raise errors.UserError(f"expected a width that divides by 4 for codes of positions, got {width}; change it.")
    rates = 10000.0 ** -(np.arange(width // 4) / (width // 4))
    y, x = np.mgrid[:rows, :columns].reshape(2, -1, 1)
    return np.concatenate([f(place * rates) for place in (x, y) for f in (np.sin, np.cos)], axis=1).astype(np.float32)


def token_code(rows: int, columns: int, width: int) -> np.ndarray:
    """Returns `grid_code` behind a row of zeros for the class token, [1, 1 + rows columns, D] float32."""
    code = grid_code(rows, columns, width)
    return np.concatenate((np.zeros((1, width), np.float32), code))[None]
