"""The embedding of an image at test time, as models return it."""

from __future__ import annotations

from typing import NamedTuple

import jax


class Descriptor(NamedTuple):
    """Test features of a batch of images.

    Attributes:
        features: [N, D] one vector per image, or [N, S, D] one vector per slot (body part).
        visibility: [N, S] in [0, 1], how far each slot can be seen; None where every slot counts.
    """

    features: jax.Array
    visibility: jax.Array | None = None
