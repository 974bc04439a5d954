"""Ablation tables: means and deviations, paired gains, baselines, traffic, and the command that writes them."""

import csv
import json
import pathlib
import statistics

import pytest

from reid_jax import errors
from reid_jax.cli import ablate
from reid_jax.runs import ablation, ablation_table
from tests.helpers.ablation_runs import calls, plan


def test_the_table_has_mean_and_sample_deviation(ablation_folder):
    ablation.run(plan(ablation_folder, rows=("a", "full"), seeds=(0, 1, 2)))
    (ablation_folder / "a" / "seed2" / "result.json").unlink()
    (ablation_folder / "a" / "seed1" / "result.json").unlink()
    records = ablation_table.collect(plan(ablation_folder, rows=("a", "full"), seeds=(0, 1, 2)))
    lines = ablation_table.markdown(records).splitlines()
    assert lines[0].startswith("| row | seeds | mAP (%) |")
    # One run has no spread; 50, 51, 52 have a sample deviation of 1.
    assert lines[2] == "| `a` | 1 | 60.0 | 60.0 | 60.0 | 1,234,567 | 12 |"
    assert lines[3] == "| `full` | 3 | 51.0 ± 1.0 | 51.0 ± 1.0 | 51.0 ± 1.0 | 1,234,567 | 12 |"
    assert len(lines) == 4


def test_gains_are_paired_by_seed(ablation_folder):
    rows = plan(ablation_folder, rows=("full", "a", "a+b"), seeds=(0, 1, 2), pairs=(("a+b", "full"), ("full", "a")))
    ablation.run(rows)
    # Only seeds of both rows count; scores are 0.5 + 0.1 for each variant + 0.01 seed.
    (ablation_folder / "full" / "seed1" / "result.json").unlink()
    records = ablation_table.collect(rows)
    records[0]["mAP"] = 0.4  # full, seed 0
    lines = ablation_table.comparison(records, rows.pairs).splitlines()
    assert lines[2:] == [
        "| `a+b` | `full` | 2 | +25.0 | +20.0 | +20.0 | fewer than 5 runs |",
        "| `full` | `a` | 2 | -15.0 | -10.0 | -10.0 | fewer than 5 runs |",
        "",
        ablation_table.INTERVALS,
    ]
    written = ablation_table.document(rows, records)
    assert "--compare a+b=full,full=a" in written
    assert written.endswith("\n".join(lines) + "\n")
    with pytest.raises(errors.UserError, match="row to compare"):
        plan(ablation_folder, pairs=(("c", "full"),))
    with pytest.raises(errors.UserError, match="expected pretraining behind '@'"):
        ablation.Plan("configs/mfv.py", "demo", ("full@",), (0,), pathlib.Path("runs"))


def test_scores_of_another_data_set_and_seeds_of_the_data(ablation_folder):
    rows = plan(ablation_folder, rows=("full", "a"), seeds=(0, 3), data_seeds=True)
    ablation.run(rows)
    assert [call["config.data.options.seed"] for call in calls(ablation_folder)] == ["0", "0", "3", "3"]
    for _, _, folder in rows.cells():
        result = json.loads((folder / "result.json").read_text())
        scores = {f"other/{name}": 0.25 for name in ("mAP", "rank1", "rank5", "rank10", "mINP")}
        low = {key.replace("other/", "other/baseline/raw_pixels/"): 0.01 for key in scores}
        (folder / "result.json").write_text(json.dumps({**result, **scores, **low}))
    records = ablation_table.collect(rows, tested="other")
    assert [(record["row"], record["dataset"], record["mAP"]) for record in records[1:3]] == [
        ("raw_pixels", "other", 0.01),
        ("full", "other", 0.25),
    ]
    assert "--seeds 0,3 --dataset other --data-seeds" in ablation_table.document(rows, records, tested="other")
    with pytest.raises(errors.UserError, match="did you mean 'other'"):
        ablation_table.collect(rows, tested="othr")


def test_a_gain_is_an_interval_without_zero():
    noise = (0.0, 0.01, -0.01, 0.02, 0.0)
    records = [
        {"row": row, "seed": seed, "mAP": score, "corrupted/mAP": None if row == "b" else score}
        for seed, shift in enumerate(noise)
        for row, score in (("base", 0.4), ("a", 0.5 + shift), ("b", 0.4 + shift), ("c", 0.3 + shift))
    ]
    pairs = (("a", "base"), ("b", "base"), ("c", "base"), ("absent", "base"))
    lines = ablation_table.comparison(records, pairs, ("mAP", "corrupted/mAP")).splitlines()
    assert [line.split(" | ")[-1] for line in lines[2:5]] == ["gain |", "no effect seen |", "loss |"]
    assert lines[3].split(" | ")[4] == "-"  # runs of b did not measure it
    assert lines[5] == ""
    # Five intervals; the largest differences are tested at 0.05/5: t = 4.604 with four degrees of freedom.
    deviation = statistics.stdev(noise)
    half = 100 * 4.604 * deviation / 5**0.5
    assert lines[2].split(" | ")[3] == f"+10.4 [{10.4 - half:+.1f}, {10.4 + half:+.1f}]"


def test_the_command_writes_csv_and_markdown(ablation_folder, tmp_path, capsys):
    toy = tmp_path / "toy.py"
    config = "ml_collections.ConfigDict({'train': {'epochs': 1.0}})"
    toy.write_text(f"import ml_collections\n\ndef get_config(argument):\n    return {config}\n")
    arguments = [
        f"--config={toy}",
        "--rows=full,a",
        "--seeds=0,1",
        f"--workdir={ablation_folder}",
        f"--results={tmp_path / 'results'}",
        "--override=train.epochs=3",
    ]
    with pytest.raises(errors.UserError, match="at least one finished run"):
        ablate.main([*arguments, "--table"])
    assert not (tmp_path / "results").exists()
    ablate.main(arguments)
    assert len(calls(ablation_folder)) == 4
    with open(tmp_path / "results" / "toy.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["row"], row["seed"]) for row in rows] == [("full", "0"), ("a", "0"), ("full", "1"), ("a", "1")]
    assert float(rows[1]["mAP"]) == pytest.approx(0.6)
    written = (tmp_path / "results" / "toy.md").read_text()
    assert "python scripts/ablate.py --config " in written
    table = written[written.index("| row") :].rstrip()
    assert "| `full` | 2 | 50.5 ± 0.7 |" in table
    assert table in capsys.readouterr().out
    ablate.main([*arguments, "--table"])
    assert len(calls(ablation_folder)) == 4


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ({"rows": "full,osnet_x9"}, "unknown variant 'osnet_x9'"),
        ({"preset": "demoo"}, "did you mean 'demo'"),
        ({"config": "configs/bott.py"}, "found nothing at configs/bott.py"),
        ({"seeds": "0,one"}, "expected --seeds as whole numbers"),
    ],
    ids=["row", "preset", "config", "seeds"],
)
def test_a_misspelled_table_stops_before_its_first_run(mistake, message, ablation_folder, tmp_path):
    config = pathlib.Path(__file__).parents[2] / "configs" / "osnet.py"
    given = {"config": config, "rows": "full", "workdir": ablation_folder, "results": tmp_path / "results", **mistake}
    with pytest.raises(errors.UserError, match=message):
        ablate.main([f"--{name}={value}" for name, value in given.items()])
    assert not (ablation_folder / "calls.txt").exists()
    assert not (tmp_path / "results").exists()


def test_baselines_are_listed_first_and_once(ablation_folder):
    rows = plan(ablation_folder)
    ablation.run(rows)
    for _, _, folder in rows.cells():
        file = folder / "result.json"
        names = ("mAP", "rank1", "rank5", "rank10", "mINP")
        measured = {f"toy/baseline/raw_pixels/{name}": 0.25 for name in names}
        file.write_text(json.dumps(json.loads(file.read_text()) | measured))
    records = ablation_table.collect(rows)
    assert [record["row"] for record in records[:3]] == ["raw_pixels", "raw_pixels", "full"]
    assert "| `raw_pixels` | 2 | 25.0 ± 0.0 | 25.0 ± 0.0 | 25.0 ± 0.0 | - | - |" in ablation_table.markdown(records)


def test_federated_rows_report_their_traffic(ablation_folder, tmp_path):
    rows = plan(ablation_folder, rows=("full", "a"), seeds=(0,))
    ablation.run(rows)
    assert "MB" not in ablation_table.document(rows, ablation_table.collect(rows))
    file = ablation_folder / "a" / "seed0" / "result.json"
    traffic = dict(zip(ablation_table.COMMUNICATION, (6, 3, 12, 2_500_000, 1_500_000), strict=True))
    file.write_text(json.dumps(json.loads(file.read_text()) | traffic))
    records = ablation_table.collect(rows)
    text = ablation_table.document(rows, records)
    assert "| `a` | 6 | 3 | 30 | 12 | 2.5 | 1.5 | 120.0 |" in text
    assert text.count("MB in all") == 1
    ablation_table.write_csv(tmp_path / "table.csv", records)
    full, federated = csv.DictReader((tmp_path / "table.csv").read_text().splitlines())
    assert (full["clients"], federated["clients"]) == ("", "6")


def test_psnr_is_shown_in_decibels(ablation_folder):
    rows = plan(ablation_folder, rows=("full",), seeds=(0,))
    ablation.run(rows)
    file = ablation_folder / "full" / "seed0" / "result.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"toy/reconstruction/psnr": 16.02}))
    metrics = ("mAP", "reconstruction/psnr")
    text = ablation_table.markdown(ablation_table.collect(rows, metrics), metrics)
    assert "| mAP (%) | reconstruction/psnr (dB) |" in text
    assert "| 50.0 | 16.0 |" in text


def test_rows_trained_on_the_test_corruptions_are_listed_separately(ablation_folder):
    rows = plan(ablation_folder, rows=("full", "a", "b"), seeds=(0, 1))
    ablation.run(rows)
    policies = {"full": "none", "a": "augmix", "b": "all20"}
    for row, seed, folder in rows.cells():
        result = json.loads((folder / "result.json").read_text()) | {"train_corruption": policies[row]}
        result |= {"toy/corrupted/mAP": 0.2 + 0.02 * seed} if row != "full" else {}
        (folder / "result.json").write_text(json.dumps(result))
    columns = ("mAP", "corrupted/mAP")
    records = ablation_table.collect(rows, columns)
    assert {record["row"]: record["train_corruption"] for record in records} == policies
    clean, heading, dirty = ablation_table.markdown(records, columns).split("\n\n")
    assert clean.startswith("| row | seeds | corruptions in training | mAP (%) | corrupted/mAP (%) |")
    assert "| `full` | 2 | none | 50.5 ± 0.7 | - |" in clean
    assert "| `a` | 2 | augmix | 60.5 ± 0.7 | 21.0 ± 1.4 |" in clean
    assert "not comparable" in heading
    assert "| `b` | 2 | all20 | 60.5 ± 0.7 | 21.0 ± 1.4 |" in dirty
    assert "`b`" not in clean
    assert "--metrics mAP,corrupted/mAP" in ablation_table.document(rows, records, columns)
