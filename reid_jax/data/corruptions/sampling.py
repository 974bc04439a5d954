"""Sampling and application of corruptions by name, and selection of the corruption of an image.

Type, severity and all further draws of an image come from a generator keyed by a hash of (seed, round, split, file
name), independent of order, batch size, number of workers and other images.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from reid_jax import errors
from reid_jax.data import corruptions
from reid_jax.data.corruptions import frost
from reid_jax.data.corruptions.filters import Draws


def sample(
    name: str,
    severity: int,
    shape: tuple[int, int],
    rng: np.random.Generator,
    *,
    textures: frost.Textures | None = None,
) -> Draws:
    """Draws all random numbers of a corruption.

    Args:
        name: a key of `CORRUPTIONS`.
        severity: 1 to 5.
        shape: (height, width) of the image.
        rng: random generator.
        textures: frost textures; None uses the generated ones.

    Returns:
        Arrays and numbers for `apply`, in the order in which they were drawn; empty for deterministic corruptions.

    Raises:
        UserError: unknown name or severity.
    """
    _, draw, _ = _lookup(name, severity)
    drawn: tuple[Any, ...] = draw(severity, (int(shape[0]), int(shape[1])), rng, **_extra(name, textures))
    return drawn


def apply(
    name: str, severity: int, image: np.ndarray, draws: Draws, *, textures: frost.Textures | None = None
) -> np.ndarray:
    """Returns a corrupted image; the same arguments give the same bytes.

    Args:
        name: a key of `CORRUPTIONS`.
        severity: 1 to 5.
        image: uint8 `[H, W, 3]` RGB at its native size; it is not changed.
        draws: the result of `sample` for this size.
        textures: frost textures, the same as for `sample`.

    Returns:
        uint8 `[H, W, 3]`; rain enlarges images of up to 60 rows.
    """
    _, _, change = _lookup(name, severity)
    changed: np.ndarray = change(severity, image, draws, **_extra(name, textures))
    return changed


def _lookup(name: str, severity: int) -> tuple[Any, ...]:
    if name not in corruptions.CORRUPTIONS:
        raise errors.unknown("corruption", name, corruptions.CORRUPTIONS)
    if severity not in corruptions.SEVERITIES:
        raise errors.UserError(f"expected a severity from 1 to 5, got {severity!r}.")
    return corruptions.CORRUPTIONS[name]


def _extra(name: str, textures: frost.Textures | None) -> dict[str, Any]:
    return {"source": textures} if name == "frost" and textures is not None else {}


def generator(seed: int, round_: int, split: str, filename: str) -> np.random.Generator:
    """Returns the random generator of an image, Philox keyed by a hash of all arguments.

    Args:
        seed: seed of the evaluation.
        round_: number of the repetition.
        split: "query", "gallery" or "train".
        filename: the file name in the data set.
    """
    text = "\0".join((str(int(seed)), str(int(round_)), split, filename))
    key = np.frombuffer(hashlib.blake2b(text.encode(), digest_size=16).digest(), "<u8")
    return np.random.Generator(np.random.Philox(key=key))


@dataclasses.dataclass(frozen=True)
class Selection:
    """A set of corruptions from which type and severity are drawn uniformly and independently.

    Attributes:
        types: keys of `CORRUPTIONS`.
        severities: a selection of 1 to 5.
        frost_dir: folder of frost textures; empty for the generated ones.
    """

    types: tuple[str, ...] = tuple(corruptions.CORRUPTIONS)
    severities: tuple[int, ...] = corruptions.SEVERITIES
    frost_dir: str = ""

    def __post_init__(self) -> None:
        if not self.types or not self.severities:
            raise errors.UserError("expected at least one corruption and one severity to draw from, got none.")
        for name in self.types:
            for severity in self.severities:
                _lookup(name, severity)
        if self.frost_dir:
            frost.textures(self.frost_dir)  # read now, to report a wrong folder early

    def draw(self, rng: np.random.Generator) -> tuple[str, int]:
        """Draws a type and a severity; the severity is drawn first."""
        severity = self.severities[int(rng.integers(len(self.severities)))]
        return self.types[int(rng.integers(len(self.types)))], severity

    def corrupt(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns an image, uint8 `[H, W, 3]`, under a corruption drawn from the selection."""
        name, severity = self.draw(rng)
        textures = frost.textures(self.frost_dir)
        draws = sample(name, severity, image.shape[:2], rng, textures=textures)
        return apply(name, severity, image, draws, textures=textures)

    @property
    def is_benchmark(self) -> bool:
        """Whether these are the twenty types of the benchmark at all severities."""
        return set(self.types) == set(corruptions.CORRUPTIONS) and set(self.severities) == set(corruptions.SEVERITIES)


def select(
    *,
    families: Sequence[str] = (),
    types: Sequence[str] = (),
    severities: Sequence[int] = (),
    frost_dir: str = "",
) -> Selection:
    """Returns a selection by families or by types, of all twenty types where neither is given.

    Raises:
        UserError: unknown family, type or severity, or both families and types.
    """
    if families and types:
        raise errors.UserError("choose corruptions by families or by types, not by both.")
    chosen = tuple(types)
    if families:
        chosen = tuple(name for family in families for name in of_family(family))
    return Selection(chosen or Selection.types, tuple(severities) or corruptions.SEVERITIES, str(frost_dir))


@functools.cache
def of_family(family: str) -> tuple[str, ...]:
    """Returns the names of a family's corruptions in the order of the benchmark."""
    if family not in corruptions.FAMILIES:
        raise errors.unknown("corruption family", family, corruptions.FAMILIES)
    return tuple(name for name, (owner, _, _) in corruptions.CORRUPTIONS.items() if owner == family)
