"""Where the time of a recorded program goes: the operations of a trace of JAX's profiler, by their share."""

from __future__ import annotations

import collections
import gzip
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax

Row = dict[str, Any]


def record(run: Callable[[], None], folder: pathlib.Path, calls: int = 3) -> list[Row]:
    """Returns the operations of a program that take the most time, see `operations`; the trace stays in the folder.

    Args:
        run: calls the program and waits for its result.
        folder: folder of the trace.
        calls: recorded calls, after one that is not.
    """
    run()
    with jax.profiler.trace(str(folder)):
        for _ in range(calls):
            run()
    files = sorted(folder.rglob("*.trace.json.gz"), key=lambda path: path.stat().st_mtime)
    return operations(json.loads(gzip.decompress(files[-1].read_bytes())), calls) if files else []


def operations(trace: dict[str, Any], calls: int, most: int = 25) -> list[Row]:
    """Returns the operations of a trace that take the most time.

    Args:
        trace: content of a `trace.json.gz`.
        calls: recorded calls of the program.
        most: number of rows.

    Returns:
        Rows with `operation` (numbers at the end of its name are dropped), `count` and `ms` for each call, and its
        `share` of the time of all operations.
    """
    events = trace.get("traceEvents", [])
    threads = {
        (event["pid"], event["tid"]): str(event["args"].get("name", ""))
        for event in events
        if event.get("ph") == "M" and event.get("name") == "thread_name"
    }
    timed = [event for event in events if event.get("ph") == "X" and "hlo_op" in (event.get("args") or {})]
    # On a GPU or TPU the operations stand in a track of their own, next to the kernels that they start.
    tracked = [event for event in timed if "XLA Ops" in threads.get((event["pid"], event["tid"]), "")]
    spent: collections.Counter[str] = collections.Counter()
    counts: collections.Counter[str] = collections.Counter()
    for event in tracked or timed:
        name = kind(str(event["args"]["hlo_op"]))
        spent[name] += event.get("dur", 0.0)
        counts[name] += 1
    total = sum(spent.values()) or 1.0
    return [
        {
            "operation": name,
            "count": round(counts[name] / calls, 1),
            "ms": round(time / 1e3 / calls, 4),
            "share": round(time / total, 4),
        }
        for name, time in spent.most_common(most)
    ]


def kind(name: str) -> str:
    """Returns the kind of an operation: its name without the number, such as "copy" for "copy.316"."""
    return name.lstrip("%").rstrip("0123456789").rstrip(".") or name
