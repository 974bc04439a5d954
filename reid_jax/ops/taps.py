"""Named places in a network where a program can read or replace an array, for pictures of what a model looks at.

    x = taps.tap("stage4", x, cut=True)

Outside of `watching` a tap returns its argument and leaves nothing in the program.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from contextvars import ContextVar

import jax


@dataclasses.dataclass(frozen=True)
class Tapped:
    """An array that passed a tap.

    Attributes:
        value: [B, h, w, C] a map; [B, leading + h w, C] tokens; or anything else.
        grid: (h, w) of tokens; None for other arrays, and for as many tokens as another tap has with a grid.
        leading: tokens before those of the grid, such as the class token.
        cut: whether all that the embedding knows of an image passes through this tap and the others so marked.
    """

    value: jax.Array
    grid: tuple[int, int] | None = None
    leading: int = 0
    cut: bool = False


class _Watch:
    """What passed the taps of one traced call, and what replaces it."""

    def __init__(self, replacements: Mapping[str, jax.Array]) -> None:
        self.replacements = replacements
        self.found: dict[str, Tapped] = {}
        self._times: dict[str, int] = {}

    def meet(self, name: str, tapped: Tapped) -> jax.Array:
        """Records an array and returns what stands in its place."""
        self._times[name] = times = self._times.get(name, 0) + 1
        name = name if times == 1 else f"{name}#{times}"
        value = self.replacements.get(name, tapped.value).astype(tapped.value.dtype)
        self.found[name] = dataclasses.replace(tapped, value=value)
        return value


_watch: ContextVar[_Watch | None] = ContextVar("watch", default=None)


def tap(
    name: str, value: jax.Array, *, grid: tuple[int, int] | None = None, leading: int = 0, cut: bool = False
) -> jax.Array:
    """Returns the array, or inside `watching` what replaces it.

    Args:
        name: of the place; the second array of that name in one call is "name#2".
        value: the array; `grid`, `leading` and `cut` are those of `Tapped`.
    """
    watch = _watch.get()
    return value if watch is None else watch.meet(name, Tapped(value, grid, leading, cut))


def watched() -> bool:
    """Returns whether taps are read at the moment, for code whose fast form has no array to tap."""
    return _watch.get() is not None


@contextlib.contextmanager
def watching(replacements: Mapping[str, jax.Array] | None = None) -> Iterator[dict[str, Tapped]]:
    """Yields the arrays that pass taps inside of the block, by name, in the order of the calls.

    In a function that is traced the arrays are tracers: return them from it.

    Args:
        replacements: arrays that take the place of those of the same name.
    """
    watch = _Watch(replacements or {})
    token = _watch.set(watch)
    try:
        yield watch.found
    finally:
        _watch.reset(token)
