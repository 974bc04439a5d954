"""Where a number comes from: the device it was computed on and the commit of the code."""

from __future__ import annotations

import pathlib
import subprocess

import jax


def device_name() -> str:
    """Such as "8 x TPU v4" or "1 x cpu"."""
    return f"{jax.device_count()} x {jax.devices()[0].device_kind}"


def commit() -> str:
    """The commit of the code, with "+" where files differ from it; empty outside a repository."""
    here = pathlib.Path(__file__).resolve().parent
    try:
        show = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except OSError:
        return ""
    return show.stdout.strip()
