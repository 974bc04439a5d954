"""The table of growth: stages write their rows, and what is measured is not measured again."""

import subprocess

import pytest

from reid_jax import errors
from reid_jax.benchmarks import growth


def test_a_stage_writes_rows_that_are_kept(tmp_path, monkeypatch):
    kept = tmp_path / "plan-2000.json"
    assert growth.main(["plan", "2000", str(tmp_path), str(kept)]) == 0
    monkeypatch.setattr(growth, "STAGES", {"plan": growth.STAGES["plan"]})
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("measured again"))
    shown = []
    rows = growth.measure(tmp_path, [2000], shown.append)
    assert rows == shown
    batches = {row["what"].partition(": ")[2]: row["batches"] for row in rows}
    # 200 people of ten images: two groups of four each, one of each person, and 2,000 images, by 16 x 4 or 64.
    assert batches == {"identity_groups": 25, "identity_epoch": 12, "image_epoch": 31, "shuffle": 31}
    assert {(row["images"], row["people"]) for row in rows} == {(2000, 200)}


def test_a_stage_that_fails_is_named(tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "no space left")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(errors.UserError, match=r"'prepare' of 500 images .* no space left"):
        growth.measure(tmp_path, [500])
    assert not list(tmp_path.glob("*.json"))
