"""One vector of unit length for each image, also of models that describe it by slots."""

from __future__ import annotations

from typing import Any

import numpy as np

_SMALLEST = 1e-24  # squared length below which a vector stays as short as it is


def joined(features: Any, visibility: Any = None, xp: Any = np) -> Any:
    """Returns vectors of unit length [N, D], or [N, S * D] of slots.

    Slots are brought to unit length, weighed with the root of their share of the visibility, and joined, so that the
    product of two vectors is near the weighted mean cosine of the slots. The model's own
    distance leaves a slot out that one of two images hides; here it counts as unlike.

    Args:
        features: [N, D] or [N, S, D].
        visibility: [N, S] or None.
        xp: the module of the arrays: `numpy`, or `jax.numpy`, whose functions can be traced.
    """
    unit = _scaled(features, xp)
    if features.ndim == 2:
        return unit
    if visibility is not None:
        unit = unit * xp.sqrt(visibility.astype(features.dtype))[:, :, None]
    count, slots, width = features.shape
    return _scaled(unit.reshape(count, slots * width), xp)


def _scaled(x: Any, xp: Any) -> Any:
    squares = xp.sum(x * x, axis=-1, keepdims=True)
    return x / xp.sqrt(xp.maximum(squares, _SMALLEST))
