"""The platform that formulations of an operation are chosen for while a program is traced."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax

_chosen: ContextVar[str | None] = ContextVar("chosen", default=None)


def target() -> str:
    """Returns the platform that a program being traced will run on: "cpu", "gpu", "tpu", …

    It is JAX's default backend unless `tracing_for` names another.
    """
    return _chosen.get() or jax.default_backend()


@contextlib.contextmanager
def tracing_for(platform: str) -> Iterator[None]:
    """Traces programs for another platform than this machine's, for instance to export them.

    A function that `jax.jit` has traced before keeps the formulations of that time: trace a new one inside.
    """
    token = _chosen.set(platform)
    try:
        yield
    finally:
        _chosen.reset(token)
