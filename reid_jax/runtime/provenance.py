"""Provenance of a measured number: the device, the versions of the libraries, and the commit of the code."""

from __future__ import annotations

import hashlib
import importlib.metadata
import pathlib
import subprocess
import sys

import jax


def device_name() -> str:
    """Returns the number and kind of the devices of the run, such as "8 x TPU v4" or "1 x cpu"."""
    return f"{jax.device_count()} x {jax.devices()[0].device_kind}"


LIBRARIES = ("jax", "jaxlib", "flax", "numpy", "grain", "torch")


def versions() -> dict[str, str]:
    """Returns the versions of Python and of those of `LIBRARIES` that are installed."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """Returns the commit of the code, with "+" where files differ from it; empty outside its repository.

    An installed package may lie inside another project's repository, whose commit says nothing about it: this file must
    be tracked.
    """
    if not _git("ls-files", "--error-unmatch", pathlib.Path(__file__).name):
        return ""
    return _git("describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*")


def source_hash() -> str:
    """Returns a short hash of this package's Python files: the same wherever the same code is installed."""
    root = pathlib.Path(__file__).resolve().parent.parent
    content = hashlib.sha256()
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
        content.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return content.hexdigest()[:12]


def _git(*arguments: str) -> str:
    """Returns the output of a git command in this folder, empty where it fails."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=pathlib.Path(__file__).resolve().parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
