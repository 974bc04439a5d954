"""Runs of several processes: joining them, agreeing on values, and ending when a peer fails.

With several machines the same command runs once per host; `session` joins the others, which `reid_jax.runtime.cluster`
finds from flags or from the environment of SLURM, Open MPI, Kubernetes or a TPU pod.

When a process fails the others cannot continue. They notice in the next collective (`peer_failure`) or through the
runtime's heartbeats, print one sentence, and end with exit code 2; the next start resumes from the last checkpoint.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import ipaddress
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from reid_jax.errors import Stopped, UserError
from reid_jax.runtime import cluster as cluster_lib
from reid_jax.runtime import interruption

logger = logging.getLogger(__name__)

# jax's own variable: where process 0 listens.
BIND_ADDRESS = "JAX_COORDINATOR_BIND_ADDRESS"
# Seconds after which a process that waits for others says so.
ANNOUNCE = 3.0


# ---- joining the other processes --------------------------------------------------------------------------------


def initialize(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout: int = 300,
    heartbeat_timeout: int = 60,
) -> cluster_lib.Cluster | None:
    """Joins the other processes of the run, if any; call it before any other use of jax.

    Args:
        coordinator: `host:port` of process 0, on a port free there.
        num_processes: number of processes.
        process_id: number of this process, from 0.
        timeout: seconds to wait for the others.
        heartbeat_timeout: seconds without a heartbeat after which a process counts as failed.

    Returns:
        The cluster joined, or `None` in a run of one process.

    Raises:
        UserError: the settings do not fit, or the coordinator cannot be reached.
    """
    cluster = cluster_lib.detect(coordinator, num_processes, process_id)
    if cluster is None or cluster.num_processes == 1:
        return None
    bind = None
    if cluster.coordinator is not None and cluster.process_id is not None:
        if cluster.process_id == 0:
            bind = _bind_address(cluster.coordinator)
        else:
            _reach(cluster, timeout)
    whole = cluster.num_processes is not None
    if os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        _warn_of_loopback(cluster)
    _explain_aborts(
        f"not all {cluster.num_processes or ''} processes of the run ({cluster.source}) met at "
        f"{cluster.coordinator or 'the coordinator'} within {timeout} s; start the same command on every host, each "
        "with its own process id."
    )
    try:
        with _announced(cluster):
            jax.distributed.initialize(
                cluster.coordinator,
                cluster.num_processes,
                cluster.process_id,
                coordinator_bind_address=bind,
                local_device_ids=list(cluster.local_device_ids) if cluster.local_device_ids else None,
                cluster_detection_method="deactivate" if whole else None,
                initialization_timeout=timeout,
                heartbeat_timeout_seconds=heartbeat_timeout,
                shutdown_timeout_seconds=timeout,
            )
    except (RuntimeError, ValueError) as error:
        _explain_aborts(None)
        raise UserError(
            f"joining the other processes ({cluster.source}) failed: {_first_line(error)}; give "
            "--coordinator HOST:PORT, --num_processes and --process_id to set them by hand."
        ) from error
    _explain_aborts(_ended_sentence())
    logger.info("process %d of %d (%s)", jax.process_index(), jax.process_count(), cluster.source)
    return cluster


def _bind_address(coordinator: str) -> str | None:
    """Returns the address on which process 0 listens: that of the coordinator's host, not all of the machine's.

    The service has no authentication, so it must not be offered to networks that the run does not use. Whether the port
    is free is checked here, before the runtime does: it would abort the process.

    Raises:
        UserError: the host is not this machine, or the port is taken.
    """
    if given := os.environ.get(BIND_ADDRESS):
        return given
    host, port = _host_and_port(coordinator)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UserError(
            f"process 0 cannot find the address of the coordinator's host {host!r} ({error.strerror}); give "
            "--coordinator HOST:PORT with its name or address."
        ) from error
    loopback = all(ipaddress.ip_address(place[4][0]).is_loopback for place in found)
    if loopback and host != "localhost" and not _is_loopback(host):
        # Some systems give their own name the address 127.0.1.1, under which no other host finds them.
        logger.warning(
            "the name %s means this machine itself here, so process 0 listens on all its networks; give its address in "
            "--coordinator to listen on one only",
            host,
        )
        found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("0.0.0.0", port))]
    failure = OSError("no address")
    for family, _, _, _, place in found:
        address = str(place[0]).partition("%")[0]
        with contextlib.closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(place)
            except OSError as error:
                failure = error
                continue
        return f"[{address}]:{port}" if family == socket.AF_INET6 else f"{address}:{port}"
    if failure.errno == errno.EADDRNOTAVAIL:
        raise UserError(
            f"process 0 must run on the coordinator's host, and {host} is not this machine; start it there, or, behind "
            f"the address of a service, set {BIND_ADDRESS} to the ADDRESS:PORT to listen on."
        )
    raise UserError(
        f"process 0 cannot open port {port} of {coordinator} ({failure.strerror}); choose a free port."
    ) from failure


def _warn_of_loopback(cluster: cluster_lib.Cluster) -> None:
    """Warns where processes of other hosts could not reach this one: gloo listens at the address of the host's name."""
    if cluster.coordinator is None or _is_loopback(_host_and_port(cluster.coordinator)[0]):
        return
    name = socket.gethostname()
    with contextlib.suppress(OSError):
        found = socket.gethostbyname(name)
        if _is_loopback(found) and _host_and_port(cluster.coordinator)[0] != "localhost":
            logger.warning(
                "the name of this host, %s, means %s here, where processes of other hosts cannot reach it; give it its "
                "address in /etc/hosts",
                *(name, found),
            )


def _host_and_port(coordinator: str) -> tuple[str, int]:
    host, _, port = coordinator.rpartition(":")
    return host.strip("[]"), int(port)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _reach(cluster: cluster_lib.Cluster, timeout: float) -> None:
    """Waits until the coordinator's port answers, before the runtime does: it would abort the process."""
    assert cluster.coordinator is not None
    with _announced(cluster):
        end = time.monotonic() + timeout
        while True:
            try:
                socket.create_connection(_host_and_port(cluster.coordinator), timeout=5).close()
                return
            except OSError as error:
                if time.monotonic() > end:
                    raise UserError(
                        f"process {cluster.process_id} could not reach the coordinator {cluster.coordinator} within "
                        f"{timeout} s ({error.strerror or error}); start process 0 there and check the address."
                    ) from error
                time.sleep(min(0.5, timeout / 4))


@contextlib.contextmanager
def _announced(cluster: cluster_lib.Cluster) -> Iterator[None]:
    """Says for whom the block waits, and how to run alone, after `ANNOUNCE` seconds and then each minute."""
    done = threading.Event()

    def announce() -> None:
        pause = ANNOUNCE
        while not done.wait(pause):
            os.write(2, f"{_waiting(cluster)}\n".encode())
            pause = 60.0

    threading.Thread(target=announce, name="announcement", daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _waiting(cluster: cluster_lib.Cluster) -> str:
    """Returns the sentence of a process that waits for others."""
    count, index, place = cluster.num_processes, cluster.process_id, cluster.coordinator or "the coordinator"
    if count is None or index is None:
        whom = "the other processes"
    elif index:
        whom = f"process 0 of {count}"
    else:
        whom = "process 1 of 2" if count == 2 else f"processes 1 to {count - 1} of {count}"
    return (
        f"waiting at {place} for {whom}: {cluster.source} set up a run of several processes; to run alone, "
        "add --num_processes 1."
    )


def shutdown() -> None:
    """Shuts down the distributed runtime after all processes are done; does nothing in a run of one process."""
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()
        _explain_aborts(None)


# ---- peer failure ----------------------------------------------------------------------------------------------------

# What an aborting process says, None where an abort is what it seems; set by `_explain_aborts`.
_last_words: str | None = None


def _explain_aborts(sentence: str | None) -> None:
    """Makes an abort of the C++ runtime print a sentence and end with exit code 2; `None` restores the usual abort.

    The runtime's client kills the process (SIGABRT, from a thread of its own) when the coordinator or a peer is lost.
    The handlers of Python's `signal` module do not run in that situation, and Python code in a handler of the C library
    could wait for the interpreter's lock for ever. So the handler is `sleep` of the C library itself, which signals may
    interrupt: it holds the aborting thread for SIGABRT's number of seconds, 6. Meanwhile a thread of Python's own
    notices it and ends the process; where it cannot, because the lock is held, the abort takes its course.
    """
    global _last_words
    if not sys.platform.startswith("linux"):
        return
    first, _last_words = _last_words is None, sentence
    libc = ctypes.CDLL(None)
    libc.signal.restype = ctypes.c_void_p
    handler = ctypes.cast(libc.sleep, ctypes.c_void_p) if sentence else ctypes.c_void_p(0)
    libc.signal(signal.SIGABRT, handler)
    if sentence and first:
        threading.Thread(target=_watch_for_aborts, name="aborts", daemon=True).start()


def _watch_for_aborts() -> None:
    """Ends the process with its last words when one of its threads aborts; ends itself when there are none."""
    while _last_words is not None:
        if _aborting():
            abandon(_last_words)
        time.sleep(0.2)


def _aborting() -> bool:
    """Returns whether a thread of this process is in the handler of SIGABRT: it blocks that signal, not all of them."""
    for path in glob.glob("/proc/self/task/*/status"):
        with contextlib.suppress(OSError), open(path, encoding="ascii", errors="replace") as file:
            found = re.search(r"^SigBlk:\s*([0-9a-f]+)", file.read(), re.MULTILINE)
            blocked = int(found[1], 16) if found else 0
            if blocked >> (signal.SIGABRT - 1) & 1 and not blocked >> (signal.SIGSEGV - 1) & 1:
                return True
    return False


def _ended_sentence() -> str:
    return (
        f"process {jax.process_index()} of {jax.process_count()} stops because another process of the run failed or "
        "lost its connection (that process's own log says why); start the same command again on every host to resume "
        "from the last checkpoint."
    )


def prepare_to_end(sentence: str) -> None:
    """Makes this process end with a sentence, too, when the others end first and its runtime aborts it for that."""
    _explain_aborts(f"error: {sentence}")


def abandon(sentence: str | None = None, code: int = 2) -> NoReturn:
    """Ends this process at once, without waiting for the others.

    A normal exit waits at a barrier that a run with a failed process never passes. Use this for every error once the
    processes have met; the others notice the closed connections.
    """
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    if sentence:
        os.write(2, f"{sentence}\n".encode())
    os._exit(code)


@contextlib.contextmanager
def session(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    explain: Callable[[BaseException], str | None] | None = None,
    **timeouts: int,
) -> Iterator[cluster_lib.Cluster | None]:
    """Runs a program between `initialize` and `shutdown`; a failure ends it without waiting for the others.

    In a run of several processes an exception that leaves the block is printed (the sentence of a `UserError` or of a
    peer failure, the traceback of anything else) and the process ends at once with exit code 2 (1 after a traceback,
    130 after an interrupt); in a run of one process, the exception is raised.

    Args:
        coordinator: see `initialize`, like the rest.
        num_processes: number of processes.
        process_id: number of this process.
        explain: returns the sentence for a failure, `None` for one that needs its traceback.
        **timeouts: `timeout`, `heartbeat_timeout`.
    """
    cluster = initialize(coordinator, num_processes, process_id, **timeouts)
    if cluster is None:
        yield None
        return
    try:
        yield cluster
    except SystemExit as error:
        if error.code:
            abandon(code=error.code if isinstance(error.code, int) else 1)
        shutdown()
        raise
    except KeyboardInterrupt as error:
        number = error.number if isinstance(error, interruption.Interrupted) else int(signal.SIGINT)
        abandon(interruption.sentence(number), interruption.CODES[number])
    except Stopped:
        shutdown()
        raise
    except BaseException as error:
        sentence = str(error) if isinstance(error, UserError) else peer_failure(error)
        sentence = sentence or (explain(error) if explain else None)
        if sentence is None:
            traceback.print_exc()
        abandon(f"error: {sentence}" if sentence else None, 2 if sentence else 1)
    shutdown()


# Messages of the collectives of gloo (CPU) and NCCL (GPU) and of the coordination service after a peer failure.
_LOST = re.compile(
    r"gloo.*(failed|closed|reset|timed out|timeout)|nccl.*(error|abort|timeout)|connection (closed|reset) by peer"
    r"|coordination service|heartbeat timeout|socket closed|barrier.*(timed out|failed)",
    re.IGNORECASE | re.DOTALL,
)


def peer_failure(error: BaseException) -> UserError | None:
    """Returns the `UserError` for an error that means a peer failure, `None` for any other error.

    Args:
        error: the exception that the training loop caught.

    Returns:
        A `UserError` with the sentence for the user: raise it, and end the process with `abandon`. `None` when no peer
        has failed.
    """
    if jax.process_count() == 1 or isinstance(error, UserError):
        return None
    if not isinstance(error, (RuntimeError, ValueError, OSError)) or not _LOST.search(str(error)):
        return None
    return UserError(_ended_sentence())


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


# ---- agreement -----------------------------------------------------------------------------------------------------


def is_main() -> bool:
    """Returns whether this is process 0, which writes files and prints."""
    return jax.process_index() == 0


def process_count() -> int:
    """Returns the number of processes of the run."""
    return int(jax.process_count())


def barrier(name: str) -> None:
    """Waits until every process has reached this call; does nothing in a run of one process."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def asked_to_stop(step: int) -> bool:
    """Returns whether any process has received SIGTERM and all are to stop after this step; the same on every process.

    The processes agree on a step that none has passed, without a collective and without waiting while nobody asks. In a
    run of one process False: there the signal is handled where it arrives, see `interruption.notice`.

    Args:
        step: number of the step just made; every process calls this after every step.
    """
    return jax.process_count() > 1 and bool(multihost_utils.reached_preemption_sync_point(step))


def broadcast_text(text: str) -> str:
    """Returns process 0's text on every process. A collective."""
    if jax.process_count() == 1:
        return text
    return broadcast_bytes(text.encode()).decode()


def broadcast_bytes(data: bytes) -> bytes:
    """Returns process 0's bytes on every process. A collective."""
    if jax.process_count() == 1:
        return data
    length = number_of_main(len(data))
    buffer = np.zeros(length, np.uint8)
    if is_main():
        buffer[:] = np.frombuffer(data, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(buffer), np.uint8).tobytes()


def number_of_main(number: int) -> int:
    """Returns process 0's whole number, below 2**31, on every process. A collective."""
    return number if jax.process_count() == 1 else int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def agree(what: str, value: str) -> None:
    """Checks that every process holds the same value (a config, the index of a data set). A collective.

    Raises:
        UserError: on the processes that differ from process 0, and on process 0 when any does.
    """
    if jax.process_count() == 1:
        return
    same = broadcast_text(value) == value
    everyone = multihost_utils.process_allgather(np.asarray(same))
    if not everyone.all():
        others = ", ".join(str(index) for index in np.flatnonzero(~np.asarray(everyone).reshape(-1)))
        raise UserError(f"{what} differs between process 0 and process {others}; start the same command on every host.")


def agree_on_folder(folder: str | os.PathLike[str]) -> str:
    """Returns process 0's run folder on every process, after checking that all of them see the same disk.

    Checkpoints are written by every process into one folder; on separate disks each would hold a fragment.

    Raises:
        UserError: a process does not see the file that process 0 has just written there.
    """
    path = broadcast_text(os.path.abspath(folder))
    if jax.process_count() == 1:
        os.makedirs(path, exist_ok=True)
        return path
    token = broadcast_text(f".shared-{os.getpid()}-{time.time_ns()}")
    if is_main():
        os.makedirs(path, exist_ok=True)
        with open(os.path.join(path, token), "w"):
            pass
    barrier("reid_jax_folder_written")
    seen = os.path.exists(os.path.join(path, token))
    everyone = np.asarray(multihost_utils.process_allgather(np.asarray(seen))).reshape(-1)
    if is_main():
        os.remove(os.path.join(path, token))
    if not everyone.all():
        blind = ", ".join(str(index) for index in np.flatnonzero(~everyone))
        raise UserError(
            f"process {blind} does not see the run folder {path} of process 0; put it on a disk that all hosts share."
        )
    return path
