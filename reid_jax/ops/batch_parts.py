"""The parts of a batch that lie on different devices, for layers that compute statistics of a batch.

A program is traced as if it ran on one device, and the compiler inserts the communication. For batch normalization it
would insert an all-reduce for each moment and each gradient; a layer that knows the parts needs one of each kind.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import jax
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


def applied(function: Callable[..., Any], parts: Parts) -> Callable[..., Any]:
    """Returns a function that is traced inside `divided`."""

    def inside(*arguments: Any, **options: Any) -> Any:
        with divided(parts):
            return function(*arguments, **options)

    return inside
