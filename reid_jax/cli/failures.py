"""Sentences for failures that are neither a `UserError` nor a defect of this package.

The memory or the disk is at its end, or the user's own code (a loss, a model, a transform) raised. Anything else keeps
its traceback, because it is ours to repair.
"""

from __future__ import annotations

import errno
import os
import pathlib
import re
import resource
import sys
import sysconfig
import traceback

from reid_jax import errors

PACKAGE = pathlib.Path(__file__).resolve().parents[1]
# Set to any text, a failure in the user's own code shows its traceback too.
TRACEBACK = "REID_JAX_TRACEBACK"

_MEMORY = re.compile(
    r"RESOURCE_EXHAUSTED|out of memory|bad_alloc|cannot allocate memory|can't start new thread"
    r"|failed to map segment from shared object|unable to allocate",
    re.IGNORECASE,
)
# What the system says about a disk or a network, whatever wrote or read there.
_SYSTEM = {
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "free some space of your quota",
    errno.EFBIG: "raise the limit of the file size (ulimit -f)",
    errno.EROFS: "use a place that can be written",
    errno.EACCES: "use a place that you may read and write",
    errno.EPERM: "use a place that you may read and write",
    errno.EIO: "check that disk",
    errno.ESTALE: "check that disk",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the limit of open files",
}


# Bytes of address space below which jax crashes while it starts; a small training run on a CPU uses 2.3 GB.
LEAST_ADDRESS_SPACE = 2560 << 20


def check_address_space() -> None:
    """Checks the limit of the address space (`ulimit -v`): below what jax needs to start, it crashes without a word.

    Raises:
        UserError: the limit is too low.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < LEAST_ADDRESS_SPACE:
        raise errors.UserError(
            f"there is not enough memory: expected a limit of the address space (ulimit -v) of at least "
            f"{LEAST_ADDRESS_SPACE >> 20} MB, it is {limit >> 20} MB; raise it."
        )


def explain(error: BaseException) -> str | None:
    """Returns the sentence for a failure, `None` for a defect of this package, whose traceback should be seen.

    Args:
        error: any exception that reached the end of a command.
    """
    if isinstance(error, errors.UserError):
        return str(error)
    if (own := own_code(error)) is not None:
        return own
    for code, remedy in _SYSTEM.items():
        # Libraries of other languages quote the system in the text of their own errors.
        if not isinstance(error, OSError) and f": {os.strerror(code)}" in str(error):
            return f"{errors.reason(error, 400)}; {remedy} and run the same command again."
    if isinstance(error, MemoryError) or _MEMORY.search(str(error)):
        return (
            f"there is not enough memory ({errors.reason(error)}); lower the batch (data.sampler, evals.batch_size) or "
            "give the process more."
        )
    if isinstance(error, OSError) and error.errno in _SYSTEM:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{errors.reason(error)}; {_SYSTEM[error.errno]} and run the same command again."
    return None


def own_code(error: BaseException) -> str | None:
    """Returns file, line and message of an exception that the user's own code raised or led to, `None` otherwise.

    Code is the user's own when it is neither in this package nor in an installed one; the innermost such line is named.
    """
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_own(frame.filename)]
    if not frames or os.environ.get(TRACEBACK):
        return None
    last = frames[-1]
    return (
        f"{last.filename}, line {last.lineno}, in {last.name}: {type(error).__name__}: {errors.reason(error)}; correct "
        f"that code ({TRACEBACK}=1 shows the whole traceback)."
    )


def _is_own(name: str) -> bool:
    """Returns whether a file is the user's own code."""
    if name.startswith("<"):
        return False
    path = pathlib.Path(name).resolve()
    libraries = [PACKAGE, PACKAGE.parent / "scripts", *(pathlib.Path(path) for path in _LIBRARIES)]
    return path != pathlib.Path(sys.argv[0]).resolve() and not any(path.is_relative_to(place) for place in libraries)


_LIBRARIES = {
    str(pathlib.Path(place).resolve())
    for name in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")
    if (place := sysconfig.get_path(name))
}
