"""A campaign's plan: order, time limits, failures, and what a second start measures; workers are stand-ins."""

from __future__ import annotations

import json
import sys
import time

import pytest

from reid_jax import errors
from reid_jax.benchmarks import campaign, campaign_training
from reid_jax.config import files

# Measures the parts it is given; "slow" never ends, "dies" ends the process, "fails" records a failure.
WORKER = """
import json, os, sys, time
folder, names = sys.argv[1], sys.argv[2].split(",")
def write(name, status, **more):
    with open(f"{folder}/parts/{name}.json", "w") as file:
        json.dump({"status": status, "attempts": 1, "rows": [{"what": name}]} | more, file)
for name in names:
    print("begin", name, flush=True)
    print("noise of a library", flush=True)
    if name == "slow":
        time.sleep(60)
    if name == "dies":
        os._exit(7)
    if name == "fails":
        write(name, "failed", error="no", rows=[])
    else:
        write(name, "done")
    print("end", name, flush=True)
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a plan with stand-ins; returns the folder, the starts' parts and the lines that were said."""
    monkeypatch.setattr(campaign, "LEAST", 0.0)
    monkeypatch.setattr(campaign, "RESERVE", 0.0)
    folder = campaign.Folder(tmp_path / "campaign")

    def run(names: str, limit: float = 20.0, seconds: float = 30.0, code: str = WORKER):
        started, said = [], []

        def start(parts, left):
            started.append([part.name for part in parts])
            command = [sys.executable, "-S", "-c", code, str(folder.path), ",".join(started[-1])]
            return campaign.Worker(command, tmp_path / "log.txt")

        parts = [campaign.Part(name, limit) for name in names.split()]
        campaign.measure(folder, parts, time.monotonic() + seconds, start, said.append)
        return folder, parts, started, said

    return run


def test_a_failing_and_a_dying_part_are_recorded_and_the_next_goes_on(run):
    folder, parts, started, said = run("a fails dies b")
    assert started == [["a", "fails", "dies", "b"], ["b"]]
    assert [folder.read(part.name)["status"] for part in parts] == ["done", "failed", "failed", "done"]
    assert "code 7" in folder.read("dies")["error"]
    assert list(folder.rows(parts)) == ["a", "b"]
    assert [row["part"] for row in folder.failures(parts)] == ["fails", "dies"]
    assert said[1] == "fails: failed in 0 s: no"
    found = campaign.document(folder, [*parts, campaign.Part("later", 1)])
    assert campaign.summary(found) == "2 rows measured; failed: fails, dies; not begun: later"
    # The same command again measures what failed, and nothing else.
    assert run("a fails dies b c")[2] == [["c", "fails", "dies"]]


def test_a_part_that_takes_too_long_is_ended(run):
    folder, _, started, _ = run("slow a", limit=0.5)
    assert started == [["slow", "a"], ["a"]]
    assert folder.read("slow")["error"] == "it took more than its 0 s"
    assert folder.read("a")["status"] == "done"


def test_the_end_of_the_time_loses_nothing(run):
    folder, _, started, _ = run("a slow b", seconds=1.0)
    assert started == [["a", "slow", "b"]]
    assert [folder.read(name).get("status") for name in ("a", "slow", "b")] == ["done", "failed", None]
    assert "time was over" in folder.read("slow")["error"]


def test_a_worker_that_cannot_start_is_tried_once_for_each_part(run):
    folder, _, started, _ = run("a b", code="raise SystemExit(3)")
    assert started == [["a", "b"], ["b"]]
    assert "code 3" in folder.read("b")["error"]


def test_the_plan_has_every_part_once_and_the_training_last():
    for quick in (False, True):
        parts = campaign.plan(quick)
        assert len({part.name for part in parts}) == len(parts)
        assert [part.name for part in parts[:3]] == ["device", "parity", f"speed-resnet50-{8 if quick else 64}"]
        assert [part.where for part in parts].count("training") == 1
        assert parts[-1].where == "training"


def test_a_damaged_record_is_measured_again_and_kinds_are_not_mixed(tmp_path):
    folder = campaign.Folder(tmp_path)
    parts = [campaign.Part("a", 1), campaign.Part("b", 1), campaign.Part("c", 1)]
    for part in parts:
        folder.write(part.name, campaign.RUNNING)
    folder.write("b", campaign.DONE, [{"what": 1}])
    folder.write("c", campaign.RUNNING)
    (folder.parts / "a.json").write_text("{")
    assert [part.name for part in folder.open_parts(parts)] == ["a", "c"]
    assert json.loads((folder.parts / "c.json").read_text())["attempts"] == 2
    campaign.check_kind(folder, True, False)
    campaign.check_kind(folder, True, False)
    with pytest.raises(errors.UserError, match="expected a campaign like the one in"):
        campaign.check_kind(folder, False, False)


def test_the_training_run_fits_the_time_and_goes_on_after_a_cut_off(tmp_path):
    assert campaign_training.epochs_for(120, 1000.0) == 4
    assert campaign_training.epochs_for(420, 1000.0) == 20  # 300 s x 0.8 x 1,000 images/s over 12,000 images
    assert campaign_training.epochs_for(10_000, 5000.0) == 120
    assert campaign_training.epochs_for(420, None) == 4
    folder = campaign.Folder(tmp_path)
    path = campaign_training.write_config(folder, True, 60.0)
    config = files.load_config(str(path))
    assert (config.data.options.size, config.train.epochs) == ("tiny", 4.0)
    path.write_text("kept")
    assert campaign_training.write_config(folder, True, 600.0).read_text() == "kept"
    lines = [
        {"step": 10, "time": 100.0, "loss": 1.0, "epoch": 0.5, "images_per_second": 50.0},
        {"step": 20, "time": 110.0, "synthped/mAP": 0.5, "synthped/rank1": 0.75},
        {"step": 30, "time": 115.0, "loss": 0.5, "epoch": 1.5, "images_per_second": 60.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert campaign_training.rows(tmp_path) == [
        {"step": 20, "seconds": 10.0, "mAP": 0.5, "rank1": 0.75},
        {"step": 30, "seconds": 15.0, "epoch": 1.5, "loss": 0.5, "images_per_second": 60.0},
    ]
    assert campaign_training.rows(tmp_path / "none") == []
