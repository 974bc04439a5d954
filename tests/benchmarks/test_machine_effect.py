"""Runs of one seed under other rounding: what each is started with, differences, resumption, failures."""

from __future__ import annotations

import json
import sys

import pytest

from reid_jax import errors
from reid_jax.benchmarks import machine_effect
from reid_jax.cli import benchmark

# Replaces `reid-jax train`: its scores tell with which flags and cores it was started.
SCRIPT = """
import json, os, pathlib, sys
given = dict(argument.lstrip("-").split("=", 1) for argument in sys.argv[1:])
folder = pathlib.Path(given["workdir"])
folder.mkdir(parents=True)
if "full" in os.environ.get("XLA_FLAGS", ""):
    sys.exit("out of memory")
score = 0.5 - 0.01 * ("AVX2" in os.environ.get("XLA_FLAGS", "")) + 0.02 * (len(os.sched_getaffinity(0)) == 1)
scores = {"toy/mAP": score, "toy/rank1": 0.6}
(folder / "result.json").write_text(json.dumps({"dataset": "toy", "seed": 0, "steps": 30, **scores}))
"""
COMMAND = (sys.executable, "-c", SCRIPT)
AS_IS, AVX2, ONE_CORE = (machine_effect.CONDITIONS[number] for number in (0, 2, 4))


def test_each_condition_is_one_run(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_before=1")
    written = []
    rows = machine_effect.measure(
        ["mfv"], (), lambda rows: written.append(len(rows)), (AS_IS, AVX2), (sys.executable, "-c", SCRIPT)
    )
    assert written == [1, 2]
    assert [(row["what"], row["condition"]) for row in rows] == [("mfv:demo", "as it is"), ("mfv:demo", AVX2.name)]
    assert [row["mAP_difference"] for row in rows] == [0.0, -1.0]
    assert rows[1]["rank1_difference"] == 0.0
    again = machine_effect.measure(["mfv"], rows[:1], lambda rows: None, (AS_IS, ONE_CORE), COMMAND)
    assert again[0] is rows[0]
    assert (again[1]["condition"], again[1]["seed"], again[1]["steps"]) == ("one core", 0, 30)
    assert again[1]["mAP_difference"] in (0.0, 2.0)  # 0 where there is one core anyway


def test_a_run_that_fails_is_named():
    broken = machine_effect.Condition("a full disk", flags="--full")
    with pytest.raises(
        errors.UserError, match=r"condition 'a full disk', it ended with code 1 .out of memory.; run it"
    ):
        machine_effect.measure(["mfv"], (), lambda rows: None, (broken,), COMMAND)


def test_it_is_for_cpus(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    with pytest.raises(errors.UserError, match="expected a run on the CPU"):
        machine_effect.measure(["mfv"])


def test_the_command_continues_its_file(tmp_path):
    rows = [
        {"what": "mfv:demo", "condition": each.name, "mAP": 0.5, "rank1": 0.5} for each in machine_effect.CONDITIONS
    ]
    output = tmp_path / "machine.json"
    output.write_text(json.dumps({"tables": {"machine": rows}}))
    given = benchmark._parser().parse_args(["machine", "--output", str(output)])
    assert benchmark._machines(given, {}) == rows
    with pytest.raises(errors.UserError, match="--model is for train, infer, not for machine"):
        benchmark.main(["machine", "--model", "bot"])
