"""Speed and memory of train steps and inference, compared with PyTorch where it is installed.

The programs of a table are timed in turn, round after round, each call waited for, without compilation; figures of one
table are therefore comparable even on a busy machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from reid_jax import build
from reid_jax.benchmarks import programs
from reid_jax.benchmarks import subjects as subjects_lib
from reid_jax.benchmarks.torch import counterparts

Row = dict[str, Any]

# Dense bfloat16 FLOP/s of a device by the beginning of its name, from the vendors' data sheets; first match counts.
PEAK_FLOPS: tuple[tuple[str, float], ...] = (
    ("NVIDIA H200", 989e12),
    ("NVIDIA H100 PCIe", 756e12),
    ("NVIDIA H100", 989e12),
    ("NVIDIA A100", 312e12),
    ("TPU v4", 275e12),
    ("TPU v5 lite", 197e12),
    ("TPU v5e", 197e12),
    ("TPU v5", 459e12),
    ("TPU v6", 918e12),
)
CLASSES = 751  # identities of Market-1501's training half


def measure(
    kind: str,
    subjects: Sequence[subjects_lib.Subject],
    batches: Sequence[int | None],
    *,
    steps: int = 5,
    torch: bool = False,
    classes: int = CLASSES,
) -> list[Row]:
    """Returns the times of train steps or inference of every subject at every batch size.

    Args:
        kind: "train" or "infer".
        subjects: what is timed.
        batches: images per step; None is the config's own batch (8 for a model).
        steps: number of timed calls, after one that is not.
        torch: also time the subject's backbone in PyTorch, in turn; see `reid_jax.benchmarks.torch.counterparts`.
        classes: identities of the classifiers.

    Returns:
        A row for each: compile and step time, images per second (of the median step), FLOPs as the compiler counts
        them, utilization where the device's peak is known (bfloat16 only), the program's memory, the speed as a
        multiple of PyTorch's, by the median and by the fastest step; and the median step as a multiple of the first
        subject's.
    """
    rows: list[Row] = []
    for size in batches:
        first = len(rows)
        runs: dict[str, Any] = {}
        for subject in subjects:
            program = subjects_lib.program(kind, subject, size, classes)
            runs[f"{subject.name} x{program.batch}"] = program
            if torch:
                counterpart = counterparts.of(subject.name, subject.settings)
                name = counterpart.name(program.batch)
                if name not in runs:
                    runs[name] = counterpart.start(kind, program.batch, classes)
        seconds = programs.alternate(runs, steps)
        for subject in subjects:
            key = next(name for name in runs if name.startswith(f"{subject.name} x"))
            reference = ""
            if torch:
                reference = counterparts.of(subject.name, subject.settings).name(runs[key].batch)
            rows.append(_model_row(kind, subject, runs[key], seconds[key], seconds.get(reference)))
            if len(subjects) > 1:
                rows[-1]["times_first"] = rows[-1]["step_ms"] / rows[first]["step_ms"]
        rows += [_torch_row(kind, name, run, seconds[name]) for name, run in runs.items() if name.startswith("torch ")]
    return rows


def _model_row(
    kind: str,
    subject: subjects_lib.Subject,
    program: programs.Program,
    seconds: tuple[list[float], list[float]],
    reference: tuple[list[float], list[float]] | None,
) -> Row:
    timing = program.timing(*seconds)
    dtype = np.dtype(build.compute_dtype(subject.settings.dtype)).name
    data = subject.settings.data
    flops_per_second = timing.flops / timing.median_seconds
    peak = peak_flops(jax.devices()[0].device_kind) if dtype == "bfloat16" else None
    row = {
        "what": f"{kind} {subject.name}",
        "step": "own" if subject.config is not None and kind == "train" else "plain",
        "batch": program.batch,
        "image": f"{data.height}x{data.width}",
        "dtype": dtype,
        "compile_s": timing.compile_seconds,
        "step_ms": 1e3 * timing.median_seconds,
        "fastest_ms": 1e3 * timing.step_seconds,
        "cpu_ms": 1e3 * timing.step_cpu_seconds,
        "images_per_s": program.batch / timing.median_seconds,
        "gflop": timing.flops / 1e9,
        "gflop_per_s": flops_per_second / 1e9,
        "mfu": None if peak is None else flops_per_second / (peak * jax.device_count()),
        "program_MB": timing.memory_bytes / 1e6,
    }
    if reference is not None:
        row["speed_of_torch"] = float(np.median(reference[0])) / timing.median_seconds
        # Other programs on the machine only ever add time: on a busy one the fastest steps compare best.
        row["fastest_of_torch"] = min(reference[0]) / timing.step_seconds
    return row


def peak_flops(device_kind: str) -> float | None:
    """Returns the dense bfloat16 FLOP/s of a device, None where it is not in the table."""
    return next((peak for name, peak in PEAK_FLOPS if device_kind.startswith(name)), None)


def _torch_row(kind: str, name: str, run: counterparts.Run, seconds: tuple[list[float], list[float]]) -> Row:
    median = float(np.median(seconds[0]))
    return {
        "what": f"{kind} {name.rpartition(' x')[0]}",
        "step": "plain",
        "batch": run.batch,
        **run.about,
        "compile_s": run.compile_seconds,
        "step_ms": 1e3 * median,
        "fastest_ms": 1e3 * min(seconds[0]),
        "cpu_ms": 1e3 * min(seconds[1]),
        "images_per_s": run.batch / median,
    }
