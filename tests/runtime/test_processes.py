"""Joining, agreement and peer failure: alone, and with two real processes on localhost."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from reid_jax.errors import UserError
from reid_jax.runtime import cluster
from reid_jax.runtime import processes as processes_lib

pytestmark = pytest.mark.slow


def test_alone_everything_is_a_formality(tmp_path):
    assert processes_lib.is_main()
    assert processes_lib.process_count() == 1
    assert processes_lib.broadcast_text("run/ä") == "run/ä"
    processes_lib.barrier("nobody")
    processes_lib.agree("the config", "x")
    processes_lib.shutdown()
    assert processes_lib.agree_on_folder(tmp_path / "a" / "b") == str(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    assert processes_lib.peer_failure(ValueError("Gloo all-reduce failed: Connection closed by peer")) is None


def test_unreachable_coordinator_and_taken_port():
    port = free_port()
    with pytest.raises(UserError, match=f"process 1 could not reach the coordinator localhost:{port} within 0.2 s"):
        processes_lib.initialize(f"localhost:{port}", 2, 1, timeout=0.2)
    with socket.socket(socket.AF_INET6) as taken:
        taken.bind(("", port))
        taken.listen()
        with pytest.raises(UserError, match=f"cannot open port {port}"):
            processes_lib.initialize(f"localhost:{port}", 2, 0, timeout=1)


def test_process_0_listens_on_the_coordinators_host_only(monkeypatch, caplog):
    port = free_port()
    assert processes_lib._bind_address(f"127.0.0.1:{port}") == f"127.0.0.1:{port}"
    assert processes_lib._bind_address(f"localhost:{port}") in (f"127.0.0.1:{port}", f"[::1]:{port}")
    with pytest.raises(UserError, match=r"192\.0\.2\.1 is not this machine; start it there, or"):
        processes_lib._bind_address(f"192.0.2.1:{port}")  # an address of documentation, nobody's
    with pytest.raises(UserError, match=r"cannot find the address of the coordinator's host 'no-such\.invalid'"):
        processes_lib._bind_address(f"no-such.invalid:{port}")
    assert not caplog.records
    # A machine whose own name means 127.0.1.1, as some distributions write it into /etc/hosts.
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.1.1", port))]
    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        assert processes_lib._bind_address(f"node7:{port}") == f"0.0.0.0:{port}"
    assert "give its address in --coordinator" in caplog.text
    monkeypatch.setenv(processes_lib.BIND_ADDRESS, "10.0.0.1:9")
    assert processes_lib._bind_address(f"service:{port}") == "10.0.0.1:9"


@pytest.mark.parametrize(
    ("coordinator", "warned"), [("10.0.0.7:9", True), ("127.0.0.1:9", False), ("localhost:9", False)]
)
def test_a_name_that_means_the_loopback_is_told(coordinator, warned, monkeypatch, caplog):
    monkeypatch.setattr(socket, "gethostbyname", lambda name: "127.0.1.1")
    processes_lib._warn_of_loopback(cluster.Cluster("flags", coordinator, 2, 1))
    assert ("cannot reach it; give it its address in /etc/hosts" in caplog.text) == warned


def test_a_process_that_waits_says_for_whom(monkeypatch, capfd):
    monkeypatch.setattr(processes_lib, "ANNOUNCE", 0.05)
    with pytest.raises(UserError, match="could not reach"):
        processes_lib.initialize(f"localhost:{free_port()}", 2, 1, timeout=0.2)
    said = capfd.readouterr().err
    assert "for process 0 of 2: flags set up a run of several processes; to run alone, add" in said
    of_four = processes_lib.cluster_lib.Cluster("SLURM", "a:1", 4, 0)
    assert "for processes 1 to 3 of 4: SLURM" in processes_lib._waiting(of_four)
    assert "for the other processes" in processes_lib._waiting(processes_lib.cluster_lib.Cluster("Open MPI"))


def test_one_process_by_flags_needs_no_coordinator():
    assert processes_lib.initialize("nowhere:1", 1, 0) is None


# ---- two real processes ---------------------------------------------------------------------------------------------

WORKER = """
    import json, os, signal, sys, time
    import jax, numpy as np, jax.numpy as jnp
    from reid_jax.errors import Stopped, UserError
    from reid_jax.runtime import exchange as exchange_lib, mesh as mesh_lib, processes

    def work(mesh, weights, batch, loss, index, folder):
        value, centered = loss(weights, batch)
        try:
            processes.agree("the config", f"config {index}")
            refused = None
        except UserError as error:
            refused = str(error)
        processes.agree("the index", "same")
        exchange = exchange_lib.Processes()
        result = {
            "main": processes.is_main(),
            "sums": exchange.sum(np.arange(3) + 2**40 * (1 + index)).tolist(),
            "gathered": [part.tolist() for part in exchange.gather(np.full((2 * index, 2), 0.1))],
            "value": float(value),
            "centered": mesh_lib.gather(centered).tolist(),
            "local": mesh_lib.local_rows(batch["x"]).tolist(),
            "weights": mesh_lib.gather(weights)["w"].tolist(),
            "text": processes.broadcast_text(f"from {index}"),
            "refused": refused,
            "folder": processes.agree_on_folder(folder if index == 0 else "/elsewhere"),
        }
        processes.barrier("done")
        for step in range(1, 10**6):  # the signal is passed on within about a second
            float(loss(weights, batch)[0])
            if (index, step) == (1, 3):
                os.kill(os.getpid(), signal.SIGTERM)
            if processes.asked_to_stop(step):
                print(json.dumps({**result, "stopped": step}))
                raise Stopped("asked to stop.", signal.SIGTERM)

    def main(mode, index, folder):
        mesh = mesh_lib.create_mesh()
        rows = np.arange(4, dtype=np.float32).reshape(2, 2) + 10 * index
        batch = mesh_lib.to_global({"x": rows}, mesh)
        weights = mesh_lib.replicate({"w": np.float32([1, 2])}, mesh)

        @jax.jit
        def loss(weights, batch):  # a statistic over the global batch, as batch normalization takes
            x = batch["x"] - batch["x"].mean(0)
            return (x * x * weights["w"]).sum(), x

        if mode == "work":
            return work(mesh, weights, batch, loss, index, folder)
        for step in range(10**6):
            if step == 5 and index == int(mode[-1]):
                if mode.startswith("fail"):
                    raise UserError("this host has no data.")
                os.kill(os.getpid(), signal.SIGKILL)
            if step == 5 and mode.startswith("idle"):
                time.sleep(60)
            float(loss(weights, batch)[0])

    port, index, mode, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
    timeout = 1 if mode == "alone" else 30
    try:
        with processes.session(f"localhost:{port}", 2, index, timeout=timeout, heartbeat_timeout=5):
            main(mode, index, folder)
    except Stopped as stopped:  # the session has ended in order
        sys.exit(f"{stopped} {jax.distributed.is_initialized()}")
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def start(tmp_path, mode, indices=(0, 1)):
    """Runs the worker once per index; returns (exit code, stdout, stderr) of each."""
    script = tmp_path / "worker.py"
    script.write_text(textwrap.dedent(WORKER))
    port = str(free_port())
    env = {name: value for name, value in os.environ.items() if not name.startswith("JAX_NUM_CPU")}
    env |= {"JAX_PLATFORMS": "cpu"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), port, str(index), mode, str(tmp_path / "run")],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in indices
    ]
    outcomes = []
    try:
        for process in processes:
            outcomes.append((*reversed(process.communicate(timeout=60)), process.returncode)[::-1])
    finally:
        for process in processes:
            process.kill()
    return outcomes


def test_two_processes_agree(tmp_path):
    outcomes = start(tmp_path, "work")
    # At the end one of them is asked to stop, and both leave after the same step, in order.
    assert [(code, err.splitlines()[-1]) for code, _, err in outcomes] == [(1, "asked to stop. False")] * 2, outcomes
    first, second = (json.loads(out.strip().splitlines()[-1]) for _, out, _ in outcomes)
    rows = np.array([[0, 1], [2, 3], [10, 11], [12, 13]], np.float64)
    centered = rows - rows.mean(0)
    for result in (first, second):
        np.testing.assert_allclose(result["centered"], centered, rtol=1e-6)
        np.testing.assert_allclose(result["value"], (centered**2 * [1, 2]).sum(), rtol=1e-6)
        assert result["weights"] == [1, 2]
        assert result["sums"] == [3 * 2**40 + 2 * number for number in range(3)]
        assert result["gathered"] == [[], [[0.1, 0.1]] * 2]  # float64, bit for bit, from processes of unequal shares
        assert result["text"] == "from 0"
        assert result["folder"] == str(tmp_path / "run")
        assert result["refused"].startswith("the config differs between process 0 and process 1;")
    assert first["stopped"] == second["stopped"] >= 3
    assert (first["main"], second["main"]) == (True, False)
    assert first["local"] + second["local"] == rows.tolist()
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize(
    ("mode", "victim"),
    [("kill1", 1), ("idle0", 0), ("fail1", 1)],
    ids=["killed_in_a_collective", "coordinator_killed_while_idle", "mistake_on_one_host"],
)
def test_a_lost_process_ends_the_other_with_one_sentence(tmp_path, mode, victim):
    outcomes = start(tmp_path, mode)
    code, _, stderr = outcomes[victim]
    if mode.startswith("fail"):
        assert (code, stderr.strip().splitlines()[-1]) == (2, "error: this host has no data.")
    else:
        assert code == -signal.SIGKILL
    code, _, stderr = outcomes[1 - victim]
    assert code == 2, stderr
    last = stderr.strip().splitlines()[-1].removeprefix("error: ")
    assert last.startswith(f"process {1 - victim} of 2 stops because another process of the run failed")
    assert "resume from the last checkpoint" in last


def test_a_session_alone_lets_exceptions_through():
    def fail():
        with processes_lib.session() as joined:
            assert joined is None
            raise UserError("the data")

    with pytest.raises(UserError, match="the data"):
        fail()


def test_nobody_comes(tmp_path):
    ((code, _, stderr),) = start(tmp_path, "alone", (0,))
    assert code == 2, stderr
    assert "not all 2 processes of the run (flags) met at localhost:" in stderr
