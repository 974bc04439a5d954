"""Which arrays can be weights: real and finite ones, and no negative variances."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from reid_jax import errors
from reid_jax.weights import weight_tables

_REMEDY = "the file is damaged or its training had failed, take another"
_OTHER_FLOATS = tuple(np.dtype(kind) for kind in (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2))
_KINDS = {"c": "complex numbers", "M": "dates", "m": "time spans", "U": "text", "S": "text", "O": "Python objects"}


def accepted(name: str, target: str, value: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Returns an array of a file in the element type of a model's leaf.

    Args:
        name: of the array in the file, for messages.
        target: path of the leaf; one that ends in "/var" is a running variance.
        value: the array.
        dtype: element type of the leaf.

    Raises:
        UserError: it holds something else than real numbers, NaN or infinity (perhaps only after the conversion), or a
            negative variance.
    """
    if value.dtype.kind not in "biuf" and value.dtype not in _OTHER_FLOATS:
        held = _KINDS.get(value.dtype.kind, "values of an unknown kind")
        raise errors.UserError(
            f"weights must be real numbers, the array {weight_tables.shown(name)} holds {held}; {_REMEDY}."
        )
    with np.errstate(over="ignore", invalid="ignore"):
        array = np.asarray(value, dtype, order="C")  # `ascontiguousarray` would make a vector of a number
    if not np.isfinite(array).all():
        count = int(np.sum(~np.isfinite(array)))
        raise errors.UserError(
            f"weights must be finite, the array {weight_tables.shown(name)} holds NaN or infinity ({count} of "
            f"{array.size} values); {_REMEDY}."
        )
    if target.endswith("/var") and array.size and array.min() < 0:
        raise errors.UserError(
            f"a running variance must not be negative, the array {weight_tables.shown(name)} goes down to "
            f"{float(array.min()):.3g}; {_REMEDY}."
        )
    return array
