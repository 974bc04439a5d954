"""Detection of the other processes of a run, from flags or from the environment that a launcher has set.

With several machines the same command runs once per host. Only variables that a launcher has set count, so that a plain
run never waits for other processes:

| launcher | read from the environment |
|---|---|
| by hand | `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES`, `JAX_PROCESS_ID` |
| SLURM (`srun`) | `SLURM_JOB_ID`, `SLURM_STEP_NODELIST`, `SLURM_STEP_NUM_TASKS` > 1, `SLURM_PROCID`, `SLURM_LOCALID` |
| Open MPI (`mpirun`) | `OMPI_COMM_WORLD_SIZE` > 1 |
| GKE with TPUs | `TPU_WORKER_ID`, `TPU_WORKER_HOSTNAMES` with several hosts |
| Cloud TPU pods | a TPU device file and libtpu; jax asks the machine's metadata server |
| Kubernetes indexed jobs | `KUBERNETES_SERVICE_HOST` and `JOB_COMPLETION_INDEX` (needs the package `kubernetes`) |

`--num_processes 1` runs alone whatever the environment says.
"""

from __future__ import annotations

import dataclasses
import glob
import importlib.util
import logging
import os
import re
from collections.abc import Mapping
from typing import Any

from reid_jax.errors import UserError

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The processes of a run and how they meet; `None` fields are left to jax's own detection.

    Attributes:
        source: where the settings come from ("flags", "environment", "SLURM", ...).
        coordinator: `host:port` of process 0.
        num_processes: number of processes.
        process_id: number of this process, from 0.
        local_device_ids: GPUs of this process where several processes share a host.
    """

    source: str
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    local_device_ids: tuple[int, ...] | None = None


def detect(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> Cluster | None:
    """Returns the cluster that flags or the environment describe, if any.

    Args:
        coordinator: `host:port`, or `None`.
        num_processes: number of processes, or `None`.
        process_id: number of this process, or `None`.
        environment: the environment; `os.environ` when `None`.

    Returns:
        The cluster, or `None` for a run of one process.

    Raises:
        UserError: some of the three flags (or variables) but not all, or values that do not fit.
    """
    env = os.environ if environment is None else environment
    flags = {"--coordinator": coordinator, "--num_processes": num_processes, "--process_id": process_id}
    if num_processes is not None and str(num_processes) == "1" and process_id in (None, 0, "0"):
        return None
    if any(value is not None for value in flags.values()):
        return _checked("flags", flags)
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    given = {name: env.get(name) for name in names}
    if given[names[1]] is not None or given[names[2]] is not None:
        return _checked("environment", given)
    if _slurm_tasks(env) > 1 and "SLURM_STEP_NODELIST" in env and "SLURM_PROCID" in env:
        return _slurm(env)
    if _number(env, "OMPI_COMM_WORLD_SIZE") > 1:
        return Cluster("Open MPI", given[names[0]])
    if "TPU_WORKER_ID" in env and "," in env.get("TPU_WORKER_HOSTNAMES", ""):
        return Cluster("GKE TPU workers")
    if "KUBERNETES_SERVICE_HOST" in env and "JOB_COMPLETION_INDEX" in env:
        if importlib.util.find_spec("kubernetes"):
            return Cluster("Kubernetes job")
        logger.warning(
            "this looks like an indexed Kubernetes job, but the package `kubernetes` is missing: running alone; "
            "install it (pip install kubernetes) or give --coordinator, --num_processes and --process_id"
        )
    if environment is None and _has_tpu(env):
        return Cluster("Cloud TPU")
    if given[names[0]] is not None:
        return _checked("environment", given)
    return None


def _checked(source: str, given: Mapping[str, Any]) -> Cluster:
    """Returns the cluster of three values set by hand, after checking them."""
    missing = [name for name, value in given.items() if value in (None, "")]
    if missing:
        came = " and ".join(name for name in given if name not in missing)
        fault = f"{came} came without {' and '.join(missing)}" if came else f"{missing[0]} came empty"
        raise UserError(f"{fault}; give all three, or none to let the cluster's environment decide.")
    coordinator, count, index = given.values()
    try:
        count, index = int(count), int(index)
    except ValueError as error:
        raise UserError(f"the number of processes and the process id must be whole numbers ({error}).") from error
    host, _, port = str(coordinator).rpartition(":")
    if not host or not port.isdigit():
        raise UserError(
            f"the coordinator must be given as HOST:PORT, for example node01:12345, but came as {coordinator!r}."
        )
    if count < 1 or not 0 <= index < count:
        raise UserError(f"with {count} processes the process id must be between 0 and {count - 1}, but is {index}.")
    return Cluster(source, str(coordinator), count, index)


def _number(env: Mapping[str, str], name: str) -> int:
    """Returns a whole number of the environment, 0 when it is absent or no whole number."""
    text = env.get(name, "")
    return int(text) if text.isdigit() else 0


def _slurm_tasks(env: Mapping[str, str]) -> int:
    """Returns the number of tasks of this step; the job's own number (`SLURM_NTASKS`) only where the step tells none.

    The step of a shell in an interactive job has one task, while the job was given several for later steps.
    """
    return _number(env, "SLURM_STEP_NUM_TASKS") or _number(env, "SLURM_NTASKS")


def _slurm(env: Mapping[str, str]) -> Cluster:
    """Returns the cluster of a SLURM step.

    jax's own detection gives each process one GPU, `SLURM_LOCALID`; here a process that is alone on its host (the
    layout this package recommends) keeps all of them.
    """
    # "node[001-004,007],other" -> node001
    first = re.match(r"([^,\[]+)(?:\[([^,\-\]]+))?", env["SLURM_STEP_NODELIST"])
    if first is None:
        raise UserError(f"SLURM_STEP_NODELIST is {env['SLURM_STEP_NODELIST']!r}, in which no host name can be found.")
    host = first.group(1) + (first.group(2) or "")
    # A port in the upper range that all processes of the job derive alike.
    port = env.get("JAX_COORDINATOR_PORT") or str(61440 + _number(env, "SLURM_JOB_ID") % 4096)
    address = env.get("JAX_COORDINATOR_ADDRESS") or f"{host}:{port}"
    # "8(x2),4": tasks on each node of the step.
    layout = env.get("SLURM_STEP_TASKS_PER_NODE") or env.get("SLURM_TASKS_PER_NODE") or "1"
    shared = any(int(count) > 1 for count in re.findall(r"(?:^|,)(\d+)", layout))
    local = (_number(env, "SLURM_LOCALID"),) if shared else None
    tasks, index = _slurm_tasks(env), _number(env, "SLURM_PROCID")
    if index >= tasks:
        raise UserError(
            f"expected SLURM_PROCID below the step's {tasks} tasks, got {index}; start the run with srun, or give "
            "--num_processes 1 to run alone."
        )
    return Cluster("SLURM", address, tasks, index, local)


def _has_tpu(env: Mapping[str, str]) -> bool:
    """Returns whether this machine is a Cloud TPU host that jax will use."""
    if env.get("JAX_PLATFORMS", "tpu").split(",")[0] != "tpu" or importlib.util.find_spec("libtpu") is None:
        return False
    return bool(glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*"))
