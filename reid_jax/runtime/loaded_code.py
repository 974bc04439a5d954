"""What a process runs besides this package's own files: the user's modules, and the libraries as they lie on the disk.

A hash of this package says nothing about a script that replaces a function of it, a module that a config file imports,
or a library that was edited in place; and nothing about what runs, where a file was edited after it was imported.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import sys
import sysconfig
import time
from collections.abc import Iterable, Iterator

PACKAGE = pathlib.Path(__file__).resolve().parent.parent
# Shells of commands, and what is known by its results: configs and builders of data sets.
_NEUTRAL = tuple(PACKAGE.parent / name for name in ("scripts", "configs", "datasets"))
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_MARGIN = 0.05  # seconds between the clocks of processes and of files
_UNKNOWN_START = 60.0  # seconds before this module is imported


def state(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Returns size and time of modification (ns) of a file; zeros where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def own_files() -> dict[str, tuple[int, int]] | None:
    """Returns the files of modules that neither this package, a library nor Python brings, with their `state`.

    None where the main program has no file, such as in a notebook: what it has defined or replaced cannot be known.
    """
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    if main is None or not os.path.isfile(main):
        return None
    return {path: state(path) for path in sorted(_own())}


def _own() -> Iterator[str]:
    known = [os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "scripts")]
    inside = tuple(f"{path}{os.sep}" for path in (*known, PACKAGE, *_NEUTRAL))
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str):
            continue
        path = os.path.realpath(file)
        if not any(part in path for part in _INSTALLED) and not path.startswith(inside):
            yield path


def library_files(names: Iterable[str]) -> list[tuple[str, int, int]]:
    """Returns the Python files of some imported libraries, relative to these, with their `state`."""
    found = []
    for name in names:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is not None:
            folder = os.path.dirname(file)
            found += [(f"{name}/{os.path.relpath(path, folder)}", *state(path)) for path in _python_files(folder)]
    return sorted(found)


def edited_since_start() -> bool:
    """Returns whether a file of this package or of the user's modules has changed since the process began.

    What runs may then be the earlier content, under the hash of the later one.
    """
    since = _process_start() - _MARGIN
    for path in (*_python_files(str(PACKAGE)), *_own()):
        with contextlib.suppress(OSError):
            status = os.stat(path)
            if max(status.st_mtime, status.st_ctime) > since:
                return True
    return False


def _python_files(folder: str) -> Iterator[str]:
    for entry in os.scandir(folder):
        if entry.name.endswith(".py"):
            yield entry.path
        elif entry.name != "__pycache__" and entry.is_dir():
            yield from _python_files(entry.path)


def _process_start() -> float:
    """Returns when this process began, in seconds since 1970; a minute before this import where nothing tells."""
    try:
        facts = pathlib.Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(facts[19]) / os.sysconf("SC_CLK_TCK")
        return time.time() - age
    except (OSError, AttributeError, ValueError, IndexError):
        return _IMPORTED - _UNKNOWN_START


_IMPORTED = time.time()
