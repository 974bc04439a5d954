"""Settings of the C library's memory allocator for programs that allocate the same large blocks in every step.

By default glibc gives blocks above 32 MB back to the system when they are freed and allocates them anew in the next
step; the kernel then has to find and clear every page of 4 KB again. On one CPU core that was a third of an OSNet train
step. Pages of 2 MB are cleared in a fraction of the time, so nothing has to be kept, and threads need not share one
arena, for which those of a compiler wait on each other. See docs/results/speed.md for both in figures.

glibc reads the variable that asks for them when a process starts, therefore a command starts itself again with it.
"""

from __future__ import annotations

import ctypes
import os
import pathlib
import sys

TUNABLES = "GLIBC_TUNABLES"
HUGE_PAGES = "glibc.malloc.hugetlb"
# Modules after which it is too late: JAX, and debuggers that would lose their connection.
LOADED = ("jax", "pydevd", "debugpy")
KERNEL = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")

# Numbers of the options in glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def restart_with_huge_pages() -> None:
    """Starts this command again, with the same arguments and process number, so that its memory is of large pages.

    To be called before anything is loaded. Where JAX is loaded already, a debugger looks on, the user has decided by
    `GLIBC_TUNABLES`, or kernel or C library lack such pages, it returns; `keep_freed_memory` is then the next best.
    """
    tunables = os.environ.get(TUNABLES, "")
    late = sys.gettrace() is not None or any(name in sys.modules for name in LOADED)
    if late or HUGE_PAGES in tunables or not _offers_huge_pages():
        return
    os.environ[TUNABLES] = ":".join(filter(None, (tunables, f"{HUGE_PAGES}=1")))
    try:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    except OSError:  # the command runs on as it is
        os.environ[TUNABLES] = tunables


def keep_freed_memory() -> bool:
    """Keeps freed memory in the process, in one arena that all threads share; call it before threads start.

    Returns:
        Whether it does; False where large pages make it needless, and where the C library is not glibc.
    """
    if not sys.platform.startswith("linux") or f"{HUGE_PAGES}=1" in os.environ.get(TUNABLES, ""):
        return False
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:
        return False
    taken = [set_option(*setting) for setting in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_ARENA_MAX, 1))]
    return taken == [1, 1, 1]


def _offers_huge_pages() -> bool:
    """Returns whether kernel and C library (glibc 2.35 or newer) give large pages to whom asks for them."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        newest = tuple(map(int, version.split(".")[:2])) >= (2, 35)
        return name == "glibc" and newest and "[never]" not in KERNEL.read_text(encoding="ascii")
    except (OSError, ValueError):  # another C library, or no such setting of the kernel
        return False
