"""The parts of a batch that lie on different devices, for what computes statistics of a batch or joins batches.

A program is traced as if it ran on one device, and the compiler inserts the communication. For batch normalization it
would insert an all-reduce for each moment and each gradient; a layer that knows the parts needs one of each kind. Two
batches one behind the other lie on other devices than before; joined part by part, no row moves.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

STATISTICS = ("global", "device")


@dataclasses.dataclass(frozen=True)
class Parts:
    """How a batch is divided.

    Attributes:
        mesh: devices with one axis, over which batches are split on their first axis.
        statistics: "global" for statistics of the whole batch, "device" for those of each part.
    """

    mesh: Mesh
    statistics: str = "global"

    @property
    def count(self) -> int:
        """Number of parts."""
        return int(self.mesh.size)

    def divide(self, x: jax.Array) -> jax.Array:
        """Returns [B, ...] as [parts, B / parts, ...], each part on its device."""
        return self.placed(x.reshape(self.count, x.shape[0] // self.count, *x.shape[1:]))

    def placed(self, x: jax.Array) -> jax.Array:
        """Returns [parts, ...] with each part on its device."""
        split = NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names))
        result: jax.Array = jax.lax.with_sharding_constraint(x, split)
        return result

    def everywhere(self, x: jax.Array) -> jax.Array:
        """Returns the array with all of it on every device."""
        result: jax.Array = jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, PartitionSpec()))
        return result


_current: ContextVar[Parts | None] = ContextVar("current", default=None)


def of(images: int) -> Parts | None:
    """Returns the parts of a batch of some images; None on a single device, and where they do not divide evenly."""
    parts = _current.get()
    return parts if parts is not None and parts.count > 1 and images % parts.count == 0 else None


@contextlib.contextmanager
def divided(parts: Parts) -> Iterator[None]:
    """Traces layers for batches that are split over devices; the mesh of the outermost such context counts."""
    outer = _current.get()
    token = _current.set(dataclasses.replace(parts, mesh=outer.mesh) if outer else parts)
    try:
        yield
    finally:
        _current.reset(token)


def join(batches: Sequence[jax.Array]) -> jax.Array:
    """Returns batches [B, ...] as one [n B, ...]: one behind the other, or so in each part, where each stays."""
    parts = of(batches[0].shape[0])
    if parts is None:
        return jnp.concatenate(batches)
    divided_ones = [parts.divide(batch) for batch in batches]
    return parts.placed(jnp.concatenate(divided_ones, axis=1)).reshape(-1, *batches[0].shape[1:])


def separate(joined: jax.Array, count: int) -> list[jax.Array]:
    """Returns the batches [B, ...] that `join` made [n B, ...] of; n is `count`."""
    parts = of(joined.shape[0] // count)
    if parts is None:
        return jnp.split(joined, count)
    return [
        parts.placed(part).reshape(-1, *joined.shape[1:]) for part in jnp.split(parts.divide(joined), count, axis=1)
    ]


def applied(function: Callable[..., Any], parts: Parts) -> Callable[..., Any]:
    """Returns a function that is traced inside `divided`."""

    def inside(*arguments: Any, **options: Any) -> Any:
        with divided(parts):
            return function(*arguments, **options)

    return inside
