"""Runs of an ablation table: rows x seeds of one config, resumable.

Each cell is an ordinary training run in its own process and folder (`<workdir>/<row>/seed<seed>`). A folder with
`result.json` is finished and is not run again. `reid_jax.runs.ablation_table` makes the table.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import queue
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Protocol

from reid_jax import errors

# Command that starts a run, without its arguments.
COMMAND = (sys.executable, "-m", "reid_jax.cli", "train")


@dataclasses.dataclass(frozen=True)
class Plan:
    """Rows and seeds of an ablation table.

    Attributes:
        config: path of the config file.
        preset: preset that every row starts from.
        rows: variants. "a+b" is one row with the variants a and b, "full" is the preset alone, and "cil:full" is a row
            of the config file cil.py in the same folder. "a@mim:b" starts from the encoder that a run of mim.py's
            row b with the same seed has pretrained, which runs first; "a@mim:b/encoder_0" from another of its files.
            "a@b" goes on from the run of this config's row b with the same seed, its extras included
            (`init.trained`); b runs first, and may be a row of the table as well.
        seeds: one run each.
        workdir: folder of the run folders.
        overrides: further `--config.key=value` arguments of every run.
        pairs: (row, baseline) of the table of gains.
        data_seeds: whether the seed of a run is that of its generated data set as well.
        references_once: whether the first row alone measures the references without training.
        pretraining_overrides: further `--config.key=value` arguments of the runs that rows start from.

    Raises:
        UserError: a pair names a row that is not among the rows.
    """

    config: str
    preset: str
    rows: tuple[str, ...]
    seeds: tuple[int, ...]
    workdir: pathlib.Path
    overrides: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    data_seeds: bool = False
    references_once: bool = False
    pretraining_overrides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for row in (row for pair in self.pairs for row in pair if row not in self.rows):
            raise errors.unknown("row to compare", row, self.rows)
        for row in self.rows:
            if "@" in row and not _start_of(row):
                raise errors.UserError(
                    f"expected pretraining behind '@', such as baseline+mim128@mim:full, got {row[:100]!r}; name it or "
                    "leave '@' out."
                )

    def cells(self) -> Iterator[tuple[str, int, pathlib.Path]]:
        """Yields `(row, seed, run folder)`, seed by seed, so that every row has a result after the first seed."""
        for seed in self.seeds:
            for row in self.rows:
                yield row, seed, self._folder(row, seed)

    def _folder(self, row: str, seed: int) -> pathlib.Path:
        return self.workdir / row.replace("/", "-") / f"seed{seed}"

    def starts(self) -> Iterator[tuple[str, int, pathlib.Path]]:
        """Yields the runs of this config that rows go on from, as `cells`."""
        for start, seed in self._behind():
            if ":" not in start:
                yield start, seed, self._folder(start, seed)

    def _behind(self) -> Iterator[tuple[str, int]]:
        """Yields what stands behind "@", without names of files, each once for every seed."""
        found = tuple(dict.fromkeys(filter(None, map(_start_of, self.rows))))
        for seed in self.seeds:
            yield from ((start, seed) for start in found)

    def argument(self, row: str) -> str:
        """Returns the value of `--config` for a row, `FILE:PRESET[,VARIANT...]`."""
        return self._argument(row.partition("@")[0], self.preset)

    def _argument(self, row: str, preset: str) -> str:
        other, _, row = row.rpartition(":")
        config = pathlib.Path(self.config).with_stem(other) if other else self.config
        variants = [] if row == "full" else row.split("+")
        return f"{config}:{','.join([preset, *variants])}"

    def command(self, row: str, seed: int, folder: pathlib.Path) -> list[str]:
        """Returns the command line of one cell."""
        return [
            *COMMAND,
            f"--config={self.argument(row)}",
            f"--workdir={folder}",
            f"--config.seed={seed}",
            *([f"--config.data.options.seed={seed}"] if self.data_seeds else []),
            *self._start_arguments(row, seed),
            *(["--config.evals.baselines=False"] if self.references_once and row != self.rows[0] else []),
            *self.overrides,
        ]

    def _start_arguments(self, row: str, seed: int) -> list[str]:
        """Returns the argument that names what a row behind "@" starts from."""
        _, _, start = row.partition("@")
        pretrained, _, file = start.partition("/")
        if not start:
            return []
        if ":" not in pretrained:
            return [f"--config.init.trained={self._folder(pretrained, seed)}"]
        weights = self._pretrained(pretrained, seed) / "weights" / f"{file or 'encoder'}.npz"
        return [f"--config.init.weights={weights}"]

    # ---- pretraining that rows start from ---------------------------------------------------------------------------

    def pretraining(self) -> Iterator[tuple[str, int, pathlib.Path]]:
        """Yields the pretraining runs that rows start from, as `cells`; tables in one folder share them."""
        for start, seed in self._behind():
            if ":" in start:
                yield start, seed, self._pretrained(start, seed)

    def _pretrained(self, start: str, seed: int) -> pathlib.Path:
        return self.workdir.parent / "pretrained" / start / f"seed{seed}"

    def pretraining_argument(self, start: str) -> str:
        """Returns the value of `--config` of a pretraining run: its first preset is the plan's."""
        return self._argument(start, self.preset.partition(",")[0])

    def pretraining_command(self, start: str, seed: int, folder: pathlib.Path) -> list[str]:
        """Returns the command line of a pretraining run; of the plan's overrides it takes the place of the data."""
        places = [override for override in self.overrides if override.startswith("--config.data.root=")]
        argument = self.pretraining_argument(start)
        given = [*places, *self.pretraining_overrides]
        return [*COMMAND, f"--config={argument}", f"--workdir={folder}", f"--config.seed={seed}", *given]


class Watch(Protocol):
    """What decides whether a run begins, and hears of its end; called from several threads."""

    def may_start(self, row: str, seed: int) -> bool:
        """Returns whether a run may begin."""

    def ended(self, row: str, seed: int, seconds: float) -> None:
        """Hears that a run has finished, and the processor seconds that it took."""


class _NoWatch:
    """Every run begins."""

    def may_start(self, row: str, seed: int) -> bool:
        del row, seed
        return True

    def ended(self, row: str, seed: int, seconds: float) -> None:
        del row, seed, seconds


def run(plan: Plan, jobs: int = 1, watch: Watch | None = None, kept: Collection[tuple[str, int]] = ()) -> None:
    """Runs all cells that are not finished.

    Args:
        plan: rows and seeds.
        jobs: number of concurrent runs. With more than one, each run gets its own share of the CPU cores and prints
            only to its `log.txt`. Small models do not use many cores: two concurrent runs on one core each finish
            sooner than two consecutive runs on both cores.
        watch: what decides whether a run begins; by default every run does. Runs that it refuses are left out.
        kept: (row, seed) of cells whose results are known without a run folder; neither they run, nor what only they
            start from.

    Raises:
        UserError: a run failed. Finished runs are kept, and the runs in progress complete first.
    """
    watch = watch or _NoWatch()
    if not any(plan.pretraining()) and not any(plan.starts()):
        _run([cell for cell in plan.cells() if cell[:2] not in kept], plan.command, jobs, watch)
        return
    # Seed by seed, what rows start from first.
    for seed in plan.seeds:
        single = dataclasses.replace(plan, seeds=(seed,))
        cells = [cell for cell in single.cells() if cell[:2] not in kept]
        needed = {_start_of(row) for row, *_ in cells}
        pretraining = [cell for cell in single.pretraining() if cell[0] in needed]
        starts = [cell for cell in single.starts() if cell[0] in needed]
        _run(pretraining, plan.pretraining_command, jobs, watch)
        _run(starts, plan.command, jobs, watch)
        # A watch may have left out what rows start from.
        before = {start: folder for start, _, folder in (*pretraining, *starts)}
        _run([cell for cell in cells if _is_ready(cell[0], before)], plan.command, jobs, watch)


def _start_of(row: str) -> str:
    """Returns the run that a row starts from, "" for none."""
    return row.partition("@")[2].partition("/")[0]


def _is_ready(row: str, before: Mapping[str, pathlib.Path]) -> bool:
    """Returns whether the run that a row starts from is finished."""
    return _start_of(row) not in before or (before[_start_of(row)] / "result.json").is_file()


def _run(
    cells: Sequence[tuple[str, int, pathlib.Path]],
    command: Callable[[str, int, pathlib.Path], list[str]],
    jobs: int,
    watch: Watch,
) -> None:
    """Runs those of some cells that are not finished; see `run`."""
    shares = _core_shares(jobs)
    free: queue.SimpleQueue[set[int] | None] = queue.SimpleQueue()
    for share in shares:
        free.put(share)
    failed: list[errors.UserError] = []

    def execute(row: str, seed: int, folder: pathlib.Path) -> None:
        if failed or not watch.may_start(row, seed):
            return
        print(f"{row} seed {seed}: running", flush=True)
        share = free.get()
        code, seconds = _start(command(row, seed, folder), share)
        free.put(share)
        if not code:
            watch.ended(row, seed, seconds)
        else:
            failed.append(
                errors.UserError(
                    f"expected row {row!r} seed {seed} to finish, it ended with code {code} (see {folder}/log.txt); "
                    "fix the error and run the same command again: finished runs are kept."
                )
            )

    pool = futures.ThreadPoolExecutor(len(shares))
    for row, seed, folder in cells:
        if (folder / "result.json").is_file():
            print(f"{row} seed {seed}: finished, kept", flush=True)
        else:
            pool.submit(execute, row, seed, folder)
    try:
        pool.shutdown()
    except KeyboardInterrupt:
        # The runs in progress receive the interrupt as well and save a checkpoint; no further run is started.
        pool.shutdown(cancel_futures=True)
        raise
    if failed:
        raise failed[0]


def _core_shares(jobs: int) -> list[set[int] | None]:
    """Returns the CPU cores of each concurrent run; None for all cores."""
    if jobs < 1:
        raise errors.UserError(f"expected at least one run at a time, got --jobs {jobs}.")
    if jobs == 1 or not hasattr(os, "sched_getaffinity"):
        return [None] * jobs
    cores = sorted(os.sched_getaffinity(0))
    if jobs > len(cores):
        raise errors.UserError(f"expected at most as many runs as cores ({len(cores)}), got --jobs {jobs}.")
    return [set(cores[index::jobs]) for index in range(jobs)]


def _start(command: Sequence[str], cores: set[int] | None) -> tuple[int, float]:
    """Runs a command; `cores` restricts it to these cores and discards its output.

    Returns:
        Its exit code, and the processor seconds that it and the processes that it waited for took; wall seconds on a
        system that does not say.
    """
    began = time.monotonic()
    output = None if cores is None else subprocess.DEVNULL
    child = subprocess.Popen(command, stdout=output, stderr=output)
    if cores is not None:
        # Early enough for the child's libraries, which count the cores on import. The child may have ended already.
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(child.pid, cores)
    if not hasattr(os, "wait4"):
        return child.wait(), time.monotonic() - began
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    return child.returncode, used.ru_utime + used.ru_stime
