"""Runs of an ablation table: every cell is one run, finished runs are kept, a failed run is repeated."""

import dataclasses
import os

import pytest

from reid_jax import errors
from reid_jax.runs import ablation, ablation_table
from tests.helpers.ablation_runs import calls, plan


def test_every_cell_is_one_run_seed_by_seed(ablation_folder):
    rows = plan(ablation_folder, overrides=("--config.train.epochs=3",))
    ablation.run(rows)
    runs = calls(ablation_folder)
    assert [(run["config"], run["config.seed"]) for run in runs] == [
        (f"configs/toy.py:{argument}", seed) for seed in "01" for argument in ("demo", "demo,a", "demo,a,b")
    ]
    assert all(run["config.train.epochs"] == "3" for run in runs)
    assert len({run["workdir"] for run in runs}) == 6


def test_a_row_may_come_from_another_config_of_the_folder(ablation_folder):
    ablation.run(plan(ablation_folder, rows=("a", "other:full", "other:b+c"), seeds=(0,)))
    expected = ["configs/toy.py:demo,a", "configs/other.py:demo", "configs/other.py:demo,b,c"]
    assert [run["config"] for run in calls(ablation_folder)] == expected
    assert len({run["workdir"] for run in calls(ablation_folder)}) == 3


def test_concurrent_runs_have_separate_cores(ablation_folder):
    cores = sorted(os.sched_getaffinity(0))[:2]
    shares = ablation._core_shares(len(cores))
    assert [sorted(share) for share in shares] == [[core] for core in cores] if len(cores) > 1 else shares == [None]
    ablation.run(plan(ablation_folder, seeds=(0, 1, 2)), jobs=len(cores))
    assert len({run["workdir"] for run in calls(ablation_folder)}) == 9
    with pytest.raises(errors.UserError, match="at most as many runs as cores"):
        ablation.run(plan(ablation_folder), jobs=10_000)
    with pytest.raises(errors.UserError, match="at least one run at a time, got --jobs 0"):
        ablation.run(plan(ablation_folder), jobs=0)
    # Whichever of the two fails first.
    with pytest.raises(errors.UserError, match=r"row 'broken' seed [07] .*code 2"):
        ablation.run(plan(ablation_folder, rows=("broken", "a"), seeds=(0, 7)), jobs=len(cores))


def test_finished_runs_are_kept_and_failed_runs_are_repeated(ablation_folder, capsys):
    with pytest.raises(errors.UserError, match=r"row 'broken' seed 0 .*code 2 .*finished runs are kept"):
        ablation.run(plan(ablation_folder, rows=("full", "broken", "a"), seeds=(0,)))
    assert len(calls(ablation_folder)) == 2
    # A table of the finished runs is possible.
    assert [record["row"] for record in ablation_table.collect(plan(ablation_folder, seeds=(0, 1, 2)))] == ["full"]
    ablation.run(plan(ablation_folder, rows=("full", "a"), seeds=(0,)))
    assert len(calls(ablation_folder)) == 3
    assert "full seed 0: finished, kept" in capsys.readouterr().out
    before = (ablation_folder / "full" / "seed0" / "result.json").stat().st_mtime_ns
    ablation.run(plan(ablation_folder, rows=("full", "a"), seeds=(0,)))
    assert len(calls(ablation_folder)) == 3
    assert (ablation_folder / "full" / "seed0" / "result.json").stat().st_mtime_ns == before


def test_rows_start_from_pretraining_of_the_same_seed_that_runs_first(ablation_folder):
    """The row "b@other:c" runs after, and from the encoder of, configs/other.py's row c."""
    overrides = ("--config.data.root=d", "--config.train.epochs=3")
    rows = plan(ablation_folder, ("full", "b@other:c", "a@other:c/encoder_0"), overrides=overrides)
    rows = dataclasses.replace(rows, preset="demo,street")
    ablation.run(rows)
    own, before = calls(ablation_folder), calls(ablation_folder.parent / "pretrained")
    assert [(run["config"], run["config.seed"]) for run in own] == [
        (f"configs/toy.py:{argument}", seed)
        for seed in "01"
        for argument in ("demo,street", "demo,street,b", "demo,street,a")
    ]
    assert [(run["config"], run["config.seed"]) for run in before] == [
        ("configs/other.py:demo,c", seed) for seed in "01"
    ]
    for seed, pretrained in enumerate(before):
        full, row, start = own[3 * seed : 3 * seed + 3]
        assert pretrained["config.data.root"] == "d"
        assert "config.train.epochs" not in pretrained
        assert "config.init.weights" not in full
        assert row["config.init.weights"] == f"{pretrained['workdir']}/weights/encoder.npz"
        assert start["config.init.weights"] == f"{pretrained['workdir']}/weights/encoder_0.npz"
    assert {record["row"] for record in ablation_table.collect(rows)} == set(rows.rows)
    ablation.run(rows)
    assert len(calls(ablation_folder.parent / "pretrained")) == 2


def test_rows_go_on_from_a_run_of_the_same_config_that_runs_first(ablation_folder):
    """The row "a@b" continues the run of row b with the same seed and overrides, which may be a row as well."""
    rows = plan(ablation_folder, ("a@b", "full", "b"), seeds=(3,), overrides=("--config.train.epochs=3",))
    ablation.run(rows)
    first, after, *_ = found = calls(ablation_folder)
    assert [run["config"] for run in found] == [f"configs/toy.py:demo{row}" for row in (",b", ",a", "")]
    assert after["config.init.trained"] == first["workdir"] == str(ablation_folder / "b" / "seed3")
    assert first["config.train.epochs"] == after["config.train.epochs"] == "3"
    assert "config.init.trained" not in first
    assert "config.init.weights" not in after
    assert {record["row"] for record in ablation_table.collect(rows)} == set(rows.rows)
