"""Operations of a trace: summed by kind, from the device's own track where there is one."""

from __future__ import annotations

from typing import Any

from reid_jax.benchmarks import traces


def operation(name: str, microseconds: float, thread: int = 1) -> dict[str, Any]:
    return {"ph": "X", "pid": 1, "tid": thread, "name": name, "dur": microseconds, "args": {"hlo_op": name}}


def test_operations_are_summed_by_kind_and_call():
    host = {"ph": "X", "pid": 1, "tid": 9, "name": "$loop.py", "dur": 1e6}
    trace = {"traceEvents": [host, operation("copy.1", 500), operation("copy.2", 1500), operation("dot_fusion", 6000)]}
    assert traces.operations(trace, calls=2) == [
        {"operation": "dot_fusion", "count": 0.5, "ms": 3.0, "share": 0.75},
        {"operation": "copy", "count": 1.0, "ms": 1.0, "share": 0.25},
    ]
    assert traces.operations({}, calls=1) == []


def test_the_devices_track_counts_once():
    track = {"ph": "M", "name": "thread_name", "pid": 1, "tid": 2, "args": {"name": "XLA Ops"}}
    trace = {"traceEvents": [track, operation("copy.1", 500), operation("copy.1", 400, thread=2)]}
    (row,) = traces.operations(trace, calls=1)
    assert (row["ms"], row["share"]) == (0.4, 1.0)


def test_kinds_of_operations():
    assert [traces.kind(name) for name in ("%copy.316", "ynn_fusion.44", "copy_bitcast_fusion", "7")] == [
        "copy",
        "ynn_fusion",
        "copy_bitcast_fusion",
        "7",
    ]
