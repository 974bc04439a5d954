"""The evidence plan as a campaign: its parts, its lanes, and what a part runs; training is a stand-in."""

from __future__ import annotations

import json
import pathlib

import pytest

from reid_jax.benchmarks import campaign, campaign_evidence, campaign_worker

PLAN = """
[all]
seeds = [0, 1, 2]
preset = "demo"
[tables.first]
question = "Which?"
config = "toy"
rows = ["full", "a", "b@full"]
minutes = 5
overrides = ["train.epochs=3"]
device_overrides = ["train.epochs=9", "data.name=other"]
compare = [{ row = "a", against = "full" }]
[tables.second]
question = "And?"
config = "toy"
rows = ["full"]
minutes = 5
compare = [{ row = "full", against = "full" }]
"""


@pytest.fixture
def plan(tmp_path):
    """A plan of two tables beside the config "toy"."""
    sections = "{'train': {'epochs': 1.0}, 'data': {'options': {}, 'name': '', 'root': ''}, 'init': {}, 'evals': {}}"
    body = f"def get_config(argument):\n    return ml_collections.ConfigDict({sections} | {{'row': argument}})\n"
    (tmp_path / "toy.py").write_text(f"import ml_collections\n\n{body}")
    path = tmp_path / "plan.toml"
    path.write_text(PLAN)
    return str(path)


@pytest.fixture
def runs(monkeypatch):
    """Replaces training: writes a result with a score of the row, and returns the rows and configs so far."""
    done = []

    def run(config, *, workdir):
        done.append((config.row, config))
        scores = {f"toy/{name}": 0.1 * len(config.row) for name in ("mAP", "rank1", "rank5", "rank10", "mINP")}
        about = {"parameters": 1, "steps": 30, "train_seconds": 1.0, "config_hash": "c", "device": "d", "commit": "e"}
        pathlib.Path(workdir).mkdir(parents=True)
        (pathlib.Path(workdir) / "result.json").write_text(json.dumps({"dataset": "toy", **scores, **about}))

    monkeypatch.setattr(campaign_evidence.launch, "run", run)
    return done


def test_seeds_run_side_by_side_through_the_tables_in_order(plan):
    tables = campaign_evidence.read(plan, quick=False)
    parts = campaign_evidence.parts(tables)
    assert len(parts) == len({part.name for part in parts}) == 12
    assert [part.table for part in parts] == ["first"] * 9 + ["second"] * 3
    lanes = campaign_evidence.lanes(parts, 2)
    assert [part.name for part in lanes[1]] == ["first-1-0", "first-1-1", "first-1-2", "second-1-0"]
    assert sorted(part.name for lane in lanes for part in lane) == sorted(part.name for part in parts)
    quick = campaign_evidence.read(plan, quick=True)
    assert (quick[0].rows, quick[0].seeds) == (("full", "a"), (0, 1))
    assert quick[0].overrides[:2] == ("train.epochs=9", "data.name=other")


def test_a_part_trains_in_the_process_of_the_worker_after_what_it_starts_from(plan, runs, tmp_path):
    folder = campaign.Folder(tmp_path / "campaign")
    # The start of the third row runs once, for its own row as well.
    limits, measure = campaign_worker._parts(folder, [f"evidence={plan}"])
    assert limits["second-1-0"] == campaign_evidence.LIMIT
    rows = measure("first-2-2") + measure("first-2-0")
    assert [(row["row"], row["seed"], row["steps"]) for row in rows] == [("b@full", 2, 30), ("full", 2, 30)]
    assert [row for row, _ in runs] == ["demo", "demo,b"]
    config = runs[1][1]
    assert (config.train.epochs, config.seed, config.data.options.seed, config.data.name) == (9, 2, 2, "other")
    assert config.data.root == str(folder.path / "data")
    assert config.init.trained.endswith("full/seed2")
    campaign_evidence.write_tables(folder, campaign_evidence.read(plan, quick=False))
    assert "| `b@full` | 1 | 60.0 |" in (folder.path / "evidence-first.md").read_text()
    assert not (folder.path / "evidence-second.md").exists()
    assert campaign_evidence.device(folder, campaign_evidence.read(plan, quick=False)) == "d"


def test_lanes_are_measured_at_the_same_time(monkeypatch, tmp_path):
    folder, said, began = campaign.Folder(tmp_path), [], []
    monkeypatch.setattr(
        campaign, "measure", lambda folder, parts, deadline, start, say: (began.append(parts), say("x"))
    )
    lanes = [[campaign.Part("a-0-0", 1)], [campaign.Part("a-1-0", 1)]]
    campaign_evidence.measure_side_by_side(folder, lanes, 1.0, lambda parts, left: None, said.append)
    assert (sorted(began, key=str), said) == (lanes, ["x", "x"])
