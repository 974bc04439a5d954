"""How far scores differ between machines: runs of one seed that differ in the order of their sums only.

Another processor or another number of threads adds the same numbers in another order. The last bits of a step differ,
training amplifies them, and two runs of a seed end with different scores. A difference between two rows of a table that
is smaller than that says nothing unless it rests on many seeds.

Another machine is imitated on this one: narrower vector instructions change the order of sums inside an operation,
fewer threads the order between its pieces.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from reid_jax import errors
from reid_jax.config import files
from reid_jax.runs import ablation
from reid_jax.runs.folder import RunFolder

Row = dict[str, Any]
SCORES = ("mAP", "rank1")


@dataclasses.dataclass(frozen=True)
class Condition:
    """Circumstances of a run.

    Attributes:
        name: its name in the table.
        flags: added to `XLA_FLAGS`.
        cores: number of cores the run may use; 0 for all.
    """

    name: str
    flags: str = ""
    cores: int = 0


CONDITIONS = (
    Condition("as it is"),
    Condition("the same again"),
    Condition("vectors of AVX2", flags="--xla_cpu_max_isa=AVX2"),
    Condition("vectors of SSE 4.2", flags="--xla_cpu_max_isa=SSE4_2"),
    Condition("one core", cores=1),
)


def measure(
    configs: Sequence[str],
    known: Sequence[Row] = (),
    report: Callable[[list[Row]], None] = lambda rows: None,
    conditions: Sequence[Condition] = CONDITIONS,
    command: Sequence[str] = ablation.COMMAND,
) -> list[Row]:
    """Returns a row for each config and condition, in the order in which they were measured.

    Args:
        configs: config files or names with preset and variants; each is trained once under every condition.
        known: rows of an earlier call, which are not measured again.
        report: is called with all rows after each.
        conditions: the first is the one that the others are compared with.
        command: starts a run, without its arguments.

    Returns:
        Rows with `what`, `condition`, `seed`, `steps`, the scores in [0, 1], and their differences from the first
        condition in points.

    Raises:
        UserError: no CPU, or a run failed.
    """
    if os.environ.get("JAX_PLATFORMS", "cpu").partition(",")[0] != "cpu":
        raise errors.UserError("expected a run on the CPU (JAX_PLATFORMS=cpu), whose instructions can be chosen.")
    rows = list(known)
    for name in configs:
        config = files.load_config(name)
        what = f"{config.system}:{','.join([config.preset, *config.variants])}"
        first: Row = {}
        for condition in conditions:
            row = next((row for row in rows if (row["what"], row["condition"]) == (what, condition.name)), None)
            if row is None:
                row = {"what": what, "condition": condition.name, **_trained(name, condition, command)}
                rows.append(_compared(row, first or row))
                report(rows)
            first = first or row
    return rows


def _compared(row: Row, first: Row) -> Row:
    return row | {f"{name}_difference": round(100 * (row[name] - first[name]), 2) for name in SCORES}


def _trained(name: str, condition: Condition, command: Sequence[str]) -> Row:
    """Trains under a condition in a process of its own and returns seed, steps and scores."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="reid-jax-machine-"))
    environment = {**os.environ, "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {condition.flags}".strip()}
    try:
        with open(folder / "output.txt", "wb") as output:
            child = subprocess.Popen(
                [*command, f"--config={name}", f"--workdir={folder / 'run'}"],
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            if condition.cores and hasattr(os, "sched_getaffinity"):
                # Early enough for the child's libraries, which count the cores on import.
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(child.pid, sorted(os.sched_getaffinity(0))[: condition.cores])
            code = child.wait()
        result = RunFolder(folder / "run").read_result()
        if code or result is None:
            last = (folder / "output.txt").read_text(errors="replace").strip().rpartition("\n")[2]
            raise errors.UserError(
                f"expected {name} to train under the condition {condition.name!r}, it ended with code {code} "
                f"({last[:300]}); run it by itself."
            )
        scores = {score: result[f"{result['dataset']}/{score}"] for score in SCORES}
        return {"seed": result["seed"], "steps": result["steps"], **scores}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
