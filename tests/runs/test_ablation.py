"""Ablation tables: every cell is one run, finished ones are kept, the table is made of what is there."""

import csv
import json
import os
import pathlib
import sys
import textwrap

import pytest

from reid_jax import errors
from reid_jax.cli import ablate
from reid_jax.runs import ablation

# Stands in for `reid-jax train`: writes the result that a run would, scores following row and seed.
FAKE = """
import json, pathlib, sys
given = dict(argument.lstrip("-").split("=", 1) for argument in sys.argv[1:])
folder = pathlib.Path(given["workdir"])
folder.mkdir(parents=True, exist_ok=True)
with open(folder.parent.parent / "calls.txt", "a") as calls:
    calls.write(json.dumps(given) + "\\n")
variants = given["config"].partition(":")[2].split(",")[1:]
seed = int(given["config.seed"])
if "broken" in variants:
    sys.exit(2)
score = 0.5 + 0.1 * len(variants) + 0.01 * seed
scores = {f"toy/{name}": score for name in ("mAP", "rank1", "rank5", "rank10", "mINP")}
about = {"parameters": 1234567, "steps": 30, "train_seconds": 12.4, "config_hash": "c", "device": "d", "commit": "e"}
(folder / "result.json").write_text(json.dumps({"dataset": "toy", **scores, **about}))
"""


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    fake = tmp_path / "main.py"
    fake.write_text(textwrap.dedent(FAKE))
    monkeypatch.setattr(ablation, "COMMAND", (sys.executable, str(fake)))
    return tmp_path / "runs"


def plan(workdir, rows=("full", "a", "a+b"), seeds=(0, 1), **options):
    return ablation.Plan("configs/toy.py", "demo", tuple(rows), tuple(seeds), pathlib.Path(workdir), **options)


def calls(workdir):
    return [json.loads(line) for line in (workdir / "calls.txt").read_text().splitlines()]


def test_every_cell_is_one_run_seed_by_seed(workdir):
    asked = plan(workdir, overrides=("--config.train.epochs=3",))
    ablation.run(asked)
    made = calls(workdir)
    assert [(one["config"], one["config.seed"]) for one in made] == [
        (f"configs/toy.py:{argument}", seed) for seed in "01" for argument in ("demo", "demo,a", "demo,a,b")
    ]
    assert all(one["config.train.epochs"] == "3" for one in made)
    assert len({one["workdir"] for one in made}) == 6


def test_a_row_may_be_of_a_config_beside(workdir):
    ablation.run(plan(workdir, rows=("a", "other:full", "other:b+c"), seeds=(0,)))
    wanted = ["configs/toy.py:demo,a", "configs/other.py:demo", "configs/other.py:demo,b,c"]
    assert [one["config"] for one in calls(workdir)] == wanted
    assert len({one["workdir"] for one in calls(workdir)}) == 3


def test_runs_side_by_side_have_cores_of_their_own(workdir, monkeypatch):
    cores = sorted(os.sched_getaffinity(0))[:2]
    shares = ablation._core_shares(len(cores))
    assert [sorted(share) for share in shares] == [[core] for core in cores] if len(cores) > 1 else shares == [None]
    ablation.run(plan(workdir, seeds=(0, 1, 2)), jobs=len(cores))
    assert len({one["workdir"] for one in calls(workdir)}) == 9
    with pytest.raises(errors.UserError, match="at most as many runs as cores"):
        ablation.run(plan(workdir), jobs=10_000)
    with pytest.raises(errors.UserError, match="at least one run at a time, got --jobs 0"):
        ablation.run(plan(workdir), jobs=0)
    # Whichever of the two fails first.
    with pytest.raises(errors.UserError, match=r"row 'broken' seed [07] .*code 2"):
        ablation.run(plan(workdir, rows=("broken", "a"), seeds=(0, 7)), jobs=len(cores))


def test_finished_runs_are_kept_and_a_failed_one_is_made_again(workdir, capsys):
    with pytest.raises(errors.UserError, match=r"row 'broken' seed 0 .*code 2 .*finished runs are kept"):
        ablation.run(plan(workdir, rows=("full", "broken", "a"), seeds=(0,)))
    assert len(calls(workdir)) == 2
    # What is there makes a table.
    assert [record["row"] for record in ablation.collect(plan(workdir, seeds=(0, 1, 2)))] == ["full"]
    ablation.run(plan(workdir, rows=("full", "a"), seeds=(0,)))
    assert len(calls(workdir)) == 3
    assert "full seed 0: finished, kept" in capsys.readouterr().out
    before = (workdir / "full" / "seed0" / "result.json").stat().st_mtime_ns
    ablation.run(plan(workdir, rows=("full", "a"), seeds=(0,)))
    assert len(calls(workdir)) == 3
    assert (workdir / "full" / "seed0" / "result.json").stat().st_mtime_ns == before


def test_the_table_has_mean_and_sample_deviation(workdir):
    ablation.run(plan(workdir, rows=("a", "full"), seeds=(0, 1, 2)))
    (workdir / "a" / "seed2" / "result.json").unlink()
    (workdir / "a" / "seed1" / "result.json").unlink()
    records = ablation.collect(plan(workdir, rows=("a", "full"), seeds=(0, 1, 2)))
    lines = ablation.markdown(records).splitlines()
    assert lines[0].startswith("| row | seeds | mAP (%) |")
    # One run has no spread; 50, 51, 52 have a sample deviation of 1.
    assert lines[2] == "| `a` | 1 | 60.0 | 60.0 | 60.0 | 1,234,567 | 12 |"
    assert lines[3] == "| `full` | 3 | 51.0 ± 1.0 | 51.0 ± 1.0 | 51.0 ± 1.0 | 1,234,567 | 12 |"
    assert len(lines) == 4


def test_gains_are_paired_by_seed(workdir):
    asked = plan(workdir, rows=("full", "a", "a+b"), seeds=(0, 1, 2), pairs=(("a+b", "full"), ("full", "a")))
    ablation.run(asked)
    # Only the seeds that both have count; scores are 0.5 + 0.1 for each variant + 0.01 seed.
    (workdir / "full" / "seed1" / "result.json").unlink()
    records = ablation.collect(asked)
    records[0]["mAP"] = 0.4  # full, seed 0
    lines = ablation.comparison(records, asked.pairs).splitlines()
    assert lines[2:] == [
        "| `a+b` | `full` | 2 | +25.0 ± 7.1 | +20.0 ± 0.0 | +20.0 ± 0.0 | 2 of 2 |",
        "| `full` | `a` | 2 | -15.0 ± 7.1 | -10.0 ± 0.0 | -10.0 ± 0.0 | 0 of 2 |",
    ]
    written = ablation.document(asked, records)
    assert "--compare a+b=full,full=a" in written
    assert written.endswith("\n".join(lines) + "\n")
    with pytest.raises(errors.UserError, match="row to compare"):
        plan(workdir, pairs=(("c", "full"),))


def test_the_script_writes_csv_and_markdown(workdir, root, tmp_path, capsys):
    script = ablate
    arguments = [
        "--config=configs/toy.py",
        "--rows=full,a",
        "--seeds=0,1",
        f"--workdir={workdir}",
        f"--results={tmp_path / 'results'}",
        "--override=train.epochs=3",
    ]
    with pytest.raises(errors.UserError, match="at least one finished run"):
        script.main([*arguments, "--table"])
    assert not (tmp_path / "results").exists()
    script.main(arguments)
    assert len(calls(workdir)) == 4
    with open(tmp_path / "results" / "toy.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["row"], row["seed"]) for row in rows] == [("full", "0"), ("a", "0"), ("full", "1"), ("a", "1")]
    assert float(rows[1]["mAP"]) == pytest.approx(0.6)
    written = (tmp_path / "results" / "toy.md").read_text()
    assert "python scripts/ablate.py --config " in written
    table = written[written.index("| row") :].rstrip()
    assert "| `full` | 2 | 50.5 ± 0.7 |" in table
    assert table in capsys.readouterr().out
    script.main([*arguments, "--table"])
    assert len(calls(workdir)) == 4


def test_what_needs_no_training_is_listed_once_and_first(workdir):
    asked = plan(workdir)
    ablation.run(asked)
    for _, _, folder in asked.cells():
        file = folder / "result.json"
        names = ("mAP", "rank1", "rank5", "rank10", "mINP")
        measured = {f"toy/baseline/raw_pixels/{name}": 0.25 for name in names}
        file.write_text(json.dumps(json.loads(file.read_text()) | measured))
    records = ablation.collect(asked)
    assert [record["row"] for record in records[:3]] == ["raw_pixels", "raw_pixels", "full"]
    assert "| `raw_pixels` | 2 | 25.0 ± 0.0 | 25.0 ± 0.0 | 25.0 ± 0.0 | - | - |" in ablation.markdown(records)


def test_federated_rows_say_what_they_sent(workdir, tmp_path):
    asked = plan(workdir, rows=("full", "a"), seeds=(0,))
    ablation.run(asked)
    assert "MB" not in ablation.document(asked, ablation.collect(asked))
    file = workdir / "a" / "seed0" / "result.json"
    sent = dict(zip(ablation.COMMUNICATION, (6, 3, 12, 2_500_000, 1_500_000), strict=True))
    file.write_text(json.dumps(json.loads(file.read_text()) | sent))
    records = ablation.collect(asked)
    text = ablation.document(asked, records)
    assert "| `a` | 6 | 3 | 30 | 12 | 2.5 | 1.5 | 120.0 |" in text
    assert text.count("MB in all") == 1
    ablation.write_csv(tmp_path / "table.csv", records)
    full, federated = csv.DictReader((tmp_path / "table.csv").read_text().splitlines())
    assert (full["clients"], federated["clients"]) == ("", "6")


def test_decibels_are_no_shares(workdir):
    asked = plan(workdir, rows=("full",), seeds=(0,))
    ablation.run(asked)
    file = workdir / "full" / "seed0" / "result.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"toy/reconstruction/psnr": 16.02}))
    metrics = ("mAP", "reconstruction/psnr")
    text = ablation.markdown(ablation.collect(asked, metrics), metrics)
    assert "| mAP (%) | reconstruction/psnr (dB) |" in text
    assert "| 50.0 | 16.0 |" in text


def test_rows_that_saw_the_test_corruptions_stand_apart(workdir):
    asked = plan(workdir, rows=("full", "a", "b"), seeds=(0, 1))
    ablation.run(asked)
    policies = {"full": "none", "a": "augmix", "b": "all20"}
    for row, seed, folder in asked.cells():
        result = json.loads((folder / "result.json").read_text()) | {"train_corruption": policies[row]}
        result |= {"toy/corrupted/mAP": 0.2 + 0.02 * seed} if row != "full" else {}
        (folder / "result.json").write_text(json.dumps(result))
    columns = ("mAP", "corrupted/mAP")
    records = ablation.collect(asked, columns)
    assert {record["row"]: record["train_corruption"] for record in records} == policies
    clean, told, dirty = ablation.markdown(records, columns).split("\n\n")
    assert clean.startswith("| row | seeds | corruptions in training | mAP (%) | corrupted/mAP (%) |")
    assert "| `full` | 2 | none | 50.5 ± 0.7 | - |" in clean
    assert "| `a` | 2 | augmix | 60.5 ± 0.7 | 21.0 ± 1.4 |" in clean
    assert "not comparable" in told
    assert "| `b` | 2 | all20 | 60.5 ± 0.7 | 21.0 ± 1.4 |" in dirty
    assert "`b`" not in clean
    assert "--metrics mAP,corrupted/mAP" in ablation.document(asked, records, columns)
