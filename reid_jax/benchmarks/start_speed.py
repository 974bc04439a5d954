"""From the start of a process to the end of its first train step: with an empty folder of compiled programs, and again.

Each start is a process of its own, ended after its first step. The data set is prepared before, so that neither start
draws it. Processor time counts all cores and is what to compare on a busy machine.

A config at full size needs images and weights that are not at hand, and a step of it takes minutes on a CPU. It is
started on generated images with random weights, and ends when its train step is compiled (`main`).
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from reid_jax import build, errors
from reid_jax.benchmarks import ahead, subjects
from reid_jax.config import files
from reid_jax.runs import settings as settings_lib
from reid_jax.runtime import compilation
from reid_jax.train import step as step_lib

Row = dict[str, Any]

# The lines of the log that a start is timed to: of `reid_jax.train.loop`, and of `main`.
FIRST_STEP = ("compiled and done in", "compiled, ready for its first step")
FULL_SIZE = tuple(f"{system}:market1501" for system in ("mfv", "amfor", "mgaf", "mspf", "cfat"))
CLASSES = 751  # identities of Market-1501's training half


def measure(
    configs: Sequence[str] = (),
    known: Sequence[Row] = (),
    report: Callable[[list[Row]], None] = lambda rows: None,
) -> list[Row]:
    """Returns a row for each config: wall and processor seconds of a cold and of a second start.

    Args:
        configs: config files or names with their presets; none for the demos of all packaged configs, and `FULL_SIZE`.
        known: rows of an earlier call, which are not measured again.
        report: is called with all rows after each.

    Returns:
        Rows with `what`, `program_lines` (of the train step, as JAX hands it to the compiler), `cold_s`, `cold_cpu_s`,
        `second_s`, `second_cpu_s`, the number of `programs` that were kept, and `load` of the machine.
    """
    rows = list(known)
    for name in configs or [*sorted(files.packaged()), *FULL_SIZE]:
        config = files.load_config(name)
        what = f"{config.system}:{','.join([config.preset, *config.variants])}"
        if what in [row["what"] for row in rows]:
            continue
        demo = config.preset == "demo"
        if demo:
            build.open_data(settings_lib.of(config).data)
        row: Row = {"what": what}
        with _folder() as place:
            kept = place / "programs"
            row["cold_s"], row["cold_cpu_s"] = start(name, place / "cold", kept, demo=demo)
            files_kept = list(kept.rglob("*-cache"))
            row["second_s"], row["second_cpu_s"] = start(name, place / "second", kept, demo=demo)
        row |= {"programs": len(files_kept), "program_lines": program_lines(config)}
        row["load"] = round(os.getloadavg()[0], 1)
        rows.append(row)
        report(rows)
    return rows


@contextlib.contextmanager
def _folder() -> Iterator[pathlib.Path]:
    place = pathlib.Path(tempfile.mkdtemp(prefix="reid-jax-start-"))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def start(
    name: str, workdir: pathlib.Path, kept: pathlib.Path, limit: float = 1800.0, *, demo: bool = True
) -> tuple[float, float]:
    """Returns wall and processor seconds of a training run from its start to its first step, and ends it there.

    Args:
        name: config file or name, with its preset.
        workdir: run folder of the run.
        kept: folder of its compiled programs.
        limit: wall seconds after which it is ended.
        demo: whether the run itself is started; else `main`.

    Raises:
        UserError: the run ended without a step; its last line is quoted.
    """
    command = [sys.executable, "-m", "reid_jax.cli", "train", "--config", name, "--workdir", str(workdir)]
    command += ["--mode=train", f"{compilation.FLAG}={kept}"]
    if not demo:
        command = [sys.executable, "-m", "reid_jax.benchmarks.start_speed", name, str(kept)]
    # Settings of JAX's cache in this shell would change what is kept; and an installed package has byte code.
    hidden = ("JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE", "JAX_ENABLE_COMPILATION_CACHE", "PYTHONDONTWRITE")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(hidden)}
    began, last = time.perf_counter(), ""
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if any(end in line for end in FIRST_STEP):
                return time.perf_counter() - began, processor_seconds(process.pid)
            if time.perf_counter() - began > limit:
                raise errors.UserError(f"{name} made no step within {limit:.0f} s; try it alone.")
            last = line.strip() or last
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    raise errors.UserError(f"expected a first step of {name}, the run ended without ({last[:300]}); run it by itself.")


def processor_seconds(process: int) -> float:
    """Returns the processor time that a process has used, with that of its children that have ended."""
    after_name = pathlib.Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return sum(map(int, after_name[11:15])) / os.sysconf("SC_CLK_TCK")


def program_lines(config: ConfigDict) -> int:
    """Returns the lines of a config's train step as JAX hands it to the compiler (StableHLO)."""
    run = subjects.config_run(config, CLASSES if config.preset != "demo" else 96)
    step, arguments = _placed(ahead.abstract("train", run), run.mesh)
    return len(step.lower(*arguments).as_text().splitlines())


def _placed(program: ahead.Abstract, mesh: Mesh) -> tuple[Any, tuple[Any, ...]]:
    """Returns the train step of a run's longest phase as one program, and the shapes of its arguments."""
    images = next(iter(program.arguments[program.batch].values())).shape[0]
    return program.on(mesh, images)


def main(name: str, kept: str) -> None:
    """Starts a config at full size up to its compiled train step, see the module's docstring.

    Args:
        name: config file or name, with its preset.
        kept: folder of the compiled programs.
    """
    compilation.keep(kept)
    run = subjects.config_run(files.load_config(name), CLASSES)
    jax.block_until_ready(run.initial_state(weights=False).params)
    program = ahead.abstract("train", run)
    _, (state, batch, _) = _placed(program, run.mesh)
    step_lib.TrainStep(program.function, run.mesh, 0).begin(state, batch).result()
    print(f"{name}: {FIRST_STEP[1]}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
