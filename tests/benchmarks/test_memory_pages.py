"""Large pages of memory against kept ones: pairs of processes, ratios with intervals, resumption, failures."""

import json
import os
import subprocess

import pytest

from reid_jax import errors
from reid_jax.benchmarks import memory_pages, tables
from reid_jax.cli import benchmark
from reid_jax.runtime import allocator


@pytest.fixture
def processes(monkeypatch):
    """Replaces the processes: each takes longer than the last, those with large pages half as long."""
    begun, real = [], subprocess.run

    def run(command, env=None, **options):
        if env is None:  # git, asked for the commit
            return real(command, **options)
        large = env[allocator.TUNABLES] == f"{allocator.HUGE_PAGES}=1"
        begun.append((command[-2:], large))
        second = (len(begun) + 1) // 2 * (0.5 if large else 1.0)
        figures = dict.fromkeys(memory_pages.MEASURED, second)
        return subprocess.CompletedProcess(command, 0, f"a line\n{json.dumps(figures)}\n", "")

    monkeypatch.setattr(subprocess, "run", run)
    return begun


def test_each_round_is_a_pair_of_processes(processes):
    written = []
    rows = memory_pages.measure(["mfv"], 4, (), lambda rows: written.append(len(rows)), rounds=3)
    assert processes == [(["mfv", "4"], large) for _ in range(3) for large in (False, True)]
    assert written == [len(memory_pages.MEASURED)] == [len(rows)]
    assert {row["measured"] for row in rows} == set(memory_pages.MEASURED)
    assert (rows[0]["what"], rows[0]["rounds"], rows[0]["kept"], rows[0]["large"]) == ("mfv:demo", 3, 2.0, 1.0)
    assert (rows[0]["ratio"], rows[0]["low"], rows[0]["high"]) == (0.5, 0.5, 0.5)
    assert memory_pages.measure(["mfv"], 4, rows) == rows
    assert len(processes) == 6


def test_the_interval_is_that_of_the_ratios():
    pairs = [{"kept": {"step_s": 1.0}, "large": {"step_s": ratio}} for ratio in (0.8, 0.9, 1.0)]
    row = memory_pages._compared(pairs, "step_s")
    assert row["ratio"] == pytest.approx(0.72 ** (1 / 3), abs=1e-3)
    assert row["low"] == pytest.approx(0.679, abs=1e-3)
    assert row["high"] == pytest.approx(1.183, abs=1e-3)
    assert memory_pages._compared(pairs[:1], "step_s")["high"] == float("inf")


def test_a_process_without_figures_is_quoted(monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "Traceback\nMemoryError: no memory")
    monkeypatch.setattr(subprocess, "run", lambda *given, **options: failed)
    with pytest.raises(errors.UserError, match="ended with 'MemoryError: no memory'"):
        memory_pages.measure(["mfv"], 1)


def test_the_command_takes_up_what_a_file_has(tmp_path, processes):
    rows = memory_pages.measure(["mfv"], 5, rounds=1)
    output = tmp_path / "pages.json"
    output.write_text(json.dumps({"tables": {"pages": rows[:1]}}))
    given = benchmark._parser().parse_args(["pages", "--output", str(output)])
    assert benchmark._pages(given, {}) == rows[:1]
    given = benchmark._parser().parse_args(["pages", "--config", "bot", "--output", str(output)])
    about = tables.about("python scripts/benchmark.py pages")
    assert {row["what"] for row in benchmark._pages(given, about)} == {"mfv:demo", "bot:demo"}
    assert {row["what"] for row in json.loads(output.read_text())["tables"]["pages"]} == {"mfv:demo", "bot:demo"}
    with pytest.raises(errors.UserError, match="--model is for train, infer, not for pages"):
        benchmark.main(["pages", "--model", "bot"])


def test_a_process_compiles_and_runs_a_step(capsys, monkeypatch):
    monkeypatch.setenv(allocator.TUNABLES, os.environ.get(allocator.TUNABLES) or f"{allocator.HUGE_PAGES}=1")
    memory_pages.main("osnet", 1)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found.keys() == set(memory_pages.MEASURED)
    assert all(value > 0 for value in found.values())
