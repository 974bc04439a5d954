"""Accelerators that need not be there: names of targets, and devices to compile for without one.

XLA compiles for a described topology as well as for a device. TPUs need the package `libtpu`, GPUs JAX's plugin for
CUDA; both come with the extras `tpu` and `cuda12`, best in an environment of their own. Nothing can run there.

JAX is imported where it is needed, so that a command answers a mistake before.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import pathlib
import re
from typing import TYPE_CHECKING, Any

from reid_jax import errors

if TYPE_CHECKING:
    from jax.sharding import Mesh

# Descriptions of GPUs, `gpu_<kind>.txt`: what XLA reads of a device in place of asking it.
DESCRIPTIONS = pathlib.Path(__file__).resolve().parent
PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")
EXAMPLES = "tpu:v5e:2x2 or gpu:h100x8"


@dataclasses.dataclass(frozen=True)
class Target:
    """Devices of one kind.

    Attributes:
        platform: "tpu" or "gpu".
        kind: such as "v5e" or "h100".
        shape: the topology's text, such as "2x2"; for GPUs their number.
    """

    platform: str
    kind: str
    shape: str

    @property
    def name(self) -> str:
        """The target as it is written."""
        return f"tpu:{self.kind}:{self.shape}" if self.platform == "tpu" else f"gpu:{self.kind}x{self.shape}"


def parse(text: str) -> Target:
    """Returns the target of a text such as "tpu:v5e:2x2" or "gpu:h100x8".

    Raises:
        UserError: another text, or a GPU that no description is there of.
    """
    if found := re.fullmatch(r"tpu:(v[0-9]{1,2}[a-z]{0,2}):([0-9]{1,3}(?:x[0-9]{1,3}){1,2})", text):
        return Target("tpu", found[1], found[2])
    if found := re.fullmatch(r"gpu:([a-z0-9]{1,20}?)x([1-9][0-9]{0,2})", text):
        known = sorted(path.stem.removeprefix("gpu_") for path in DESCRIPTIONS.glob("gpu_*.txt"))
        if found[1] not in known:
            raise errors.unknown("GPU", found[1], known)
        return Target("gpu", found[1], found[2])
    raise errors.UserError(f"expected a target such as {EXAMPLES}, got {text[:80]!r}; give one.")


def check_installed(target: Target) -> None:
    """Checks that the compiler for a target is installed.

    Raises:
        UserError: it is not.
    """
    modules = ("libtpu",) if target.platform == "tpu" else PLUGINS
    if any(importlib.util.find_spec(name) for name in modules):
        return
    extra = "tpu" if target.platform == "tpu" else "cuda12"
    raise errors.UserError(
        f"--target {target.name} needs {' or '.join(modules)}, which is not installed; make an environment of its own "
        f"and `pip install 'reid-jax[{extra}]'` there."
    )


def create_mesh(target: Target) -> Mesh:
    """Returns the mesh of a target's devices, which cannot be used but to compile for.

    Raises:
        UserError: the compiler is not installed or knows no such devices.
    """
    check_installed(target)
    # Without, libtpu asks a server for the machine's own chips first, and waits.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    import numpy as np
    from jax.experimental import topologies
    from jax.sharding import AxisType, Mesh

    from reid_jax.runtime import mesh as mesh_lib

    try:
        if target.platform == "tpu":
            topology: Any = topologies.get_topology_desc(f"{target.kind}:{target.shape}", platform="tpu")
        else:
            description = (DESCRIPTIONS / f"gpu_{target.kind}.txt").read_text(encoding="ascii")
            topology = topologies.get_topology_desc(
                target.kind, "cuda", target_config=description, topology=f"1x1x{target.shape}"
            )
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise errors.UserError(
            f"expected devices that the compiler knows as --target, it knows none for {target.name} "
            f"({errors.reason(error)}); give another."
        ) from error
    devices = np.asarray(topology.devices).reshape(-1)
    return Mesh(devices, (mesh_lib.AXIS,), axis_types=(AxisType.Auto,))
