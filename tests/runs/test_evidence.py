"""The evidence plan: what its file may hold, and which runs begin in which order, within which time."""

import csv
import json
import pathlib

import pytest

from reid_jax import errors
from reid_jax.cli import ablate
from reid_jax.runs import ablation, ablation_table, evidence, evidence_runs
from tests.helpers import ablation_runs
from tests.helpers.ablation_runs import calls

PACKAGED = pathlib.Path(__file__).resolve().parents[2] / "configs" / "evidence.toml"
PLAN = """
[all]
seeds = [0, 1]
preset = "demo"
overrides = ["train.epochs=2"]
[tables.first]
question = "Which?"
config = "toy"
rows = ["full", "a"]
minutes = 5
overrides = ["train.epochs=3"]
device_overrides = ["train.epochs=9"]
compare = [{ row = "a", against = "full", part = "a", published = 1.5 }]
[tables.second]
question = "And?"
config = "toy"
rows = ["full"]
minutes = 5
"""


@pytest.fixture
def plan(tmp_path):
    """A plan of two tables, five runs, beside the config "toy"."""
    config = "ml_collections.ConfigDict({'train': {'epochs': 1.0}})"
    (tmp_path / "toy.py").write_text(f"import ml_collections\n\ndef get_config(argument):\n    return {config}\n")
    path = tmp_path / "plan.toml"
    path.write_text(PLAN)
    return path


def test_the_packaged_plan_names_rows_that_exist():
    tables = evidence.read(PACKAGED)
    assert sum(table.minutes for table in tables) <= 840  # about fourteen hours
    for table in tables:
        assert len(table.seeds) >= 5, table.name
        assert table.question.endswith("?"), table.name
        assert {row for pair in table.compare for row in (pair.row, pair.against)} <= set(table.rows), table.name
        keys = [*table.overrides, *table.device_overrides]
        ablate._check(table.plan(pathlib.Path("runs")), keys)


def test_a_plan_runs_table_by_table_and_seed_by_seed_within_its_limits(plan, ablation_folder, tmp_path, capsys):
    results = tmp_path / "results"
    arguments = [f"--plan={plan}", f"--workdir={ablation_folder}", f"--results={results}"]
    assert ablate.main([*arguments, "--runs=3"]) == ablate.LEFT
    assert "first: 0 of 4 runs done, 0 of 2 rows complete, 0 of 5 minutes used. Which?" in capsys.readouterr().out
    runs = calls(ablation_folder / "first")
    assert [(run["config"].rpartition(":")[2], run["config.seed"]) for run in runs] == [
        ("demo", "0"),
        ("demo,a", "0"),
        ("demo", "1"),
    ]
    # The settings of all tables come before the table's own; the references are measured once; data have the seed.
    assert runs[1]["config.train.epochs"] == "3"
    assert (runs[1]["config.evals.baselines"], "config.evals.baselines" in runs[0]) == ("False", False)
    assert runs[2]["config.data.options.seed"] == "1"
    with open(results / "evidence-first.csv", newline="") as file:
        assert [(row["row"], row["seed"]) for row in csv.DictReader(file)] == [("full", "0"), ("a", "0"), ("full", "1")]
    # The rest; nothing runs again.
    assert ablate.main(arguments) == 0
    assert len(calls(ablation_folder / "first")) == 4
    assert len(calls(ablation_folder / "second")) == 2
    page = (results / "evidence-first.md").read_text()
    assert f"python scripts/ablate.py --plan {plan} --only first" in page
    assert "Which?" in page
    assert ablate.main([*arguments, "--only=second", "--table"]) == 0
    assert "second: 2 of 2 runs done, 1 of 1 rows complete" in capsys.readouterr().out


def test_a_table_goes_on_from_its_file_where_the_run_folders_are_gone(plan, ablation_folder, tmp_path, capsys):
    results = tmp_path / "results"
    arguments = [f"--plan={plan}", f"--results={results}", "--only=first"]
    assert ablate.main([*arguments, f"--workdir={ablation_folder}", "--runs=3"]) == ablate.LEFT
    table = results / "evidence-first.csv"
    before = table.read_text()
    elsewhere = [*arguments, f"--workdir={ablation_folder / 'elsewhere'}"]
    (ablation_folder / "elsewhere").mkdir()
    assert ablate.main([*elsewhere, "--table"]) == 0
    assert "first: 3 of 4 runs done, 1 of 2 rows complete" in capsys.readouterr().out
    assert table.read_text() == before
    assert ablate.main(elsewhere) == 0
    assert [(run["config"], run["config.seed"]) for run in calls(ablation_folder / "elsewhere" / "first")] == [
        (f"{plan.parent / 'toy.py'}:demo,a", "1")
    ]
    assert table.read_text().startswith(before)
    assert len(table.read_text().splitlines()) == 5
    # Other settings make other records, those of the pretraining as well.
    plan.write_text(
        PLAN.replace("minutes = 5\noverrides", 'minutes = 5\npretraining_overrides = ["seed=7"]\noverrides')
    )
    capsys.readouterr()
    assert ablate.main([*elsewhere, "--table"]) == 0
    assert "first: 1 of 4 runs done" in capsys.readouterr().out
    table.write_text(before)
    plan.write_text(PLAN.replace('overrides = ["train.epochs=3"]\ndevice', 'overrides = ["train.epochs=4"]\ndevice'))
    capsys.readouterr()
    assert ablate.main([*elsewhere, "--table"]) == 0
    assert "first: 1 of 4 runs done" in capsys.readouterr().out
    table.write_text("row,seed,preset\nfull,x,demo\n")
    with pytest.raises(errors.UserError, match=r"expected a table of runs in .*evidence-first\.csv"):
        ablate.main([*elsewhere, "--table"])


def test_a_row_that_a_reference_without_training_beats_is_told_at_once(plan, ablation_folder, tmp_path, capsys):
    results = tmp_path / "results"
    arguments = [f"--plan={plan}", f"--workdir={ablation_folder}", f"--results={results}", "--only=first"]
    ablate.main([*arguments, "--runs=1"])
    assert "no better" not in capsys.readouterr().out
    header, run = (results / "evidence-first.csv").read_text().splitlines()
    fields = dict(zip(header.split(","), run.split(","), strict=True))
    reference = {**fields, "row": "hsv_histogram", "mAP": "0.55", "steps": "0"}
    (results / "evidence-first.csv").write_text("\n".join([header, ",".join(reference.values()), run]) + "\n")
    ablate.main(arguments)
    told = [line for line in capsys.readouterr().out.splitlines() if "no better" in line]
    assert len(told) == 1  # the second seed of "full", at .51; "a" has .6
    assert told[0].startswith("first: full is no better in mAP than what needs no training; expected rows that")


def test_rows_are_compared_with_the_best_reference():
    records = [
        {"row": "raw", "mAP": 0.2, "steps": 0},
        {"row": "histogram", "mAP": 0.3, "steps": 0},
        {"row": "histogram", "mAP": "0.5", "steps": "0"},
        {"row": "other", "mAP": "", "steps": "0"},
        *({"row": "low", "mAP": score, "steps": 9} for score in (0.39, 0.41)),
        *({"row": "high", "mAP": score, "steps": 9} for score in (0.3, 0.6)),
    ]
    assert ablation_table.no_better_than_untrained(records, "mAP") == {"low"}
    assert ablation_table.no_better_than_untrained(records[4:], "mAP") == set()
    assert ablation_table.no_better_than_untrained(records, "corrupted/mAP") == set()


def test_a_difference_of_rows_below_the_references_reads_so():
    drawn = {"histogram": [0.5] * 5, "low": [0.1, 0.11, 0.1, 0.12, 0.1], "up": [0.2, 0.22, 0.2, 0.21, 0.2]}
    records = [
        {"row": row, "seed": seed, "mAP": score, "steps": 9 * (row != "histogram")}
        for row, scores in drawn.items()
        for seed, score in enumerate(scores)
    ]
    pair = [("up", "low")]
    assert f"| {ablation_table.BELOW} |" in ablation_table.comparison(records, pair, ["mAP"])
    assert "| gain |" in ablation_table.comparison(records[5:], pair, ["mAP"])


def test_what_only_kept_rows_start_from_is_not_trained(ablation_folder):
    plan = ablation_runs.plan(ablation_folder / "runs", rows=("full@a", "b"), seeds=(0, 1))
    ablation.run(plan, kept={("full@a", 0), ("b", 1)})
    assert [(run["config"].rpartition(":")[2], run["config.seed"]) for run in calls(ablation_folder / "runs")] == [
        ("demo,b", "0"),
        ("demo,a", "1"),
        ("demo", "1"),
    ]


def test_a_run_that_does_not_fit_its_tables_minutes_does_not_begin(plan, ablation_folder, tmp_path, capsys):
    (ablation_folder / "first").mkdir(parents=True)
    time = {"seconds": 480.0, "rows": {"a": 130.0, "full": 1.0}}
    (ablation_folder / "first" / "time.json").write_text(json.dumps(time))
    places = evidence_runs.Places(ablation_folder, tmp_path / "results")
    said = []
    assert evidence_runs.run(evidence.read(plan), places, evidence_runs.Budget(), say=said.append) == []
    assert [run["config"].rpartition(":")[2] for run in calls(ablation_folder / "first")] == ["demo", "demo"]
    assert any(line.startswith("first: its 5 minutes are used; 2 of 4 runs done") for line in said)
    assert len(calls(ablation_folder / "second")) == 2
    # A limit of the whole command.
    budget = evidence_runs.Budget(hours=1.0)
    assert budget.allows(60.0)
    assert not budget.allows(3700.0)
    assert budget.cut


def test_a_table_whose_run_fails_does_not_stop_the_others(plan, ablation_folder, tmp_path):
    plan.write_text(PLAN.replace('rows = ["full", "a"]', 'rows = ["full", "a", "broken"]'))
    arguments = [f"--plan={plan}", f"--workdir={ablation_folder}", f"--results={tmp_path / 'results'}"]
    with pytest.raises(errors.UserError, match=r"1 tables did not: first: .*row 'broken' seed 0"):
        ablate.main(arguments)
    assert len(calls(ablation_folder / "second")) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("minutes = 5", "minutes = 'five'"), "tables.first in .*: minutes as float, got 'five'"),
        (('question = "Which?"', ""), "tables.first in .* with the key question"),
        (("[tables.second]", "[tables.second]\nrow = 1"), "unknown key of tables.second .*did you mean 'rows'"),
        (('row = "a", ', 'row = "b", '), "unknown row to compare 'b'"),
        (("[tables.first]", "[tables.first"), "expected TOML in"),
        (('part = "a"', 'parts = "a"'), "unknown key of tables.first in .*: compare"),
        (("seeds = [0, 1]", "seeds = [0.5]"), "seeds as tuple"),
        (("[tables.first]", '[tables."../x"]'), "letters, digits and _"),
        ((PLAN, ""), r"expected \[tables.NAME\]"),
        (('config = "toy"', 'config = "tiy"'), "found nothing at tiy"),
    ],
)
def test_mistakes_in_a_plan_are_one_sentence(change, message, plan, ablation_folder):
    plan.write_text(PLAN.replace(*change))
    with pytest.raises(errors.UserError, match=message):
        ablate.main([f"--plan={plan}", f"--workdir={ablation_folder}"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected --config FILE for one table or --plan NAME"),
        (["--plan=evidnce"], "unknown plan"),
        ([f"--plan={PACKAGED}", "--rows=mfv"], "expected --plan without --rows"),
        (["--config=mfv", "--hours=1"], "expected --config without --hours"),
        ([f"--plan={PACKAGED}", "--only=mvf"], "did you mean 'mfv'"),
    ],
)
def test_mistakes_of_the_command(arguments, message):
    with pytest.raises(errors.UserError, match=message):
        ablate.main(arguments)


def test_a_table_on_a_lent_device_has_settings_of_its_own(plan):
    table = evidence.read(plan)[0].on_device()
    assert table.plan(pathlib.Path("w")).overrides == ("--config.train.epochs=9",)
    assert table.compare == (evidence.Comparison("a", "full", "a", published=1.5),)
