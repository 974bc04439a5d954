"""Work of a start that needs no Python, such as compiling, beside the work that does."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")

# Compilers recurse; without a limit of the shell, a thread of glibc would have 2 MB.
STACK = 64 << 20

_running: set[threading.Thread] = set()


def run(function: Callable[[], Value]) -> concurrent.futures.Future[Value]:
    """Calls a function in a thread of its own and returns its result to be; an exception is raised to who asks for it.

    The interpreter ends after the thread, see `busy`.
    """
    future: concurrent.futures.Future[Value] = concurrent.futures.Future()

    def work() -> None:
        try:
            value = function()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(value)
        finally:
            _running.discard(threading.current_thread())

    before = threading.stack_size(STACK)
    try:
        thread = threading.Thread(target=work, name="background")
        _running.add(thread)
        thread.start()
    finally:
        threading.stack_size(before)
    return future


def busy() -> bool:
    """Returns whether a function is still running, which nobody waits for when a command has failed meanwhile."""
    return bool(_running)
