"""Comparison of the processes of a run before its first collective: config, code, versions, devices, and clock.

Processes that differ would compute different programs, and then wait for each other in vain or average what does not
belong together. They compare themselves through the service by which they met, since a collective needs equal programs
already: every process states its facts, process 0 compares them, and all end with the same sentence or go on.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from reid_jax.errors import UserError
from reid_jax.runtime import processes, provenance

# Seconds that a process waits for the statements of the others.
TIMEOUT = 120
# Seconds that process 0 waits for the others to read why the run ends.
LAST_WORDS = 10.0
# Clocks of hosts may differ by so many seconds. Times in logs and the signatures of object stores need no more.
CLOCK_TOLERANCE = 60.0

SAME_COMMAND = "start the same command on every host."
# What to do where a fact differs; SAME_COMMAND for others.
REMEDIES = {
    "the code of reid_jax": "install the same commit on every host.",
    "the version of Python": "install the same environment on every host.",
    "the version of jax": "install the same environment on every host.",
    "the version of jaxlib": "install the same environment on every host.",
    "the version of flax": "install the same environment on every host.",
    "the version of numpy": "install the same environment on every host.",
    "the kind of device": "run on hosts with the same devices.",
    "the number of devices": "give every process the same number of devices.",
}
# Hashes say nothing to a reader.
UNSHOWN = ("the config", "own code")


def check(**facts: str) -> None:
    """Compares this process with the others, in two exchanges: before and after the devices are looked for.

    Does nothing in a run of one process.

    Args:
        **facts: what must be the same everywhere, by name with `_` for blanks (`the_config=...`).

    Raises:
        UserError: on all processes, the same: the first difference, clocks that are too far apart, or a process that
            does not answer.
    """
    if not jax.distributed.is_initialized():
        return
    client, index, count = _service()
    # Another version of the code may read the same config otherwise, so the code comes first.
    stated = software() | {name.replace("_", " "): value for name, value in facts.items()}
    _exchange(client, index, count, "software", {**stated, "clock": _clock(client)})
    _exchange(client, index, count, "devices", devices())


def software() -> dict[str, str]:
    """Returns the versions that decide which program is compiled, and a hash of this package's code."""
    versions = provenance.versions()
    python = ".".join(versions["python"].split(".")[:2])
    named = {f"the version of {name}": versions[name] for name in ("jax", "jaxlib", "flax", "numpy")}
    return {"the code of reid_jax": provenance.source_hash(), "the version of Python": python, **named}


def devices() -> dict[str, str]:
    """Returns kind and number of this process's devices; starts the backend."""
    local = jax.local_devices()
    return {"the kind of device": local[0].device_kind, "the number of devices": str(len(local))}


def difference(stated: Sequence[Mapping[str, Any]]) -> str:
    """Returns the sentence about the first difference between processes; "" where there is none.

    Args:
        stated: the facts of each process; "clock" is a time in seconds, taken by all at the same moment.
    """
    for name in stated[0]:
        if name == "clock":
            continue
        first = stated[0][name]
        others = [index for index, facts in enumerate(stated) if facts.get(name) != first]
        if others:
            shown = ["" if name in UNSHOWN else f" ({str(stated[index].get(name))[:40]})" for index in (0, others[0])]
            return (
                f"{name} differs between process 0{shown[0]} and process {_listed(others)}{shown[1]}; "
                f"{REMEDIES.get(name, SAME_COMMAND)}"
            )
    if "clock" in stated[0]:
        off = [facts["clock"] - stated[0]["clock"] for facts in stated]
        worst = max(range(len(off)), key=lambda index: abs(off[index]))
        if abs(off[worst]) > CLOCK_TOLERANCE:
            place = "ahead of" if off[worst] > 0 else "behind"
            return (
                f"the clock of process {worst} is {abs(off[worst]):.0f} s {place} that of process 0, where "
                f"{CLOCK_TOLERANCE:.0f} s are allowed; set the clocks of all hosts (chrony, NTP)."
            )
    return ""


def _exchange(client: Any, index: int, count: int, what: str, facts: Mapping[str, Any]) -> None:
    """States facts, and ends with process 0's sentence about all of them, if there is one."""
    key = f"reid_jax/{what}"
    if index:
        client.key_value_set(f"{key}/{index}", json.dumps(facts))
        # Process 0 waits so long for the slowest of the others.
        sentence = _get(client, f"{key}/verdict", 2 * TIMEOUT)
        if sentence is None:
            sentence = f"process 0 did not compare {what} within {2 * TIMEOUT} s; {SAME_COMMAND}"
        if sentence:
            processes.prepare_to_end(sentence)
            # Process 0 may be gone before it confirms.
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                client.key_value_set(f"{key}/read/{index}", "read")
    else:
        sentence = _compared(client, count, key, facts)
        client.key_value_set(f"{key}/verdict", sentence)
        # The service ends with this process, so the others must have read why.
        end = time.monotonic() + LAST_WORDS
        for other in range(1, count if sentence else 1):
            _get(client, f"{key}/read/{other}", max(0.1, end - time.monotonic()))
    if sentence:
        raise UserError(sentence)


def _compared(client: Any, count: int, key: str, own: Mapping[str, Any]) -> str:
    """Returns process 0's sentence about the facts of all processes."""
    stated, end = [own], time.monotonic() + TIMEOUT
    for other in range(1, count):
        text = _get(client, f"{key}/{other}", max(1.0, end - time.monotonic()))
        if text is None:
            return (
                f"process {other} did not state its {key.rpartition('/')[2]} within {TIMEOUT} s (it hangs, or is of "
                f"another version of reid_jax); {SAME_COMMAND}"
            )
        stated.append(json.loads(text))
    return difference(stated)


def _get(client: Any, key: str, seconds: float) -> str | None:
    """Returns the value of a key once it is there; None after some seconds without it."""
    try:
        return str(client.blocking_key_value_get(key, int(1000 * seconds)))
    except jax.errors.JaxRuntimeError as error:
        if "DEADLINE_EXCEEDED" in str(error):
            return None
        raise  # another process is lost: `processes.peer_failure` explains it


def _clock(client: Any) -> float:
    """Returns this host's time in seconds at a moment that is the same for all processes."""
    client.wait_at_barrier("reid_jax/clock", 1000 * TIMEOUT)
    return time.time()


def _service() -> tuple[Any, int, int]:
    """Returns the client of the service by which the processes met, this process's number, and how many there are."""
    # jax has no public name for it; orbax takes it from the same place.
    from jax._src import distributed

    state = distributed.global_state
    return state.client, int(state.process_id), int(state.num_processes)


def _listed(numbers: Sequence[int], most: int = 8) -> str:
    """Returns numbers of processes for a sentence."""
    more = f" and {len(numbers) - most} others" if len(numbers) > most else ""
    return ", ".join(map(str, numbers[:most])) + more
