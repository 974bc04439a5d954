"""Applies the deliberate mistakes of this folder one by one and runs the tests that should notice: `make mutants`.

    python -m tests.mutants.run                            # all lists; writes results/mutants.json
    python -m tests.mutants.run --only mfv,losses --output -    # some systems, or files; on the screen alone
    python -m tests.mutants.run --only mgaf --commit 864b434 --as-before --tests tests/models/test_mgaf.py tests/config
    python -m tests.mutants.run --lists more.py            # another list, kept outside the repository

Every worker has a copy of the tree. For each mistake it writes one file of the copy, runs the named tests with `-x` in
a process forked from one that has imported jax, and restores the file. A mistake that no test notices *survives*.
Programs come from the suite's compilation cache, so that a mistake costs the seconds of its own tests.

With `--commit` it does so with the files and tests of a commit: an entry's tests are then those of its files that the
commit has, or the ones of `--tests` if it has none. Entries whose text that commit does not have once are left out.
"""

from __future__ import annotations

import argparse
import collections
import compileall
import importlib
import importlib.util
import io
import json
import math
import os
import pathlib
import pkgutil
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
OUTPUT = ROOT / "results" / "mutants.json"
# A mistake may turn a test into a long one; whatever is not over by then, or after three times the time that the tests
# took without it, has noticed something.
TIMEOUT = 240.0
USAGE, NOTHING = 4, 5  # exit codes of pytest: no such test
NOTICED = ("noticed", "over time")
NOT_RUN = ("does not apply", "tests fail without it")


def lists(extra: Sequence[str] = ()) -> list[Any]:
    """Returns the mutants of every list of this folder, and of other files."""
    folder = pathlib.Path(__file__).parent
    found = []
    for name in sorted(module.name for module in pkgutil.iter_modules([str(folder)])):
        if name in ("entries", "run") or name.startswith("test_"):
            continue
        found += importlib.import_module(f"tests.mutants.{name}").MUTANTS
    for number, path in enumerate(extra):
        spec = importlib.util.spec_from_file_location(f"mutants_of_{number}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found += module.MUTANTS
    return found


def copy_tree(target: pathlib.Path, commit: str = "") -> None:
    """Copies the repository to a new folder: the working tree's files, or those of a commit."""
    git = lambda *words: subprocess.run(["git", "-C", str(ROOT), *words], check=True, capture_output=True).stdout
    if commit:
        with tarfile.open(fileobj=io.BytesIO(git("archive", commit))) as archive:
            archive.extractall(target, filter="data")
    else:
        for name in git("ls-files", "-co", "--exclude-standard", "-z").decode().split("\0"):
            if name and (ROOT / name).is_file():
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, target / name)
    compileall.compile_dir(target, quiet=2)


class _FirstFailure:
    """A pytest plugin that writes the name of the first test that fails."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.path.exists():
            self.path.write_text(report.nodeid)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed and not self.path.exists():
            self.path.write_text(report.nodeid)


def run_tests(
    tree: pathlib.Path, tests: Sequence[str], log: pathlib.Path, limit: float = TIMEOUT
) -> tuple[int | None, str, float]:
    """Runs tests of a copy in a forked process.

    Returns:
        Exit code of pytest (None: over time), the first failing test, and seconds.
    """
    failure = log.with_suffix(".failure")
    failure.unlink(missing_ok=True)
    started = time.monotonic()
    with warnings.catch_warnings():
        # jax warns of forks; its backend has not been started here.
        warnings.simplefilter("ignore")
        child = os.fork()
    if not child:
        _child(tree, tests, log, failure)
    try:
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            seconds = time.monotonic() - started
            if done:
                child = 0
                return os.waitstatus_to_exitcode(status), failure.read_text() if failure.exists() else "", seconds
            if seconds > limit:
                return None, "", seconds
            time.sleep(0.05)
    finally:
        if child:  # over time, or the run is being stopped
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _child(tree: pathlib.Path, tests: Sequence[str], log: pathlib.Path, failure: pathlib.Path) -> None:
    """Runs the tests and ends the process."""
    code = 3
    try:
        os.setsid()
        target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(target, 1)
        os.dup2(target, 2)
        os.chdir(tree)
        sys.dont_write_bytecode = True
        sys.path[:] = [str(tree), *(path for path in sys.path if path and pathlib.Path(path).resolve() != ROOT)]
        os.environ["PYTHONPATH"] = str(tree)
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        for name in [name for name in sys.modules if name.split(".")[0] in ("tests", "reid_jax", "reid_datasets")]:
            del sys.modules[name]
        import pytest

        code = int(pytest.main(["-x", "-p", "no:xdist", "-o", "addopts=", "-q", "--import-mode=importlib",
                                "-p", "no:cacheprovider", "--rootdir", str(tree), *tests],
                               plugins=[_FirstFailure(failure)]))  # fmt: skip
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def preload() -> None:
    """Imports what every test imports, once, with the suite's settings."""
    importlib.import_module("tests.conftest")
    for name in (
        "flax.linen",
        "optax",
        "orbax.checkpoint",
        "grain",
        "tensorflow_datasets",
        "scipy",
        "pytest",
        "einops",
    ):
        try:
            importlib.import_module(name)
        except ImportError:
            continue


def tests_of_commit(mutants: Sequence[Any], tree: pathlib.Path, others: Sequence[str]) -> list[Any]:
    """Returns the mutants with those of their test files that a commit's tree has, or with others if it has none."""
    changed = []
    for mutant in mutants:
        files = dict.fromkeys(test.split("::")[0] for test in mutant.tests)
        there = tuple(file for file in files if (tree / file).exists())
        changed.append(mutant._replace(tests=there or tuple(others)))
    return changed


def evaluate(mutants: Sequence[Any], tree: pathlib.Path, log: pathlib.Path) -> Iterator[dict[str, Any]]:
    """Applies the mutants to a copy and yields what became of each."""
    sound: dict[tuple[str, ...], str] = {}
    limits: dict[tuple[str, ...], float] = {}
    for mutant in mutants:
        path = tree / mutant.file
        record: dict[str, Any] = {**mutant._asdict(), "result": "survived", "by": "", "seconds": 0.0}
        tests = tuple(test for test in mutant.tests if (tree / test.split("::")[0]).exists())
        before = path.read_text() if path.is_file() else ""
        if before.count(mutant.find) != 1:
            yield {**record, "result": "does not apply"}
            continue
        if not tests:
            yield record
            continue
        if tests not in sound:
            code, name, seconds = run_tests(tree, tests, log, 4 * TIMEOUT)
            limits[tests] = max(TIMEOUT, 3 * seconds)
            sound[tests] = "" if code == 0 else (name or log.read_text()[-400:] or f"exit code {code}")
            print(f"    {' '.join(tests)}: {'pass' if code == 0 else sound[tests]} ({seconds:.0f} s)", flush=True)
        if sound[tests]:
            yield {**record, "result": "tests fail without it", "by": sound[tests]}
            continue
        times = path.stat()
        path.write_text(mutant.apply(before))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 10**9))
        try:
            code, name, seconds = run_tests(tree, tests, log, limits[tests])
        finally:
            path.write_text(before)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        if code in (USAGE, NOTHING):
            raise SystemExit(f"error: pytest could not run {tests}: {log.read_text()[-400:]}")
        noticed = "over time" if code is None else "survived" if code == 0 else "noticed"
        yield {**record, "result": noticed, "by": name, "seconds": round(seconds, 1)}


def summary(records: Sequence[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Returns by system the number of mutants, of those of the method, and of the survivors of each."""
    table: dict[str, dict[str, int]] = collections.defaultdict(lambda: collections.defaultdict(int))
    for record in records:
        row, alive = table[record["system"]], record["result"] not in NOTICED
        row["mutants"] += 1
        row["survivors"] += alive
        row["method"] += record["level"] == "method"
        row["method_survivors"] += alive and record["level"] == "method"
    return {system: dict(row) for system, row in sorted(table.items())}


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns the exit code, 1 where a mistake survives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="systems, or files, separated by commas")
    parser.add_argument("--match", default="", help="part of the description")
    parser.add_argument("--lists", nargs="*", default=[], help="further lists")
    parser.add_argument("--commit", default="", help="apply to this commit's files and tests")
    parser.add_argument("--tests", nargs="*", default=[], help="with --commit: tests for mistakes whose own it lacks")
    parser.add_argument("--output", default=str(OUTPUT), help="result file; - for none")
    parser.add_argument("--as-before", action="store_true", help="write the counts as those before, for comparison")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=0, help="stop after so long, on a random part of the lists")
    given = parser.parse_args(arguments)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # stops the workers, too
    chosen = [word for word in given.only.split(",") if word]
    mutants = [
        mutant
        for mutant in lists(given.lists)
        if (not chosen or mutant.system in chosen or mutant.file in chosen) and given.match in mutant.what
    ]
    preload()
    # Mutants with the same tests stay together: those must pass without a mistake first.
    mutants.sort(key=lambda mutant: (mutant.file, mutant.tests))
    if given.minutes:
        random.Random(0).shuffle(mutants)
    deadline = time.monotonic() + 60 * given.minutes if given.minutes else math.inf
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        records = _spread(mutants, pathlib.Path(folder).resolve(), given, deadline)
    records.sort(key=lambda record: (record["system"], record["file"], record["what"]))
    for record in records:
        if record["result"] not in NOTICED:
            print(f"{record['result']}: {record['system']}: {record['what']} ({record['file']}) {record['by']}")
    if given.commit:
        records = [record for record in records if record["result"] not in NOT_RUN]
    alive = sum(record["result"] not in NOTICED for record in records)
    print(f"{len(records)} mistakes, {len(records) - alive} noticed, {alive} not.")
    if given.output != "-":
        _write(pathlib.Path(given.output), records, given.commit, given.as_before)
    return int(alive > 0)


def _spread(
    mutants: Sequence[Any], folder: pathlib.Path, given: argparse.Namespace, deadline: float
) -> list[dict[str, Any]]:
    """Distributes the mutants over worker processes, each with a copy of its own."""
    children = []
    workers: int = given.workers
    for number in range(workers):
        tree = folder / f"tree{number}"
        tree.mkdir()
        copy_tree(tree, given.commit)
        if given.commit:
            (tree / "reid_datasets").symlink_to("datasets")  # not the builders of the installed tree
            mutants = tests_of_commit(mutants, tree, given.tests)
        part = mutants[len(mutants) * number // workers : len(mutants) * (number + 1) // workers]
        child = os.fork()
        if not child:
            code = 1
            try:
                with (folder / f"records{number}").open("w") as file:
                    for record in evaluate(part, tree, folder / f"log{number}"):
                        print(json.dumps(record), file=file, flush=True)
                        if time.monotonic() > deadline:
                            break
                        print(f"{record['result']:>10} {record['seconds']:5.1f} s  {record['system']}: {record['what']}"
                              f"  [{record['by'].rsplit('::', 1)[-1][:60]}]", flush=True)  # fmt: skip
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    try:
        codes = [os.waitpid(child, 0)[1] for child in children]
    except BaseException:
        for child in children:
            os.kill(child, signal.SIGTERM)
        raise
    if any(codes):
        raise SystemExit("error: a worker failed; its message stands above.")
    return [json.loads(line) for number in range(workers) for line in (folder / f"records{number}").open()]


def _write(path: pathlib.Path, records: Sequence[dict[str, Any]], commit: str, as_before: bool) -> None:
    """Writes counts and survivors.

    The other of the two parts of the file, before and after, stays as it is, and of the counts before those of the
    systems that were not run.
    """
    words = ["git", "-C", str(ROOT), "rev-parse", "--short", commit or "HEAD"]
    commit = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
    content = json.loads(path.read_text()) if path.is_file() else {}
    keys = ("system", "file", "what", "level", "result")
    alive = [{key: record[key] for key in keys} for record in records if record["result"] not in NOTICED]
    counts = summary(records)
    before = content.get("before", {"systems": {}, "survivors": []})
    if as_before:
        systems = {name: {**row, "commit": commit} for name, row in counts.items()}
        kept = [row for row in before["survivors"] if row["system"] not in counts]
        systems = dict(sorted({**before["systems"], **systems}.items()))
        content = {**content, "before": {"systems": systems, "survivors": kept + alive}}
    else:
        content = {"commit": commit, "systems": counts, "survivors": alive, "before": before}
    path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
