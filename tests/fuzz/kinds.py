"""The kinds of input: how one is made from chance, and what reads it."""

from __future__ import annotations

import dataclasses
import pathlib
import random
from collections.abc import Callable

from tests.fuzz import gallery_kind, people_kinds, weight_kinds


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of input.

    Attributes:
        make: returns an input, a pure function of chance.
        read: reads it with the package, in a scratch folder; any exception but a `UserError` is a failure.
        share: how many inputs, in proportion to the other kinds.
    """

    make: Callable[[random.Random], bytes]
    read: Callable[[bytes, pathlib.Path], None]
    share: int = 1

    def input(self, name: str, seed: int, number: int) -> bytes:
        """Returns the input of a number."""
        return self.make(random.Random(f"{seed}/{name}/{number}"))


KINDS = {
    "torch": Kind(weight_kinds.torch, weight_kinds.read_weights, 4),
    "npz": Kind(weight_kinds.npz, weight_kinds.read_weights, 2),
    "safetensors": Kind(weight_kinds.safetensors_, weight_kinds.read_weights, 2),
    "features": Kind(weight_kinds.features, weight_kinds.read_features, 2),
    "images": Kind(people_kinds.images, people_kinds.decode, 3),
    "folders": Kind(people_kinds.folders, people_kinds.open_folder),
    "configs": Kind(people_kinds.configs, people_kinds.check_config),
    "galleries": Kind(gallery_kind.make, gallery_kind.read),
    "arguments": Kind(people_kinds.arguments, people_kinds.call_command),
}
