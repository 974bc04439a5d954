"""The compiled programs of a run's start, kept under what they were made from.

JAX's cache of compiled programs knows a program by its text, so that a second start traces and lowers everything once
more only to learn that it has been compiled: half of such a start, and most of it for a large model. Here the programs
stand under a hash of their origin instead: the resolved config, the data set, this package's source, the versions of
the libraries, JAX's settings and the devices. Anything that changes gives another name; then a start does all of it.

The files lie in the folder of `compilation.keep` and are trusted as JAX's own are: they are code, and only their user
may write there.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import logging
import os
import pathlib
import pickle
import sys
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.experimental import serialize_executable

from reid_jax import errors, file_io
from reid_jax.runtime import compilation, provenance

LOG = logging.getLogger(__name__)

MOST = 80  # files, two for each start; the oldest beyond go
FORMAT = 1
# A program for a CPU that JAX has read from its own cache lacks its object code (ELF, Mach-O) when it is written again.
OBJECT_CODE = (b"\x7fELF", b"\xcf\xfa\xed\xfe")
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy", "einops", "chex", "ml_collections")
VARIABLES = ("JAX_", "XLA_", "FLAX_", "REID_JAX_", "OMP_", "CUDA_", "NVIDIA_", "LIBTPU_", "TPU_")
# Settings of JAX and variables that change where programs lie or what is logged, but no program.
NEUTRAL = ("cache", "log", "REID_JAX_COMPILATION")


def key(origin: Mapping[str, Any]) -> str:
    """Returns the name of programs: a hash of what they were made from, and of everything here that compiles them.

    Args:
        origin: what a run knows of them, as JSON.
    """
    devices = jax.devices()
    environment = {name: text for name, text in os.environ.items() if name.startswith(VARIABLES) and _counts(name)}
    described = {
        "format": FORMAT,
        "origin": dict(origin),
        "source": provenance.source_hash(),
        "python": sys.version,
        "versions": _versions(),
        "environment": environment,
        "settings": {name: repr(value) for name, value in jax.config.values.items() if _counts(name)},
        "devices": [(device.id, device.device_kind, device.platform) for device in devices],
        "platform": devices[0].client.platform_version,
        "processes": jax.process_count(),
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=repr).encode()).hexdigest()


def _counts(name: str) -> bool:
    return not any(word in name or word.upper() in name for word in NEUTRAL)


@functools.cache
def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def has(name: str) -> bool:
    """Returns whether something was saved under a name."""
    folder = compilation.starts()
    return folder is not None and (folder / f"{name}.start").is_file()


def load(name: str, devices: Sequence[jax.Device]) -> tuple[jax.stages.Compiled, Any] | None:
    """Returns the program that was saved under a name, and what was said of it.

    None if nothing was, or it cannot be read any more.

    Args:
        name: see `save`.
        devices: those that it was compiled for, in their order.
    """
    folder = compilation.starts()
    if folder is None:
        return None
    path = folder / f"{name}.start"
    try:
        (code, given, returned), about = pickle.loads(zlib.decompress(path.read_bytes()))
        program = serialize_executable.deserialize_and_load(code, given, returned, execution_devices=tuple(devices))
        os.utime(path)
    except FileNotFoundError:
        return None
    except Exception as error:  # a damaged file, whatever its readers make of it
        LOG.debug("a kept start cannot be read: %s", errors.reason(error))
        with contextlib.suppress(OSError):
            path.unlink()
        return None
    return program, about


def save(name: str, program: jax.stages.Compiled, about: Any = None) -> None:
    """Keeps a program for the next start, where programs are kept at all and the disk allows it.

    On CPU it must have been compiled by this process: one that JAX has read from its cache cannot be taken out again.

    Args:
        name: a `key` and which program it is.
        program: the program.
        about: what `load` returns beside it.
    """
    folder = compilation.starts(make=True)
    if folder is None or has(name):
        return
    try:
        packed = serialize_executable.serialize(program)
        if jax.default_backend() == "cpu" and not any(magic in packed[0] for magic in OBJECT_CODE):
            LOG.debug("the programs of this start are not kept: they were read from JAX's cache")
            return
        content = pickle.dumps((packed, about))
        file_io.write_bytes(folder / f"{name}.start", zlib.compress(content, 1))
        _tidy(folder)
    except Exception as error:  # the run goes on without
        LOG.debug("the programs of this start are not kept: %s", errors.reason(error))


def _tidy(folder: pathlib.Path, most: int = MOST) -> None:
    """Removes the files that were not used for longest, beyond `most`."""
    files = sorted(folder.glob("*.start"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in files[most:]:
        path.unlink(missing_ok=True)
