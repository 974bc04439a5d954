"""Detection of the other processes of a run from flags and environments."""

import pytest

from reid_jax.errors import UserError
from reid_jax.runtime import cluster

SLURM = {
    "SLURM_JOB_ID": "4100",
    "SLURM_STEP_NODELIST": "gpu[007-009,012],x1",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_TASKS_PER_NODE": "1(x4)",
}


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4"}, None),  # inside sbatch, without srun
        (SLURM | {"SLURM_NTASKS": "1"}, None),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),  # any pod
        ({"TPU_WORKER_ID": "0", "TPU_WORKER_HOSTNAMES": "localhost"}, None),
        (SLURM, cluster.Cluster("SLURM", "gpu007:61444", 4, 2)),
        # A shell within an interactive job: the job has four tasks, this step has one.
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "SLURM_STEP_ID": "4294967290"}, None),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "3"}, cluster.Cluster("SLURM", "gpu007:61444", 3, 2)),
        (
            SLURM | {"SLURM_STEP_NODELIST": "a1,a2", "SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_LOCALID": "1"},
            cluster.Cluster("SLURM", "a1:61444", 4, 2, (1,)),
        ),
        (SLURM | {"JAX_COORDINATOR_PORT": "99"}, cluster.Cluster("SLURM", "gpu007:99", 4, 2)),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, cluster.Cluster("Open MPI")),
        ({"TPU_WORKER_ID": "1", "TPU_WORKER_HOSTNAMES": "h0,h1"}, cluster.Cluster("GKE TPU workers")),
        (
            {"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"},
            cluster.Cluster("environment", "h:1", 2, 1),
        ),
    ],
)
def test_detection(env, expected):
    assert cluster.detect(environment=env) == expected


def test_flags_win_over_the_environment():
    assert cluster.detect("h:1", 3, 0, environment=SLURM) == cluster.Cluster("flags", "h:1", 3, 0)
    assert cluster.detect(None, 1, None, environment=SLURM) is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("h:1", None, None), "--coordinator came without --num_processes and --process_id"),
        ((None, 2, 0), "--num_processes and --process_id came without --coordinator"),
        (("h", 2, 0), "HOST:PORT"),
        (("h:1", 2, 2), "between 0 and 1, but is 2"),
        (("h:1", "two", 0), "whole numbers"),
    ],
)
def test_flags_that_do_not_fit(flags, message):
    with pytest.raises(UserError, match=message):
        cluster.detect(*flags, environment={})


def test_variables_that_do_not_fit():
    with pytest.raises(UserError, match="SLURM_PROCID below the step's 2 tasks, got 2"):
        cluster.detect(environment=SLURM | {"SLURM_STEP_NUM_TASKS": "2"})
    with pytest.raises(UserError, match="JAX_NUM_PROCESSES came without"):
        cluster.detect(environment={"JAX_NUM_PROCESSES": "2"})
