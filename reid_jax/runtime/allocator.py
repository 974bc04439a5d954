"""Settings of the C library's memory allocator for programs that allocate the same large blocks in every step.

By default glibc gives blocks above 32 MB back to the system when they are freed and allocates them anew in the next
step; the kernel then has to find and clear every page again. On one CPU core that was a third of an OSNet train step.
"""

from __future__ import annotations

import ctypes
import sys

# Numbers of the options in glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Keeps freed memory in the process, in one arena that all threads share; call it before threads start.

    Returns:
        Whether the C library accepted the settings; False where it is not glibc, which is then left unchanged.
    """
    if not sys.platform.startswith("linux"):
        return False
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:
        return False
    taken = [set_option(*setting) for setting in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_ARENA_MAX, 1))]
    return taken == [1, 1, 1]
