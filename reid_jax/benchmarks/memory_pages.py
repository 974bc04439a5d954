"""What large pages of memory save: a train step compiled and run with them and with kept memory of small pages.

Each round of a config starts a process under either condition, one after the other, so that other programs affect both
alike; `measure` returns the ratios of a round's pair with their 95 % interval over the rounds. See
`reid_jax.runtime.allocator`.
"""

from __future__ import annotations

import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from reid_jax import errors
from reid_jax.benchmarks import programs, subjects
from reid_jax.config import files
from reid_jax.runs import significance
from reid_jax.runtime import allocator

Row = dict[str, Any]
ROUNDS = 3
CLASSES = 96
CONDITIONS = {"kept": f"{allocator.HUGE_PAGES}=0", "large": f"{allocator.HUGE_PAGES}=1"}
MEASURED = ("compile_s", "compile_cpu_s", "step_s", "step_cpu_s", "peak_MB")


def measure(
    configs: Sequence[str],
    steps: int,
    known: Sequence[Row] = (),
    report: Callable[[list[Row]], None] = lambda rows: None,
    rounds: int = ROUNDS,
) -> list[Row]:
    """Returns a row for each config and measured quantity.

    Args:
        configs: config files or names with their presets.
        steps: timed steps of a process.
        known: rows of an earlier call, which are not measured again.
        report: is called with all rows after each config.
        rounds: pairs of processes.

    Returns:
        Rows with `what`, `measured` (one of `MEASURED`: seconds to compile the step, and of the fastest step; the most
        memory of the process), `kept` and `large` (medians), `ratio` (large / kept, the geometric mean over rounds) and
        the ends of its interval, `low` and `high`.

    Raises:
        UserError: a process ended without figures; its last line is quoted.
    """
    rows = list(known)
    for name in configs:
        config = files.load_config(name)
        what = f"{config.system}:{','.join([config.preset, *config.variants])}"
        if what in [row["what"] for row in rows]:
            continue
        pairs = [{key: _of_process(name, steps, key) for key in CONDITIONS} for _ in range(rounds)]
        rows += [{"what": what, "rounds": rounds, "measured": each, **_compared(pairs, each)} for each in MEASURED]
        report(rows)
    return rows


def _compared(pairs: Sequence[dict[str, Row]], measured: str) -> Row:
    logarithms = [math.log(pair["large"][measured] / pair["kept"][measured]) for pair in pairs]
    mean, reach = statistics.fmean(logarithms), math.inf
    if len(pairs) > 1:
        error = statistics.stdev(logarithms) / math.sqrt(len(pairs))
        reach = error * significance.student_quantile(significance.ALPHA, len(pairs) - 1)
    medians = {key: round(statistics.median(pair[key][measured] for pair in pairs), 3) for key in CONDITIONS}
    ratios = {"ratio": mean, "low": mean - reach, "high": mean + reach}
    return medians | {key: round(math.exp(value), 3) for key, value in ratios.items()}


def _of_process(name: str, steps: int, condition: str) -> Row:
    """Returns what a process of its own measures under a condition."""
    command = [sys.executable, "-m", "reid_jax.benchmarks.memory_pages", name, str(steps)]
    environment = {**os.environ, allocator.TUNABLES: CONDITIONS[condition]}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or "no line").rpartition("\n")[2]
        raise errors.UserError(f"expected figures of {name}, its process ended with {last[:300]!r}; run it by itself.")
    measured: Row = json.loads(done.stdout.strip().rpartition("\n")[2])
    return measured


def main(name: str, steps: int) -> None:
    """Compiles and runs the train step of a config on generated images, and prints the figures as a line of JSON."""
    allocator.keep_freed_memory()
    step: Any
    step, (state, batch), _ = subjects.config_step(files.load_config(name), None, CLASSES)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), (state, batch))
    wall, processor = time.perf_counter(), time.process_time()
    step.begin(*shapes).result()
    found = {"compile_s": time.perf_counter() - wall, "compile_cpu_s": time.process_time() - processor}

    def run() -> None:
        nonlocal state
        state = jax.block_until_ready(step(state, batch))[0]

    walls, processors = programs.alternate({"step": run}, steps)["step"]
    found |= {"step_s": min(walls), "step_cpu_s": min(processors)}
    print(json.dumps(found | {"peak_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
