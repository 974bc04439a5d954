"""The compiled programs of a run's start, kept under what they were made from.

JAX's cache of compiled programs knows a program by its text, so that a second start traces and lowers everything once
more only to learn that it has been compiled: half of such a start, and most of it for a large model. Here the programs
stand under a hash of their origin instead: the resolved config, the data set, this package's source, the user's modules
that are loaded, the libraries, JAX's settings and the devices. Anything that changes gives another name; then a start
does all of it. Where the source was edited after the process began, nothing is read or named: see `loaded_code`.

They stand under a hash of their text as well, from which another origin with the same program takes it: JAX's cache
cannot serve here, because a program for a CPU that was read from it cannot be written a second time.

The files lie in the folder of `compilation.keep` and are trusted as JAX's own are: they are code, and only their user
may write there.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import logging
import os
import pathlib
import pickle
import re
import sys
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.experimental import serialize_executable

from reid_jax import errors, file_io
from reid_jax.runtime import background, compilation, loaded_code, provenance

LOG = logging.getLogger(__name__)

MOST = 160  # names, four for a start; the oldest beyond go
UNFINISHED = 3600.0  # seconds after which a file that is being written is one of a killed process
FORMAT = 4
# A program for a CPU that JAX has read from its own cache lacks its object code (ELF, Mach-O) when it is written again.
OBJECT_CODE = (b"\x7fELF", b"\xcf\xfa\xed\xfe")
# Those that trace, which may be a checkout or were edited in place, and those that compile.
TRACING = ("jax", "flax", "optax", "einops", "opt_einsum", "chex", "ml_collections")
LIBRARIES = (
    *TRACING,
    *("jaxlib", "numpy", "ml_dtypes", "libtpu"),
    *(f"jax-cuda{number}-{part}" for number in (12, 13) for part in ("pjrt", "plugin")),
    *("nvidia-cudnn-cu12", "nvidia-cudnn-cu13", "nvidia-cublas-cu12", "nvidia-cublas"),
)
VARIABLES = ("JAX_", "XLA_", "FLAX_", "REID_JAX_", "OMP_", "CUDA_", "NVIDIA_", "LIBTPU_", "TPU_")
# Calls that the compiler itself replaces.
OF_THE_COMPILER = ("Sharding", "SPMD", "mhlo.", "annotate_device_placement")
# Words in the names of settings of JAX and of variables that change no program, but where one lies or what is logged.
NEUTRAL = {"cache", "caches", "log", "logging"}


@dataclasses.dataclass(frozen=True)
class Kept:
    """Compiled programs that belong together, such as the halves of a train step.

    Attributes:
        programs: the programs.
        name: under which they are kept; empty if they are not.
        about: what was said of them.
    """

    programs: tuple[Any, ...]
    name: str = ""
    about: Any = None


# Programs that are being compiled, or read; None where there are none after all.
Begun = concurrent.futures.Future[Kept | None]


def key(origin: Mapping[str, Any], *, traced: bool = False) -> str:
    """Returns the name of programs: a hash of what they were made from, and of everything here that compiles them.

    Args:
        origin: what a run knows of them, as JSON.
        traced: whether that is the text of the program, so that the source has no more influence.
    """
    devices = jax.devices()
    environment = {
        name: (text, _files_of(text))
        for name, text in os.environ.items()
        if name.startswith(VARIABLES) and _counts(name)
    }
    described = {
        "format": FORMAT,
        "origin": dict(origin),
        "source": "" if traced else provenance.source_hash(),
        "libraries": () if traced else loaded_code.library_files(TRACING),
        "own": () if traced else loaded_code.own_files(),
        "python": sys.version,
        "versions": _versions(),
        "environment": environment,
        "settings": {name: repr(value) for name, value in jax.config.values.items() if _counts(name)},
        "devices": [(device.id, device.device_kind, device.platform) for device in devices],
        "platform": devices[0].client.platform_version,
        "processes": jax.process_count(),
        "cores": _cores() if devices[0].platform == "cpu" else 0,
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=repr).encode()).hexdigest()


def _counts(name: str) -> bool:
    return NEUTRAL.isdisjoint(name.lower().split("_"))


def _files_of(text: str) -> list[tuple[str, tuple[int, int]]]:
    """Returns the files that the value of a variable names: XLA's flags may stand in one, or read one."""
    words = [part for word in text.split() for part in (word, word.partition("=")[2])]
    return [(word, loaded_code.state(word)) for word in words if os.path.isfile(word)]


def _cores() -> int:
    """Returns the number of cores that a program for a CPU is divided for."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def compiled(lowered: Sequence[jax.stages.Lowered], devices: Sequence[jax.Device], about: Any = None) -> Kept:
    """Returns compiled programs, read where they are kept under their text, and kept where they are not.

    Where one calls libraries (`calls_libraries`), they are left to JAX's own cache.

    Args:
        lowered: the programs; they are compiled side by side.
        devices: those that they are for, in their order.
        about: see `Kept`.
    """
    texts = [each.as_text() for each in lowered]
    if compilation.starts(make=True) is None or any(map(calls_libraries, texts)):
        return Kept(_side_by_side(lambda each: each.compile(), lowered), "", about)
    described = {
        "text": texts,
        "trees": [(str(each.in_tree), str(each.out_tree)) for each in lowered],
        "about": repr(about),
    }
    name = key(described | {"devices": [device.id for device in devices]}, traced=True)
    found = load(name, devices)
    if found is not None:
        return found
    programs = _side_by_side(lambda each: each.compile(), lowered)
    return Kept(programs, name if _save(name, programs, about) else "", about)


def _side_by_side(function: Callable[[Any], Any], each: Sequence[Any]) -> tuple[Any, ...]:
    """Returns what a function makes of each, in threads: a compiler uses one core for most of its time."""
    first, *others = each
    begun = [background.run(functools.partial(function, other)) for other in others]
    return function(first), *(other.result() for other in begun)


def calls_libraries(text: str) -> bool:
    """Returns whether a program (StableHLO) calls functions outside of it, such as those of LAPACK or of Python.

    Lowering is what makes them ready, so that a process that only reads such a program ends in a segmentation fault.
    """
    return any(not name.startswith(OF_THE_COMPILER) for name in re.findall(r"custom_call @([\w.$]+)", text))


def has(name: str) -> bool:
    """Returns whether something was saved under a name."""
    folder = compilation.starts()
    return folder is not None and (folder / f"{name}.start").is_file()


def load(name: str, devices: Sequence[jax.Device]) -> Kept | None:
    """Returns the programs that are kept under a name; None if none are, or they cannot be read any more.

    Args:
        name: see `Kept` and `give_name`.
        devices: those that they were compiled for, in their order.
    """
    folder = compilation.starts()
    if folder is None:
        return None
    path = folder / f"{name}.start"
    try:
        if path.stat().st_uid != os.getuid():
            raise PermissionError("it belongs to another user")
        packed, about = pickle.loads(zlib.decompress(path.read_bytes()))
        read = functools.partial(serialize_executable.deserialize_and_load, execution_devices=tuple(devices))
        programs = _side_by_side(lambda each: read(*each), packed)
        os.utime(path)
    except FileNotFoundError:
        return None
    except Exception as error:  # a damaged file, whatever its readers make of it
        LOG.debug("a kept program cannot be read: %s", errors.reason(error))
        with contextlib.suppress(OSError):
            path.unlink()
        return None
    return Kept(programs, name, about)


def _save(name: str, programs: Sequence[jax.stages.Compiled], about: Any) -> bool:
    """Keeps programs; returns whether they and the disk allow it."""
    folder = compilation.starts()
    if folder is None:
        return False
    try:
        packed = [serialize_executable.serialize(program) for program in programs]
        if jax.default_backend() == "cpu" and not all(
            any(magic in code for magic in OBJECT_CODE) for code, *_ in packed
        ):
            LOG.debug("a program is not kept, because it was read from JAX's cache")
            return False
        file_io.write_bytes(folder / f"{name}.start", zlib.compress(pickle.dumps((packed, about)), 1))
    except Exception as error:  # the run goes on without
        LOG.debug("a program is not kept: %s", errors.reason(error))
        return False
    with contextlib.suppress(OSError):
        _tidy(folder)
    return True


def give_name(kept: Kept, name: str) -> None:
    """Makes `load` find a kept program under another name, too; has no effect on one that is not kept."""
    folder = compilation.starts()
    if folder is not None and kept.name and not has(name):
        with contextlib.suppress(OSError):
            (folder / f"{name}.start").hardlink_to(folder / f"{kept.name}.start")


def _tidy(folder: pathlib.Path, most: int = MOST) -> None:
    """Removes the files that were not used for longest, beyond `most`, and what killed processes left unfinished."""
    used = {path: loaded_code.state(path)[1] for path in folder.glob("*.start")}
    for path in sorted(used, key=used.__getitem__, reverse=True)[most:]:
        path.unlink(missing_ok=True)
    for path in folder.glob(f"{file_io.INCOMPLETE}*"):
        if loaded_code.state(path)[1] < (time.time() - UNFINISHED) * 1e9:
            path.unlink(missing_ok=True)
