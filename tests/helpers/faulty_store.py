"""A store within the process (fsspec's `memory://`) that counts its requests and fails where a test says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import fsspec
import pytest

from reid_jax.stores import local_copies, mirror, objects

_CALLS = ("find", "info", "cat_file", "pipe_file", "put_file", "get_file", "rm_file", "cp_file")


class FaultyFiles:
    """The calls of a file system; `fault(number, call, arguments)` may raise before each is done, or after it."""

    def __init__(self) -> None:
        self.files = fsspec.filesystem("memory")
        self.calls: list[tuple[str, Any]] = []
        self.before: Callable[[int, str, tuple[Any, ...]], None] = lambda number, call, arguments: None
        self.after = self.before

    def __getattr__(self, name: str) -> Any:
        assert name in _CALLS, name

        def call(*arguments: Any, **options: Any) -> Any:
            number = len(self.calls)
            self.calls.append((name, arguments[-1] if name == "put_file" else arguments[0]))
            self.before(number, name, arguments)
            result = getattr(self.files, name)(*arguments, **options)
            self.after(number, name, arguments)
            return result

        return call


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[FaultyFiles]:
    """An empty store at `memory://bucket`, with a cache of its own and no pauses between attempts."""
    made = FaultyFiles()
    made.files.store.clear()
    made.files.pseudo_dirs[:] = [""]
    monkeypatch.setattr(objects, "_file_system", lambda scheme: made)
    monkeypatch.setattr(objects, "PAUSE", 0.0)
    monkeypatch.setenv("REID_JAX_STORE_CACHE", str(tmp_path / "stores"))
    yield made
    forget()


def forget() -> None:
    """Lets go of all copies, as the end of a process does."""
    for lock in local_copies._in_use.values():
        lock.close()
    for known in (local_copies._in_use, local_copies._files, mirror._opened):
        known.clear()
